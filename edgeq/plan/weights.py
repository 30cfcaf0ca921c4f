"""How many bytes a layer's weights take in each precision, and which precision the asymmetric plan gives it.

NF4 is bitsandbytes' format (Dettmers et al. 2023, arXiv 2305.14314, section 3): half a byte a weight; a magnitude for
each block of 64; with double quantization the magnitudes are bytes themselves, with a float32 for each 256 of them and
one offset. That is 0.515869 bytes a weight, and 0.5625 without. Each tensor has its own code tables beside that.
INT4 and INT8 of a language model are integers with 16-bit scales (`edgeq.model.checkpoint.packed_weights`): 0.515625
bytes a weight in groups of 128.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel, ConfigDict

from edgeq.errors import PlanError
from edgeq.families.modules import VlmDescription
from edgeq.families.structure import Module
from edgeq.model.checkpoint.packed_weights import GROUPS, UNPACKED_AT_ONCE, packed_bytes, packed_scheme
from edgeq.model.graph.components import Component, Layer
from edgeq.plan.precision import PACKED_BITS, Precision

__all__ = [
    "LINEAR_KINDS",
    "Choice",
    "PartWeights",
    "Weights",
    "asymmetric",
    "by_name",
    "layer_bytes",
    "nf4_bytes",
    "uniform",
    "weigh",
]

Choice = Callable[[Component, Layer], Precision]
"""The precision that a plan gives a layer of a component."""

LINEAR_KINDS: Final = frozenset(
    {"linear", "attention query/key", "attention value/output", "feed-forward", "cross-attention"}
)
"""Kinds whose weights a 4-bit linear layer can hold."""

_BLOCK: Final = 64
_NESTED_BLOCK: Final = 256
_CODE_BYTES: Final = 16 * 4
_NESTED_CODE_BYTES: Final = 256 * 4
_OFFSET_BYTES: Final = 4


class PartWeights(BaseModel):
    """The weights of one part of a model.

    Attributes:
        name: vision, connector, embedding, language (without its embedding), cross-attention or head.
        parameters: tied ones once, with the embedding.
        precisions: precision -> bytes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    parameters: int
    precisions: dict[Precision, int]

    @property
    def bytes(self) -> int:
        """All its weights."""
        return sum(self.precisions.values())


@dataclass(frozen=True)
class Weights:
    """A model's weights.

    Attributes:
        parts: in the model's order.
        unpacked: bytes in FP16 of what is unpacked at once for long prompts: the largest layer in NF4, or a part of the
            largest that the language model has in INT8. INT4 has a kernel for these, too (`edgeq.runtime.vlm.packed`).
        zeros: bytes that torch's kernel for INT4 has beside the scales: a zero point for each, which is 0.
    """

    parts: tuple[PartWeights, ...]
    unpacked: int
    zeros: int = 0

    def bytes(self, *names: str) -> int:
        """Bytes of the parts named, or of all."""
        return sum(part.bytes for part in self.parts if not names or part.name in names)


def asymmetric(component: Component, layer: Layer) -> Precision:
    """FP16 vision, NF4 language: the language model's linears in NF4, all else in FP16.

    Embeddings, norms and head stay FP16, and so does the cross-attention, by which Llama 3.2 sees.
    """
    quantized = component.name == "language" and layer.kind in LINEAR_KINDS
    return Precision.NF4 if quantized else Precision.FP16


def uniform(precision: Precision) -> Choice:
    """The same precision for every layer."""
    return lambda _component, _layer: precision


def by_name(precisions: Mapping[str, Precision]) -> Choice:
    """The precision that a mapping has for a layer's full name.

    Raises:
        PlanError: when asked about a layer that the mapping does not have.
    """

    def choose(component: Component, layer: Layer) -> Precision:
        if layer.name not in precisions:
            raise PlanError(
                f"the plan has no precision for {layer.name} ({component.name})",
                expected="a decision for every layer",
                next_step="make the plan anew from this model",
            )
        return precisions[layer.name]

    return choose


