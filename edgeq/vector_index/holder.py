"""An index that is replaced while it is searched: those who are at it finish on the old one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Generic

from typing_extensions import TypeVar

from edgeq.errors import ArtifactError
from edgeq.files import sha256_file
from edgeq.vector_index.record import RECORD_FILE
from edgeq.vector_index.search import VectorIndex

__all__ = ["IndexHolder"]

_Index = TypeVar("_Index", default=VectorIndex)
"""What is held: an index, alone or with what belongs to it."""


class IndexHolder(Generic[_Index]):
    """Serves the index of a directory, and a newer one once there is one.

    `current` is taken once for each request: the index it gives stays open until the last request lets go of it.

    Args:
        directory: with `index.json` and `index.faiss`.
        open_index: how it is opened; by default `VectorIndex.open` without vectors.

    Raises:
        ArtifactError: there is no index, or it is not what its record says.
    """

    def __init__(
        self,
        directory: Path,
        open_index: Callable[[Path], _Index] = VectorIndex.open,  # type: ignore[assignment]  # _Index's own default
    ) -> None:
        self._directory = directory
        self._open = open_index
        self._loading = Lock()
        self._digest = self._found()
        self._index: _Index = open_index(directory)

    @property
    def current(self) -> _Index:
        """The index to search now."""
        return self._index

    def reload(self) -> bool:
        """Reload the index where `index.json` has changed, and serve it from then on.

        Returns:
            Whether there was a newer one.

        Raises:
            ArtifactError: the newer one cannot be opened; the old one goes on, and the next call tries again.
        """
        with self._loading:
            digest = self._found()
            if digest == self._digest:
                return False
            self._index = self._open(self._directory)
            self._digest = digest
            return True

    def _found(self) -> str:
        """The SHA-256 of the record that is there now."""
        path = self._directory / RECORD_FILE
        try:
            return sha256_file(path)
        except OSError as error:
            raise ArtifactError(
                f"{path} cannot be read: {error.strerror or error}", next_step="build the index"
            ) from error
