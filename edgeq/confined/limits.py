"""How much untrusted work may cost, and what it gives back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["START_S", "Answer", "Limits", "Made"]

START_S: Final = 120.0
"""Seconds in which a child must have started and loaded its modules; a device that swaps takes long."""

_ANSWER_BYTES: Final = 64 << 20


@dataclass(frozen=True)
class Limits:
    """What one call may cost.

    Attributes:
        seconds: from the call to its answer; the child is killed then.
        memory_bytes: of address space beyond what the child has mapped when the call begins (RLIMIT_AS).
        cpu_seconds: of all its threads together (RLIMIT_CPU); None takes `seconds`.
        answer_bytes: of the data that is given back.
    """

    seconds: float
    memory_bytes: int
    cpu_seconds: float | None = None
    answer_bytes: int = _ANSWER_BYTES

    def __str__(self) -> str:
        """In words, for an error."""
        return f"{self.seconds:,.3g} s and {self.memory_bytes / 1e6:,.0f} MB"


@dataclass(frozen=True)
class Made:
    """What a function gives back in the child.

    Attributes:
        plain: as JSON has it.
        data: bytes beside it, whole or piece by piece; a generator runs under the limits as well.
    """

    plain: Mapping[str, Any]
    data: bytes | Iterable[bytes] = b""


@dataclass(frozen=True)
class Answer:
    """The same as the parent gets it.

    Attributes:
        plain: as JSON has it.
        data: bytes beside it, such as pixels.
    """

    plain: Mapping[str, Any]
    data: bytearray | memoryview = field(repr=False)
