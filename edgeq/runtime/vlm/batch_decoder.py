"""Several answers at once, each as if it were alone. One thread.

Needs torch and transformers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from edgeq.errors import EngineError
from edgeq.runtime.vlm.decode_step import DecodeStep
from edgeq.runtime.vlm.language import LanguageModel
from edgeq.runtime.vlm.lru_cache import LruCache
from edgeq.runtime.vlm.prefill import Prefill
from edgeq.runtime.vlm.prompt import Prompter
from edgeq.runtime.vlm.sampling import NOT_FINITE, Sampler, choose
from edgeq.runtime.vlm.stream import Reason
from edgeq.runtime.vlm.text.detokenize import AnswerText
from edgeq.runtime.vlm.tokenize import TokenizedRequest
from edgeq.runtime.vlm.vision_encoder import VisionEncoder

__all__ = ["BatchDecoder", "FirstToken", "TokenEvent"]


@dataclass(frozen=True)
class TokenEvent:
    """One token of one answer.

    Attributes:
        slot: whose.
        token_id: which; -1 where `error` is set.
        text: that is sure now, often empty; at the end, all that was held back.
        ended: why the answer ends here; None where it goes on.
        error: the answer ends here, because the model gave NaN or infinity.
    """

    slot: int
    token_id: int
    text: str
    ended: Reason | None = None
    error: EngineError | None = None


@dataclass(frozen=True)
class FirstToken:
    """The first token, and what was not done again for it.

    Attributes:
        said: the token.
        cached_tokens: tokens of the prompt that were not read again.
        encoder_cache_hit: the encoder did not run.
    """

    said: TokenEvent
    cached_tokens: int
    encoder_cache_hit: bool


@dataclass
class _Answer:
    """What goes on in a slot."""

    question: TokenizedRequest
    text: AnswerText
    sampler: Sampler
    said: list[int] = field(default_factory=list)


class BatchDecoder:
    """Slots in which answers grow, one token for each at every step.

    Requests join and leave between steps. What one is answered depends on nothing but itself: not on the others, not on
    its slot, not on what was kept of earlier requests.

    Args:
        prompter: with the tokenizer.
        vision_encoder: the vision graph.
        language: the language model; nobody else may use it from now on.
        slots: answers at once.
        context: tokens of each, prompt included, at most.
        cache_bytes: what features and prefixes may hold.

    Attributes:
        kept: features and prefixes of earlier requests.
        slots: answers at once.
        context: tokens of each at most.
        steps: done so far.

    Raises:
        ModelError: the language model cannot be served in slots.
    """

    def __init__(
        self,
        prompter: Prompter,
        vision_encoder: VisionEncoder,
        language: LanguageModel,
        *,
        slots: int,
        context: int,
        cache_bytes: int,
    ) -> None:
        self.slots, self.context, self.steps = slots, context, 0
        self.kept = LruCache(cache_bytes)
        self._step = DecodeStep(language.model, slots, context, language.cross_states)
        self._reader = Prefill(prompter, vision_encoder, language, self._step, self.kept)
        self._prompter = prompter
        self._answers: dict[int, _Answer] = {}

    @property
    def busy(self) -> bool:
        """Whether any answer goes on."""
        return bool(self._answers)

    @property
    def kv_bytes(self) -> int:
        """Allocated for keys and values."""
        return self._step.cache.bytes

    @property
    def token_bytes(self) -> int:
        """Keys and values of one token."""
        return self._step.shape.token_bytes

    def begin(self, slot: int, question: TokenizedRequest) -> FirstToken:
        """Read a prompt into a free slot, and say the first token.

        Raises:
            EngineError: the vision graph fails on the image.
        """
        assert slot not in self._answers, f"slot {slot} is taken"
        read = self._reader.read(question, slot)
        answer = _Answer(question, AnswerText(self._prompter.tokenizer, question.stop), Sampler(question.sampling))
        with torch.inference_mode():
            token = int(choose(read.logits, self._rolls([answer]))[0])
        self._answers[slot] = answer
        said = self._say(slot, token)
        if slot in self._answers:
            self._step.occupy(slot, token, len(question.prompt.ids), question.prompt.next_position)
        return FirstToken(said, read.cached_tokens, read.encoder_cache_hit)

    def step(self) -> list[TokenEvent]:
        """One token for every answer that goes on; those that end here leave their slots."""
        with torch.inference_mode():
            chosen = choose(self._step.forward(), self._rolls([self._answers.get(slot) for slot in range(self.slots)]))
            self._step.advance(chosen)
        tokens = chosen.tolist()  # the only transfer
        self.steps += 1
        return [self._say(slot, tokens[slot]) for slot in sorted(self._answers)]

    def rehearse(self) -> None:
        """A step in which nobody says anything: it takes as long as any other."""
        self._step.forward()

    def release(self, slot: int) -> None:
        """An answer is no longer wanted; a slot that is free already stays free."""
        if self._answers.pop(slot, None) is not None:
            self._step.vacate(slot)

    def _rolls(self, answers: list[_Answer | None]) -> torch.Tensor | None:
        """float32 [answers, 3] for `choose`; None where nobody draws."""
        if all(answer is None or answer.sampler.greedy for answer in answers):
            return None
        rows = [(0.0, 1.0, 0.0) if answer is None else answer.sampler.roll() for answer in answers]
        return torch.tensor(rows, dtype=torch.float32).to(self._step.shape.device)

    def _say(self, slot: int, token: int) -> TokenEvent:
        """Add a token to an answer, and end it where it ends."""
        answer = self._answers[slot]
        if token == NOT_FINITE:
            self.release(slot)
            self._step.cache.clear(slot)
            return TokenEvent(slot, token, "", error=_broken())
        answer.said.append(token)
        text, ended = answer.text.add(token), self._ended(answer)
        if ended is not None:
            text += answer.text.end()
            self.release(slot)
        return TokenEvent(slot, token, text, ended)

    def _ended(self, answer: _Answer) -> Reason | None:
        if answer.said[-1] in self._prompter.settings.stop:
            return "stop"
        if answer.text.stopped:
            return "stop_string"
        if len(answer.said) < answer.question.limit:
            return None
        return "limit" if answer.question.limit == answer.question.requested_tokens else "context"


def _broken() -> EngineError:
    return EngineError(
        "the language model gave NaN or infinity for this request",
        causes=("a layer overflows in FP16 on it",),
        next_step="ask in other words, or about another image",
    )
