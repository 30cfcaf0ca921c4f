"""compressed-tensors "pack-quantized": what llm-compressor writes, and vLLM and transformers read.

The bundle's language half has this form already; here its layers get the names that they have in the whole model. vLLM
0.33 renames a target or an ignored layer that is a plain name, and leaves a regular expression as it is
(`CompressedTensorsConfig.apply_vllm_mapper`). So layers of the language model are plain names, and the vision tower,
which vLLM builds with names of its own, is a regular expression.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar

from edgeq.handover.form import QuantizedLayer, WeightLayout
from edgeq.model.checkpoint.packed_weights import packed_slots, quantization_config
from edgeq.model.checkpoint.safetensors_file import TensorSlot

if TYPE_CHECKING:
    import torch

__all__ = ["CompressedTensors"]


class CompressedTensors:
    """The three tensors of a layer as they are."""

    title: ClassVar[str] = "compressed-tensors"
    bits: ClassVar[tuple[int, ...]] = (4, 8)

    def __init__(self, layout: WeightLayout) -> None:
        self._layout = layout

    def slots(self, layer: QuantizedLayer) -> tuple[TensorSlot, ...]:
        """`weight_packed`, `weight_scale`, `weight_shape`."""
        return packed_slots(layer.name, layer.shape, layer.scheme, self._layout.dtype)

    def tensors(self, layer: QuantizedLayer, packed: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        """What was given, and the shape, int64 [2].

        Args:
            layer: one of the layout's.
            packed: int32 [out, in * bits / 32].
            scale: 16-bit floats [out, in / group].

        Returns:
            By name: int32 [out, in * bits / 32], 16-bit floats [out, in / group], int64 [2].
        """
        import torch

        return {
            f"{layer.name}.weight_packed": packed,
            f"{layer.name}.weight_scale": scale,
            f"{layer.name}.weight_shape": torch.tensor(layer.shape, dtype=torch.int64),
        }

    def config(self) -> dict[str, Any]:
        """With one group all linear layers are meant but those that are ignored; else each group names its own."""
        layers = self._layout.layers.values()
        schemes = {layer.module: layer.scheme for layer in layers}
        spared = [rf"re:(.*\.)?{re.escape(name)}(\..*)?$" for name in self._layout.spared]
        found = quantization_config(schemes, [*spared, *self._layout.ignored])
        if len(groups := found["config_groups"]) > 1:
            for group in groups.values():
                weights = group["weights"]
                group["targets"] = [
                    name
                    for layer in layers
                    if (layer.scheme.bits, layer.scheme.group) == (weights["num_bits"], weights["group_size"])
                    for name in dict.fromkeys((layer.module, layer.name))
                ]
        return found

    def files(self) -> dict[str, str]:
        """None."""
        return {}
