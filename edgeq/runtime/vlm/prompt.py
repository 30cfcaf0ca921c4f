"""From images and a question to pixels and token ids, as the model's own processor makes them.

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
from edgeq.errors import EngineError, ImageError, InputError, ModelError, first_line
from edgeq.families.base import Arrays, Config, Given, ImageFeatures, ImagePrompt, Layout, Made
from edgeq.families.modules import load_config
from edgeq.families.registry import exportable, runnable
from edgeq.files import require_plain_files
from edgeq.model.images.image_processor import load_image_processor
from edgeq.runtime.chat_template import chat_text
from edgeq.runtime.tokenizer_trial import try_tokenizer
from edgeq.runtime.vlm.constrained.grammar import Grammars
from edgeq.runtime.vlm.text.control_tokens import ControlTokens

__all__ = [
    "PROCESSOR_FILES",
    "ProcessedImage",
    "Prompt",
    "Prompter",
    "find_image_token",
    "image_marker",
    "load_tokenizer",
    "longest_token",
    "render",
]

PROCESSOR_FILES: Final = (
    *("added_tokens.json", "chat_template.jinja", "config.json", "generation_config.json", "merges.txt"),
    *("preprocessor_config.json", "processor_config.json", "special_tokens_map.json", "tokenizer.json"),
    *("tokenizer.model", "tokenizer_config.json", "vocab.json"),
)
"""What the processor of a model may consist of, config.json included, which says which classes it has."""


@dataclass(frozen=True)
class ProcessedImage:
    """An image as the encoder gets it.

    Attributes:
        feeds: an array for each input of the vision graph.
        layout: what of it the prompt depends on.
        given: what the image processor gave.
    """

    feeds: Arrays
    layout: Layout
    given: Given

    @property
    def nbytes(self) -> int:
        """Of the arrays for the graph."""
        return sum(array.nbytes for array in self.feeds.values())


@dataclass(frozen=True)
class Prompt:
    """What the language model reads.

    Attributes:
        ids: tokens, int64 [n].
        positions: where each stands, int64 [n] or [axes, n].
        layouts: of its images, in their order.
        cuts: where it is cut into pieces that another prompt may begin with, too: counts of tokens, less than n.
    """

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    layouts: tuple[Layout, ...]
    cuts: tuple[int, ...] = ()

    @property
    def image_tokens(self) -> int:
        """Of its tokens, those of images."""
        return sum(layout.tokens for layout in self.layouts)

    @property
    def next_position(self) -> int:
        """Where the first token of an answer stands."""
        return int(self.positions.max()) + 1


class Prompter:
    """Writes prompts.

    Args:
        settings: of the model.
        tokenizer: transformers' tokenizer.
        processor: transformers' image processor.
        config: of the whole model, with all defaults.

    Attributes:
        settings: of the model.
        tokenizer: transformers' tokenizer.
        config: of the whole model.
        vision: the family's graph.
        image_prompt: how images are put before the language model.
        marker: what a chat template writes for an image.
        controls: keeps what users write from being taken for control tokens.
        grammars: of JSON schemas that answers are held to.
    """

    def __init__(self, settings: VlmSettings, tokenizer: Any, processor: Any, config: Config) -> None:
        self.settings = settings
        self.image_prompt = runnable(settings.model_type)
        self.vision = exportable(settings.model_type, config["vision_config"])
        self.tokenizer = tokenizer
        self.config = config
        self.marker = image_marker(tokenizer, self.image_prompt, settings.image_token)
        self.controls = ControlTokens(tokenizer, (settings.image_token, self.marker))
        vocabulary = config.get("text_config", config)["vocab_size"]
        self.grammars = Grammars(tokenizer, vocabulary, settings.stop)
        self._processor = processor

    @classmethod
    def open(cls, directory: Path, settings: VlmSettings) -> Prompter:
        """Tokenizer and image processor of a directory; raises ModelError where one is missing or not understood."""
        return cls(settings, load_tokenizer(directory), load_image_processor(directory), load_config(directory))

    def pixels(self, image: Image.Image) -> ProcessedImage:
        """An image in mode RGB as the encoder gets it; raises ImageError for one that the image processor refuses."""
        options = self.image_prompt.processing(self.config)
        try:
            given = self._processor(images=image, return_tensors="np", **options)
        except ValueError as error:  # Qwen's refuse a strip whose sides differ by more than 200 times
            raise ImageError(
                f"the model takes no image of {image.width} x {image.height} pixels", causes=(first_line(error),)
            ) from error
        feeds, layout = self.vision.feeds(given, self.config), self.image_prompt.layout(given, self.config)
        return ProcessedImage(feeds, layout, given)

    def joined(self, made: Made, layout: Layout) -> ImageFeatures:
        """What the language model is given of an image, of what the vision graph gave for it.

        Raises:
            EngineError: that is not what the layout asks for.
        """
        found = self.vision.join(made, layout, self.config)
        if len(found.places) != layout.tokens and found.cross is None:
            raise EngineError(f"{layout.tokens} image tokens and {len(found.places)} features do not go together")
        return found

    def check_images(self, count: int) -> None:
        """Raise InputError where the model does not take so many images in a conversation."""
        most = self.image_prompt.most_images
        if most is not None and count > most:
            raise InputError(f"{count} images; a {self.settings.model_type} model takes {most} in a conversation")

    def prompt(self, question: str, layouts: Sequence[Layout]) -> Prompt:
        """The prompt of one question about some images, which stand before it.

        Raises:
            InputError: the question is empty, or leaves no room for an answer.
            ModelError: the chat template or the tokenizer does not keep the places of the images.
        """
        settings = self.settings
        if not question.strip():
            raise InputError("the question is empty", expected="a question about the image")
        plain = self.controls.plain(question)
        made = self.written(render(self.tokenizer, self.image_prompt, self.marker, plain, len(layouts)), layouts)
        if len(made.ids) >= settings.context:
            raise InputError(
                f"the question is too long: with {_counted(len(layouts))} it takes {len(made.ids):,} tokens, "
                f"and the context is {settings.context:,}, answer included",
                expected=f"at most {max(settings.context - made.image_tokens, 0):,} tokens of question and answer",
                next_step="ask in fewer words",
            )
        return made

    def written(self, text: str, layouts: Sequence[Layout], beginnings: Sequence[str] = ()) -> Prompt:
        """A whole prompt.

        Args:
            text: as a template gives it, with the marker once for each image, and users' texts as `controls` has them.
            layouts: of the images.
            beginnings: what earlier prompts of the conversation were, as a template gives it.

        Raises:
            ModelError: the tokenizer does not keep the places of the images.
        """
        ids, token = self._ids(text, layouts), self.settings.image_token_id
        positions = self.image_prompt.positions(ids, token, layouts)
        return Prompt(ids, positions, tuple(layouts), self._cuts(ids, layouts, beginnings))

    def text(self, ids: Sequence[int]) -> str:
        """What an answer's tokens say, without special tokens and without spaces around it."""
        decoded: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return decoded.strip()

    def _ids(self, text: str, layouts: Sequence[Layout]) -> NDArray[np.int64]:
        """Token ids, int64 [n]; each image has as many places as its layout says."""
        settings = self.settings
        first, *others = text.split(self.marker)
        places = [self.image_prompt.places(settings.image_token, layout) for layout in layouts]
        text = first + "".join(place + rest for place, rest in zip(places, others, strict=True))
        begun = not self.image_prompt.template or text.startswith(self.tokenizer.bos_token or "\0")
        ids = np.array(self.controls.ids(text, add_special_tokens=not begun), np.int64)
        found, wanted = int((ids == settings.image_token_id).sum()), sum(layout.tokens for layout in layouts)
        if found != wanted:
            raise ModelError(f"the tokenizer gives the images {found} places, their features need {wanted}")
        return ids

    def _cuts(self, ids: NDArray[np.int64], layouts: Sequence[Layout], beginnings: Sequence[str]) -> tuple[int, ...]:
        """Behind the images that no text stands between, and where earlier prompts of this conversation ended.

        No cut where a token sees others behind it that are not of its own image; nor before an image that is looked at
        by cross-attention: transformers reads what stands before it in one pass with it, and that is another answer.
        """
        if self.image_prompt.attention == "prompt":
            return ()
        places = ids == self.settings.image_token_id
        last = np.cumsum([layout.tokens for layout in layouts], dtype=np.int64) - 1
        found = {int(at) + 1 for at in np.flatnonzero(places)[last]}
        for text in beginnings:
            earlier = self._ids(text, layouts[: text.count(self.marker)])
            if np.array_equal(earlier, ids[: len(earlier)]):
                found.add(len(earlier))
        first = int(np.argmax(places)) if layouts and self.image_prompt.cross is not None else 0
        return tuple(sorted(cut for cut in found if first < cut < len(ids)))


