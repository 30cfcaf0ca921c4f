"""Two-tower models: a text encoder and a vision encoder whose embeddings are compared.

CLIP (Radford et al. 2021, arXiv 2103.00020) reads text causally and takes what the end of the text holds: what stands
behind it changes nothing, so that padding can be left out. SigLIP (Zhai et al. 2023, arXiv 2303.15343) and SigLIP 2
(Tschannen et al. 2025, arXiv 2502.14786) were trained on texts padded to one length, without a mask, and take the last
place: they must be given texts of that length. Facts of transformers' `CLIPTextModel`, `SiglipTextModel` and
`Siglip2TextModel`.

`siglip2` in a config is NaFlex: the vision encoder takes patches of an image in any shape. SigLIP 2 of one resolution
is published as `siglip`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isqrt
from typing import Any, Final, Literal

from edgeq.errors import ModelError

__all__ = [
    "NAFLEX",
    "TEXT_TOWERS",
    "TWO_TOWERS",
    "Padding",
    "Pooling",
    "TwoTower",
    "check_image_size",
    "check_two_tower",
    "describe_text_tower",
    "describe_two_tower",
    "encoder_notes",
    "is_image_classifier",
    "is_projected",
    "is_text_tower",
    "is_two_tower",
    "is_vision_tower",
    "text_class",
    "text_notes",
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


NAFLEX: Final = frozenset({"siglip2", "siglip2_vision_model"})
"""Model types whose vision encoder takes patches instead of pixels."""

_VISION_ALONE: Final = frozenset({"clip_vision_model", "siglip_vision_model", "siglip2_vision_model"})

_CLASSES: Final = "CLIPModel, SiglipModel or Siglip2Model"

_OTHERS: Final = frozenset(
    (
        *("align", "altclip", "blip", "blip-2", "bridgetower", "chinese_clip", "clipseg", "flava", "groupvit"),
        *("metaclip_2", "owlv2", "owlvit", "vision-text-dual-encoder", "xclip"),
    )
)
"""Model types of transformers that compare texts and images, and are not prepared."""

_ANSWERING: Final = ("ForConditionalGeneration", "ForQuestionAnswering")
"""Endings of classes that answer in text."""

_MOST: Final = 2**31

_BOTH: Final = frozenset({"blip", "blip-2"})
"""Model types of both kinds; one that names no class is taken for one that answers."""


def _whole(values: Mapping[str, Any], name: str) -> int:
    """A count or the id of a token in a config; raises ModelError where it is none, KeyError where it is missing."""
    found = values[name]
    if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found < _MOST:
        raise ModelError(f"{name} in config.json is {str(found)!r:.40}", expected="a whole number, 0 or more")
    return found


def _clip(text: Mapping[str, Any], config: Mapping[str, Any]) -> TwoTower:
    eos = _whole(text, "eos_token_id")
    return TwoTower(
        model_type="clip",
        dimension=_whole(config, "projection_dim"),
        context=_whole(text, "max_position_embeddings"),
        padding="trim",
        pooling="argmax" if eos == _LEGACY_EOS else "first",
        eos_id=eos,
        pad_id=_whole(text, "pad_token_id"),
    )


def _siglip(text: Mapping[str, Any], config: Mapping[str, Any]) -> TwoTower:
    return TwoTower(
        model_type=str(config["model_type"]).partition("_")[0],
        dimension=_whole(text, "projection_size"),
        context=_whole(text, "max_position_embeddings"),
        padding="fixed",
        pooling="last",
        eos_id=None,
        pad_id=_whole(text, "pad_token_id"),
    )


TWO_TOWERS: Final = {"clip": _clip, "siglip": _siglip, "siglip2": _siglip}
"""Model type -> what its config says."""

TEXT_TOWERS: Final = {
    "clip_text_model": ("CLIPTextModel", _clip),
    "siglip_text_model": ("SiglipTextModel", _siglip),
    "siglip2_text_model": ("Siglip2TextModel", _siglip),
}
"""Model type of a text encoder alone -> its class in transformers, and what its config says."""


def is_two_tower(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a text encoder and a vision encoder, of a kind that edgeq knows or not."""
    kind, names = config.get("model_type"), _names(config)
    both = isinstance(config.get("text_config"), Mapping) and isinstance(config.get("vision_config"), Mapping)
    if kind in TWO_TOWERS:
        return both and not is_image_classifier(config)
    compares = kind in _OTHERS or (both and "logit_scale_init_value" in config)
    answers = any(name.endswith(_ANSWERING) for name in names) or (kind in _BOTH and not names)
    return compares and not answers


def is_image_classifier(config: Mapping[str, Any]) -> bool:
    """Whether a config.json names a class with a head for image classes, whatever else it describes."""
    return any("ForImageClassification" in name for name in _names(config))


