"""Headers that agree with themselves, and headers that lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from edgeq.errors import ModelError
from edgeq.model.checkpoint.stored import check_header, read_stored

TENSORS: dict[str, Any] = {"a": np.zeros((2, 3), np.float16), "b": np.zeros(5, np.float32)}


def write(path: Path, header: dict[str, Any], data: int) -> None:
    """A safetensors file with any header."""
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(data))


def entry(dtype: str, shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def test_what_a_file_stores(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    found = read_stored(tmp_path)
    assert {name: (tensor.dtype, tensor.shape, tensor.elements) for name, tensor in found.items()} == {
        "a": ("F16", (2, 3), 6),
        "b": ("F32", (5,), 5),
    }


def test_a_directory_without_weights_stores_nothing(tmp_path: Path) -> None:
    assert read_stored(tmp_path) == {}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": entry("F16", [4], 0, 16)}, "8 bytes, and gets 16"),
        ({"a": entry("F16", [4], 0, 8), "b": entry("F16", [4], 4, 12)}, "b starts at byte 4"),
        ({"a": entry("F16", [4], 0, 8), "b": entry("F16", [4], 12, 20)}, "b starts at byte 12"),
        ({"a": entry("F16", [-4], 0, -8)}, "header does not agree"),
        ({"a": entry("F16", [4], 8, 0)}, "8 bytes, and gets -8"),
        ({"a": {"dtype": "F16", "shape": [4]}}, "entry of a is malformed"),
        ({"a": {"dtype": "F16", "shape": 4, "data_offsets": [0, 8]}}, "entry of a is malformed"),
        ({"a": "F16"}, "entry of a is malformed"),
    ],
)
def test_a_header_that_lies(header: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        check_header("model.safetensors", header)


def test_a_lying_file_is_refused_by_its_name(tmp_path: Path) -> None:
    write(tmp_path / "model.safetensors", {"a": entry("F32", [4], 0, 8)}, 8)
    with pytest.raises(ModelError, match=r"model\.safetensors: the header does not agree"):
        read_stored(tmp_path)


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_file({"a": TENSORS["a"]}, tmp_path / f"{name}.safetensors")
    with pytest.raises(ModelError, match="stores a, which another file"):
        read_stored(tmp_path)


@pytest.mark.parametrize("weight_map", [None, [], {"a": 1}])
def test_a_damaged_index(tmp_path: Path, weight_map: object) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ModelError, match="has no weight_map"):
        read_stored(tmp_path)
