"""The families that edgeq knows, and the questions that the rest of edgeq asks of a model type."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgeq.errors import ExportError, InputError, ModelError
from edgeq.families.base import (
    Cap,
    Config,
    Family,
    ImageCost,
    ImagePrompt,
    LlamaCppForm,
    Unsupported,
    VisionGraph,
)
from edgeq.families.gemma3 import GEMMA3
from edgeq.families.idefics3 import IDEFICS3
from edgeq.families.internvl import INTERNVL
from edgeq.families.llava import LLAVA
from edgeq.families.llava_next import LLAVA_NEXT
from edgeq.families.mistral3 import MISTRAL3
from edgeq.families.mllama import MLLAMA
from edgeq.families.paligemma import PALIGEMMA
from edgeq.families.pictures import any_size
from edgeq.families.qwen_vl import QWEN2_5_VL, QWEN2_VL, QWEN3_VL
from edgeq.families.tiles import Size

if TYPE_CHECKING:
    from edgeq.families.modules import VlmDescription

__all__ = [
    "FAMILIES",
    "cap",
    "caps_of",
    "check_parts",
    "counting_family",
    "exportable",
    "family_of",
    "feature_outputs",
    "image_cost",
    "lacking",
    "language_class",
    "llama_cpp_form",
    "loaded_by",
    "runnable",
    "tower_with_inner_model",
    "why_not_loaded",
]

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
    MISTRAL3,
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


def counting_family(model_type: str) -> Family:
    """The family that says how many tokens an image becomes.

    Args:
        model_type: from config.json.

    Raises:
        ModelError: the family is not known.
    """
    family = family_of(model_type)
    if family is None:
        raise ModelError(
            f"how many tokens an image becomes in a {model_type} model is not known", expected=_one_of(FAMILIES)
        )
    return family


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
    family = counting_family(model.model_type)
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


def lacking(model_type: str, vision: Mapping[str, Any]) -> str | None:
    """What edgeq does not do with a model, as a sentence without its full stop; None where it goes the whole way.

    Args:
        model_type: from config.json.
        vision: its `vision_config`.
    """
    if family_of(model_type) is None:
        return (
            f"edgeq does not know the family {model_type}: it counts parameters and bytes, but no tokens of an image, "
            "and neither prepares nor runs it"
        )
    try:
        exportable(model_type, vision)
        runnable(model_type)
    except (ExportError, ModelError) as error:
        because = error.causes[0] if error.causes else error.what
        return f"edgeq plans its memory, and neither prepares nor runs it: {because}"
    return None


def feature_outputs(model_type: str, config: Config) -> int:
    """How many outputs the vision graph of a model has: what of an image is put into, or added to, its places."""
    family = family_of(model_type)
    return 1 if family is None or isinstance(family.vision, Unsupported) else len(family.vision.outputs(config))


def caps_of(model_type: str) -> tuple[str, ...]:
    """What may be bounded of an image of a `model_type`: `pixels`, `tiles`, or nothing."""
    family = family_of(model_type)
    return () if family is None else tuple(family.caps)


def cap(model: VlmDescription, caps: Mapping[str, int]) -> VlmDescription:
    """A model whose images are bounded: what its image processor and its config say then.

    Args:
        model: described.
        caps: `pixels` or `tiles` -> the most of an image.

    Raises:
        InputError: the family has no such bound, or cannot do with so little.
    """
    if not caps:
        return model
    preprocessor, config = deepcopy(dict(model.preprocessor)), deepcopy(dict(model.config))
    family = family_of(model.model_type)
    known: dict[str, Cap] = {} if family is None else {str(what): write for what, write in family.caps.items()}
    for what, most in caps.items():
        if what not in known:
            raise InputError(
                f"the {what} of an image cannot be bounded in a {model.model_type} model",
                expected=" or ".join(f"--max-{name}" for name in known) or _one_of(_bounded(what)),
                causes=() if known else ("an image costs the same there, whatever its size",),
            )
        try:
            known[what](preprocessor, config, most)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"an image of at most {most:,} {what}: {error}", next_step=f"give a larger --max-{what}"
            ) from error
    return replace(model, preprocessor=preprocessor, config=config)


def language_class(model_type: str) -> str | None:
    """The class in transformers of a language half that AutoModelForCausalLM does not know; None for those it knows."""
    return next((found for family in FAMILIES if (found := family.language_classes.get(model_type))), None)


def _bounded(what: str) -> Iterator[Family]:
    """The families that can bound this of an image."""
    return (family for family in FAMILIES if what in family.caps)


def _one_of(families: Iterable[Family]) -> str:
    """The model types of some families, for an error."""
    return f"one of {', '.join(sorted(name for family in families for name in family.model_types))}"


def loaded_by(runtime: str) -> frozenset[str]:
    """Model types whose whole checkpoints a runtime loads.

    Args:
        runtime: as `edgeq handover --for` calls it.
    """
    return frozenset(name for family in FAMILIES for name in family.loaded_by.get(runtime, ()))


def why_not_loaded(model_type: str, runtime: str) -> str | None:
    """Why a runtime does not load a family, where that is known."""
    family = family_of(model_type)
    return None if family is None else family.not_loaded_by.get(runtime)


def tower_with_inner_model(vision: Config) -> bool:
    """Whether a tower is one of CLIP's or SigLIP's, which had all in a module `vision_model` until transformers 5.2."""
    return vision.get("model_type") in ("clip_vision_model", "siglip_vision_model")


def llama_cpp_form(model_type: str) -> LlamaCppForm:
    """How llama.cpp has models of a `model_type`.

    Raises:
        InputError: it does not, or they are not written for it; the error names the reason.
    """
    family = family_of(model_type)
    form = Unsupported("the family is not known") if family is None else family.llama_cpp
    if isinstance(form, LlamaCppForm) and model_type in form.model_types:
        return form
    because = form.because if isinstance(form, Unsupported) else f"of {family.name if family else ''} it has others"
    known = {
        name for each in FAMILIES if isinstance(each.llama_cpp, LlamaCppForm) for name in each.llama_cpp.model_types
    }
    raise InputError(
        f"a {model_type} model cannot be handed over to llama.cpp: {because}",
        expected=f"one of {', '.join(sorted(known))}",
        next_step="run it with edgeq, or hand it over to another runtime",
    )
