"""The NF4 product against NumPy's: real bitsandbytes, on the CPU."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

import numpy as np
import pytest
import torch
from bitsandbytes import cextension
from numpy.typing import NDArray

from edgeq.doctor import torch_probe
from edgeq.doctor.child import Outcome
from edgeq.doctor.kernels import BOUND, nf4_finding, packed_finding
from edgeq.doctor.torch_probe import decode_nf4


def facts(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    capsys.readouterr()
    torch_probe.main()
    found: dict[str, object] = {}
    for line in capsys.readouterr().out.splitlines():
        found.update(json.loads(line.partition(" ")[2]))
    return found


def test_a_library_that_cannot_be_loaded_is_told_with_the_linkers_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where libgomp1 is not installed, and bitsandbytes has torch compute instead."""
    cpu, missing = torch.device("cpu"), "libgomp.so.1: cannot open shared object file: No such file or directory"
    assert torch_probe._library_fault(cpu) == ""

    def load(_name: str) -> None:
        raise OSError(missing)

    monkeypatch.setattr(cextension, "lib", cextension.ErrorHandlerMockBNBNativeLibrary("not loaded"))
    monkeypatch.setattr("edgeq.doctor.torch_probe.ctypes.CDLL", load)
    assert torch_probe._library_fault(cpu) == missing
    assert torch_probe._library_fault(torch.device("cuda")) == ""  # the GPU's library is another one


def test_bytes_decoded_by_hand() -> None:
    """0x7F is zero and one; 0x0F minus one and one. The second block of 64 numbers is three times as large."""
    packed = np.full(64, 0x7F, dtype=np.uint8)
    packed[32:] = 0x0F
    matrix = decode_nf4(packed, np.array([2.0, 6.0], dtype=np.float32), (2, 64))
    assert matrix.tolist() == [[0.0, 2.0] * 32, [-6.0, 6.0] * 32]


def test_the_table_is_that_of_the_paper() -> None:
    """Sixteen numbers from -1 to 1 with a zero; seven negative and eight positive ones (QLoRA, section 3)."""
    table = torch_probe.NF4_CODE
    assert sorted(set(table)) == list(table)
    assert (table[0], table[7], table[15], len(table)) == (-1.0, 0.0, 1.0, 16)


def test_the_kernels_here_are_right(capsys: pytest.CaptureFixture[str]) -> None:
    found = facts(capsys)
    assert packed_finding(Outcome(found, 0), needed=True).status == "ok"
    assert found["torch"] == version("torch")
    assert found["bitsandbytes"] == version("bitsandbytes")
    assert found["computes"] is True
    assert 0 < float(str(found["nf4_error"])) <= BOUND


def test_scales_decoded_by_hand() -> None:
    """257 scales: the last one is of the second 256, whose largest magnitude is ten times as large."""
    code = np.linspace(-1, 1, 256, dtype=np.float32)
    numbers = np.full(257, 255, dtype=np.uint8)
    numbers[0] = 0
    scales = torch_probe.nested_scales(numbers, code, np.array([2, 20], np.float32), 3.0)
    assert (scales[0], scales[1], scales[255], scales[256]) == (1, 5, 5, 23)


def test_as_many_rows_as_answers_and_prompts_have(capsys: pytest.CaptureFixture[str]) -> None:
    errors = facts(capsys)["nf4_errors"]
    assert isinstance(errors, dict)
    assert list(errors) == ["1", "2", "3", "4", "8"]


def test_the_layer_is_that_of_a_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its scales are quantized too, 2048 of them in 8 blocks, until a CPU's kernel rearranges them."""
    seen, right = [], torch_probe._matrix

    def matrix(weight: Any) -> NDArray[np.float64]:
        state = weight.quant_state
        seen.append((state.nested, state.quant_type, tuple(state.absmax.shape), tuple(state.state2.absmax.shape)))
        return right(weight)

    monkeypatch.setattr(torch_probe, "_matrix", matrix)
    torch_probe._layer(torch.device("cpu"))
    assert seen == [(True, "nf4", (2048,), (8,))]


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 8])
def test_a_kernel_that_is_wrong_for_some_rows(
    rows: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, matrix = torch_probe._layer(torch.device("cpu"))
    layer.register_forward_hook(lambda _layer, inputs, made: made * (1.5 if len(inputs[0]) == rows else 1))
    monkeypatch.setattr(torch_probe, "_layer", lambda _device: (layer, matrix))
    found = Outcome(facts(capsys), 0)
    assert found.facts["nf4_error"] == pytest.approx(0.5, abs=0.02)
    finding = nf4_finding(found, installed="0.50.2", jetson=False, language=True)
    assert (finding.status, f"wrong at {rows} rows" in finding.seen) == ("missing", True)


def test_a_kernel_that_is_wrong(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A product that is 5 % too large is 5 % off at the largest number; kernels in BF16 round by some thousandths."""
    import bitsandbytes

    right = bitsandbytes.matmul_4bit
    monkeypatch.setattr(bitsandbytes, "matmul_4bit", lambda *args, **named: right(*args, **named) * 1.05)
    assert float(str(facts(capsys)["nf4_error"])) == pytest.approx(0.05, abs=0.01)


def test_a_torch_without_the_operators_of_integers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is told, and so is what comes behind it."""

    def fail(_device: torch.device) -> None:
        raise AttributeError("no _weight_int4pack_mm_for_cpu")

    monkeypatch.setattr("edgeq.doctor.packed_products.packed_products", fail)
    found = facts(capsys)
    assert found["packed_fault"] == "no _weight_int4pack_mm_for_cpu"
    assert "nf4_error" in found
