"""From an image and a question to pixels and token ids, as the model's own processor makes them.

Image processor and tokenizer are loaded apart: the whole processors of some families ask for a video processor, and
that for torchvision, which the device does not have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeq.bundle.vlm_settings import VlmSettings
from edgeq.errors import InputError, ModelError, first_line
from edgeq.families.base import Grid, ImagePrompt
from edgeq.families.registry import runnable
from edgeq.model.images.image_processor import load_image_processor

__all__ = ["PROCESSOR_FILES", "ImagePixels", "Layout", "Prompter", "find_image_token", "load_tokenizer", "render"]

PROCESSOR_FILES: Final = (
    *("added_tokens.json", "chat_template.jinja", "config.json", "generation_config.json", "merges.txt"),
    *("preprocessor_config.json", "processor_config.json", "special_tokens_map.json", "tokenizer.json"),
    *("tokenizer.model", "tokenizer_config.json", "vocab.json"),
)
"""What the processor of a model may consist of, config.json included, which says which classes it has."""


@dataclass(frozen=True)
class Layout:
    """What a prompt depends on of an image.

    Attributes:
        pictures: that the encoder gets, [n].
        grid: rows and columns that it was cut into.
    """

    pictures: int
    grid: Grid


@dataclass(frozen=True)
class ImagePixels:
    """An image as the encoder gets it.

    Attributes:
        values: float32 [pictures, 3, height, width].
        grid: rows and columns that it was cut into.
    """

    values: NDArray[np.float32]
    grid: Grid

    @property
    def layout(self) -> Layout:
        """Of the image in a prompt."""
        return Layout(len(self.values), self.grid)


class Prompter:
    """Writes prompts.

    Args:
        settings: of the model.
        tokenizer: transformers' tokenizer.
        processor: transformers' image processor.

    Attributes:
        settings: of the model.
        tokenizer: transformers' tokenizer.
    """

    def __init__(self, settings: VlmSettings, tokenizer: Any, processor: Any) -> None:
        """Take transformers' tokenizer and its image processor."""
        self.settings = settings
        self._image_prompt = runnable(settings.model_type)
        self.tokenizer = tokenizer
        self._processor = processor

    @classmethod
    def open(cls, directory: Path, settings: VlmSettings) -> Prompter:
        """Tokenizer and image processor of a directory; raises ModelError where one is missing or not understood."""
        return cls(settings, load_tokenizer(directory), load_image_processor(directory))

    def pixels(self, image: Image.Image) -> ImagePixels:
        """An image in mode RGB as the encoder gets it."""
        found = self._processor(images=image, return_tensors="np", **self._image_prompt.processing)
        values = np.asarray(found["pixel_values"], np.float32)
        return ImagePixels(values.reshape(-1, *values.shape[-3:]), self._image_prompt.grid(found))

    def ids(self, question: str, layout: Layout) -> NDArray[np.int64]:
        """The prompt of one question about an image, int64 [n].

        Raises:
            InputError: the question is empty, has the image token in it, or leaves no room for an answer.
            ModelError: the chat template or the tokenizer does not keep the image's places.
        """
        settings = self.settings
        _check_question(question, settings.image_token)
        ids = self.written(render(self.tokenizer, self._image_prompt, settings.image_token, question), layout)
        if len(ids) >= settings.context:
            raise InputError(
                f"the question is too long: with the image it takes {len(ids):,} tokens, and the context is "
                f"{settings.context:,}, answer included",
                expected=f"at most {max(settings.context - settings.tokens * layout.pictures, 0):,} tokens of question "
                "and answer",
                next_step="ask in fewer words",
            )
        return ids

    def written(self, text: str, layout: Layout | None) -> NDArray[np.int64]:
        """Token ids of a whole prompt, int64 [n].

        Args:
            text: as a template gives it, with the image token once where there is an image.
            layout: of the image.

        Raises:
            ModelError: the tokenizer does not keep the image's places.
        """
        settings, places = self.settings, 0
        if layout is not None:
            places = settings.tokens * layout.pictures
            token = settings.image_token
            text = text.replace(token, self._image_prompt.places(token, settings.tokens, layout.pictures, layout.grid))
        begun = not self._image_prompt.template or text.startswith(self.tokenizer.bos_token or "\0")
        ids = np.array(self.tokenizer(text, add_special_tokens=not begun, verbose=False)["input_ids"], np.int64)
        if (found := int((ids == settings.image_token_id).sum())) != places:
            raise ModelError(f"the tokenizer gives an image {found} places, its features need {places}")
        return ids

    def text(self, ids: Sequence[int]) -> str:
        """What an answer's tokens say, without special tokens and without spaces around it."""
        decoded: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return decoded.strip()


def load_tokenizer(directory: Path) -> Any:
    """transformers' tokenizer of a directory; no code from it is run.

    Raises:
        ModelError: there is none, or transformers does not understand it.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers and transformers raise nearly anything for a damaged file
        raise ModelError(
            f"{directory} has no tokenizer that can be used",
            expected="tokenizer.json and tokenizer_config.json, as they came with the model",
            causes=(first_line(error),),
        ) from error


def find_image_token(tokenizer: Any, token_id: int) -> str:
    """The text of the image token.

    Args:
        tokenizer: transformers' tokenizer.
        token_id: what config.json says.

    Raises:
        ModelError: the tokenizer does not have it, or takes it apart.
    """
    token = tokenizer.convert_ids_to_tokens(token_id) if 0 <= token_id < len(tokenizer) else None
    if token is None or tokenizer.encode(token, add_special_tokens=False) != [token_id]:
        raise ModelError(
            f"the tokenizer does not have the image token: config.json says {token_id}, "
            + (f"which is {token!r} there" if token else f"it has {len(tokenizer):,} tokens"),
            expected="the token that stands for an image in the prompt, such as <image>",
            causes=("the tokenizer is that of the language model alone",),
            next_step="take tokenizer.json and tokenizer_config.json from the vision-language model",
        )
    return str(token)


def render(tokenizer: Any, image_prompt: ImagePrompt, image_token: str, question: str) -> str:
    """The prompt as text, with the image token once.

    Args:
        tokenizer: transformers', with the chat template where the family needs one.
        image_prompt: of the family.
        image_token: as text.
        question: what is asked.

    Raises:
        ModelError: the family needs a chat template and there is none, it fails, or it does not write the image token
            exactly once.
    """
    if not image_prompt.template:
        return f"{image_token}{tokenizer.bos_token}{question}\n"
    content = [{"type": "image"}, {"type": "text", "text": question}]
    try:
        text: str = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
    except Exception as error:  # no template (ValueError), or whatever Jinja makes of a wrong one
        raise ModelError(
            "the question cannot be put into a chat template",
            expected="chat_template.jinja beside the tokenizer, for content of images and text",
            causes=(first_line(error),),
        ) from error
    if text.count(image_token) != 1:
        raise ModelError(
            f"the chat template writes {image_token} {text.count(image_token)} times for one image",
            expected="once",
            causes=("it is the template of the language model alone",),
        )
    return text


def _check_question(question: str, image_token: str) -> None:
    if not question.strip():
        raise InputError("the question is empty", expected="a question about the image")
    if image_token in question:
        raise InputError(
            f"the question has {image_token} in it, which stands for an image",
            next_step="leave it out: the image is put before the question",
        )
