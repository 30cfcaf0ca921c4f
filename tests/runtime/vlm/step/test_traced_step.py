"""What a decode step of LLaVA-1.5-7B reads and launches on a GPU, traced on the meta device."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import pytest
import torch
from traced_step import Trace, meta_nf4

from edgeq.runtime.vlm.decode_step import DecodeStep, StepOptions

LLAVA = Path(__file__).resolve().parents[3] / "golden" / "vlm-configs" / "llava-1.5-7b"
LAYERS = 32


@cache
def traced(layers: int, clients: int = 1, length: int = 640, *, fused: bool = True) -> Trace:
    """A step of so many clients in four slots of 2048 tokens. A look at a number would raise: there is none."""
    with torch.inference_mode():
        step = DecodeStep(meta_nf4(LLAVA, layers), 4, 2048, options=StepOptions(fused=fused))
    for slot in range(clients):
        step.occupy(slot, 0, length - 1, length - 1)
    trace = Trace()
    with trace:
        step.advance(step.forward().argmax(-1))
    return trace


def whole(trace: str, clients: int = 1, length: int = 640) -> int:
    """Of all layers, from one and two."""
    one, two = (getattr(traced(layers, clients, length), trace) for layers in (1, 2))
    return int(one + (LAYERS - 1) * (two - one))


def test_bytes_that_one_client_reads() -> None:
    """At 640 tokens it is 768 rows of one slot.

    NF4: 6,476 M weights at (1/2 + 1/64 + 1/4096) bytes; FP16: a head of 4096 x 32064; keys and values of 32 layers x 2
    x 4096. On top come activations, of which a layer has a few hundred KB.
    """
    weights = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    known = weights * (1 / 2 + 1 / 64 + 1 / 64 / 256 * 4) + 2 * 4096 * 32064 + 768 * 32 * 2 * 4096 * 2
    assert 0 < whole("read") - known < 0.02e9
    assert whole("read") < 4.1e9


def test_bytes_grow_with_what_is_seen_and_with_no_empty_slot() -> None:
    """A row of a slot is 524,288 bytes; the lengths are 768 and 1536, and the whole slot is 2112 rows."""
    row = 32 * 2 * 4096 * 2
    longer = whole("read", length=1500) - whole("read")
    assert longer == pytest.approx((1536 - 768) * row, rel=0.001)
    two = whole("read", clients=2, length=640) - whole("read")
    assert two == pytest.approx(768 * row, rel=0.05)
    assert whole("read", clients=4, length=2048) - whole("read") == pytest.approx((4 * 2112 - 768) * row, rel=0.01)


@pytest.mark.parametrize(("fused", "most"), [(True, 20), (False, 40)])
def test_operators_of_a_layer(fused: bool, most: int) -> None:
    one, two = (Counter(traced(layers, fused=fused).names) for layers in (1, 2))
    layer = two - one
    assert layer.total() <= most
    assert layer["gemm_4bit"] == 7
    assert not {"item", "_local_scalar_dense", "nonzero", "is_nonzero"} & two.keys()
