"""Two-tower models: a text encoder and a vision encoder whose embeddings are compared.

CLIP (Radford et al. 2021, arXiv 2103.00020) reads text causally and takes what the end of the text holds: what stands
behind it changes nothing, so that padding can be left out. SigLIP (Zhai et al. 2023, arXiv 2303.15343) was trained on
texts padded to one length, without a mask, and takes the last place: it must be given texts of that length. Facts of
transformers' `CLIPTextModel` and `SiglipTextModel`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from edgeq.errors import ModelError

__all__ = [
    "TWO_TOWERS",
    "Padding",
    "Pooling",
    "TwoTower",
    "check_two_tower",
    "describe_two_tower",
    "is_two_tower",
]

Padding = Literal["trim", "fixed"]
"""`trim`: a text is as long as it is. `fixed`: it is padded to the whole context."""

Pooling = Literal["argmax", "first", "last"]
"""Whose place stands for a text: the largest token id's, the first end of text, or the last place."""

_LEGACY_EOS: Final = 2
"""In configs of this end of text CLIP pools at the largest id (transformers, PR 24773)."""


@dataclass(frozen=True)
class TwoTower:
    """What a model's config says.

    Attributes:
        model_type: of the whole model.
        dimension: of an embedding.
        context: tokens of a text, at most; its special tokens included.
        padding: what becomes of shorter ones.
        pooling: whose place stands for the text.
        eos_id: the end of a text; None where nothing is looked for.
        pad_id: fills a text up.
    """

    model_type: str
    dimension: int
    context: int
    padding: Padding
    pooling: Pooling
    eos_id: int | None
    pad_id: int


def _clip(text: Mapping[str, Any], config: Mapping[str, Any]) -> TwoTower:
    eos = int(text["eos_token_id"])
    return TwoTower(
        model_type="clip",
        dimension=int(config["projection_dim"]),
        context=int(text["max_position_embeddings"]),
        padding="trim",
        pooling="argmax" if eos == _LEGACY_EOS else "first",
        eos_id=eos,
        pad_id=int(text["pad_token_id"]),
    )


def _siglip(text: Mapping[str, Any], config: Mapping[str, Any]) -> TwoTower:
    return TwoTower(
        model_type="siglip",
        dimension=int(config["vision_config"]["hidden_size"]),
        context=int(text["max_position_embeddings"]),
        padding="fixed",
        pooling="last",
        eos_id=None,
        pad_id=int(text["pad_token_id"]),
    )


TWO_TOWERS: Final = {"clip": _clip, "siglip": _siglip}
"""Model type -> what its config says."""


def is_two_tower(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a text encoder and a vision encoder, of a kind that edgeq knows or not."""
    both = isinstance(config.get("text_config"), Mapping) and isinstance(config.get("vision_config"), Mapping)
    return both and (config.get("model_type") in TWO_TOWERS or str(config.get("model_type", "")).startswith("siglip"))


def check_two_tower(config: Mapping[str, Any]) -> None:
    """Raise ModelError where the kind of a model is not known; its config.json may leave out what has a default."""
    kind = config.get("model_type")
    if kind not in TWO_TOWERS:
        raise ModelError(
            f"{kind} is a model of a text and a vision encoder that edgeq does not prepare",
            expected=f"one of {', '.join(TWO_TOWERS)}",
            causes=("siglip2 takes images of any shape; SigLIP 2 of one resolution is published as siglip",),
        )


def describe_two_tower(config: Mapping[str, Any]) -> TwoTower:
    """What a config says.

    Args:
        config: of the whole model, with all defaults.

    Raises:
        ModelError: its kind is not known, or a number is missing.
    """
    check_two_tower(config)
    kind = config["model_type"]
    try:
        return TWO_TOWERS[str(kind)](config["text_config"], config)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"the config of the {kind} model lacks {error}") from error
