"""The parts of a vision-language model by its structure: which module belongs to which component, and what it is.

Works on transformers' own module tree, usually on torch's meta device: nothing here looks at a weight.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edgeq.errors import ModelError
from edgeq.model.graph.components import Component, Kind, Layer

if TYPE_CHECKING:
    import torch

__all__ = ["COMPONENTS", "Module", "Parts", "components", "find_parts"]

COMPONENTS: Final = ("vision", "connector", "language", "cross-attention", "head")
"""In this order; a component without a layer is left out."""

_CROSS_ATTENTION: Final = re.compile(r"(^|\.)cross_attn(\.|$)")
_ATTENTION: Final = re.compile(r"attn|attention")
_FEED_FORWARD: Final = re.compile(r"^(mlp|ffn|feed_forward|experts?|shared_expert)$")
_QUERY_KEY: Final = re.compile(r"^(q|k|kv|qkv|(q|k|kv|qkv|in)_proj|query|key|query_key_value|[wW]qkv)$")


@dataclass(frozen=True)
class Module(Layer):
    """A module with parameters, or a parameter that lies loose in a module with children.

    Attributes:
        shape: of its weight; empty where it holds none of its own, as a head that is tied to the embedding.
        bias: parameters besides the weight.
    """

    shape: tuple[int, ...] = ()
    bias: int = 0


@dataclass(frozen=True)
class Parts:
    """Full names of the modules that a model's components hang from.

    Attributes:
        vision: of the encoder.
        connector: of all parts between encoder and language model.
        language: of the language model, without its head.
        head: of the output layer; None where there is none.
    """

    vision: str
    connector: tuple[str, ...]
    language: str
    head: str | None

    def component(self, name: str) -> str:
        """The component of a module or parameter; what hangs from none of them joins the two sides: connector."""
        roots = {self.vision: "vision", self.language: "language", **dict.fromkeys(self.connector, "connector")}
        if self.head is not None:
            roots[self.head] = "head"
        above = [root for root in roots if name == root or name.startswith(f"{root}.")]
        found = roots[max(above, key=len)] if above else "connector"
        return "cross-attention" if found == "language" and _CROSS_ATTENTION.search(name) else found


def find_parts(model: torch.nn.Module) -> Parts:
    """Where vision, connector, language and head are in a transformers model.

    The encoder of the modality `image`, the decoder and the output embeddings are asked of the model itself. The
    connector is whatever else is beside encoder and decoder; where nothing is, it is the encoder's merger.

    Raises:
        ModelError: the model names no image encoder or no decoder of its own.
    """
    names = {id(module): name for name, module in model.named_modules()}
    encoder = _asked(model, "get_encoder", modality="image")
    decoder = _asked(model, "get_decoder")
    vision, language = names.get(id(encoder), ""), names.get(id(decoder), "")
    if encoder is None or decoder is None or not vision or not language or vision == language:
        raise ModelError(
            f"no vision encoder and language model were found in {type(model).__name__}",
            expected="a model of an image encoder, a connector and a language decoder",
        )
    head = names.get(id(_asked(model, "get_output_embeddings")))
    return Parts(vision, _connector(model, encoder, vision, language), language, head)


def _asked(model: torch.nn.Module, method: str, **arguments: str) -> torch.nn.Module | None:
    """What a model answers to one of transformers' questions about its parts; None where it does not know it."""
    question = getattr(model, method, None)
    answer: torch.nn.Module | None = None if question is None else question(**arguments)
    return answer


def _connector(model: torch.nn.Module, encoder: torch.nn.Module, vision: str, language: str) -> tuple[str, ...]:
    """The modules beside encoder and decoder, else the encoder's own mergers."""
    above = vision.rpartition(".")[0]
    beside = [f"{above}.{name}".lstrip(".") for name, _ in model.get_submodule(above).named_children()]
    found = [name for name in beside if not _holds(name, vision) and not _holds(name, language)]
    merger = [f"{vision}.{name}" for name, _ in encoder.named_children() if "merger" in name]
    return tuple(found or merger)


def _holds(name: str, part: str) -> bool:
    """Whether `part` is the module `name` or is in it."""
    return part == name or part.startswith(f"{name}.")


def components(
    model: torch.nn.Module, parts: Parts, stored_bytes: Mapping[str, int] | None = None
) -> tuple[Component, ...]:
    """Every parameter of `model`, once, as layers in components, in the order of the module tree.

    Args:
        model: as transformers builds it.
        parts: from `find_parts`.
        stored_bytes: parameter name -> bytes in the checkpoint, where they are known; else those of the model's dtype.
    """
    layers: dict[str, list[Layer]] = {name: [] for name in COMPONENTS}
    for layer in _layers(model, stored_bytes or {}):
        layers[parts.component(layer.name)].append(layer)
    return tuple(Component(name, tuple(found)) for name, found in layers.items() if found)


def _layers(model: torch.nn.Module, stored: Mapping[str, int]) -> Iterator[Module]:
    """A layer for each leaf with parameters and for each loose parameter; a tied parameter counts where it is first."""
    seen: set[int] = set()
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        fresh = {key: value for key, value in own.items() if id(value) not in seen}
        seen |= {id(value) for value in own.values()}
        if any(True for _ in module.children()):
            for key, value in fresh.items():
                full = f"{name}.{key}".lstrip(".")
                yield _layer(full, module, "parameter", {full: value}, stored)
        elif own:
            yield _layer(name, module, _kind(name, module), {f"{name}.{k}": v for k, v in fresh.items()}, stored)


def _layer(
    name: str, module: torch.nn.Module, kind: Kind, tensors: Mapping[str, torch.nn.Parameter], stored: Mapping[str, int]
) -> Module:
    """One layer with the parameters that are its own."""
    sizes = {key: value.numel() * value.element_size() for key, value in tensors.items()}
    total = sum(value.numel() for value in tensors.values())
    weight = next((value for key, value in tensors.items() if key == name or key.endswith(".weight")), None)
    return Module(
        name=name,
        op=type(module).__name__,
        kind=kind,
        parameters=total,
        bytes=sum(stored.get(key, size) for key, size in sizes.items()),
        output=name,
        shape=() if weight is None else tuple(weight.shape),
        bias=0 if weight is None else total - math.prod(weight.shape),
    )


def _kind(name: str, module: torch.nn.Module) -> Kind:
    """What a leaf is to a reader."""
    from torch import nn

    if isinstance(module, nn.Embedding):
        return "embedding"
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return "convolution"
    if "Norm" in type(module).__name__:
        return "normalization"
    # A subclass computes something of its own, as a router of experts does: no 4-bit layer stands in for it.
    return _linear_kind(name) if type(module) is nn.Linear else "parameter"


def _linear_kind(name: str) -> Kind:
    """Which part of a transformer block a linear layer is, by the names above it; a fused QKV counts as query/key."""
    *above, last = name.split(".")
    if _CROSS_ATTENTION.search(name):
        return "cross-attention"
    if any(_ATTENTION.search(part) for part in above):
        return "attention query/key" if _QUERY_KEY.match(last) else "attention value/output"
    return "feed-forward" if any(_FEED_FORWARD.match(part) for part in above) else "linear"
