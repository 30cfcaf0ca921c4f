"""bitsandbytes' kernel called by ourselves, against bitsandbytes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from bitsandbytes.functional import has_avx512bf16

from edgeq.runtime.vlm import linear
from edgeq.runtime.vlm.linear import fuse_short_pieces, joined, use_fast_kernels

packed = pytest.mark.skipif(not has_avx512bf16(), reason="this processor has another kernel")


def layer(
    kind: str = "nf4", bias: bool = False, compute: torch.dtype = torch.float16, width: int = 128, out: int = 64
) -> bnb.nn.Linear4bit:
    """A layer in 4 bits that has run once."""
    torch.manual_seed(width + out)
    made = bnb.nn.Linear4bit(width, out, bias=bias, compute_dtype=compute, quant_type=kind)
    made = made.to("cpu").eval().requires_grad_(False)
    made(torch.zeros(1, width, dtype=compute))
    return made


@packed
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("compute", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(1, 1), (4, 1), (1, 17), (3,)])
@torch.inference_mode()
def test_the_same_bits(bias: bool, compute: torch.dtype, shape: tuple[int, ...]) -> None:
    made = layer(bias=bias, compute=compute)
    model = torch.nn.Sequential(torch.nn.Identity(), made)
    inputs = [torch.randn(*shape, 128).to(dtype) for dtype in (torch.float16, torch.float32)]
    inputs.append(torch.randn(128, *shape, dtype=torch.float16).movedim(0, -1))
    before = [model(values.contiguous()) for values in inputs]  # else bitsandbytes reads beside the values
    assert use_fast_kernels(model) == 1
    assert "forward" in vars(made)
    for values, expected in zip(inputs, before, strict=True):
        found = model(values)
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)


@packed
@pytest.mark.parametrize("bias", [False, True])
@torch.inference_mode()
def test_layers_joined_give_the_bits_that_they_give_alone(bias: bool) -> None:
    """Three of one input, whose weights then are parts of one; asked again it is the same."""
    layers = [layer(bias=bias, out=out) for out in (64, 32, 96)]
    assert joined(layers) is None, "their kernel has not been tried"
    assert use_fast_kernels(torch.nn.Sequential(*layers)) == 3
    inputs = torch.randn(5, 1, 128, dtype=torch.float16)
    before = [one(inputs) for one in layers]
    together = joined(layers)
    assert together is not None
    assert torch.equal(together(inputs), torch.cat(before, -1))
    assert all(torch.equal(one(inputs), alone) for one, alone in zip(layers, before, strict=True))
    assert len({one.weight.untyped_storage().data_ptr() for one in layers}) == 1
    assert joined(layers) is together


@packed
@pytest.mark.parametrize("other", [{"width": 256}, {"bias": True}, {"compute": torch.float32}, {"kind": "fp4"}])
@torch.inference_mode()
def test_layers_that_are_not_joined(other: dict[str, Any]) -> None:
    layers = [layer(), layer(**other)]
    use_fast_kernels(torch.nn.Sequential(*layers))
    assert joined(layers) is None


def test_short_pieces_take_the_fused_kernel_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a simulated choice of bitsandbytes, which on an Orin (compute 8.7) is: up to four rows."""
    monkeypatch.setattr(linear, "version", lambda _: "0.50.2")
    orin, turing = (8, 8, 7), (40, 7, 5)
    ops = SimpleNamespace(
        _gemm_4bit_use_custom_fn=lambda _index, _dtype, count, _wide, _deep: count <= 4,
        _gpu_dispatch_props=lambda index: (orin, turing)[index],
    )

    def fused(count: int, index: int = 0, dtype: torch.dtype = torch.float16) -> bool:
        found: bool = ops._gemm_4bit_use_custom_fn(index, dtype, count, 4096, 11008)
        return found

    assert not fuse_short_pieces(256), "without a GPU"
    assert fuse_short_pieces(256, ops)
    assert [fused(count) for count in (4, 5, 256, 257)] == [True, True, True, False]
    assert fuse_short_pieces(32, ops)
    assert [fused(count) for count in (4, 32, 33)] == [True, True, False]
    assert [fused(4, dtype=torch.float32), fused(5, dtype=torch.float32), fused(5, index=1)] == [True, False, False]
    assert not fuse_short_pieces(0, ops)
    assert [fused(count) for count in (4, 5)] == [True, False]
    monkeypatch.setattr(linear, "version", lambda _: "0.51.0")
    assert not fuse_short_pieces(256, ops)
    assert not fused(5)


@pytest.mark.parametrize("reason", ["fp4", "version", "kernel"])
@torch.inference_mode()
def test_layers_that_stay_as_they_are(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another type, of a version that is not known, and where another kernel gives other bits."""
    model = torch.nn.Sequential(layer("fp4" if reason == "fp4" else "nf4"))
    if reason == "version":
        monkeypatch.setattr(linear, "version", lambda _: "0.99.0")
    if reason == "kernel":
        monkeypatch.setattr(linear, "_KERNEL", "gemv_4bit_inference_cpu_fp4_bf16")
    inputs = torch.randn(2, 128, dtype=torch.float16)
    before = model(inputs)
    assert use_fast_kernels(model) == 0
    assert torch.equal(model(inputs), before)
    assert "forward" not in vars(model[0])
