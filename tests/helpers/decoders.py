"""Talkers over tiny language models in four bits, with vision_encoder that see at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from talk import tiny_settings, write_processor
from vlm import PREFIXES, tiny_vlm

from edgeq.families.base import output_rows
from edgeq.families.modules import read_modules
from edgeq.plan.precision import Precision
from edgeq.plan.rules import plan_modules
from edgeq.quantize.nf4.write import write_nf4
from edgeq.quantize.weight_only.write import write_packed
from edgeq.runtime.vlm.api import GenerationRequest
from edgeq.runtime.vlm.batch_decoder import BatchDecoder
from edgeq.runtime.vlm.decode_step import StepOptions
from edgeq.runtime.vlm.language import LanguageModel, open_language_model
from edgeq.runtime.vlm.prompt import Prompter
from edgeq.runtime.vlm.tokenize import PromptBuilder, TokenizedRequest
from edgeq.runtime.vlm.vision_encoder import VisionEncoder

__all__ = ["CONTEXT", "Glance", "Parts", "noise", "open_parts", "shared_parts"]

CONTEXT = 96
_TOKENS = {"idefics3": 1}
"""Features of a picture, where that is not each of its four patches."""


class Glance:
    """A simulated vision engine: each feature is a fixed random sum of the pixels.

    Args:
        tokens: of a picture.

    Attributes:
        runs: how often it ran.
        blind: it fails on pictures whose first pixel is below this.
        scale: of the features.
    """

    inputs: tuple[str, ...] = ("pixel_values",)
    outputs: tuple[str, ...] = ("image_features",)

    def __init__(self, tokens: int = 4) -> None:
        self.runs, self.blind, self.scale = 0, -np.inf, 1.0
        self._tokens = tokens
        self._weights = np.random.default_rng(1).normal(0, 0.03, (3 * 28 * 28, tokens * 64)).astype(np.float32)

    def run(
        self, feeds: Mapping[str, NDArray[np.float32]], outputs: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        assert outputs is None
        pixels = feeds["pixel_values"].reshape(len(feeds["pixel_values"]), -1)
        if (pixels[:, 0] < self.blind).any():
            raise RuntimeError("too dark")
        self.runs += 1
        return {"image_features": (self.scale * np.tanh(pixels @ self._weights)).reshape(-1, self._tokens, 64)}


@dataclass(frozen=True)
class Parts:
    """What a decoder is made of."""

    prompter: Prompter
    language: LanguageModel
    engine: Glance

    def decoder(
        self, *, slots: int = 4, context: int = CONTEXT, cache_bytes: int = 1 << 20, options: StepOptions | None = None
    ) -> BatchDecoder:
        """One with empty slots and caches."""
        vision_encoder = VisionEncoder(self.engine)
        halves = (self.prompter, vision_encoder, self.language)
        return BatchDecoder(*halves, slots=slots, context=context, cache_bytes=cache_bytes, options=options)

    def question(self, ask: GenerationRequest, context: int = CONTEXT) -> TokenizedRequest:
        """A request as the decoder takes it, by an prompt_builder that has seen nothing before."""
        return PromptBuilder(self.prompter, context).question(ask)

    def features(self, image: Image.Image) -> NDArray[np.float32]:
        """What the language model gets of an image."""
        return output_rows(VisionEncoder(self.engine).encode(self.prompter.pixels(image).feeds))


def open_parts(
    directory: Path,
    family: str = "llava",
    precision: Precision = Precision.NF4,
    embeddings: Precision = Precision.FP16,
) -> Parts:
    """A family's tiny model, whose layers say more than its embedding: so that an answer depends on what was asked."""
    model = tiny_vlm(family)
    for name, weight in model.get_submodule(PREFIXES[family]).named_parameters():
        if name.endswith("proj.weight"):
            weight.data *= 8
    model.save_pretrained(directory / "whole")
    write_processor(directory / "whole", family)
    plan = plan_modules(read_modules(directory / "whole"), language=precision, embeddings=embeddings)
    if precision is Precision.NF4:
        write_nf4(directory / "whole", plan, directory / "language")
    else:
        write_packed(directory / "whole", plan, directory / "language", precision=precision)
    settings = tiny_settings(family, context=CONTEXT)
    prompter = Prompter.open(directory / "whole", settings)
    language = open_language_model(directory / "language", prompter, threads=1)
    return Parts(prompter, language, Glance(_TOKENS.get(family, 4)))


_SHARED: dict[Precision, Parts] = {}


def shared_parts(directories: pytest.TempPathFactory, precision: Precision = Precision.NF4) -> Parts:
    """The tiny LLaVA's, made once; whatever a test changes in it, it must put back."""
    if precision not in _SHARED:
        _SHARED[precision] = open_parts(directories.mktemp("llava"), precision=precision)
    return _SHARED[precision]


def noise(seed: int, width: int = 30, height: int = 30) -> Image.Image:
    """An image of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)
