"""What admission decides: about a request, and about memory."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "Action",
    "Admitted",
    "Busy",
    "Decision",
    "Expired",
    "HoldNewWork",
    "Queued",
    "ResumeNewWork",
    "ShrinkCaches",
    "TooLarge",
]


@dataclass(frozen=True)
class Admitted:
    """A request may start now; its bytes are reserved.

    Attributes:
        id: of the request.
        slot: its own until it ends, from 0 on; the lowest that was free.
    """

    id: str
    slot: int


@dataclass(frozen=True)
class Queued:
    """A request waits; it is admitted by a later call, or expires.

    Attributes:
        id: of the request.
        ahead: how many waited already.
    """

    id: str
    ahead: int


@dataclass(frozen=True)
class TooLarge:
    """A request never fits (HTTP 413).

    Attributes:
        id: of the request.
        needed: bytes that it takes alone.
        budget: bytes for all requests and caches.
    """

    id: str
    needed: int
    budget: int


@dataclass(frozen=True)
class Busy:
    """The queue is full (HTTP 429).

    Attributes:
        id: of the request.
        retry_after_s: whole seconds, from 1 on, as Retry-After takes them (RFC 9110, section 10.2.3).
    """

    id: str
    retry_after_s: int


@dataclass(frozen=True)
class Expired:
    """A request's deadline has passed, and its reservation is gone.

    Attributes:
        id: of the request.
        slot: that it ran in; None where it was waiting.
    """

    id: str
    slot: int | None


@dataclass(frozen=True)
class ShrinkCaches:
    """The caches must give back `bytes`, to the system and not to an allocator that keeps them."""

    bytes: int


@dataclass(frozen=True)
class HoldNewWork:
    """Nothing starts from now on; what runs goes on."""


@dataclass(frozen=True)
class ResumeNewWork:
    """Requests may start again."""


Decision = Admitted | Queued | TooLarge | Busy
Action = ShrinkCaches | HoldNewWork | ResumeNewWork | Admitted
