"""Read a prompt into a slot: the image through the encoder, the prompt in two pieces, and as little as possible twice.

Needs torch and transformers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from edgeq.errors import EngineError
from edgeq.runtime.vlm.decode_step import DecodeStep
from edgeq.runtime.vlm.feature_cache import FeatureCache
from edgeq.runtime.vlm.language import LanguageModel
from edgeq.runtime.vlm.lru_cache import LruCache
from edgeq.runtime.vlm.prefix_cache import PrefixCache, prefix_length
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

    def read(self, question: TokenizedRequest, slot: int) -> PrefillResult:
        """Read a prompt into a slot.

        Raises:
            EngineError: the vision graph fails on the image, or gives another number of features than it has places.
        """
        ids, picture = question.ids, question.picture
        cut = prefix_length(ids, self._token) if self._language.image_prompt.attention == "causal" else 0
        known = self._prefixes.get(picture.digest, ids[:cut]) if picture is not None and cut else None
        rest_sees = bool((ids[cut:] == self._token).any())
        features, encoder_cache_hit = None, True
        if picture is not None and (known is None or rest_sees):
            features, encoder_cache_hit = self._see(picture)
            _check_features(features, question)
        if known is not None:
            self._step.cache.copy_in(slot, known)
        elif picture is not None and cut:
            self._piece(question, features, slot, 0, cut)
            self._prefixes.put(picture.digest, ids[:cut], self._step.cache.copy_out(slot, cut))
        logits = self._piece(question, features, slot, cut, len(ids))
        assert logits is not None, "the last piece ends in logits"
        return PrefillResult(logits, cut if known is not None else 0, encoder_cache_hit)

    def _piece(
        self, question: TokenizedRequest, features: torch.Tensor | None, slot: int, start: int, end: int
    ) -> torch.Tensor | None:
        """Read the tokens from `start` to `end`, with those of the features that stand there."""
        ids = question.ids
        first, last = (int((ids[:index] == self._token).sum()) for index in (start, end))
        seen = None if features is None or first == last else features[first:last]
        embeddings = self._language.embed(ids[start:end], seen, self._token)
        return self._step.read(embeddings, slot, start, last=end == len(ids))

    def _see(self, picture: RequestImage) -> tuple[torch.Tensor, bool]:
        """An image's features, [places, hidden], and whether they were there already."""
        found = self._features.get(picture.digest)
        if found is not None:
            return found, True
        pixels = picture.pixels or self._prompter.pixels(picture.opened())
        features = self._language.to_device(self._vision_encoder.encode(pixels.values))
        self._features.put(picture.digest, features)
        return features, False


def _check_features(features: torch.Tensor, question: TokenizedRequest) -> None:
    if len(features) != question.image_tokens:
        raise EngineError(f"{question.image_tokens} image tokens and {len(features)} features do not go together")
