"""NVIDIA ModelOpt's W4A16_AWQ, which its own tools and TensorRT Edge-LLM read.

A weight is `weight` uint8 [out / 2, in], two neighbours along the output in a byte, the even one in the low bits, in
two's complement, and `weight_scale` [out, in / group]. `pre_quant_scale` [in], by which the input is multiplied, is
left out: it is folded into the layer before already, and Edge-LLM 0.11 takes ones where there is none
(models/linear.py). What is quantized stands in hf_quant_config.json; Edge-LLM tells unquantized layers by the tensors'
names only where that file is there (config.py, `_parse_quant`). Source: ModelOpt 0.47, torch/export/quant_utils.py,
`pack_int4_in_uint8`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar, Final

from edgeq.errors import InputError
from edgeq.handover.form import QuantizedLayer, WeightLayout, one_group
from edgeq.model.checkpoint.packed_weights import unpack_integers
from edgeq.model.checkpoint.safetensors_file import TensorSlot

if TYPE_CHECKING:
    import torch

__all__ = ["ModelOpt"]

_ALGORITHM: Final = "W4A16_AWQ"
_SIDECAR: Final = "hf_quant_config.json"


class ModelOpt:
    """Bytes along the output, without zero points."""

    title: ClassVar[str] = "ModelOpt"
    bits: ClassVar[tuple[int, ...]] = (4,)

    def __init__(self, layout: WeightLayout) -> None:
        """Raise InputError where a layer is not INT4 in groups, or its outputs are odd in number."""
        self._layout, self._group = layout, one_group(layout, self.title)
        odd = next((layer for layer in layout.layers.values() if layer.shape[0] % 2), None)
        if odd is not None:
            raise InputError(f"ModelOpt packs outputs by two, and {odd.name} has {odd.shape[0]}")

    def slots(self, layer: QuantizedLayer) -> tuple[TensorSlot, ...]:
        """`weight`, `weight_scale`."""
        rows, columns = layer.shape
        return (
            TensorSlot(f"{layer.name}.weight", "U8", (rows // 2, columns)),
            TensorSlot(f"{layer.name}.weight_scale", self._layout.dtype, (rows, columns // self._group)),
        )

    def tensors(self, layer: QuantizedLayer, packed: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        """The integers without what was added to them; a scale of a larger group comes several times.

        Args:
            layer: one of the layout's.
            packed: int32 [out, in * bits / 32].
            scale: 16-bit floats [out, in / group].

        Returns:
            By name: uint8 [out / 2, in], 16-bit floats [out, in / group].
        """
        import torch

        nibbles = unpack_integers(packed, layer.scheme.bits).view(torch.uint8) & 15
        groups = layer.shape[1] // self._group
        return {
            f"{layer.name}.weight": nibbles[0::2] | (nibbles[1::2] << 4),
            f"{layer.name}.weight_scale": scale.repeat_interleave(groups // scale.shape[1], dim=1),
        }

    def config(self) -> dict[str, Any]:
        """As ModelOpt converts hf_quant_config.json for config.json."""
        return {
            "config_groups": {
                "group_0": {
                    "targets": ["Linear"],
                    "weights": {"dynamic": False, "group_size": self._group, "num_bits": 4, "type": "int"},
                }
            },
            "group_size": self._group,
            "ignore": self._ignored(),
            "quant_algo": _ALGORITHM,
            "quant_method": "modelopt",
        }

    def _ignored(self) -> list[str]:
        """Names, with wildcards as ModelOpt has them."""
        return [*(f"*{name}*" for name in self._layout.spared), *self._layout.ignored]

    def files(self) -> dict[str, str]:
        """hf_quant_config.json."""
        says = {
            "exclude_modules": self._ignored(),
            "group_size": self._group,
            "has_zero_point": False,
            "kv_cache_quant_algo": None,
            "pre_quant_scale": False,
            "quant_algo": _ALGORITHM,
        }
        return {_SIDECAR: json.dumps({"producer": {"name": "edgeq"}, "quantization": says}, indent=2) + "\n"}
