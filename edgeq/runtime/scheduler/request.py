"""A request from its submission to its end, and the runtime's counts over all of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgeq.runtime.vlm.stream import Done, Reason, Stream, Token, TokenLogprob, Usage
from edgeq.runtime.vlm.tokenize import TokenizedRequest

if TYPE_CHECKING:
    from edgeq.runtime.vlm.batch_decoder import FirstToken, TokenEvent

__all__ = ["ActiveRequest", "Counts"]


@dataclass
class Counts:
    """Sums over all requests since the beginning.

    Attributes:
        submitted: requests that came.
        ended: how they ended -> how many.
        prompt_tokens: read or reused, of all requests that started.
        cached_tokens: of these, reused.
        answer_tokens: of the answers.
        first_tokens: answers that had a first token.
        first_token_seconds: from submission to the first token, added up.
        decode_tokens: tokens after the first.
        decode_seconds: between those tokens, added up.
    """

    submitted: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    answer_tokens: int = 0
    first_tokens: int = 0
    first_token_seconds: float = 0.0
    decode_tokens: int = 0
    decode_seconds: float = 0.0


@dataclass
class ActiveRequest:
    """One request; times in seconds of the worker's clock.

    Attributes:
        id: its own.
        question: what is read.
        stream: where its events go.
        submitted: when it came.
        deadline: when it is too late; None for never.
        started: when it got its slot; None while it waits.
        first: when its first token was there.
        last: when its last token was there.
        token_ids: said.
        text: said and sure.
        logprobs: of the tokens said, where they were asked for.
        told: of these, how many went with text that was sure.
        cached_tokens: tokens of the prompt that were not read again.
        encoder_cache_hit: the encoder did not run.
    """

    id: str
    question: TokenizedRequest
    stream: Stream
    submitted: float
    deadline: float | None
    started: float | None = None
    first: float | None = None
    last: float = 0.0
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    told: int = 0
    cached_tokens: int = 0
    encoder_cache_hit: bool = False

    @property
    def reach(self) -> int:
        """Tokens that it may come to."""
        return len(self.question.prompt.ids) + self.question.limit

    @property
    def length(self) -> int:
        """Tokens with keys and values: all but the last that was said."""
        return len(self.question.prompt.ids) + max(len(self.token_ids) - 1, 0) if self.token_ids else 0

    def begin(self, begun: FirstToken, now: float, counts: Counts) -> None:
        """Its prompt was read, and the first token given.

        Args:
            begun: the first token, and what was not done again for it.
            now: in seconds of the worker's clock.
            counts: of all requests; is changed.
        """
        self.cached_tokens, self.encoder_cache_hit = begun.cached_tokens, begun.encoder_cache_hit
        self.first = self.last = now
        counts.first_tokens += 1
        counts.first_token_seconds += now - self.submitted
        counts.prompt_tokens += len(self.question.prompt.ids)
        counts.cached_tokens += begun.cached_tokens
        self._add(begun.said, counts)

    def go_on(self, said: TokenEvent, now: float, counts: Counts) -> None:
        """It gave another token.

        Args:
            said: the token.
            now: in seconds of the worker's clock.
            counts: of all requests; is changed.
        """
        counts.decode_tokens += 1
        counts.decode_seconds += now - self.last
        self.last = now
        self._add(said, counts)

    def done(self, reason: Reason, now: float) -> Done:
        """Its end."""
        started, first = (now if moment is None else moment for moment in (self.started, self.first))
        usage = Usage(
            prompt_tokens=len(self.question.prompt.ids),
            image_tokens=self.question.prompt.image_tokens,
            cached_tokens=self.cached_tokens,
            answer_tokens=len(self.token_ids),
            encoder_cache_hit=self.encoder_cache_hit,
            queue_seconds=started - self.submitted,
            first_token_seconds=first - self.submitted,
            seconds=now - self.submitted,
        )
        return Done(reason, usage, self.text, tuple(self.token_ids), tuple(self.logprobs))

    def _add(self, said: TokenEvent, counts: Counts) -> None:
        if said.error is not None:
            return
        counts.answer_tokens += 1
        self.token_ids.append(said.token_id)
        self.text += said.text
        if said.logprob is not None:
            self.logprobs.append(said.logprob)
        if said.text:
            self.stream.put(Token(said.text, tuple(self.logprobs[self.told :])))
            self.told = len(self.logprobs)
