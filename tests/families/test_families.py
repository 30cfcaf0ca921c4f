"""The table of families as a check on what the structure says."""

from __future__ import annotations

import pytest
from edgeq.families.parts import FAMILIES, check_family, family_of

from edgeq.errors import ModelError

LLAVA = {
    "vision": ["model.vision_tower"],
    "connector": ["model.multi_modal_projector"],
    "language": ["model.language_model"],
}


def test_what_agrees_passes() -> None:
    check_family("llava", LLAVA)


@pytest.mark.parametrize("component", LLAVA)
def test_what_differs_is_an_error(component: str) -> None:
    with pytest.raises(ModelError, match=f"the {component} of this LLaVA model was found at model.elsewhere"):
        check_family("llava", LLAVA | {component: ["model.elsewhere"]})


def test_an_unknown_family_passes() -> None:
    assert family_of("another") is None
    check_family("another", LLAVA)


def test_no_model_type_is_in_two_families() -> None:
    types = [model_type for family in FAMILIES for model_type in family.model_types]
    assert len(types) == len(set(types))