def load_tokenizer(directory: Path) -> Any:
    """transformers' tokenizer of a directory; no code from it is run.

    Raises:
        ModelError: there is none, or transformers does not understand it.
    """
    from transformers import AutoTokenizer

    require_plain_files(directory)
    try_tokenizer(directory / "tokenizer.json")
    try:
        return AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers and transformers raise nearly anything for a damaged file
        raise ModelError(
            f"{directory} has no tokenizer that can be used",
            expected="tokenizer.json and tokenizer_config.json, as they came with the model",
            causes=(first_line(error),),
        ) from error


def longest_token(tokenizer: Any) -> int:
    """Characters that one token stands for, at most: so many as the longest of the vocabulary has.

    A token of bytes is spelled with a character for each, and stands for no more characters than that.
    """
    return max((len(token) for token in tokenizer.get_vocab()), default=1)


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


def image_marker(tokenizer: Any, image_prompt: ImagePrompt, image_token: str) -> str:
    """What a chat template writes for an image, as text.

    Args:
        tokenizer: transformers'.
        image_prompt: of the family.
        image_token: as text, which most templates write.

    Raises:
        ModelError: the tokenizer does not have the family's marker.
    """
    if image_prompt.marker is None:
        return image_token
    marker = getattr(tokenizer, image_prompt.marker, None)
    if not isinstance(marker, str):
        raise ModelError(
            f"the tokenizer has no {image_prompt.marker}, which stands for an image in the chat template",
            causes=("the tokenizer is that of the language model alone",),
            next_step="take tokenizer.json and tokenizer_config.json from the vision-language model",
        )
    return marker


