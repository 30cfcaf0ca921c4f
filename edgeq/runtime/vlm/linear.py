"""4-bit linear layers on a CPU, which call bitsandbytes' kernel themselves.

On the way to its kernel bitsandbytes passes through a dozen calls in Python, which for one token of a small layer take
ten times as long as the kernel. Here is what they come to in the end: `gemv_4bit` in bitsandbytes/backends/cpu/ops.py.
Needs torch and bitsandbytes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, Final

import torch

__all__ = ["use_fast_kernels"]

_KNOWN: Final = ("0.49.", "0.50.")
"""Versions of bitsandbytes whose kernel takes what is given to it here; no other is called, for it might crash."""

_KERNEL: Final = "gemv_4bit_inference_cpu_nf4_bf16"

_Forward = Callable[[torch.Tensor], torch.Tensor]


def use_fast_kernels(model: torch.nn.Module) -> int:
    """Let 4-bit layers call the kernel themselves, where they give the very bits that they gave before.

    Layers in another format than that of a CPU with AVX512-BF16 stay as they are.

    Args:
        model: with 4-bit layers that have run once and whose weights stay where they are from now on.

    Returns:
        How many layers there are that do.
    """
    import bitsandbytes as bnb
    from bitsandbytes.cextension import lib

    if not version("bitsandbytes").startswith(_KNOWN):
        return 0
    count = 0
    for layer in model.modules():
        if isinstance(layer, bnb.nn.Linear4bit) and _is_packed(layer):
            quick = _forward(layer, getattr(lib, _KERNEL))
            if _same(layer, quick):
                layer.forward = quick
                count += 1
    return count


def _is_packed(layer: Any) -> bool:
    state = layer.weight.quant_state
    packed = getattr(state, "packing_format_for_cpu", False) and state.quant_type == "nf4"
    return packed and layer.compute_dtype is not None


def _forward(layer: Any, kernel: Any) -> _Forward:
    """A layer's forward pass: float [..., n, in] to [..., n, out] of the same type."""
    state, bias, compute = layer.weight.quant_state, layer.bias, layer.compute_dtype
    out_features, in_features = state.shape
    weight, scales = layer.weight.data, state.absmax.to(torch.bfloat16)
    wide, deep, block = (ctypes.c_int64(size) for size in (out_features, in_features, state.blocksize))

    def forward(inputs: torch.Tensor) -> torch.Tensor:
        given = inputs.to(compute).to(torch.bfloat16).contiguous()
        found = torch.empty(*given.shape[:-1], out_features, dtype=torch.bfloat16)
        rows = ctypes.c_int64(given.numel() // in_features)
        places = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (given, weight, scales, found))
        kernel(rows, wide, deep, *places, block, deep, wide)
        result = found.to(compute)
        if bias is not None:
            result += bias.to(compute)
        return result.to(inputs.dtype)

    return forward


def _same(layer: Any, quick: _Forward) -> bool:
    """Whether both ways give the same bits: with another kernel of bitsandbytes' own they need not."""
    with torch.inference_mode():
        inputs = torch.linspace(-2, 2, 3 * layer.in_features, dtype=layer.compute_dtype).reshape(1, 3, -1)
        return torch.equal(layer(inputs), quick(inputs))
