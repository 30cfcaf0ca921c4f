"""Files that ONNX Runtime runs although the ONNX checker does not accept them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from networks import SIDE, tiny_network

from edgeq.errors import ModelError
from edgeq.model.graph.onnx_file import load_onnx


def unsorted(model: onnx.ModelProto) -> None:
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def no_name(model: onnx.ModelProto) -> None:
    model.graph.name = ""


def no_input_shape(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.ClearField("shape")


def no_output_shape(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.ClearField("shape")


def no_output_type(model: onnx.ModelProto) -> None:
    model.graph.output[0].ClearField("type")


def nothing_at_all(model: onnx.ModelProto) -> None:
    for change in (unsorted, no_name, no_input_shape, no_output_type):
        change(model)


@pytest.mark.parametrize("change", [unsorted, no_name, no_input_shape, no_output_shape, no_output_type, nothing_at_all])
def test_it_is_completed_and_computes_the_same(change: Callable[[onnx.ModelProto], None], tmp_path: Path) -> None:
    model = tiny_network()
    change(model)
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(model)
    loaded = load_onnx(tmp_path / "a.onnx")
    onnx.checker.check_model(loaded, full_check=True)
    x = np.random.default_rng(0).normal(size=(2, 3, SIDE, SIDE)).astype(np.float32)
    runs = [
        onnxruntime.InferenceSession(one.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, {"pixel_values": x}
        )[0]
        for one in (tiny_network(), loaded)
    ]
    np.testing.assert_array_equal(runs[0], runs[1])
    axes = [len(value.type.tensor_type.shape.dim) for value in (*loaded.graph.input, *loaded.graph.output)]
    assert axes == [4, 2]


def test_sorted_nodes_stay_where_they_are(tmp_path: Path) -> None:
    onnx.save(tiny_network(), tmp_path / "a.onnx")
    assert list(load_onnx(tmp_path / "a.onnx").graph.node) == list(tiny_network().graph.node)


@pytest.mark.parametrize("size", [-1, 0])  # as Paddle's exporter writes it, and MXNet's
def test_a_size_below_one_is_dynamic(size: int, tmp_path: Path) -> None:
    model = tiny_network()
    for axis in model.graph.input[0].type.tensor_type.shape.dim:
        axis.dim_value = size
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    axes = load_onnx(tmp_path / "a.onnx").graph.input[0].type.tensor_type.shape.dim
    assert [axis.WhichOneof("value") for axis in axes] == [None] * 4


def test_a_cycle_is_named(tmp_path: Path) -> None:
    model = tiny_network()
    relu = next(node for node in model.graph.node if node.name == "stem_relu")
    relu.input[0] = "residual_relu"
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"the graph has a cycle: .*stem_relu"):
        load_onnx(tmp_path / "a.onnx")