def weigh(model: VlmDescription, choice: Choice, *, double_quant: bool = True) -> Weights:
    """The weights of `model` as `choice` stores them.

    Args:
        model: described, not loaded.
        choice: the precision of each layer.
        double_quant: whether the magnitudes of NF4 weights are quantized, too.

    Raises:
        PlanError: the choice has nothing for a layer, or something that it cannot be.
    """
    parameters: dict[str, int] = {}
    found: dict[str, dict[Precision, int]] = {}
    unpacked = zeros = 0
    for component in model.components:
        for layer in component.layers:
            part, precision = _part(component, layer), choice(component, layer)
            sizes = found.setdefault(part, {})
            sizes[precision] = sizes.get(precision, 0) + layer_bytes(layer, precision, double_quant=double_quant)
            parameters[part] = parameters.get(part, 0) + layer.parameters
            unpacked = max(unpacked, 2 * _unpacked(component, layer, precision, tied_head=model.tied_head))
            zeros += _zeros(layer) if precision is Precision.INT4 else 0
    parts = [PartWeights(name=name, parameters=parameters[name], precisions=sizes) for name, sizes in found.items()]
    return Weights(tuple(parts), unpacked, zeros)


def _unpacked(component: Component, layer: Layer, precision: Precision, *, tied_head: bool) -> int:
    """Numbers of a layer that are unpacked at once. Of an embedding a few rows are, unless it is the head as well."""
    if precision is Precision.NF4:
        return layer.parameters
    multiplied = component.name == "head" or (component.name == "language" and (layer.kind != "embedding" or tied_head))
    return min(layer.parameters, UNPACKED_AT_ONCE) if precision is Precision.INT8 and multiplied else 0


def _zeros(layer: Layer) -> int:
    """A 16-bit zero point for each scale of a layer in INT4."""
    scheme = packed_scheme(4, layer.shape[-1]) if isinstance(layer, Module) and layer.shape else None
    if scheme is None or not isinstance(layer, Module):
        return 0
    return 2 * math.prod(layer.shape[:-1]) * scheme.scales(layer.shape[-1])


def _part(component: Component, layer: Layer) -> str:
    """The line of the table that a layer is counted in."""
    return "embedding" if component.name == "language" and layer.kind == "embedding" else component.name


def layer_bytes(layer: Layer, precision: Precision, *, double_quant: bool = True) -> int:
    """Bytes of one layer's weights; a bias stays FP16 in NF4 and becomes INT32 in INT8.

    INT8 has a float32 scale for each output channel; of a linear layer or embedding of a language model, whose weights
    alone are integers, a 16-bit one (`edgeq.model.checkpoint.packed_weights`), and its bias stays FP16.

    Args:
        layer: with its number of parameters, bias included.
        precision: that its weights are stored in.
        double_quant: whether the magnitudes of NF4 weights are quantized, too.

    Raises:
        PlanError: NF4 or INT4 for a layer that is not linear: no 4-bit kernel holds its weights.
    """
    bias = layer.bias if isinstance(layer, Module) else 0
    weights = layer.parameters - bias
    if precision is Precision.NF4:
        if layer.kind not in LINEAR_KINDS:
            raise PlanError(f"{layer.name} ({layer.kind}) cannot be NF4", expected="a linear layer")
        return (nf4_bytes(weights, double_quant=double_quant) if weights else 0) + 2 * bias
    packed = layer.kind in LINEAR_KINDS or (layer.kind == "embedding" and precision is Precision.INT8)
    if precision in PACKED_BITS and isinstance(layer, Module) and packed:
        return (_packed_bytes(layer, precision) if weights else 0) + 2 * bias
    if precision is Precision.INT4:
        raise PlanError(f"{layer.name} ({layer.kind}) cannot be INT4", expected="a linear layer of a language model")
    if precision is Precision.INT8:
        channels = layer.shape[0] if isinstance(layer, Module) and layer.shape else 0
        return weights + 4 * (channels + bias)
    return layer.parameters * (4 if precision is Precision.FP32 else 2)


def _packed_bytes(layer: Module, precision: Precision) -> int:
    scheme = packed_scheme(PACKED_BITS[precision], layer.shape[-1])
    if scheme is None:
        raise PlanError(
            f"{layer.name} cannot be {precision.value}: its input of {layer.shape[-1]:,} falls into no groups",
            expected=f"a multiple of {GROUPS[-1]} inputs for INT4, of 4 for INT8",
        )
    return packed_bytes((math.prod(layer.shape[:-1]), layer.shape[-1]), scheme)


def nf4_bytes(weights: int, *, double_quant: bool = True) -> int:
    """Bytes of one tensor of `weights` numbers in NF4, with everything that is stored to read it."""
    blocks = math.ceil(weights / _BLOCK)
    payload = math.ceil(weights / 2) + _CODE_BYTES
    if not double_quant:
        return payload + 4 * blocks
    return payload + blocks + 4 * math.ceil(blocks / _NESTED_BLOCK) + _NESTED_CODE_BYTES + _OFFSET_BYTES
