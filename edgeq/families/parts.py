"""The families of vision-language models that are known by name: where transformers keeps their parts.

edgeq finds the parts by structure (`modules.py`). This table only checks what it found: where the two differ, either a
release of transformers has moved something or the search went wrong, and a plan made on it would be about other layers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from edgeq.errors import ModelError

__all__ = ["FAMILIES", "Family", "check_family", "family_of"]


@dataclass(frozen=True)
class Family:
    """One family.

    Attributes:
        name: for people.
        model_types: `model_type` in config.json.
        vision, connector, language: full module names, as transformers 5 builds them.
    """

    name: str
    model_types: frozenset[str]
    vision: str
    connector: frozenset[str]
    language: str


def _family(name: str, model_types: str, vision: str, connector: str, language: str) -> Family:
    """A family; lists are words in one string."""
    return Family(name, frozenset(model_types.split()), vision, frozenset(connector.split()), language)


FAMILIES: Final = (
    _family(
        "LLaVA",
        "llava llava_next llava_onevision paligemma gemma3 internvl",
        "model.vision_tower",
        "model.multi_modal_projector",
        "model.language_model",
    ),
    _family(
        "Llama 3.2 Vision",
        "mllama",
        "model.vision_model",
        "model.multi_modal_projector",
        "model.language_model",
    ),
    _family("Qwen-VL", "qwen2_vl qwen2_5_vl", "model.visual", "model.visual.merger", "model.language_model"),
    _family(
        "Qwen3-VL",
        "qwen3_vl qwen3_vl_moe",
        "model.visual",
        "model.visual.merger model.visual.deepstack_merger_list",
        "model.language_model",
    ),
    _family("Idefics3", "idefics3 smolvlm", "model.vision_model", "model.connector", "model.text_model"),
)


def family_of(model_type: str) -> Family | None:
    """The family of a `model_type`, or None for one that the table does not have."""
    return next((family for family in FAMILIES if model_type in family.model_types), None)


def check_family(model_type: str, found: Mapping[str, Collection[str]]) -> None:
    """Compare what the structure says with the table; a model that the table does not have passes.

    Args:
        model_type: from config.json.
        found: `vision`, `connector` and `language` -> the modules found for it.

    Raises:
        ModelError: they differ.
    """
    family = family_of(model_type)
    if family is None:
        return
    known = {"vision": {family.vision}, "connector": set(family.connector), "language": {family.language}}
    for component, names in known.items():
        if set(found[component]) != names:
            places = ", ".join(sorted(found[component])) or "no place"
            raise ModelError(
                f"the {component} of this {family.name} model was found at {places}",
                expected=", ".join(sorted(names)),
                causes=("this release of transformers builds the model differently from the one edgeq knows",),
                next_step="install the release of transformers in requirements/dev.lock",
            )
