"""Small graphs for the tests of the export room, and the one way to run them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeq.engine.onnxruntime import OnnxRuntimeEngine

Array = NDArray[np.float32]


def random(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def batchnorm(name: str, data: str, output: str, **attributes: Any) -> onnx.NodeProto:
    parameters = [f"{name}.{role}" for role in ("gamma", "beta", "mean", "var")]
    return helper.make_node("BatchNormalization", [data, *parameters], [output], name=name, **attributes)


def parameters(name: str, channels: int, seed: int = 0, *, beta: Array | None = None) -> dict[str, Array]:
    """Gamma, beta, mean and variance of BatchNorm `name`; no two channels alike."""
    rng = np.random.default_rng([seed, channels])
    return {
        f"{name}.gamma": rng.uniform(-2, 2, channels).astype(np.float32),
        f"{name}.beta": rng.uniform(-3, 3, channels).astype(np.float32) if beta is None else beta,
        f"{name}.mean": rng.uniform(-2, 2, channels).astype(np.float32),
        f"{name}.var": rng.uniform(0.1, 4, channels).astype(np.float32),
    }


def graph(
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, NDArray[Any]],
    shape: Sequence[int | str],
    *,
    outputs: Sequence[str] = ("y",),
    opset: int = 17,
    inputs: Sequence[onnx.ValueInfoProto] = (),
    shapes: Mapping[str, Sequence[int | str]] | None = None,
) -> onnx.ModelProto:
    """A model with float input `x` of `shape`; outputs that are not in `shapes` get theirs from inference."""
    known = shapes or {}
    made = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape)), *inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, known.get(name)) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    if known:
        return model
    inferred = onnx.shape_inference.infer_shapes(model).graph.output
    del model.graph.output[:]
    model.graph.output.extend(inferred)
    return model


def run(model: onnx.ModelProto, x: Array) -> dict[str, Array]:
    """Every output, from ONNX Runtime with its own optimizations off."""
    engine = OnnxRuntimeEngine(model.SerializeToString(), threads=1, optimize=False)
    return engine.run({"x": x})


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def assert_same(before: onnx.ModelProto, after: onnx.ModelProto, x: Array, tolerance: float = 2e-6) -> None:
    """Both compute the same; `tolerance` is relative to the largest output (float32 has 6e-8 per operation)."""
    wanted, got = run(before, x), run(after, x)
    assert wanted.keys() == got.keys()
    for name, value in wanted.items():
        assert np.ptp(value) > 0, f"{name} is constant: the comparison would prove nothing"
        np.testing.assert_allclose(got[name], value, rtol=0, atol=tolerance * float(np.abs(value).max()))
