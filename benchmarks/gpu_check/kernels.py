"""bitsandbytes' 4-bit layers with nested scales: are they right for each number of rows, how long do they take, and
does a row's result depend on how many rows go with it?
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import bitsandbytes as bnb
import torch
from bitsandbytes import functional

from benchmarks.gpu_check.findings import Finding, Scale, milliseconds
from edgeq.runtime.vlm.linear import use_fast_kernels

__all__ = ["kernels"]

_SHAPES = ((4096, 4096), (11008, 4096), (4096, 11008))
"""Outputs and inputs of LLaVA-1.5-7B's layers."""

_ROWS = (1, 2, 3, 4, 5, 8, 16, 64, 256, 600)
_SMALL_SHAPES, _SMALL_ROWS = ((64, 128),), (1, 2, 4, 5)
_COPIES = 12
"""Of a weight, so that it does not come from the L2 cache."""

_RIGHT = 0.03
"""Of the largest result: FP16 and BF16 kernels differ from FP32 by less."""


def kernels(scale: Scale) -> Iterator[Finding]:
    """A finding for each shape."""
    shapes, rows = (_SMALL_SHAPES, _SMALL_ROWS) if scale.tiny else (_SHAPES, _ROWS)
    for outputs, inputs in shapes:
        yield _shape(scale, outputs, inputs, rows)


def _shape(scale: Scale, outputs: int, inputs: int, rows: tuple[int, ...]) -> Finding:
    torch.manual_seed(0)
    layers = torch.nn.ModuleList(_layer(outputs, inputs, scale) for _ in range(1 if scale.tiny else _COPIES))
    first: Any = layers[0]
    dense = functional.dequantize_4bit(first.weight.data, first.weight.quant_state).float()
    found: dict[int, Finding] = {}
    with torch.inference_mode():
        for layer in layers:
            layer(_rows(1, inputs, scale))  # a CPU rearranges the weights now
        quick = use_fast_kernels(layers)
        for count in rows:
            given = _rows(count, inputs, scale)
            wanted = given.float() @ dense.T
            error = float((first(given).float() - wanted).abs().max() / wanted.abs().max())
            turn = iter(range(1 << 30))
            taken = milliseconds(lambda: layers[next(turn) % len(layers)](given), scale.device)  # noqa: B023
            found[count] = {"error": error, "ms": taken}
        four = _rows(4, inputs, scale)
        whole = first(four)
        same = {count: bool(torch.equal(first(four[:count]), whole[:count])) for count in (1, 2, 3)}
    return {
        "outputs": outputs,
        "inputs": inputs,
        "rows": found,
        "bits_as_with_4_rows": same,
        "called_directly": quick,
        "bitsandbytes": bnb.__version__,
        "fine": all(one["error"] < _RIGHT for one in found.values()),
    }


def _layer(outputs: int, inputs: int, scale: Scale) -> torch.nn.Module:
    layer: torch.nn.Module = bnb.nn.Linear4bit(
        inputs, outputs, bias=False, compute_dtype=torch.float16, compress_statistics=True, quant_type="nf4"
    )
    values = torch.empty(outputs, inputs, dtype=torch.float16, device=scale.device).normal_(0.0, 0.02)
    weight = bnb.nn.Params4bit(values, requires_grad=False, compress_statistics=True, quant_type="nf4", module=layer)
    layer.weight = weight.to(scale.device)
    return layer.eval()


def _rows(count: int, inputs: int, scale: Scale) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, inputs, generator=generator).to(scale.device, torch.float16)
