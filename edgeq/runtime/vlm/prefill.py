"""Read a prompt into a slot: images through the encoder, the prompt in pieces, and as little as possible twice.

Needs torch and transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from edgeq.runtime.vlm.decode_step import DecodeStep
from edgeq.runtime.vlm.feature_cache import FeatureCache
from edgeq.runtime.vlm.language import LanguageModel
from edgeq.runtime.vlm.lru_cache import LruCache
from edgeq.runtime.vlm.piece import ImageStates
from edgeq.runtime.vlm.prefix_cache import PrefixCache, piece_keys
from edgeq.runtime.vlm.prompt import Prompter
from edgeq.runtime.vlm.tokenize import RequestImage, TokenizedRequest
from edgeq.runtime.vlm.vision_encoder import VisionEncoder

__all__ = ["Prefill", "PrefillResult"]


@dataclass(frozen=True)
class PrefillResult:
    """A prompt that was read.

    Attributes:
        logits: of its last token, [1, vocabulary].
        cached_tokens: tokens that were not read again.
        encoder_cache_hit: the encoder did not run.
    """

    logits: torch.Tensor
    cached_tokens: int
    encoder_cache_hit: bool


class Prefill:
    """Reads prompts.

    Args:
        prompter: makes pixels of an image.
        vision_encoder: the vision graph.
        language: the language model.
        step: its slots.
        kept: where features and prefixes are kept.
    """

    def __init__(
        self,
        prompter: Prompter,
        vision_encoder: VisionEncoder,
        language: LanguageModel,
        step: DecodeStep,
        kept: LruCache,
    ) -> None:
        self._prompter, self._vision_encoder, self._language, self._step = prompter, vision_encoder, language, step
        self._features, self._prefixes = FeatureCache(kept), PrefixCache(kept)
        self._token = prompter.settings.image_token_id
        self._encoded = 0

    def read(self, question: TokenizedRequest, slot: int) -> PrefillResult:
        """Read a prompt into a slot.

        Raises:
            EngineError: the vision graph fails on an image, or gives another number of features than it has places.
        """
        prompt, encoded = question.prompt, self._encoded
        bounds = (0, *prompt.cuts, len(prompt.ids))
        keys = piece_keys(prompt, [image.digest for image in question.images], self._token)
        keeps = self._language.image_prompt.attention != "prompt"
        known = self._prefixes.known(keys[:-1]) if keeps else []
        start = bounds[len(known)]
        images = self._images(question, start)
        for at, kept in zip(bounds, known, strict=False):
            self._step.copy_in(slot, at, kept)
        logits = None
        for key, (begin, end) in list(zip(keys, pairwise(bounds), strict=True))[len(known) :]:
            piece = self._language.piece(prompt, images, begin, end)
            logits = self._step.read(piece, slot)
            if keeps:
                crossed = piece.cross is not None and piece.cross.states is not None
                self._prefixes.put(key, self._step.copy_out(slot, begin, end, cross=crossed))
        assert logits is not None, "the last piece ends in logits"
        return PrefillResult(logits, start, self._encoded == encoded)

    def _images(self, question: TokenizedRequest, start: int) -> list[ImageStates | None]:
        """What the model is given of each image that has a place from `start` on; None for the others."""
        before = int((question.prompt.ids[:start] == self._token).sum())
        ends = np.cumsum([image.layout.tokens for image in question.images], dtype=np.int64)
        return [self._see(image) if end > before else None for image, end in zip(question.images, ends, strict=True)]

    def _see(self, image: RequestImage) -> ImageStates:
        """One image's, seen now or before."""
        found = self._features.get(image.digest)
        if found is not None:
            return found
        self._encoded += 1
        pixels = image.pixels or self._prompter.pixels(image.opened())
        made = self._vision_encoder.encode(pixels.feeds)
        states = self._language.to_device(self._prompter.joined(made, pixels.layout))
        self._features.put(image.digest, states)
        return states
