"""What a prompt of numbers and its answer took: the same prompts and the same clock for every side."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Final

__all__ = ["AnswerClock", "Size", "prompt_ids"]

_LOWEST: Final = 16
_WORDS: Final = 32
"""Tokens that a small vocabulary has, too, behind those that are no text."""


@dataclass(frozen=True)
class Size:
    """Of what is asked.

    Attributes:
        prompt: tokens to read.
        tokens: of the answer, the first one included; 2 at least.
        threads: of the processor.
    """

    prompt: int
    tokens: int
    threads: int


def prompt_ids(seed: int, count: int) -> list[int]:
    """So many tokens of chance."""
    drawn = random.Random(seed)
    return [_LOWEST + drawn.randrange(_WORDS) for _ in range(count)]


class AnswerClock:
    """Seconds by the wall and of the processor, of all threads, from when it is made."""

    def __init__(self) -> None:
        self._begun = self._now()

    def first(self) -> None:
        """The first token is there."""
        self._first = self._now()

    def took(self, tokens: int) -> dict[str, float]:
        """The answer has so many tokens: seconds to the first, and for each further one, by both clocks."""
        end, begun, first = self._now(), self._begun, self._first
        further = tokens - 1
        return {
            "first": first[0] - begun[0],
            "further": (end[0] - first[0]) / further,
            "first_cpu": first[1] - begun[1],
            "further_cpu": (end[1] - first[1]) / further,
        }

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()
