"""Read a prompt into a slot: the image through the encoder, the prompt in two pieces, and as little as possible twice.

Needs torch and transformers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from edgeq.errors import EngineError
from edgeq.runtime.eyes import Eyes
from edgeq.runtime.feature_cache import FeatureCache
from edgeq.runtime.kept import Kept
from edgeq.runtime.language import LanguageModel
from edgeq.runtime.prefix import PrefixStore, prefix_length
from edgeq.runtime.prompt import Prompter
from edgeq.runtime.questions import Picture, Question
from edgeq.runtime.step import Step

__all__ = ["Read", "Reader"]


@dataclass(frozen=True)
class Read:
    """A prompt that was read.

    Attributes:
        logits: of its last token, [1, vocabulary].
        reused: tokens that were not read again.
        saw_again: the encoder did not run.
    """

    logits: torch.Tensor
    reused: int
    saw_again: bool


class Reader:
    """Reads prompts.

    Args:
        prompter: makes pixels of an image.
        eyes: the vision graph.
        language: the language model.
        step: its slots.
        kept: where features and prefixes are kept.
    """

    def __init__(self, prompter: Prompter, eyes: Eyes, language: LanguageModel, step: Step, kept: Kept) -> None:
        self._prompter, self._eyes, self._language, self._step = prompter, eyes, language, step
        self._features, self._prefixes = FeatureCache(kept), PrefixStore(kept)
        self._token = prompter.settings.image_token_id

    def read(self, question: Question, slot: int) -> Read:
        """Read a prompt into a slot.

        Raises:
            EngineError: the vision graph fails on the image, or gives another number of features than it has places.
        """
        ids, picture = question.ids, question.picture
        cut = prefix_length(ids, self._token) if self._language.family.attention == "causal" else 0
        known = self._prefixes.get(picture.digest, ids[:cut]) if picture is not None and cut else None
        rest_sees = bool((ids[cut:] == self._token).any())
        features, saw_again = None, True
        if picture is not None and (known is None or rest_sees):
            features, saw_again = self._see(picture)
            _check_features(features, question)
        if known is not None:
            self._step.cache.copy_in(slot, known)
        elif picture is not None and cut:
            self._piece(question, features, slot, 0, cut)
            self._prefixes.put(picture.digest, ids[:cut], self._step.cache.copy_out(slot, cut))
        logits = self._piece(question, features, slot, cut, len(ids))
        assert logits is not None, "the last piece ends in logits"
        return Read(logits, cut if known is not None else 0, saw_again)

    def _piece(
        self, question: Question, features: torch.Tensor | None, slot: int, start: int, end: int
    ) -> torch.Tensor | None:
        """Read the tokens from `start` to `end`, with those of the features that stand there."""
        ids = question.ids
        first, last = (int((ids[:index] == self._token).sum()) for index in (start, end))
        seen = None if features is None or first == last else features[first:last]
        embeddings = self._language.embed(ids[start:end], seen, self._token)
        return self._step.read(embeddings, slot, start, last=end == len(ids))

    def _see(self, picture: Picture) -> tuple[torch.Tensor, bool]:
        """An image's features, [places, hidden], and whether they were there already."""
        found = self._features.get(picture.digest)
        if found is not None:
            return found, True
        pixels = picture.pixels or self._prompter.pixels(picture.opened())
        features = self._language.adopt(self._eyes.look(pixels.values))
        self._features.put(picture.digest, features)
        return features, False


def _check_features(features: torch.Tensor, question: Question) -> None:
    if len(features) != question.image_tokens:
        raise EngineError(f"{question.image_tokens} image tokens and {len(features)} features do not go together")
