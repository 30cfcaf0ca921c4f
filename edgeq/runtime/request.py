"""A request from its submission to its end, and the runtime's counts over all of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgeq.runtime.questions import Question
from edgeq.runtime.stream import Done, Reason, Stream, Token, Usage

if TYPE_CHECKING:
    from edgeq.runtime.decode import Begun, Said

__all__ = ["Counts", "Request"]


@dataclass
class Counts:
    """Sums since the beginning; `edgeq.runtime.snapshot.Snapshot` says what they are."""

    submitted: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    answer_tokens: int = 0
    first_tokens: int = 0
    first_token_seconds: float = 0.0
    decode_tokens: int = 0
    decode_seconds: float = 0.0


@dataclass
class Request:
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
        reused: tokens of the prompt that were not read again.
        saw_again: the encoder did not run.
    """

    id: str
    question: Question
    stream: Stream
    submitted: float
    deadline: float | None
    started: float | None = None
    first: float | None = None
    last: float = 0.0
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    reused: int = 0
    saw_again: bool = False

    @property
    def reach(self) -> int:
        """Tokens that it may come to."""
        return len(self.question.ids) + self.question.limit

    @property
    def length(self) -> int:
        """Tokens with keys and values: all but the last that was said."""
        return len(self.question.ids) + max(len(self.token_ids) - 1, 0) if self.token_ids else 0

    def begin(self, begun: Begun, now: float, counts: Counts) -> None:
        """Its prompt was read, and the first token said."""
        self.reused, self.saw_again = begun.reused, begun.saw_again
        self.first = self.last = now
        counts.first_tokens += 1
        counts.first_token_seconds += now - self.submitted
        counts.prompt_tokens += len(self.question.ids)
        self._add(begun.said, counts)

    def go_on(self, said: Said, now: float, counts: Counts) -> None:
        """It said another token."""
        counts.decode_tokens += 1
        counts.decode_seconds += now - self.last
        self.last = now
        self._add(said, counts)

    def done(self, reason: Reason, now: float) -> Done:
        """Its end."""
        started, first = (now if moment is None else moment for moment in (self.started, self.first))
        usage = Usage(
            prompt_tokens=len(self.question.ids),
            image_tokens=self.question.image_tokens,
            reused_tokens=self.reused,
            answer_tokens=len(self.token_ids),
            saw_again=self.saw_again,
            queue_seconds=started - self.submitted,
            first_token_seconds=first - self.submitted,
            seconds=now - self.submitted,
        )
        return Done(reason, usage, self.text, tuple(self.token_ids))

    def _add(self, said: Said, counts: Counts) -> None:
        if said.error is not None:
            return
        counts.answer_tokens += 1
        self.token_ids.append(said.token_id)
        self.text += said.text
        if said.text:
            self.stream.put(Token(said.text))
