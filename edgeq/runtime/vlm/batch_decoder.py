"""Several answers at once, each as if it were alone. One thread.

Needs torch and transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any

import numpy as np
import torch

from edgeq.errors import EdgeqError, EngineError
from edgeq.runtime.cuda_graphs import CudaGraphs
from edgeq.runtime.vlm.constrained.grammar import Follower
from edgeq.runtime.vlm.constrained.schema import SchemaError
from edgeq.runtime.vlm.decode_step import DecodeStep, StepOptions
from edgeq.runtime.vlm.language import LanguageModel, release_memory
from edgeq.runtime.vlm.lru_cache import LruCache
from edgeq.runtime.vlm.prefill import Prefill
from edgeq.runtime.vlm.prompt import Prompter
from edgeq.runtime.vlm.sampling import NOT_DRAWN, NOT_FINITE, Sampler, choose, held, logarithms
from edgeq.runtime.vlm.step.transfer import begin_transfer
from edgeq.runtime.vlm.stream import Reason, TokenLogprob
from edgeq.runtime.vlm.text.detokenize import AnswerText
from edgeq.runtime.vlm.text.token_texts import TokenTexts
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
        error: the answer ends here, because the model gave NaN or infinity, or its JSON schema is too complex.
        logprob: how likely it was, where that was asked for; None of a token that ends answers, which is no text.
    """

    slot: int
    token_id: int
    text: str
    ended: Reason | None = None
    error: EdgeqError | None = None
    logprob: TokenLogprob | None = None


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
    follower: Follower | None
    said: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class _Choice:
    """The tokens of a step.

    Attributes:
        tokens: int64 [rows], on the model's device.
        counts: rows that are told how likely their tokens were, and so many of the likeliest.
        arrived: waits for the tokens on the host, and for what is told of them, as `logarithms` gives it.
    """

    tokens: torch.Tensor
    counts: Mapping[int, int]
    arrived: Callable[[], list[Any]]


