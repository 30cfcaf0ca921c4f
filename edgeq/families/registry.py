"""The families that edgeq knows, and the questions that the rest of edgeq asks of a model type."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from edgeq.errors import ExportError, InputError, ModelError
from edgeq.families.base import Family, ImageCost, ImagePrompt, Unsupported, VisionGraph, any_size
from edgeq.families.gemma3 import GEMMA3
from edgeq.families.idefics3 import IDEFICS3
from edgeq.families.internvl import INTERNVL
from edgeq.families.llava import LLAVA
from edgeq.families.llava_next import LLAVA_NEXT
from edgeq.families.mllama import MLLAMA
from edgeq.families.paligemma import PALIGEMMA
from edgeq.families.qwen_vl import QWEN2_5_VL, QWEN2_VL, QWEN3_VL
from edgeq.families.tiles import Size

if TYPE_CHECKING:
    from edgeq.families.modules import VlmDescription

__all__ = ["FAMILIES", "check_parts", "exportable", "family_of", "image_cost", "language_class", "runnable"]

FAMILIES: tuple[Family, ...] = (
    LLAVA,
    LLAVA_NEXT,
    MLLAMA,
    QWEN2_VL,
    QWEN2_5_VL,
    QWEN3_VL,
    IDEFICS3,
    INTERNVL,
    PALIGEMMA,
    GEMMA3,
)


def family_of(model_type: str) -> Family | None:
    """The family of a `model_type`, or None for one that is not known."""
    return next((family for family in FAMILIES if model_type in family.model_types), None)


def check_parts(model_type: str, found: Mapping[str, Collection[str]]) -> None:
    """Compare what the structure says with what the family says; a model of no known family passes.

    Where the two differ, either a release of transformers has moved something or the search went wrong, and a plan
    made on it would be about other layers.

    Args:
        model_type: from config.json.
        found: `vision`, `connector` and `language` -> the modules found for it.

    Raises:
        ModelError: they differ.
    """
    family = family_of(model_type)
    if family is None:
        return
    names = family.modules
    known = {"vision": {names.vision}, "connector": set(names.connector), "language": {names.language}}
    for component, wanted in known.items():
        if set(found[component]) != wanted:
            places = ", ".join(sorted(found[component])) or "no place"
            raise ModelError(
                f"the {component} of this {family.name} model was found at {places}",
                expected=", ".join(sorted(wanted)),
                causes=("this release of transformers builds the model differently from the one edgeq knows",),
                next_step="install the release of transformers in requirements/dev.lock",
            )


def image_cost(model: VlmDescription, size: Size) -> ImageCost:
    """What an image of `size`, height and width in pixels, costs in `model`.

    Raises:
        InputError: a side is not positive.
        ModelError: the family is not known, or a number that its rule needs is missing from the config.
    """
    if min(size) < 1:
        raise InputError(
            f"an image of {size[0]} x {size[1]} pixels has no tokens", expected="height and width from 1 on"
        )
    family = family_of(model.model_type)
    if family is None:
        raise ModelError(
            f"how many tokens an image becomes in a {model.model_type} model is not known",
            expected=_one_of(FAMILIES),
        )
    try:
        return family.image_cost(model, size)
    except (KeyError, TypeError, ValueError, ZeroDivisionError, AttributeError) as error:
        raise ModelError(f"the configs of {model.name} do not say how many tokens an image becomes: {error}") from error


def exportable(model_type: str, vision: Mapping[str, Any]) -> VisionGraph:
    """How the vision half of a model becomes one graph.

    Args:
        model_type: from config.json.
        vision: its `vision_config`.

    Raises:
        ExportError: it does not; the error names the family's reason.
    """
    family = family_of(model_type)
    if family is None:
        because = any_size(vision) or "how its features are made is not known here"
    elif isinstance(family.vision, Unsupported):
        because = family.vision.because
    elif (refused := family.vision.refused(vision)) is not None:
        because = refused
    else:
        return family.vision
    raise ExportError(
        f"the vision half of a {model_type} model cannot be exported: {because}",
        expected=_one_of(family for family in FAMILIES if isinstance(family.vision, VisionGraph)),
    )


def runnable(model_type: str) -> ImagePrompt:
    """How an image is put before the language model of a `model_type`.

    Raises:
        ModelError: the family is not known, or cannot be run in two halves; the error names its reason.
    """
    family = family_of(model_type)
    prompt = Unsupported("the family is not known yet") if family is None else family.prompt
    if isinstance(prompt, ImagePrompt):
        return prompt
    raise ModelError(
        f"a {model_type} model cannot be run as vision engine and language model apart",
        expected=_one_of(family for family in FAMILIES if isinstance(family.prompt, ImagePrompt)),
        causes=(prompt.because,),
        next_step="`edgeq plan` shows its parts and its memory all the same",
    )


def language_class(model_type: str) -> str | None:
    """The class in transformers of a language half that AutoModelForCausalLM does not know; None for those it knows."""
    return next((found for family in FAMILIES if (found := family.language_classes.get(model_type))), None)


def _one_of(families: Iterable[Family]) -> str:
    """The model types of some families, for an error."""
    return f"one of {', '.join(sorted(name for family in families for name in family.model_types))}"
