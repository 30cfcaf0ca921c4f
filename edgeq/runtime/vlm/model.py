"""A bundle's two halves joined: the vision graph in an engine, the language model alone, one prompt for both."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict

from edgeq.bundle.manifest import Manifest, read_manifest
from edgeq.bundle.vlm_settings import LANGUAGE, VlmSettings
from edgeq.engine import Engine
from edgeq.errors import ArtifactError, InputError, shell_word
from edgeq.families.base import ImageFeatures
from edgeq.families.features import concatenated, on_host
from edgeq.quality.answerer import Answer
from edgeq.runtime.vlm.language import LanguageModel, open_language_model, require_packages
from edgeq.runtime.vlm.prompt import ProcessedImage, Prompt, Prompter
from edgeq.runtime.vlm.vision_encoder import VisionEncoder

__all__ = ["MAX_NEW_TOKENS", "Reply", "VisionLanguageModel", "check_answers", "load_vlm", "open_vlm", "stacked"]

MAX_NEW_TOKENS = 128


class Reply(BaseModel):
    """An answer, and what it took.

    Attributes:
        text: without special tokens.
        token_ids: as they were chosen, the one that ends the answer included.
        ended: `stop` at a token that ends an answer, `limit` at the number of tokens asked for, `context` where the
            context is full.
        prompt_tokens: images and question.
        image_tokens: of these, the images'.
        vision_seconds: from the images to their features.
        first_token_seconds: from there to the first token.
        seconds: all of it.
        backend: what ran the vision graph, with its version; empty where nobody told.
        because: why it was this one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    token_ids: tuple[int, ...]
    ended: Literal["stop", "limit", "context"]
    prompt_tokens: int
    image_tokens: int
    vision_seconds: float
    first_token_seconds: float
    seconds: float
    backend: str = ""
    because: str = ""


@dataclass(frozen=True)
class VisionLanguageModel:
    """A vision-language model in two halves. It is one of `edgeq.quality.answerer.Answerer`.

    Attributes:
        prompter: writes prompts.
        vision_encoder: the vision graph.
        language: the language model.
    """

    prompter: Prompter
    vision_encoder: VisionEncoder
    language: LanguageModel

    def ask(
        self, images: Image.Image | Sequence[Image.Image], question: str, max_new_tokens: int = MAX_NEW_TOKENS
    ) -> Reply:
        """Answer a question about one image or several, greedily.

        Args:
            images: mode RGB; they stand before the question, in this order.
            question: without any prompt around it.
            max_new_tokens: after which an answer is cut that has not ended.

        Raises:
            ImageError: the model does not take one of the images.
            InputError: the question is empty or too long, no token may be said, or there are too many images.
            EngineError: the vision graph fails on an image.
        """
        if max_new_tokens < 1:
            raise InputError(f"an answer of {max_new_tokens} tokens is none", expected="1 or more")
        settings, start = self.prompter.settings, time.perf_counter()
        prompt, features = self._see([images] if isinstance(images, Image.Image) else images, question)
        seen = time.perf_counter()
        limit = min(max_new_tokens, settings.context - len(prompt.ids))
        said, times = [], []
        for token in self.language.generate(prompt, features, limit=limit, stop=settings.stop):
            said.append(token)
            times.append(time.perf_counter())
        return Reply(
            text=self.prompter.text(said),
            token_ids=tuple(said),
            ended="stop" if said[-1] in settings.stop else "limit" if limit == max_new_tokens else "context",
            prompt_tokens=len(prompt.ids),
            image_tokens=prompt.image_tokens,
            vision_seconds=seen - start,
            first_token_seconds=times[0] - seen,
            seconds=times[-1] - start,
        )

    def answer(self, image: Image.Image, question: str, max_new_tokens: int) -> Answer:
        """As `ask`, with text and tokens alone."""
        reply = self.ask(image, question, max_new_tokens)
        return Answer(reply.text, reply.token_ids)

    def logits(self, image: Image.Image, question: str, answer_ids: Sequence[int]) -> NDArray[np.float32]:
        """As `Answerer.logits`."""
        prompt, features = self._see([image], question)
        return self.language.logits(prompt, features, answer_ids)

    def features(self, image: Image.Image) -> NDArray[np.float32]:
        """What the language model gets of an image, float32 [tokens, hidden]."""
        return stacked(self._join(self.prompter.pixels(image)))

    def _see(self, images: Sequence[Image.Image], question: str) -> tuple[Prompt, list[ImageFeatures]]:
        """Prompt and features; a question that is too long is refused before the encoder runs."""
        self.prompter.check_images(len(images))
        pixels = [self.prompter.pixels(image) for image in images]
        prompt = self.prompter.prompt(question, [one.layout for one in pixels])
        return prompt, [self._join(one) for one in pixels]

    def _join(self, pixels: ProcessedImage) -> ImageFeatures:
        return self.prompter.joined(self.vision_encoder.encode(pixels.feeds), pixels.layout)


def open_vlm(bundle: Path, *, threads: int | None = None) -> VisionLanguageModel:
    """Check a bundle byte for byte and load it.

    Args:
        bundle: a vision-language bundle of `edgeq prepare`.
        threads: of one operator; None takes every processor there is.

    Raises:
        ArtifactError: it is no bundle, is damaged, or is a classifier's.
        ModelError: the language model, the tokenizer or the image processor cannot be loaded.
        EngineError: the engine refuses the vision graph, or a package is missing.
    """
    check_answers(bundle, read_manifest(bundle))
    return load_vlm(bundle, threads=threads)


def check_answers(bundle: Path, manifest: Manifest) -> None:
    """Raise ArtifactError for a bundle whose model answers no questions."""
    if manifest.kind != "vision-language":
        raise ArtifactError(
            f"{bundle} is the bundle of a {manifest.kind}, which answers no questions",
            expected="the bundle of a vision-language model",
            next_step=f"edgeq evaluate {shell_word(bundle)} --eval LABELLED_IMAGES",
        )


def load_vlm(directory: Path, *, engine: Engine | None = None, threads: int | None = None) -> VisionLanguageModel:
    """As `open_vlm`, for a directory that was checked already or is being made.

    Args:
        directory: of the bundle.
        engine: with its vision graph; None opens that in ONNX Runtime.
        threads: of one operator; None takes every processor there is.
    """
    require_packages(directory / LANGUAGE)
    settings = VlmSettings.of(directory)
    prompter = Prompter.open(directory, settings)
    return VisionLanguageModel(
        prompter,
        VisionEncoder(engine) if engine else VisionEncoder.open(directory / settings.vision, threads=threads),
        open_language_model(directory / LANGUAGE, prompter, threads=threads),
    )


def stacked(features: ImageFeatures) -> NDArray[np.float32]:
    """All that the language model is given of an image, one behind the other: float32 [rows, hidden]."""
    cross = () if features.cross is None else (features.cross,)
    return on_host(concatenated((features.places, *features.deepstack, *cross)))