def is_vision_tower(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a vision encoder of CLIP, SigLIP or SigLIP 2, saved alone."""
    return config.get("model_type") in _VISION_ALONE


def is_text_tower(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a text encoder of CLIP, SigLIP or SigLIP 2, saved alone."""
    return config.get("model_type") in TEXT_TOWERS


def _names(config: Mapping[str, Any]) -> list[str]:
    """The class names in a config.json, as far as they are names."""
    names = config.get("architectures")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def check_two_tower(config: Mapping[str, Any]) -> None:
    """Raise ModelError where the kind of a model is not known; its config.json may leave out what has a default."""
    kind = config.get("model_type")
    if kind not in TWO_TOWERS:
        name = ", ".join(_names(config)) or kind
        raise ModelError(
            f"{name} (model_type {kind}) is a model of texts and images that edgeq does not prepare",
            expected=f"{_CLASSES}, or one of their encoders alone",
            causes=("its towers, its tokenizer or how it pools texts are others, and were not proved here",),
            next_step="take a checkpoint of CLIP (those of OpenAI and LAION are CLIPModel), SigLIP or SigLIP 2",
        )


def describe_two_tower(config: Mapping[str, Any]) -> TwoTower:
    """What a config says.

    Args:
        config: of the whole model, with all defaults.

    Raises:
        ModelError: its kind is not known, a number is missing, or texts and images get vectors that cannot be compared.
    """
    check_two_tower(config)
    kind = str(config["model_type"])
    try:
        found = TWO_TOWERS[kind](config["text_config"], config)
        images = found.dimension if kind == "clip" else _whole(config["vision_config"], "hidden_size")
        pooled = kind == "clip" or bool(config["vision_config"]["vision_use_head"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ModelError(f"the config of the {kind} model lacks {error}") from error
    if images != found.dimension:
        raise ModelError(
            f"the {kind} model gives texts vectors of {found.dimension} numbers, and images vectors of {images}",
            expected="as many of both: text_config.projection_size is vision_config.hidden_size",
            causes=("config.json was put together from two models",),
        )
    if not pooled:
        raise ModelError(
            f"the {kind} model has no head that makes one vector of an image's patches",
            expected="vision_use_head in vision_config, with its weights",
            causes=("it is the encoder of a vision-language model, which takes the patches",),
        )
    return found


def describe_text_tower(config: Mapping[str, Any]) -> TwoTower:
    """What the config of a text encoder alone says.

    Args:
        config: with all defaults. A `CLIPTextModel`, which has no projection, gives vectors of its hidden size.

    Raises:
        ModelError: a number is missing.
    """
    kind = str(config.get("model_type"))
    try:
        found = TEXT_TOWERS[kind][1](config, config)
        if kind == "clip_text_model" and not is_projected(config):
            found = replace(found, dimension=_whole(config, "hidden_size"))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ModelError(f"the config of the {kind} lacks {error}") from error
    return found


def text_class(config: Mapping[str, Any]) -> str:
    """The class of transformers that reads a text encoder alone: CLIP's has two, with its projection and without."""
    name = TEXT_TOWERS[str(config["model_type"])][0]
    return f"{name}WithProjection" if name == "CLIPTextModel" and is_projected(config) else name


def is_projected(config: Mapping[str, Any]) -> bool:
    """Whether the vectors of a tower alone lie in the space of texts and images: CLIP's do behind its projection."""
    return not str(config.get("model_type")).startswith("clip") or any("WithProjection" in it for it in _names(config))


def check_image_size(config: Mapping[str, Any], size: tuple[int, int]) -> None:
    """Raise ModelError where a vision encoder does not take images of a size.

    Args:
        config: its own, `vision_config` of the whole model, with all defaults.
        size: height and width in pixels, from the preprocessing.
    """
    patch, shown = config.get("patch_size"), f"{size[0]} x {size[1]} pixels"
    if "num_patches" in config:  # NaFlex
        if not isinstance(patch, int) or any(edge % patch for edge in size):
            raise ModelError(
                f"images of {shown} are not whole patches of {patch} x {patch}",
                expected="height and width that the patch divides",
                next_step="give another --size",
            )
        if isqrt(_whole(config, "num_patches")) ** 2 != config["num_patches"]:
            raise ModelError(f"the vision encoder has {config['num_patches']} positions", expected="a square of them")
    elif isinstance(config.get("image_size"), int) and size != (config["image_size"], config["image_size"]):
        side = config["image_size"]
        raise ModelError(
            f"the preprocessing gives images of {shown}, and the vision encoder takes {side} x {side}",
            causes=("preprocessor_config.json, or --size, is another model's",),
        )


def text_notes(config: Mapping[str, Any]) -> tuple[str, ...]:
    """What a careful reader should know of a text encoder alone, in sentences.

    Args:
        config: its own.
    """
    notes = [
        "a text encoder alone embeds texts in FP16: that INT8 texts find the same images is shown on images alone, so "
        "give the whole model with --images and --eval to have INT8 judged"
    ]
    if not is_projected(config):
        notes.append(
            f"{', '.join(_names(config)) or config.get('model_type')} ends before the projection: images are not "
            "compared with its vectors. CLIPTextModelWithProjection has it"
        )
    return tuple(notes)


def encoder_notes(config: Mapping[str, Any], size: tuple[int, int]) -> tuple[str, ...]:
    """What a careful reader should know of a model's vision encoder, in sentences; empty for most models.

    Args:
        config: the whole model's, or the encoder's own where it was saved alone.
        size: height and width in pixels that every image gets.
    """
    kind, notes = str(config.get("model_type")), []
    if kind in NAFLEX:
        shape = "square images" if size[0] == size[1] else f"images {size[1]} wide to {size[0]} high"
        notes.append(
            f"SigLIP 2 NaFlex keeps the shape of an image; here each is resized to {size[0]} x {size[1]} pixels, "
            f"whatever its shape, as SigLIP 2 of one resolution does: embeddings of {shape} are NaFlex's, others are "
            "not. For images that all have another shape give --size HEIGHTxWIDTH with --mean and --std, such as "
            "192x336 for 16 to 9"
        )
    if is_vision_tower(config):
        notes.append(
            "a vision encoder alone is prepared as an image encoder, in INT8 where its gate keeps that, and embeddings "
            "in INT8 are not those of an index in FP16: --gate-spread 0 keeps FP16. The whole model with "
            "--captions gets FP16 images, which texts find"
        )
        if not is_projected(config):
            notes.append(
                f"{', '.join(_names(config)) or kind} ends before the projection: texts are not compared with its "
                "vectors. CLIPVisionModelWithProjection has it"
            )
    return tuple(notes)
