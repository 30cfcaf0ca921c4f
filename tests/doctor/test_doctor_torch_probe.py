"""The NF4 product against NumPy's: real bitsandbytes, on the CPU."""

from __future__ import annotations

import json
from importlib.metadata import version

import numpy as np
import pytest

from edgeq.doctor import torch_probe
from edgeq.doctor.kernels import BOUND
from edgeq.doctor.torch_probe import decode_nf4


def facts(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    capsys.readouterr()
    torch_probe.main()
    found: dict[str, object] = {}
    for line in capsys.readouterr().out.splitlines():
        found.update(json.loads(line.partition(" ")[2]))
    return found


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
    assert found["torch"] == version("torch")
    assert found["bitsandbytes"] == version("bitsandbytes")
    assert found["computes"] is True
    assert 0 < float(str(found["nf4_error"])) <= BOUND


def test_a_kernel_that_is_wrong(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A product that is 5 % too large is 5 % off at the largest number."""
    import bitsandbytes

    right = bitsandbytes.matmul_4bit
    monkeypatch.setattr(bitsandbytes, "matmul_4bit", lambda *args, **named: right(*args, **named) * 1.05)
    assert float(str(facts(capsys)["nf4_error"])) == pytest.approx(0.05, rel=1e-3)
