"""Where channels of a language model's block can be scaled without a change of what it computes.

What a normalization gives is read by linear layers: its weight is divided by a number for each channel, and their
columns are multiplied by it. Likewise the rows of one linear layer and the columns of the next, where nothing stands
between that such numbers do not pass through: values go through attention to the output layer, and the second factor of
a gated feed-forward layer to its last layer. Which layers read a normalization is seen from a block that runs; that
nothing changes is tried on it for every such place, so that no family need be known by name. AWQ, arXiv 2306.00978,
section 3. Needs torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import nn

from edgeq.quantize.weight_only.stored_linear import StoredLinear, stored_linear

__all__ = ["ScalePoint", "find_points"]

_PAIRS: Final = (
    ("v_proj", "o_proj"),
    ("qkv_proj", "o_proj"),
    ("up_proj", "down_proj"),
    ("gate_up_proj", "down_proj"),
)
"""Names of linear layers, the first of which may be read by the second one."""

_TOLERANCE: Final = 1e-4
"""Of the largest number that a block gives: more is no rounding of float32."""

Run = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class ScalePoint:
    """One place.

    Attributes:
        source: name in the block of what is divided.
        readers: names of the linear layers whose columns are multiplied.
        kind: `weight`: a normalization that multiplies by its weight; `one-plus`: by one plus its weight; `rows`: a
            linear layer, whose last rows are divided.
        width: channels that can be scaled.
        heads: of keys and values, where each of them is read by as many heads of queries; 1 elsewhere.
    """

    source: str
    readers: tuple[str, ...]
    kind: Literal["weight", "one-plus", "rows"]
    width: int
    heads: int = 1

    def spread(self, scales: torch.Tensor, inputs: int) -> torch.Tensor:
        """The numbers of all input channels of the readers: float32 [width] to [inputs]."""
        repeats = inputs // self.width
        return scales.reshape(self.heads, 1, -1).expand(-1, repeats, -1).reshape(-1) if repeats > 1 else scales

    def gathered(self, channels: torch.Tensor) -> torch.Tensor:
        """The mean over all readers' channels that have one number: float32 [inputs] to [width]."""
        repeats = len(channels) // self.width
        return channels.reshape(self.heads, repeats, -1).mean(1).reshape(-1) if repeats > 1 else channels

    def apply(self, block: nn.Module, scales: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Divide the source and multiply the readers.

        A normalization's weight is rounded to the type that it is stored in, and the readers make up for that.

        Args:
            block: with linear layers from `store_linears`, changed in place.
            scales: float32 [width], above 0.
            dtype: that the checkpoint stores a normalization in.

        Returns:
            The numbers that the readers were multiplied by, float32 [width].
        """
        source: Any = block.get_submodule(self.source)
        if self.kind == "rows":
            source.rows[-self.width :] *= scales
            if source.bias is not None:
                source.bias[-self.width :] /= scales
        else:
            offset = 1.0 if self.kind == "one-plus" else 0.0
            old = source.weight + offset
            new = (old / scales - offset).to(dtype).float() + offset
            scales = torch.where((old == 0) | (new == 0), 1.0, old / new)
            source.weight.copy_(torch.where((old == 0) | (new == 0), old, new) - offset)
            if getattr(source, "bias", None) is not None:
                source.bias.div_(scales)
        for name in self.readers:
            reader = stored_linear(block, name)
            reader.columns *= self.spread(scales, reader.in_features)
        return scales


def find_points(block: nn.Module, run: Run) -> list[ScalePoint]:
    """All places of a block, from its input on.

    Args:
        block: with linear layers from `store_linears`, in eval mode; it is left as it was.
        run: gives the block's output for some input, [1, tokens, hidden].
    """
    expected, candidates = run(), list(_candidates(block, run))
    found: list[ScalePoint] = []
    for options in candidates:
        found += [point for point in options if _is_free(block, point, run, expected)][:1]
    return found


def _candidates(block: nn.Module, run: Run) -> Iterator[tuple[ScalePoint, ...]]:
    """What might be a place, each in one or more readings."""
    for source, readers, width in _normalizations(block, run):
        yield tuple(ScalePoint(source, readers, kind, width) for kind in ("weight", "one-plus"))
    for parent, module in block.named_modules():
        for first, second in _PAIRS:
            pair: list[Any] = [getattr(module, name, None) for name in (first, second)]
            if all(isinstance(linear, StoredLinear) for linear in pair):
                width = _width(module, first, *pair)
                names = [f"{parent}.{name}" if parent else name for name in (first, second)]
                if width and pair[1].in_features % width == 0:
                    heads = width // module.head_dim if width < pair[1].in_features else 1
                    yield (ScalePoint(names[0], (names[1],), "rows", width, heads),)


def _width(module: Any, first: str, source: StoredLinear, reader: StoredLinear) -> int:
    """Channels of `source` that `reader` reads; 0 for none."""
    if first == "gate_up_proj":
        return reader.in_features
    if first == "qkv_proj":
        rest = source.out_features - reader.in_features
        return rest // 2 if rest > 0 and rest % (2 * getattr(module, "head_dim", rest + 1)) == 0 else 0
    if source.out_features == reader.in_features:
        return source.out_features
    return source.out_features if getattr(module, "head_dim", 0) and first == "v_proj" else 0


def _normalizations(block: nn.Module, run: Run) -> Iterator[tuple[str, tuple[str, ...], int]]:
    """Modules with a weight of one dimension, and the linear layers that are given what they gave."""
    gave: dict[str, torch.Tensor] = {}
    readers: dict[str, list[str]] = {}

    def read(reader: str, value: torch.Tensor) -> None:
        for name, output in gave.items():
            if value is output:
                readers.setdefault(name, []).append(reader)

    hooks = []
    for name, module in block.named_modules():
        if isinstance(module, StoredLinear):
            hooks.append(module.register_forward_pre_hook(lambda _, args, name=name: read(name, args[0])))
            continue
        weight = getattr(module, "weight", None)
        if isinstance(weight, torch.Tensor) and weight.ndim == 1:
            hooks.append(module.register_forward_hook(lambda _, __, out, name=name: gave.update({name: out})))
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    for name, output in gave.items():
        width = output.shape[-1]
        if name in readers and width == len(block.get_submodule(name).weight):  # type: ignore[arg-type]
            yield name, tuple(readers[name]), width


def _is_free(block: nn.Module, point: ScalePoint, run: Run, expected: torch.Tensor) -> bool:
    """Whether the block gives the same with other scales; powers of two, which round nothing."""
    parts = [block.get_submodule(name) for name in (point.source, *point.readers)]
    own = [value for part in parts for value in (*part.parameters(recurse=False), *part.buffers(recurse=False))]
    before = [value.clone() for value in own]
    exponents = torch.randint(-2, 3, (point.width,), generator=torch.Generator().manual_seed(0))
    point.apply(block, torch.exp2(exponents.float()))
    changed = run()
    for value, old in zip(own, before, strict=True):
        value.copy_(old)
    return bool((changed - expected).abs().max() <= _TOLERANCE * expected.abs().max())