@dataclass(frozen=True)
class _Begun:
    """A step that the device may still be busy with, and how often slots had been occupied or left by then."""

    logits: torch.Tensor
    changes: int


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
        options: how steps are run.

    Attributes:
        kept: features and prefixes of earlier requests.
        slots: answers at once.
        context: tokens of each at most.
        steps: done so far.

    Raises:
        ModelError: the language model cannot be served in slots.
        EngineError: a step cannot be captured, and that is required.
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
        options: StepOptions | None = None,
    ) -> None:
        self.slots, self.context, self.steps = slots, context, 0
        self.kept = LruCache(cache_bytes)
        self._step = DecodeStep(language.model, slots, context, language.cross_states, options)
        self._reader = Prefill(prompter, vision_encoder, language, self._step, self.kept)
        self._prompter = prompter
        self._texts = TokenTexts(prompter.tokenizer)
        self._answers: dict[int, _Answer] = {}
        ahead = None if options is None else options.ahead
        self._ahead = self._step.shape.device.type == "cuda" if ahead is None else ahead
        self._begun: _Begun | None = None
        release_memory()  # of weights that were joined

    @property
    def busy(self) -> bool:
        """Whether any answer goes on."""
        return bool(self._answers)

    @property
    def graphs(self) -> CudaGraphs:
        """What became of capturing steps."""
        return self._step.graphs

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
        text, sampler = AnswerText(self._prompter.tokenizer, question.stop), Sampler(question.sampling)
        answer = _Answer(question, text, sampler, question.follower)
        rolls, rows = self._rolls([answer]), self._rows(read.logits)
        token, logprob = self._said(self._choose(rows, [answer], rolls))[0]
        self._answers[slot] = answer
        said = self._say(slot, token, logprob)
        if slot in self._answers:
            self._step.occupy(slot, token, len(question.prompt.ids), question.prompt.next_position)
        return FirstToken(said, read.cached_tokens, read.encoder_cache_hit)

    def step(self) -> list[TokenEvent]:
        """One token for every answer that goes on; those that end here leave their slots."""
        order = tuple(self._step.order)
        answers = [self._answers[slot] for slot in order]
        rolls = self._rolls(answers)  # on its way to the device before the step, which it need not wait for
        choice = self._choose(self._rows(self._logits()), answers, rolls)
        self._step.advance(choice.tokens)
        if self._ahead and not any(len(answer.said) + 1 == answer.question.limit for answer in answers):
            self._begun = _Begun(self._step.forward(), self._step.changes)
        said = dict(zip(order, self._said(choice), strict=False))
        self.steps += 1
        return [self._say(slot, *said[slot]) for slot in sorted(order)]

    def _logits(self) -> torch.Tensor:
        """Of the step that was begun ahead, unless somebody came or went since; then it is done again.

        A step changes nothing but the row of the token that it reads, so that it may be done twice.
        """
        begun, self._begun = self._begun, None
        return begun.logits if begun is not None and begun.changes == self._step.changes else self._step.forward()

    def rehearse(self) -> None:
        """A step in which nobody says anything: it takes as long as the longest."""
        self._step.rehearse()

    def check_shapes(self) -> None:
        """Find the shapes in which steps may be run, with the number of threads that there is; while nobody is
        answered."""
        self._step.check_shapes()

    def release(self, slot: int) -> None:
        """An answer is no longer wanted; a slot that is free already stays free."""
        if self._answers.pop(slot, None) is not None:
            self._step.vacate(slot)

    def _choose(self, logits: torch.Tensor, answers: Sequence[_Answer], rolls: torch.Tensor | None) -> _Choice:
        """A token for each row of logits, of which the first are those of the answers."""
        with torch.inference_mode():
            allowed = _allowed(answers, len(logits))
            values = logits if allowed is None else held(logits, allowed)
            tokens = choose(values, rolls)
            counts = {
                row: one.question.logprobs for row, one in enumerate(answers) if one.question.logprobs is not None
            }
            rows = list(counts)
            told = logarithms(values[rows], tokens[rows], max(counts.values())) if rows else ()
            return _Choice(tokens, counts, begin_transfer([tokens, *told]))

    def _rows(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits of which tokens are chosen: on a GPU always as many rows, at least two.

        A kernel that adds up chances may do it in another order for fewer rows, and for one alone not even twice in the
        same: so what is drawn would depend on who else is there. What the rows behind say is not used.
        """
        rows = max(self.slots, 2)
        if logits.device.type == "cpu" or len(logits) == rows:
            return logits
        return torch.cat([logits, logits[:1].expand(rows - len(logits), -1)])

    def _said(self, choice: _Choice) -> list[tuple[int, TokenLogprob | None]]:
        """The tokens as numbers, and what is told of each."""
        tokens, *told = choice.arrived()  # the only transfer
        logprobs = self._told(tokens, choice.counts, *told) if told else {}
        return [(token, logprobs.get(row)) for row, token in enumerate(tokens)]

    def _told(
        self,
        tokens: Sequence[int],
        counts: Mapping[int, int],
        picked: Sequence[float],
        ids: Sequence[Sequence[int]],
        highest: Sequence[Sequence[float]],
    ) -> dict[int, TokenLogprob]:
        """By row, how likely its token was, and so many of the likeliest; nothing of a token that is no text."""
        found, silent = {}, {NOT_FINITE, *self._prompter.settings.stop}
        for at, row in enumerate(counts):
            if tokens[row] not in silent:
                best = list(zip(ids[at], highest[at], strict=True))[: counts[row]]
                top = tuple(self._texts.logprob(id, value) for id, value in best if isfinite(value))
                found[row] = replace(self._texts.logprob(tokens[row], picked[at]), top=top)
        return found

    def _rolls(self, answers: Sequence[_Answer]) -> torch.Tensor | None:
        """float32 [rows, 3] for `choose`; None where nobody draws."""
        if all(answer.sampler.greedy for answer in answers):
            return None
        rolls = [answer.sampler.roll() for answer in answers]
        device = self._step.shape.device
        if device.type == "cpu":
            return torch.tensor(rolls, dtype=torch.float32)
        rolls += [NOT_DRAWN] * (max(self.slots, 2) - len(rolls))
        return torch.tensor(rolls, dtype=torch.float32, pin_memory=device.type == "cuda").to(device, non_blocking=True)

    def _say(self, slot: int, token: int, logprob: TokenLogprob | None) -> TokenEvent:
        """Add a token to an answer, and end it where it ends."""
        answer = self._answers[slot]
        fault = "" if answer.follower is None else answer.follower.fault
        if token == NOT_FINITE or fault:
            del self._answers[slot]
            self._step.vacate(slot, clear=True)
            return TokenEvent(slot, NOT_FINITE, "", error=_too_complex(fault) if fault else _broken())
        answer.said.append(token)
        text, ended = answer.text.add(token), self._ended(answer)
        if ended is not None:
            text += answer.text.end()
            self.release(slot)
        return TokenEvent(slot, token, text, ended, logprob=logprob)

    def _ended(self, answer: _Answer) -> Reason | None:
        whole = answer.follower is not None and answer.follower.take(answer.said[-1])
        if answer.said[-1] in self._prompter.settings.stop:
            return "stop"
        if answer.text.stopped:
            return "stop_string"
        if whole:
            return "stop"
        if len(answer.said) < answer.question.limit:
            return None
        return "limit" if answer.question.limit == answer.question.requested_tokens else "context"


def _allowed(answers: Sequence[_Answer], count: int) -> torch.Tensor | None:
    """Tokens that each of `count` rows may say next, as `held` takes them; None where all may say anything."""
    rows = {row: one.follower.allowed() for row, one in enumerate(answers) if one.follower is not None}
    if not rows:
        return None
    width = max(len(row) for row in rows.values())
    found = np.full((count, width), -1, np.int32)
    for row, words in rows.items():
        found[row] = words
    return torch.from_numpy(found)


def _too_complex(why: str) -> SchemaError:
    return SchemaError(f"the JSON schema is too complex to be followed to the end: {why}", next_step="make it simpler")


def _broken() -> EngineError:
    return EngineError(
        "the language model gave NaN or infinity for this request",
        causes=("a layer overflows in FP16 on it",),
        next_step="ask in other words, or about another image",
    )
