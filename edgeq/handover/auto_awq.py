"""AutoAWQ's GEMM form, which vLLM and TensorRT Edge-LLM read.

A weight is (qweight - qzeros) * scales; `qweight` is int32 [in, out / 8], `qzeros` int32 [in / group, out / 8] and
`scales` [in / group, out]. Eight neighbours along the output share a word, in the order that AutoAWQ's kernels want.
Symmetric integers have the zero point 8 everywhere. vLLM 0.33 takes `zero_point: false` as well, and then no `qzeros`
(auto_awq.py); Edge-LLM 0.11 reads `qzeros` always (repacking.py), so they are stored. Source: AutoAWQ 0.2.9,
modules/linear/gemm.py and utils/packing_utils.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from edgeq.errors import InputError
from edgeq.handover.form import QuantizedLayer, WeightLayout, one_group
from edgeq.model.checkpoint.packed_weights import unpack_integers
from edgeq.model.checkpoint.safetensors_file import TensorSlot

if TYPE_CHECKING:
    import torch

__all__ = ["AutoAwq"]

_ORDER: Final = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight neighbours along the output lies in a word's first four bits, in its second, ..."""

_ZERO: Final = 8
_PER_WORD: Final = 8


class AutoAwq:
    """Words along the output, with zero points."""

    title: ClassVar[str] = "AutoAWQ"
    bits: ClassVar[tuple[int, ...]] = (4,)

    def __init__(self, layout: WeightLayout) -> None:
        """Raise InputError where a layer is not INT4 in groups, or its outputs do not fill words."""
        self._layout, self._group = layout, one_group(layout, self.title)
        odd = next((layer for layer in layout.layers.values() if layer.shape[0] % _PER_WORD), None)
        if odd is not None:
            raise InputError(f"AutoAWQ packs outputs by eight, and {odd.name} has {odd.shape[0]}")

    def slots(self, layer: QuantizedLayer) -> tuple[TensorSlot, ...]:
        """`qweight`, `qzeros`, `scales`."""
        rows, columns = layer.shape
        groups = columns // self._group
        return (
            TensorSlot(f"{layer.name}.qweight", "I32", (columns, rows // _PER_WORD)),
            TensorSlot(f"{layer.name}.qzeros", "I32", (groups, rows // _PER_WORD)),
            TensorSlot(f"{layer.name}.scales", self._layout.dtype, (groups, rows)),
        )

    def tensors(self, layer: QuantizedLayer, packed: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        """The weight turned over and packed again; a scale of a larger group comes several times.

        Args:
            layer: one of the layout's.
            packed: int32 [out, in * bits / 32].
            scale: 16-bit floats [out, in / group].

        Returns:
            By name: int32 [in, out / 8], int32 [in / group, out / 8], 16-bit floats [in / group, out].
        """
        import torch

        unsigned = unpack_integers(packed, layer.scheme.bits) + _ZERO
        groups = layer.shape[1] // self._group
        scales = scale.repeat_interleave(groups // scale.shape[1], dim=1)
        zeros = torch.full((groups, layer.shape[0]), _ZERO, dtype=torch.int8)
        return {
            f"{layer.name}.qweight": _words(unsigned.t()),
            f"{layer.name}.qzeros": _words(zeros),
            f"{layer.name}.scales": scales.t().contiguous(),
        }

    def config(self) -> dict[str, Any]:
        """As AutoAWQ and transformers write it."""
        return {
            "bits": 4,
            "group_size": self._group,
            "modules_to_not_convert": [*self._layout.spared, *self._layout.ignored],
            "quant_method": "awq",
            "version": "gemm",
            "zero_point": True,
        }

    def files(self) -> dict[str, str]:
        """None."""
        return {}


def _words(values: torch.Tensor) -> torch.Tensor:
    """Integers 0 to 15, int8 [rows, columns], as int32 [rows, columns / 8]."""
    import torch

    nibbles = values.reshape(values.shape[0], -1, _PER_WORD)[:, :, list(_ORDER)].to(torch.uint8)
    pairs = nibbles[:, :, 0::2] | (nibbles[:, :, 1::2] << 4)
    return pairs.flatten(1).contiguous().view(torch.int32)  # little-endian, as on every machine that edgeq runs on
