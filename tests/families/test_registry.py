"""What the rest of edgeq asks of a model type, and how it is told that something is not known or not done."""

from __future__ import annotations

import pytest
from vlm_costs import golden_vlm

from edgeq.errors import ExportError, InputError, ModelError
from edgeq.families.pictures import native_size
from edgeq.families.registry import FAMILIES, check_parts, exportable, family_of, image_cost, language_class, runnable

FOUND = {
    "vision": ["model.vision_tower"],
    "connector": ["model.multi_modal_projector"],
    "language": ["model.language_model"],
}
EVERY = "one of " + ", ".join(sorted(model_type for family in FAMILIES for model_type in family.model_types))


def test_what_agrees_passes() -> None:
    check_parts("llava", FOUND)


@pytest.mark.parametrize("component", FOUND)
def test_what_differs_is_an_error(component: str) -> None:
    with pytest.raises(ModelError, match=f"the {component} of this LLaVA model was found at model.elsewhere"):
        check_parts("llava", FOUND | {component: ["model.elsewhere"]})


def test_an_unknown_family_passes() -> None:
    assert family_of("another") is None
    check_parts("another", FOUND)


def test_the_size_an_encoder_was_made_for() -> None:
    assert native_size(golden_vlm("llava-1.5-7b").vision) == (336, 336)
    assert native_size(golden_vlm("qwen2.5-vl-7b").vision) == (448, 448)


def test_what_cannot_be_counted() -> None:
    with pytest.raises(InputError, match="has no tokens"):
        image_cost(golden_vlm("llava-1.5-7b"), (0, 336))
    with pytest.raises(ModelError, match="how many tokens an image becomes in a new_kind model is not known") as caught:
        image_cost(golden_vlm("llava-1.5-7b", model_type="new_kind"), (336, 336))
    assert caught.value.expected == EVERY
    with pytest.raises(ModelError, match="do not say how many tokens"):
        image_cost(golden_vlm("llama-3.2-11b-vision", vision={}), (336, 336))


@pytest.mark.parametrize(
    ("model_type", "encoder", "because"),
    [
        ("another", "another_vision", "how its features are made is not known here"),
        ("another", "pixtral", "its Pixtral encoder takes images of any size"),
        ("llava", "pixtral", "its Pixtral encoder takes images of any size"),
    ],
)
def test_what_cannot_be_exported(model_type: str, encoder: str, because: str) -> None:
    with pytest.raises(ExportError, match=f"a {model_type} model cannot be exported: {because}") as caught:
        exportable(model_type, {"model_type": encoder})
    assert caught.value.expected == EVERY


def test_what_cannot_be_run() -> None:
    with pytest.raises(
        ModelError, match="a another model cannot be run as vision engine and language model apart"
    ) as caught:
        runnable("another")
    assert caught.value.expected == EVERY
    assert caught.value.causes == ("the family is not known yet",)


def test_the_class_of_a_language_half() -> None:
    assert language_class("mllama_text_model") == "MllamaForCausalLM"
    assert language_class("qwen2_5_vl_text") == "Qwen2_5_VLTextModel"
    assert language_class("llama") is None
