"""Parts of a conversation that a model takes, and those that it does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from decoders import noise
from talk import chatty_vlm, tiny_settings

from edgeq.errors import ImageError, InputError
from edgeq.model.images.image_processor import load_image_processor
from edgeq.runtime.scheduler.errors import RefusedImageError
from edgeq.runtime.vlm.api import IMAGE, GenerationRequest, Turn
from edgeq.runtime.vlm.prompt import Prompter
from edgeq.runtime.vlm.tokenize import PromptBuilder

STRIP = noise(3, width=300, height=1)


def opened(directory: Path, family: str) -> Prompter:
    settings = tiny_settings(family)
    return Prompter.open(chatty_vlm(directory, family), settings)


def test_an_image_that_the_processor_refuses_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Qwen's processors raise ValueError where one side is 200 times the other."""
    prompter = opened(tmp_path / "llava", "llava")
    prompt_builder = PromptBuilder(prompter, 128)
    prompt_builder.question(GenerationRequest.about(noise(1), "what?"))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "Qwen2VLImageProcessor"}))
    monkeypatch.setattr(prompter, "_processor", load_image_processor(tmp_path))
    with pytest.raises(ImageError, match="no image of 300 x 1 pixels"):
        prompter.pixels(STRIP)
    with pytest.raises(RefusedImageError, match="no image of 300 x 1 pixels") as refused:
        prompt_builder.question(GenerationRequest((noise(1), STRIP), (Turn.said("user", "which?", images=2),)))
    assert refused.value.number == 1
    assert "aspect ratio" in refused.value.causes[0]


def test_a_model_without_a_template_is_asked_once_about_one_image(tmp_path: Path) -> None:
    prompter = opened(tmp_path, "paligemma")
    prompt_builder = PromptBuilder(prompter, 128)

    def ids(*parts: object) -> list[int]:
        images = tuple(noise(number) for number, part in enumerate(parts) if part is IMAGE)
        request = GenerationRequest(images, (Turn("user", parts),))  # type: ignore[arg-type]
        found: list[int] = prompt_builder.question(request).prompt.ids.tolist()
        return found

    assert ids(IMAGE, "what", "is it?") == ids(IMAGE, "what\nis it?")
    for parts in (("what?", IMAGE), ("what?",), ("what", IMAGE, "is it?")):
        with pytest.raises(InputError, match="one question about one image"):
            ids(*parts)
    with pytest.raises(InputError, match="2 images; a paligemma model takes 1 in a conversation"):
        ids(IMAGE, IMAGE, "which?")


def test_the_same_for_one_question_alone(tmp_path: Path) -> None:
    prompter = opened(tmp_path, "paligemma")
    prompter.check_images(1)
    with pytest.raises(InputError, match="takes 1 in a conversation"):
        prompter.check_images(2)
    opened(tmp_path / "llava", "llava").check_images(100)