def render(tokenizer: Any, image_prompt: ImagePrompt, marker: str, question: str, images: int = 1) -> str:
    """The prompt as text, with the marker once for each image.

    Args:
        tokenizer: transformers', with the chat template where the family needs one.
        image_prompt: of the family.
        marker: from `image_marker`.
        question: what is asked.
        images: that stand before it.

    Raises:
        ModelError: the family needs a chat template and there is none, it fails, or it does not write the marker once
            for each image.
    """
    if not image_prompt.template:
        return f"{marker * images}{tokenizer.bos_token}{question}\n"
    content = [*([{"type": "image"}] * images), {"type": "text", "text": question}]
    try:
        text = chat_text(tokenizer, [{"role": "user", "content": content}])
    except Exception as error:  # no template (ValueError), or whatever Jinja makes of a wrong one
        raise ModelError(
            "the question cannot be put into a chat template",
            expected="chat_template.jinja beside the tokenizer, for content of images and text",
            causes=(first_line(error),),
        ) from error
    if text.count(marker) != images:
        raise ModelError(
            f"the chat template writes {marker} {text.count(marker)} times for {images} images",
            expected="once for each",
            causes=("it is the template of the language model alone",),
        )
    return text


def _counted(images: int) -> str:
    return "the image" if images == 1 else f"{images} images"
