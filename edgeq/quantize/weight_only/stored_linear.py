"""A linear layer that keeps its weight as the checkpoint has it, and in float32 only a few rows of it at a time.

So a block that is searched takes no more memory than its 16-bit weights, which may be those of a mapped file: what its
channels are multiplied and divided by is kept beside them. Needs torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, cast

import torch
from torch import nn
from torch.nn import functional

from edgeq.quantize.weight_only.round import Rounded

__all__ = ["StoredLinear", "store_linears", "stored_linear"]

_NUMBERS: Final = 1 << 18
"""Of a weight in float32 at once: what a trial needs besides is some times as large as they are."""


class StoredLinear(nn.Linear):
    """Computes with `weight * columns / rows`, or after `round` with what the integers stand for.

    Args:
        weight: [out, in], in any floating-point type; it is never changed.
        bias: float32 [out], or None.

    Attributes:
        columns: what the input channels are multiplied by, float32 [in].
        rows: what the output channels are divided by, float32 [out].
        rounded: the weight in integers, once it is.
    """

    columns: torch.Tensor
    rows: torch.Tensor

    def __init__(self, weight: torch.Tensor, bias: nn.Parameter | None) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = weight.shape
        self._stored: torch.Tensor | None = weight
        self.rounded: Rounded | None = None
        self.register_parameter("bias", bias)
        self.register_buffer("columns", torch.ones(self.in_features))
        self.register_buffer("rows", torch.ones(self.out_features))

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """All of it, float32 [out, in]: as much memory as it says."""
        return torch.cat([part for _, part in self.parts()])

    def parts(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """Some output channels after the other: which, and their weights, float32 [channels, in]."""
        step = max(_NUMBERS // self.in_features, 1)
        for first in range(0, self.out_features, step):
            channels = slice(first, min(first + step, self.out_features))
            yield channels, self._part(channels)

    def round(self, rounded: Rounded) -> None:
        """Compute with integers from now on; the weight is let go."""
        self.rounded, self._stored = rounded, None

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """As torch's, float32 [..., in] to [..., out]."""
        given = input.new_empty(*input.shape[:-1], self.out_features)
        for channels, part in self.parts():
            given[..., channels] = functional.linear(input, part, None if self.bias is None else self.bias[channels])
        return given

    def _part(self, channels: slice) -> torch.Tensor:
        if self.rounded is not None:
            return self.rounded.weight(channels)
        assert self._stored is not None
        part = self._stored[channels].to(torch.float32, copy=True)
        return part.mul_(self.columns).div_(self.rows[channels, None])


def store_linears(block: nn.Module) -> None:
    """Put a `StoredLinear` in the place of each linear layer of a block, whose biases become float32.

    A class of its own that is made from torch's may compute something else, and stays.
    """
    for name, module in list(block.named_modules()):
        if type(module) is nn.Linear:
            bias = None if module.bias is None else nn.Parameter(module.bias.float(), requires_grad=False)
            block.set_submodule(name, StoredLinear(module.weight.detach(), bias))


def stored_linear(block: nn.Module, name: str) -> StoredLinear:
    """A block's layer by its name in it."""
    return cast(Any, block.get_submodule(name))  # type: ignore[no-any-return]
