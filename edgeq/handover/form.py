"""What a form of quantized weights is: names, tensors and configuration that a runtime's loader asks for.

A form is one class in a file of its own, named in `edgeq.handover.forms.FORMS`. It is made for one checkpoint, and says
of each quantized layer which tensors it becomes; everything else is stored alike in all forms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from edgeq.errors import InputError
from edgeq.model.checkpoint.packed_weights import WeightScheme
from edgeq.model.checkpoint.safetensors_file import TensorSlot

if TYPE_CHECKING:
    import torch

__all__ = ["Form", "QuantizedLayer", "WeightLayout", "one_group"]


@dataclass(frozen=True)
class QuantizedLayer:
    """A linear layer whose weight is integers with scales.

    Attributes:
        name: under which its tensors are stored, without `.weight`.
        module: its full name as transformers builds the model.
        shape: [out, in].
        scheme: how the bundle stores it.
    """

    name: str
    module: str
    shape: tuple[int, int]
    scheme: WeightScheme


@dataclass(frozen=True)
class WeightLayout:
    """What of a checkpoint a form depends on.

    Attributes:
        layers: stored name -> layer, for all that are quantized.
        spared: last names of the modules of which nothing is quantized: `vision_tower`, `multi_modal_projector`. A
            runtime has its own names for what is in them.
        ignored: of all other modules whose weight is floating point the names, as they are stored and as transformers
            builds them.
        dtype: of scales and of all other tensors in a safetensors header, F16 or BF16.
    """

    layers: Mapping[str, QuantizedLayer]
    spared: Sequence[str]
    ignored: Sequence[str]
    dtype: str


class Form(Protocol):
    """One form, for one checkpoint.

    Attributes:
        title: what users call it.
        bits: that it stores.
    """

    title: ClassVar[str]
    bits: ClassVar[tuple[int, ...]]

    def __init__(self, layout: WeightLayout) -> None:
        """Raise InputError where the form cannot hold one of the layers."""

    def slots(self, layer: QuantizedLayer) -> tuple[TensorSlot, ...]:
        """The tensors that a layer becomes."""

    def tensors(self, layer: QuantizedLayer, packed: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        """These tensors by name.

        Args:
            layer: one of the layout's.
            packed: int32 [out, in * bits / 32], as `edgeq.model.checkpoint.packed_weights` has it.
            scale: 16-bit floats [out, in / group].

        Returns:
            By name: int32 or uint8, and 16-bit floats, [rows, columns] as `slots` has them.
        """

    def config(self) -> dict[str, Any]:
        """`quantization_config` of config.json."""

    def files(self) -> dict[str, str]:
        """Further files, name -> text."""


def one_group(layout: WeightLayout, title: str) -> int:
    """The group that all layers can have, the smallest of theirs: of 128 numbers with one scale, 64 have one, too.

    Raises:
        InputError: a layer is not INT4 in groups.
    """
    groups = set()
    for layer in layout.layers.values():
        if layer.scheme.bits != 4 or layer.scheme.group is None:
            raise InputError(
                f"{title} stores INT4 in groups, and {layer.name} is INT{layer.scheme.bits}",
                next_step="prepare the model with --language int4-awq, or take --form compressed-tensors",
            )
        groups.add(layer.scheme.group)
    return min(groups)
