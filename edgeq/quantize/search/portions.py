"""Samples in portions of the size that is asked for, in an order whose beginnings are spread over the folders."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Final

from edgeq.calibrate.samples import Array, Samples

__all__ = ["FIRST_ROUND", "Portion", "Portions"]

FIRST_ROUND: Final = 48
"""So many samples at the least are spread over the folders; then twice as many, and so on."""

_STEP: Final = 16
"""Portions are multiples of it, so that batches are full."""

Portion = tuple[list[str], list[Array]]
"""Names, and the samples themselves, [1, ...] each."""


class Portions:
    """A set of samples, to be taken bit by bit.

    Args:
        samples: all of them.
        together: so many at most are given at once.
    """

    def __init__(self, samples: Samples, *, together: int) -> None:
        self._together = together - together % _STEP if together > _STEP else together
        self._skipped: list[str] = []
        self._arrays = _spread(samples, self._skipped)

    @property
    def skipped(self) -> tuple[str, ...]:
        """Names of the samples that could not be used; those of the last round once it is at its end or closed."""
        return tuple(self._skipped)

    def take(self, count: int) -> Iterator[Portion]:
        """The next `count` samples or a few more; fewer where no more are left.

        Raises:
            ImageError: too many cannot be read.
        """
        while count > 0:
            names: list[str] = []
            arrays: list[Array] = []
            wanted = min(-(-count // _STEP) * _STEP, self._together)
            while len(names) < wanted and (one := next(self._arrays, None)) is not None:
                names.append(one[0])
                arrays.append(one[1])
            if not names:
                return
            count -= len(names)
            yield names, arrays

    def close(self) -> None:
        """Decode no further."""
        self._arrays.close()


def _spread(samples: Samples, skipped: list[str]) -> Generator[tuple[str, Array]]:
    left, count = samples, FIRST_ROUND
    while len(left):
        begun = set(samples.sample(count).names)
        others = set(left.names) - begun
        yield from left.without(others).arrays(skipped, len(samples))
        left, count = left.without(begun), 2 * count
