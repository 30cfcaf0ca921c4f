"""Writing a safetensors file piece by piece; the format's own library reads it back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from edgeq.errors import QuantizeError
from edgeq.model.checkpoint.safetensors_file import SafetensorsFile, TensorSlot

TENSORS = {
    "bytes": torch.arange(7, dtype=torch.uint8),
    "halves": torch.arange(6, dtype=torch.float16).reshape(2, 3),
    "brains": torch.arange(3, dtype=torch.bfloat16),
    "floats": torch.arange(5, dtype=torch.float32),
    "text": torch.tensor(list(b'{"a": 1}'), dtype=torch.uint8),
    "number": torch.tensor(3.0),
}
DTYPES = {"bytes": "U8", "halves": "F16", "brains": "BF16", "floats": "F32", "text": "U8", "number": "F32"}
SLOTS = [
    TensorSlot(name, DTYPES[name], None if name == "text" else tuple(tensor.shape)) for name, tensor in TENSORS.items()
]


@pytest.mark.parametrize("order", [list(TENSORS), list(reversed(TENSORS))], ids=["in order", "backwards"])
def test_what_was_put_is_read_back(tmp_path: Path, order: list[str]) -> None:
    path = tmp_path / "a.safetensors"
    with path.open("xb") as file, SafetensorsFile(file, SLOTS) as made:
        for name in order:
            made.put(name, TENSORS[name])
    found = load_file(path)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], TENSORS[name]) and found[name].dtype == TENSORS[name].dtype for name in found)
    with safe_open(path, framework="pt") as read:
        assert read.metadata() == {"format": "pt"}


def test_every_tensor_lies_at_a_multiple_of_its_element(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with path.open("xb") as file, SafetensorsFile(file, SLOTS) as made:
        for name, tensor in TENSORS.items():
            made.put(name, tensor)
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert length % 8 == 0
    for name, tensor in TENSORS.items():
        assert header[name]["data_offsets"][0] % tensor.element_size() == 0


def test_an_empty_file_is_one(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with path.open("xb") as file, SafetensorsFile(file, []):
        pass
    assert load_file(path) == {}


@pytest.mark.parametrize("tensor", [torch.zeros(8, dtype=torch.uint8), torch.zeros(7)], ids=["shape", "dtype"])
def test_another_tensor_than_announced_is_refused(tmp_path: Path, tensor: torch.Tensor) -> None:
    with pytest.raises(QuantizeError, match="bytes is"), (tmp_path / "a").open("xb") as file:
        SafetensorsFile(file, SLOTS).put("bytes", tensor)


def test_a_tensor_put_twice_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "a").open("xb") as file:
        made = SafetensorsFile(file, SLOTS)
        made.put("bytes", TENSORS["bytes"])
        with pytest.raises(QuantizeError, match="once"):
            made.put("bytes", TENSORS["bytes"])


def test_a_tensor_never_put_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(QuantizeError, match="5 tensors were never written"),
        (tmp_path / "a").open("xb") as file,
        SafetensorsFile(file, SLOTS) as made,
    ):
        made.put("bytes", TENSORS["bytes"])
