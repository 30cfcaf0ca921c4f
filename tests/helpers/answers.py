"""Classifiers whose answer is written otherwise: the same network, and the same answer, in other outputs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from networks import PREPROCESSOR
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

__all__ = ["WRITTEN", "add_outputs", "features_of", "give", "two_of", "write_answering"]

Surgery = Callable[[onnx.ModelProto], onnx.ModelProto]


def give(
    model: onnx.ModelProto,
    nodes: Sequence[tuple[Any, ...]],
    outputs: Sequence[str],
    *,
    constants: dict[str, NDArray[Any]] | None = None,
    integers: Sequence[str] = (),
) -> onnx.ModelProto:
    """A copy with nodes (op, inputs, outputs, attributes) at its end, which gives `outputs` alone, without shapes."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for op, inputs, results, *attributes in nodes:
        made.graph.node.append(helper.make_node(op, inputs, results, name=results[0], **dict(*attributes)))
    del made.graph.output[:]
    kinds = dict.fromkeys(integers, TensorProto.INT64)
    made.graph.output.extend(
        helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), None) for name in outputs
    )
    made.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in (constants or {}).items())
    return made


def add_outputs(model: onnx.ModelProto, *names: str) -> onnx.ModelProto:
    """A copy that gives these tensors before its own outputs."""
    return give(model, (), (*names, *(value.name for value in model.graph.output)))


def features_of(model: onnx.ModelProto) -> str:
    """What enters the last Gemm."""
    return str([node for node in model.graph.node if node.op_type == "Gemm"][-1].input[0])


def _logits(model: onnx.ModelProto) -> str:
    return str(model.graph.output[0].name)


def _shaped(*shape: int) -> Surgery:
    def surgery(model: onnx.ModelProto) -> onnx.ModelProto:
        constants = {"shape": np.array(shape, np.int64)}
        return give(model, [("Reshape", [_logits(model), "shape"], ["shaped"])], ["shaped"], constants=constants)

    return surgery


def _numbered(model: onnx.ModelProto) -> onnx.ModelProto:
    nodes = [("ArgMax", [_logits(model)], ["number"], {"axis": 1, "keepdims": 0})]
    return give(model, nodes, ["number"], integers=["number"])


def _numbered_as_int32(model: onnx.ModelProto) -> onnx.ModelProto:
    nodes = [
        ("Softmax", [_logits(model)], ["shares"], {"axis": 1}),
        ("ArgMax", ["shares"], ["kept"], {"axis": 1}),
        ("Squeeze", ["kept", "one"], ["number"]),
        ("Cast", ["number"], ["label"], {"to": TensorProto.INT32}),
    ]
    made = give(model, nodes, ["label"], constants={"one": np.array([1], np.int64)})
    made.graph.output[0].type.tensor_type.elem_type = TensorProto.INT32
    return made


def _best(model: onnx.ModelProto) -> onnx.ModelProto:
    nodes = [("TopK", [_logits(model), "k"], ["best", "places"], {"axis": 1})]
    constants = {"k": np.array([2], np.int64)}
    return give(model, nodes, ["places", "best"], constants=constants, integers=["places"])


def _features_first(model: onnx.ModelProto) -> onnx.ModelProto:
    return add_outputs(model, features_of(model))


def _as_half(model: onnx.ModelProto) -> onnx.ModelProto:
    made = give(model, [("Cast", [_logits(model)], ["half"], {"to": TensorProto.FLOAT16})], ["half"])
    made.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    return made


WRITTEN: Final[dict[str, Surgery]] = {
    "channels first": _shaped(0, -1, 1, 1),
    "channels last": _shaped(0, 1, 1, -1),
    "class number": _numbered,
    "class number as int32": _numbered_as_int32,
    "best two": _best,
    "features first": _features_first,
    "float16": _as_half,
}
"""Ways to write the answer of a classifier."""


def two_of(model: onnx.ModelProto, *, sigmoid: bool) -> onnx.ModelProto:
    """The class 2 against class 0 of a classifier: one probability, or one logit, for each image."""
    gemm = [node for node in model.graph.node if node.op_type == "Gemm"][-1]
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for name in gemm.input[1:3]:
        value = numpy_helper.to_array(held[name])
        tensor = next(each for each in made.graph.initializer if each.name == name)
        tensor.CopyFrom(numpy_helper.from_array(value[2:3] - value[0:1], name))
    logit = _logits(model)
    return give(made, [("Sigmoid", [logit], ["probability"])], ["probability"]) if sigmoid else give(made, (), [logit])


def write_answering(directory: Path, model: onnx.ModelProto, labels: Sequence[str] | None) -> Path:
    """A MODEL directory with a network, its preprocessing and its labels."""
    directory.mkdir(parents=True)
    onnx.save(model, directory / "model.onnx")
    config = {} if labels is None else {"id2label": {str(place): name for place, name in enumerate(labels)}}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return directory
