"""Products with weights that are integers: torch's own kernels, and what is done where they do not serve.

Activations are multiplied in bfloat16, as the kernels have them, and summed in float32, so that nothing overflows.
torch's layouts are its own: `_convert_weight_to_int4pack*` in aten/src/ATen/native of its source. Needs torch.

- CPU, INT4: `_weight_int4pack_mm_for_cpu`. Its instructions for many rows are those for one, row after row. So from
  `MOST_ROWS` on weights are unpacked, 512 output channels at a time, which stay in the processor's cache, and
  multiplied by the processor's kernel for bfloat16.
- CUDA, INT4: `_weight_int4pack_mm`, which needs compute capability 8.0.
- INT8: `_weight_int8pack_mm`; for many rows unpacked likewise.
- Any other: unpacked for each product.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from typing import ClassVar, Final

import torch
from torch.nn.functional import pad

from edgeq.model.checkpoint.packed_weights import (
    GROUPS,
    UNPACKED_AT_ONCE,
    WeightScheme,
    pack_integers,
    unpack_integers,
)

__all__ = ["MOST_ROWS", "Int4Cpu", "Int4Cuda", "Int8", "Product", "Unpacking", "join", "product_of"]

MOST_ROWS: Final = {4: 64, 8: 32}
"""Rows up to which a CPU multiplies weights of so many bits as they are stored; about where both take as long."""

_BLOCK: Final = 64
"""Output channels that lie together in the layout of a CPU with AVX512; other layouts ask for fewer."""

_AT_ONCE: Final = 512
"""Output channels that are unpacked at once, a multiple of `_BLOCK`."""

_AMPERE: Final = 8
_TILES: Final = (8, 4, 2)
_TILE: Final = 16
_CLOSE: Final = 0.02


class Product:
    """A weight, and how rows are multiplied by it.

    Args:
        weight: in the layout of the kernel; its first dimension is along the output.
        scales: of the weight.
        in_features: of the layer.
        out_features: with those that fill up the layout.
        group: numbers along the input with one scale.

    Attributes:
        weight, scales, in_features, out_features, group: the same.
    """

    axis: ClassVar[int] = 0
    """Of the scales along the output."""

    rows_alike: ClassVar[bool] = True
    """On a CPU a row gives the same bits alone as beside a few others."""

    def __init__(
        self, weight: torch.Tensor, scales: torch.Tensor, in_features: int, out_features: int, group: int
    ) -> None:
        self.weight, self.scales = weight, scales
        self.in_features, self.out_features, self.group = in_features, out_features, group

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """float [rows, in] to [rows, out], of a type that holds it."""
        raise NotImplementedError


class Int4Cpu(Product):
    """INT4 on a CPU: weight uint8 [out, in / 2], scales bfloat16 [in / group, out, 2], of each the second is 0."""

    axis = 1

    @classmethod
    def of(cls, packed: torch.Tensor, scales: torch.Tensor, group: int) -> Int4Cpu:
        """Repack a weight some output channels at a time.

        Args:
            packed: int32 [out, in / 8].
            scales: 16-bit float [out, in / group].
            group: numbers along the input with one scale.
        """
        out_features, in_features = _filled(len(packed)), 8 * packed.shape[1]
        weight = torch.empty(out_features, in_features // 2, dtype=torch.uint8)
        for start in range(0, out_features, _AT_ONCE):
            values = unpack_integers(packed[start : start + _AT_ONCE], 4).to(torch.int32) + 8
            values = pad(values, (0, 0, 0, _filled(len(values)) - len(values)), value=8)
            weight[start : start + len(values)] = torch.ops.aten._convert_weight_to_int4pack_for_cpu(values, 1)
        return cls(weight, _with_zeros(scales, out_features), in_features, out_features, group)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """To bfloat16."""
        given = rows.to(torch.bfloat16).contiguous()
        if len(given) > MOST_ROWS[4] and _lies_in_blocks():
            return self._unpacked(given)
        scales = self.scales.contiguous()  # those of a joined layer are a part
        found: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(given, self.weight, self.group, scales)
        return found

    def _unpacked(self, given: torch.Tensor) -> torch.Tensor:
        """By weights in bfloat16. Two bytes are looked up at once: of channels c, c + 32, c + 1, c + 33."""
        blocks, groups = self.out_features // _BLOCK, self.in_features // self.group
        words = self.weight.view(torch.int16).view(blocks, self.in_features, _BLOCK // 4)
        scales = self.scales[..., 0].view(groups, blocks, 2, _BLOCK // 2).transpose(2, 3).reshape(groups, 1, -1)
        found = torch.empty(len(given), blocks, 2, _BLOCK // 2, dtype=torch.bfloat16)
        step = _AT_ONCE // _BLOCK
        for start in range(0, blocks, step):
            part = slice(start, min(start + step, blocks))
            places = words[part].transpose(0, 1).to(torch.int32, memory_format=torch.contiguous_format) + (1 << 15)
            weight = _four_numbers().index_select(0, places.flatten()).view(torch.bfloat16)
            weight = weight.view(groups, self.group, -1)
            weight *= scales[..., part.start * _BLOCK : part.stop * _BLOCK]
            made = given @ weight.view(self.in_features, -1)
            found[:, part] = made.view(len(given), -1, _BLOCK // 2, 2).transpose(2, 3)
        return found.view(len(given), -1)


class Int4Cuda(Product):
    """INT4 on a GPU: weight int32 [out / 8, in / 16 t, 32, t / 2] for t tiles, scales as on a CPU. Not yet run."""

    axis = 1

    @classmethod
    def of(cls, packed: torch.Tensor, scales: torch.Tensor, group: int) -> Int4Cuda:
        """Repack a weight.

        Args:
            packed: int32 [out, in / 8].
            scales: 16-bit float [out, in / group].
            group: numbers along the input with one scale.
        """
        out_features, in_features = _filled(len(packed)), 8 * packed.shape[1]
        values = unpack_integers(packed, 4).to(torch.int16) + 8
        values = pad(values, (0, 0, 0, out_features - len(values)), value=8).to(torch.uint8)
        tiles = next(tiles for tiles in _TILES if in_features % (tiles * _TILE) == 0)
        weight = torch.ops.aten._convert_weight_to_int4pack(values[:, 0::2] << 4 | values[:, 1::2], tiles)
        return cls(weight, _with_zeros(scales, out_features), in_features, out_features, group)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """To bfloat16."""
        scales, given = self.scales.contiguous(), rows.to(torch.bfloat16).contiguous()
        found: torch.Tensor = torch.ops.aten._weight_int4pack_mm(given, self.weight, self.group, scales)
        return found


class Int8(Product):
    """INT8 with a scale for each output channel: weight int8 [out, in], scales bfloat16 [out]."""

    @classmethod
    def of(cls, packed: torch.Tensor, scales: torch.Tensor, group: int) -> Int8:
        """Repack a weight some output channels at a time.

        Args:
            packed: int32 [out, in / 4].
            scales: 16-bit float [out, 1].
            group: the whole input.
        """
        weight = torch.empty(len(packed), group, dtype=torch.int8, device=packed.device)
        for start in range(0, len(packed), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            weight[part] = unpack_integers(packed[part], 8)
        return cls(weight, scales[:, 0].to(torch.bfloat16), group, len(packed), group)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """To bfloat16."""
        given = rows.to(torch.bfloat16).contiguous()
        if len(given) > MOST_ROWS[8]:
            return self._unpacked(given)
        found: torch.Tensor = torch.ops.aten._weight_int8pack_mm(given, self.weight, self.scales.contiguous())
        return found

    def _unpacked(self, given: torch.Tensor) -> torch.Tensor:
        """By integers in bfloat16, which holds them all."""
        found = given.new_empty(len(given), self.out_features)
        step = _at_once(given.device, self.in_features)
        for start in range(0, self.out_features, step):
            part = slice(start, start + step)
            found[:, part] = given @ self.weight[part].to(given.dtype).T
        return found.mul_(self.scales)


class Unpacking(Product):
    """Any weight on any device: packed as it is stored, int32 [out, words], scales as they are stored.

    Unpacked for each product, some output channels at a time, on a CPU to float32, else to the type of the rows.

    Args:
        weight, scales, in_features, out_features, group: as those of `Product`.
        bits: of an integer.
    """

    rows_alike = False  # torch multiplies a single row in another order

    def __init__(
        self, weight: torch.Tensor, scales: torch.Tensor, in_features: int, out_features: int, group: int, bits: int
    ) -> None:
        super().__init__(weight, scales, in_features, out_features, group)
        self.bits = bits

    @classmethod
    def of(cls, packed: torch.Tensor, scales: torch.Tensor, scheme: WeightScheme) -> Unpacking:
        """The weight as it is; a copy, since what was loaded is a part of a file's mapping.

        Args:
            packed: int32 [out, in * bits / 32].
            scales: 16-bit float [out, scales of a channel].
            scheme: of the weight.
        """
        in_features = 32 // scheme.bits * packed.shape[1]
        group = scheme.group or in_features
        return cls(packed.clone(), scales.clone(), in_features, len(packed), group, scheme.bits)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """To float32 on a CPU, else to the type of the rows."""
        on_cpu = rows.device.type == "cpu"
        given = rows.float() if on_cpu else rows
        found = given.new_empty(len(given), self.out_features)
        step = _at_once(rows.device, self.in_features)
        for start in range(0, self.out_features, step):
            part = slice(start, start + step)
            weight = unpack_integers(self.weight[part], self.bits).to(given.dtype)
            weight = weight.view(len(weight), -1, self.group) * self.scales[part, :, None].to(given.dtype)
            weight = weight.flatten(1)
            found[:, part] = given @ weight.T
        return found


def product_of(packed: torch.Tensor, scales: torch.Tensor, scheme: WeightScheme) -> Product:
    """The quickest product that this device has for a weight.

    Args:
        packed: int32 [out, in * bits / 32], as `edgeq.model.checkpoint.packed_weights` has it.
        scales: 16-bit float [out, scales of a channel].
        scheme: of the weight.
    """
    in_features = 32 // scheme.bits * packed.shape[1]
    group = scheme.group or next((group for group in GROUPS if in_features % group == 0), in_features)
    if scheme.bits == 8:
        group = scheme.group or in_features
    kernel = _kernel(packed.device, scheme.bits, in_features, group)
    if kernel is None:
        return Unpacking.of(packed, scales, scheme)
    return kernel.of(packed, scales.expand(-1, in_features // group), group)


@cache
def _kernel(device: torch.device, bits: int, in_features: int, group: int) -> type[Int4Cpu | Int4Cuda | Int8] | None:
    """The kernel that a device has, where it computes what it should; tried on a small weight."""
    kind: type[Int4Cpu | Int4Cuda | Int8] = Int8
    if bits == 4:
        kind = Int4Cpu if device.type == "cpu" else Int4Cuda
        if group not in GROUPS:
            return None
    elif group != in_features or in_features % _TILE:  # the kernel of a CPU reads beyond such an input
        return None
    if device.type == "cuda" and torch.cuda.get_device_capability(device)[0] < _AMPERE:
        return None
    return kind if _agrees(kind, device, WeightScheme(bits, group)) else None


@torch.inference_mode()
def _agrees(kind: type[Int4Cpu | Int4Cuda | Int8], device: torch.device, scheme: WeightScheme) -> bool:
    """Whether a kernel gives what it should, but for rounding."""
    assert scheme.group is not None
    in_features = scheme.group * (1 if scheme.bits == 8 else math.lcm(scheme.group, 128) // scheme.group)
    places = torch.arange(_BLOCK)[:, None] * 7 + torch.arange(in_features) * 3
    values = places.remainder(1 << scheme.bits).to(torch.int16) + scheme.lowest
    packed = pack_integers(values.to(torch.int8), scheme.bits).to(device)
    scales = torch.linspace(0.5, 1, _BLOCK, device=device, dtype=torch.float16)[:, None]
    scales = scales.expand(-1, in_features // scheme.group)
    rows = torch.linspace(-1, 1, in_features, device=device)[None]
    expected = Unpacking.of(packed, scales, scheme)(rows)
    try:
        found = kind.of(packed, scales, scheme.group)(rows).float()
    except (RuntimeError, NotImplementedError, AttributeError):  # this torch has none for this device
        return False
    return bool((found - expected).abs().max() <= _CLOSE * expected.abs().max())


def join(products: Sequence[Product]) -> Product | None:
    """Several weights of one input as one; each keeps its part of it. None where their layouts do not go together."""
    first = products[0]
    kinds = {(type(one), one.in_features, one.group, one.weight.dtype, one.scales.dtype) for one in products}
    if len(kinds) != 1 or isinstance(first, Unpacking):
        return None
    weight = torch.cat([one.weight for one in products])
    scales = torch.cat([one.scales for one in products], first.axis)
    whole = type(first)(weight, scales, first.in_features, sum(one.out_features for one in products), first.group)
    ends = list(accumulate(len(one.weight) for one in products))
    scale_ends = list(accumulate(one.scales.shape[first.axis] for one in products))
    parts = zip(weight.tensor_split(ends[:-1]), scales.tensor_split(scale_ends[:-1], first.axis), strict=True)
    for one, (part, its_scales) in zip(products, parts, strict=True):
        one.weight, one.scales = part, its_scales
    return whole


def _at_once(device: torch.device, in_features: int) -> int:
    """Output channels that are unpacked at once."""
    return _AT_ONCE if device.type == "cpu" else max(_AT_ONCE, UNPACKED_AT_ONCE // in_features)


def _filled(out_features: int) -> int:
    return -(-out_features // _BLOCK) * _BLOCK


def _with_zeros(scales: torch.Tensor, out_features: int) -> torch.Tensor:
    """[out, groups] to bfloat16 [groups, out_features, 2]: each with what is added, which is 0."""
    filled = pad(scales, (0, 0, 0, out_features - len(scales)))
    return torch.stack([filled, torch.zeros_like(filled)], -1).transpose(0, 1).to(torch.bfloat16).contiguous()


@cache
def _four_numbers() -> torch.Tensor:
    """What two bytes, as a number from -32,768 on, stand for: four bfloat16 as one int64."""
    words = torch.arange(-(1 << 15), 1 << 15)
    numbers = torch.stack([(words >> shift & 15) - 8 for shift in (0, 4, 8, 12)], -1)
    return numbers.to(torch.bfloat16).view(torch.int64).flatten()


@cache
def _lies_in_blocks() -> bool:
    """Whether the layout is that of a CPU with AVX512: channels 0 to 31 in the lower halves, 32 to 63 above."""
    values = (torch.arange(_BLOCK)[:, None] * 5 + torch.arange(32)).remainder(16).to(torch.int32)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(values, 1).view(32, _BLOCK // 2)
    return torch.equal(torch.cat([packed & 15, packed >> 4], 1).T.to(torch.int32), values)
