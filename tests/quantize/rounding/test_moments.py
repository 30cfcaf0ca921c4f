"""What rounding knows of the images: moments of a layer's input."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from edgeq.quantize.rounding.moments import LayerInput, Moments, layer_input


def convolution(**attributes: Any) -> onnx.NodeProto:
    return helper.make_node("Conv", ["x", "w"], ["y"], name="conv", **attributes)


@pytest.mark.parametrize(
    ("weight", "attributes"),
    [
        ((4, 3, 3, 3), {"pads": [1, 1, 1, 1]}),
        ((4, 3, 3, 2), {"pads": [0, 1, 2, 0], "strides": [2, 1]}),
        ((6, 1, 3, 3), {"group": 3, "dilations": [2, 2]}),
        ((4, 3, 3), {"strides": [2]}),
    ],
)
def test_rows_times_weights_are_what_the_convolution_computes(
    weight: tuple[int, ...], attributes: dict[str, object]
) -> None:
    rng = np.random.default_rng(1)
    w = rng.normal(size=weight).astype(np.float32)
    x = rng.normal(size=(2, 3, *(9, 8)[: len(weight) - 2])).astype(np.float32)
    node = convolution(**attributes)
    infos = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in "xwy"]
    model = helper.make_model(
        helper.make_graph([node], "one", infos[:2], infos[2:]), opset_imports=[helper.make_opsetid("", 17)]
    )
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x, "w": w})
    reads = layer_input(node, weight)
    assert isinstance(reads, LayerInput)
    rows = reads.rows(x, 10_000)
    made = rows @ w.reshape(reads.groups, weight[0] // reads.groups, -1).transpose(0, 2, 1)  # [groups, places, outputs]
    by_channel = np.moveaxis(np.asarray(expected), 1, 0).reshape(weight[0], -1)
    assert made.transpose(0, 2, 1).reshape(weight[0], -1) == pytest.approx(by_channel, abs=1e-4)


def test_fewer_rows_are_spread_evenly() -> None:
    rows = LayerInput().rows(np.arange(100, dtype=np.float32).reshape(100, 1), 4)
    assert rows[0, :, 0].tolist() == [0.0, 33.0, 66.0, 99.0]


def test_what_is_held_does_not_grow_with_the_rows() -> None:
    rng = np.random.default_rng(2)
    rows = rng.normal(1.0, 1.0, size=(2, 1000, 5)).astype(np.float32)
    moments = Moments(2, 5)
    moments.add(rows[:, :1])
    held = moments.nbytes
    moments.add(rows[:, 1:])
    assert moments.nbytes == held == 2 * (5 + 25) * 8
    assert moments.about(mean=True)[1] == pytest.approx(np.cov(rows[1].T, bias=True), abs=1e-4)
    assert moments.about(mean=False)[0] == pytest.approx(rows[0].T @ rows[0] / 1000, abs=1e-4)


@pytest.mark.parametrize(
    ("node", "weight", "reason"),
    [
        (convolution(auto_pad="SAME_UPPER"), (4, 3, 3, 3), "auto_pad"),
        (helper.make_node("Gemm", ["x", "w"], ["y"], name="gemm", alpha=0.5), (4, 3), "alpha"),
        (helper.make_node("MatMul", ["x", "w"], ["y"], name="product"), (2, 4, 3), "no matrix"),
        (helper.make_node("ConvTranspose", ["x", "w"], ["y"], name="up"), (4, 3, 3, 3), "ConvTranspose"),
    ],
)
def test_what_is_not_understood_is_left_with_the_reason(
    node: onnx.NodeProto, weight: tuple[int, ...], reason: str
) -> None:
    found = layer_input(node, weight)
    assert isinstance(found, str)
    assert reason in found
