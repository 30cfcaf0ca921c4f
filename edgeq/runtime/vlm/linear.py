"""4-bit linear layers on a CPU, which call bitsandbytes' kernel themselves.

On the way to its kernel bitsandbytes passes through a dozen calls in Python, which for one token of a small layer take
ten times as long as the kernel. Here is what they come to in the end: `gemv_4bit` in bitsandbytes/backends/cpu/ops.py.
Needs torch and bitsandbytes.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any, Final
from weakref import WeakKeyDictionary

import torch

from edgeq.runtime.vlm.packed.layer import PackedLinear, joined_packed

__all__ = ["fuse_short_pieces", "joined", "use_fast_kernels"]

_KNOWN: Final = ("0.49.", "0.50.")
"""Versions of bitsandbytes whose kernel takes what is given to it here; no other is called, for it might crash."""

_KERNEL: Final = "gemv_4bit_inference_cpu_nf4_bf16"

_FUSED: Final = "0.50."
"""Versions whose choice between kernels on a GPU is known."""

_AMPERE: Final = 8

_Forward = Callable[[torch.Tensor], torch.Tensor]

_JOINED: Final[WeakKeyDictionary[torch.nn.Module, _Forward]] = WeakKeyDictionary()
"""By the first of them: several decoders of one model share what was joined."""


def use_fast_kernels(model: torch.nn.Module) -> int:
    """Let 4-bit layers call the kernel themselves, where they give the very bits that they gave before.

    Layers in another format than that of a CPU with AVX512-BF16 stay as they are.

    Args:
        model: with 4-bit layers that have run once and whose weights stay where they are from now on.

    Returns:
        How many layers there are that do.
    """
    if "bitsandbytes" not in sys.modules or not version("bitsandbytes").startswith(_KNOWN):
        return 0
    import bitsandbytes as bnb
    from bitsandbytes.cextension import lib

    count = 0
    for layer in model.modules():
        if isinstance(layer, bnb.nn.Linear4bit) and _is_packed(layer):
            quick = _alone(layer, getattr(lib, _KERNEL))
            if _same(layer, layer, quick):
                layer.forward = quick
                count += 1
    return count


def _is_packed(layer: Any) -> bool:
    state = layer.weight.quant_state
    packed = getattr(state, "packing_format_for_cpu", False) and state.quant_type == "nf4"
    return packed and layer.compute_dtype is not None


def fuse_short_pieces(rows: int, operators: Any = None) -> bool:
    """Let a GPU's 4-bit layers read pieces of a prompt of up to so many tokens without unpacking their weights.

    bitsandbytes unpacks a weight for more than four rows wherever its fused kernel has not been measured, such as on an
    Orin. A piece of a prompt is read alone, so that an answer does not depend on the others either way; but its bits
    are others than without. For the whole process; not yet run on a GPU.

    Args:
        rows: of a piece, at most; 0 leaves it to bitsandbytes.
        operators: `bitsandbytes.backends.cuda.ops`, or what stands for it; None takes that of a CUDA GPU.

    Returns:
        Whether it is so from now on: not without a GPU, and with no version of bitsandbytes that is not known.
    """
    operators = operators or _cuda_operators()
    if operators is None or not version("bitsandbytes").startswith(_FUSED):
        return False
    chosen = operators._gemm_4bit_use_custom_fn
    usual = chosen.keywords["usual"] if isinstance(chosen, partial) else chosen
    fused = partial(_is_fused, rows=rows, usual=usual, device=operators._gpu_dispatch_props)
    operators._gemm_4bit_use_custom_fn = fused if rows else usual
    return rows > 0


def _is_fused(
    index: int, dtype: torch.dtype, count: int, wide: int, deep: int, *, rows: int, usual: Any, device: Any
) -> bool:
    """Whether a product of `count` rows takes the fused kernel: with 16 bits, and matrix units from compute 8.0 on."""
    _, major, _ = device(index)
    if count <= rows and major >= _AMPERE and dtype in (torch.float16, torch.bfloat16):
        return True
    return bool(usual(index, dtype, count, wide, deep))


def _cuda_operators() -> Any:
    """bitsandbytes' operators on a GPU; None where there is none."""
    if not torch.cuda.is_available():
        return None
    from bitsandbytes.backends.cuda import ops

    return ops


def joined(layers: Sequence[Any]) -> _Forward | None:
    """Several layers of one input as one: its output is theirs, one behind the other, bit for bit.

    Their weights are moved into one tensor, of which each layer keeps its part.

    Args:
        layers: that `use_fast_kernels` has seen, or all `PackedLinear`.

    Returns:
        float [..., in] to [..., out of all] of the same type; None where they cannot be joined: on a GPU, whose nested
        scales have an offset for each weight, and where another kernel runs.
    """
    if all(isinstance(layer, PackedLinear) for layer in layers):
        return joined_packed(layers)
    first = layers[0]
    if first in _JOINED:
        return _JOINED[first]
    if not all(getattr(vars(layer).get("forward"), "joins", False) for layer in layers):
        return None
    if len({(layer.in_features, layer.compute_dtype, layer.bias is None) for layer in layers}) != 1:
        return None
    if len({layer.weight.quant_state.blocksize for layer in layers}) != 1:
        return None
    from bitsandbytes.cextension import lib

    kernel = getattr(lib, _KERNEL)
    weight = torch.cat([layer.weight.data for layer in layers])
    scales = torch.cat([layer.weight.quant_state.absmax for layer in layers], 1)
    bias = None if first.bias is None else torch.cat([layer.bias for layer in layers])
    quick = _forward(weight, scales, first.weight.quant_state.blocksize, bias, first.compute_dtype, kernel)
    if not _same(first, lambda rows: torch.cat([layer(rows) for layer in layers], -1), quick):
        return None
    parts = torch.split(weight, [len(layer.weight) for layer in layers])
    for layer, part in zip(layers, parts, strict=True):
        layer.weight.data = part
        layer.forward = _alone(layer, kernel)
    _JOINED[first] = quick
    return quick


def _alone(layer: Any, kernel: Any) -> _Forward:
    """One layer's forward pass."""
    state = layer.weight.quant_state
    return _forward(layer.weight.data, state.absmax, state.blocksize, layer.bias, layer.compute_dtype, kernel)


def _forward(
    weight: torch.Tensor, absmax: torch.Tensor, blocksize: int, bias: torch.Tensor | None, compute: Any, kernel: Any
) -> _Forward:
    """A forward pass: float [..., n, in] to [..., n, out] of the same type."""
    scales = absmax.to(torch.bfloat16)
    out_features, in_features = len(weight), 2 * weight.shape[1]
    wide, deep, block = (ctypes.c_int64(size) for size in (out_features, in_features, blocksize))

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

    forward.joins = True  # type: ignore[attr-defined]
    return forward


def _same(layer: Any, known: _Forward, quick: _Forward) -> bool:
    """Whether both ways give the same bits: with another kernel of bitsandbytes' own they need not."""
    with torch.inference_mode():
        inputs = torch.linspace(-2, 2, 3 * layer.in_features, dtype=layer.compute_dtype).reshape(1, 3, -1)
        return torch.equal(known(inputs), quick(inputs))
