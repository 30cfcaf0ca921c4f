"""A two-tower model that is served, and the catalog that its vectors are searched in."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeq.catalog.row_images import RowImage
from edgeq.catalog.searched import INDEX, FoundRow, SearchedCatalog, Value
from edgeq.errors import EdgeqError
from edgeq.runtime.retrieval.workers import RetrievalWorkers
from edgeq.service.http.log import log
from edgeq.vector_index.holder import IndexHolder

__all__ = ["ServedCatalog", "ServedRetrieval"]

_LOOK_S: Final = 1.0
"""The index is looked at again at most so often."""


class ServedCatalog:
    """A catalog that is searched, and the newer one once `edgeq index` has run again; for any number of threads.

    Args:
        directory: of the catalog.
        open_catalog: opens it with its index.
        clock: seconds that do not go back.

    Raises:
        ArtifactError, InputError: it cannot be opened.
    """

    def __init__(
        self,
        directory: Path,
        open_catalog: Callable[[Path], SearchedCatalog],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._holder = IndexHolder(directory / INDEX, lambda _index: open_catalog(directory))
        self._clock = clock
        self._looked = clock()
        self._looking = Lock()
        self._fault = ""
        self._counting = Lock()
        self._searches = 0

    @property
    def searches(self) -> int:
        """Since the start, failed ones included."""
        return self._searches

    @property
    def rows(self) -> int:
        """Of the catalog that is searched now, those of removed images included."""
        return self._holder.current.rows

    def near(
        self, query: NDArray[np.float32], k: int, only: Mapping[str, Sequence[Value]] | None = None
    ) -> tuple[FoundRow, ...]:
        """As `SearchedCatalog.near`, in the newest index that can be opened."""
        with self._counting:
            self._searches += 1
        self._look()
        return self._holder.current.near(query, k, only)

    def image(self, row: int) -> RowImage:
        """As `SearchedCatalog.image`, of the newest catalog."""
        self._look()
        return self._holder.current.image(row)

    def _look(self) -> None:
        """Reload the index where it has changed; one request does it, the others go on with the old one."""
        if self._clock() - self._looked < _LOOK_S or not self._looking.acquire(blocking=False):
            return
        try:
            if self._holder.reload():
                log("index reloaded", index=str(self._directory), rows=self.rows)
            self._fault = ""
        except EdgeqError as error:
            if error.what != self._fault:  # once, not at each look
                log("index not reloaded", level=logging.WARNING, index=str(self._directory), reason=error.what)
            self._fault = error.what
        finally:
            self._looked = self._clock()
            self._looking.release()


@dataclass(frozen=True)
class ServedRetrieval:
    """What a two-tower bundle is served with.

    Attributes:
        workers: both encoders.
        catalog: that is searched; None where none is.
    """

    workers: RetrievalWorkers
    catalog: ServedCatalog | None

    @property
    def progress(self) -> tuple[bool, int]:
        """Whether there is work, and a number that changes while it is being done."""
        figures = self.workers.figures
        both = (figures.text_batches, figures.image_batches)
        return any(each.running > 0 for each in both), sum(each.ended for each in both)
