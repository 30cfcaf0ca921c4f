"""How many images could not be used, over all shards: a few are ordinary, many mean that something is wrong."""

from __future__ import annotations

from typing import Final

from edgeq.catalog.layout import ShardRecord
from edgeq.errors import ImageError
from edgeq.model.images.stream import MAX_BAD_SHARE

__all__ = ["MAX_BAD_SHARE", "Tally"]

_FROM: Final = 20
"""Images that must have been seen before a share says anything."""

_NAMED: Final = 5


class Tally:
    """Images seen and images that could not be used.

    Args:
        most: the largest share of unusable images.
    """

    def __init__(self, most: float = MAX_BAD_SHARE) -> None:
        self._most = most
        self._seen = 0
        self._damaged = 0
        self._named: list[str] = []

    def add(self, record: ShardRecord, removed: frozenset[int]) -> None:
        """Count a shard. Images that are gone do not count, nor those that were removed since.

        Args:
            record: of the shard.
            removed: positions of images that are gone or changed by now.
        """
        damaged = [each for each in record.skipped if each.kind != "gone" and each.position not in removed]
        self._seen += record.rows + len(damaged)
        self._damaged += len(damaged)
        self._named += [_sentence(each.path, each.reason) for each in damaged[: _NAMED - len(self._named)]]

    def check(self) -> None:
        """Raise ImageError where more than the share cannot be used."""
        if self._seen < _FROM or self._damaged <= self._most * self._seen:
            return
        raise ImageError(
            f"{self._damaged:,} of {self._seen:,} images cannot be used, that is more than {self._most:.0%}",
            causes=self._named,
            next_step="repair or remove these images (damaged/ lists all), or allow a larger share",
        )


def _sentence(path: str, reason: str) -> str:
    return reason if path in reason else f"{path}: {reason}"
