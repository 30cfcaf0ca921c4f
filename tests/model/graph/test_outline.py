"""A graph read without its weights, and those weights found again where it says they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeq.errors import ModelError
from edgeq.model.graph.external_data import gather, read_in
from edgeq.model.graph.outline import load_outline

LARGE = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)  # 1,024 bytes
SMALL = LARGE[:15]


def model(**options: str) -> onnx.ModelProto:
    """y = x @ large, with a weight below and one of the limit, one that is no raw data, and a constant in a node."""
    typed = helper.make_tensor("typed", TensorProto.FLOAT, LARGE.shape, LARGE.ravel())
    constant = helper.make_node("Constant", [], ["inner"], value=numpy_helper.from_array(LARGE))
    graph = helper.make_graph(
        [constant, helper.make_node("MatMul", ["x", "large"], ["y"], name="product")],
        "outlined",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 16])],
        [numpy_helper.from_array(SMALL, "small"), numpy_helper.from_array(LARGE, "large"), typed],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10, **options)


@pytest.fixture
def whole() -> onnx.ModelProto:
    return model(producer_name="a test", doc_string="with text behind the graph")


@pytest.fixture
def path(whole: onnx.ModelProto, tmp_path: Path) -> Path:
    onnx.save(whole, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_only_large_raw_data_are_left_in_the_file(path: Path) -> None:
    outline = load_outline(path)
    outside = [tensor.name for tensor in outline.graph.initializer if tensor.data_location == TensorProto.EXTERNAL]
    assert outside == ["large"]
    assert not outline.graph.initializer[1].raw_data
    assert list(outline.graph.initializer[1].dims) == [16, 16]


def test_with_its_weights_read_in_it_is_the_whole_model(whole: onnx.ModelProto, path: Path) -> None:
    outline = load_outline(path)
    read_in(outline, path)
    assert outline == whole


def test_gathered_weights_are_aligned_and_the_same(whole: onnx.ModelProto, path: Path, tmp_path: Path) -> None:
    outline = load_outline(path)
    with (tmp_path / "weights").open("wb") as file:
        file.write(b"something before")
        gather(outline, path, "weights", file)
    entries = {entry.key: entry.value for entry in outline.graph.initializer[1].external_data}
    assert entries == {"location": "weights", "offset": "4096", "length": "1024"}
    read_in(outline, path)
    assert outline == whole


def test_external_data_of_the_file_itself_are_followed(whole: onnx.ModelProto, tmp_path: Path) -> None:
    apart = onnx.ModelProto()
    apart.CopyFrom(whole)
    onnx.save(apart, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=1024)
    outline = load_outline(tmp_path / "m.onnx")
    with (tmp_path / "weights").open("wb") as file:
        gather(outline, tmp_path / "m.onnx", "weights", file)
    (tmp_path / "m.data").unlink()
    read_in(outline, tmp_path / "m.onnx")
    np.testing.assert_array_equal(numpy_helper.to_array(outline.graph.initializer[1]), LARGE)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.99])
def test_a_file_that_was_cut_short(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ModelError, match=r"m\.onnx cannot be read"):
        load_outline(path)


@pytest.mark.parametrize("data", [b"\xff" * 40, b"\x3a" + b"\x80" * 20, b"GIF89a" * 9], ids=["ones", "varint", "gif"])
def test_what_is_no_onnx_file(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(ModelError, match=r"m\.onnx cannot be read"):
        load_outline(tmp_path / "m.onnx")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"m\.onnx cannot be read"):
        load_outline(tmp_path / "m.onnx")
