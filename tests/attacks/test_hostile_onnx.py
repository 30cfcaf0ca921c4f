"""ONNX files that are something else, are cut short, or reach for files that are not theirs."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeq.errors import ModelError
from edgeq.model.graph.onnx_file import load_onnx


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git-LFS pointer"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "HTML"),
        (b"<html><head><title>Sign in</title></head></html>", "HTML"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(100), "JPEG"),
        (b"PK\x03\x04" + bytes(100), "zip archive or a PyTorch checkpoint"),
        (pickle.dumps({"state_dict": list(range(10))}), "pickle"),
        (b'\x40\x00\x00\x00\x00\x00\x00\x00{"__metadata__":{}}', "safetensors"),
        (b'{"error": "not found"}', "JSON"),
    ],
)
def test_other_files_are_called_by_their_names(tmp_path: Path, data: bytes, named: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=rf"model\.onnx is not an ONNX model: it is .*{named}"):
        load_onnx(path)


@pytest.mark.parametrize("seed", range(8))
def test_noise_is_refused(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(np.random.default_rng(seed).bytes(5000))
    with pytest.raises(ModelError):
        load_onnx(path)


def test_a_file_cut_anywhere_is_refused_or_the_same_model(shared_data: Path, tmp_path: Path) -> None:
    whole = (shared_data / "cifar10-resnet20" / "model.onnx").read_bytes()
    expected = load_onnx(shared_data / "cifar10-resnet20" / "model.onnx")
    path = tmp_path / "model.onnx"
    lengths = {*(len(whole) * part // 40 for part in range(1, 40)), *range(len(whole) - 40, len(whole)), 1, 2, 10, 100}
    refused = 0
    for length in sorted(lengths):
        path.write_bytes(whole[:length])
        try:
            assert load_onnx(path).graph == expected.graph, f"a different model after {length} bytes"
        except ModelError:
            refused += 1
    assert refused >= 39


def test_a_flipped_byte_never_escapes_as_a_foreign_exception(shared_data: Path, tmp_path: Path) -> None:
    whole = bytearray((shared_data / "cifar10-resnet20" / "model.onnx").read_bytes())
    path = tmp_path / "model.onnx"
    outcomes = set()
    for position in np.random.default_rng(0).integers(0, 4000, size=40):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        try:
            load_onnx(path)
            outcomes.add("loaded")
        except ModelError:
            outcomes.add("refused")
    assert "refused" in outcomes


def external_model(location: str, offset: str = "0", length: str = "16") -> onnx.ModelProto:
    """x + w, with w in another file."""
    tensor = numpy_helper.from_array(np.ones(4, np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=value)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", values[:1], values[1:], [tensor])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    "location",
    ["../secret", "sub/../../secret", "/etc/hostname", "C:\\secret", "..\\secret", "", "link", "linked/secret", "a\0b"],
)
def test_external_data_does_not_climb_out(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret").write_bytes(bytes(16))
    model_dir = tmp_path / "model"
    model_dir.mkdir()
    (model_dir / "link").symlink_to(tmp_path / "secret")
    (model_dir / "linked").symlink_to(tmp_path)
    (model_dir / "m.onnx").write_bytes(external_model(location).SerializeToString())
    with pytest.raises(ModelError, match="outside the directory of the model"):
        load_onnx(model_dir / "m.onnx")


def test_external_data_of_the_right_length_is_read(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(8) + np.arange(4, dtype=np.float32).tobytes())
    (tmp_path / "m.onnx").write_bytes(external_model("w.bin", offset="8").SerializeToString())
    loaded = load_onnx(tmp_path / "m.onnx")
    np.testing.assert_array_equal(numpy_helper.to_array(loaded.graph.initializer[0]), [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("offset", "length"),
    [("-4", "16"), ("0", "-1"), ("0", "9" * 30), ("9" * 18, "16"), ("zero", "16"), ("0", "12"), ("0", "20")],
)
def test_lies_about_the_place_of_external_data_are_refused(tmp_path: Path, offset: str, length: str) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(64))
    (tmp_path / "m.onnx").write_bytes(external_model("w.bin", offset, length).SerializeToString())
    with pytest.raises(ModelError):
        load_onnx(tmp_path / "m.onnx")


def test_external_data_that_is_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.bin").mkdir()
    (tmp_path / "m.onnx").write_bytes(external_model("w.bin").SerializeToString())
    with pytest.raises(ModelError, match="is missing"):
        load_onnx(tmp_path / "m.onnx")


@pytest.mark.parametrize("dims", [[-4], [2**40, 2**20], [5], [0]])
def test_lies_about_the_shape_of_a_tensor_are_refused(tmp_path: Path, dims: list[int]) -> None:
    model = external_model("w.bin")
    tensor = model.graph.initializer[0]
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    tensor.raw_data = bytes(16)
    tensor.ClearField("dims")
    tensor.dims.extend(dims)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError):
        load_onnx(tmp_path / "m.onnx")


def test_an_unknown_element_type_is_refused(tmp_path: Path) -> None:
    model = external_model("w.bin")
    tensor = model.graph.initializer[0]
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    tensor.raw_data = bytes(16)
    tensor.data_type = 200
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="'w'"):
        load_onnx(tmp_path / "m.onnx")
