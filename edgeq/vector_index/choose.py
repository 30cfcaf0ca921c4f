"""Which kind of index: exact while that is quick enough, then lists, then lists of short codes, by what fits."""

from __future__ import annotations

from typing import Final

from edgeq.errors import InputError
from edgeq.vector_index.kinds import IndexKind, index_bytes

__all__ = ["FLAT_ROWS", "choose_kind"]

FLAT_ROWS: Final = 1_000_000
"""Up to here every vector is compared."""

_SHORT_CODE_ROWS: Final = 9_984
"""From here on short codes can be trained."""

_IN_GIGABYTES: Final = 200_000_000


def choose_kind(rows: int, dimension: int, memory_bytes: int, *, built_here: bool = True) -> tuple[IndexKind, str]:
    """The kind of index for a catalog, and why in a sentence.

    Args:
        rows: that it will hold.
        dimension: numbers of a vector.
        memory_bytes: what the index may take, without Python and its libraries.
        built_here: building has to fit as well; otherwise only the index.

    Raises:
        InputError: nothing fits, or there is no row or no dimension.
    """
    if rows < 1 or dimension < 1:
        raise InputError(f"{rows:,} vectors of {dimension} numbers need no index")
    needs = {kind: _need(kind, rows, dimension, built_here) for kind in _candidates(rows)}
    for kind, need in needs.items():
        if need <= memory_bytes:
            return kind, _reason(kind, rows, need, memory_bytes)
    told = ", ".join(f"{kind} {_size(need)}" for kind, need in needs.items())
    raise InputError(
        f"no index over {rows:,} vectors of {dimension} numbers fits {_size(memory_bytes)}",
        expected=f"memory for one of: {told}",
        next_step="give it more memory, or build on a larger machine and only serve here" if built_here else "",
    )


def _candidates(rows: int) -> tuple[IndexKind, ...]:
    """Best first."""
    exact: tuple[IndexKind, ...] = ("flat",) if rows <= FLAT_ROWS else ()
    short: tuple[IndexKind, ...] = ("ivf-pq",) if rows >= _SHORT_CODE_ROWS else ()
    return (*exact, "ivf-sq8", *short)


def _need(kind: IndexKind, rows: int, dimension: int, built_here: bool) -> int:
    """Bytes of memory."""
    found = index_bytes(kind, rows, dimension)
    return max(found.build, found.memory) if built_here else found.memory


def _reason(kind: IndexKind, rows: int, need: int, memory_bytes: int) -> str:
    """Why this kind, for a person."""
    fits = f"{_size(need)} of {_size(memory_bytes)}"
    if kind == "flat":
        return f"flat: {rows:,} vectors are few enough to compare all of them, exactly, in {fits}"
    if kind == "ivf-sq8":
        why = f"{rows:,} vectors are too many to compare all" if rows > FLAT_ROWS else "float16 vectors do not fit"
        return f"ivf-sq8: {why}; 8 bits a number in lists take {fits}"
    return f"ivf-pq: 8 bits a number do not fit; short codes take {fits}, and float16 vectors on disk decide at the end"


def _size(count: int) -> str:
    """Bytes in words, in units of 10^9 or, where that is little, of 10^6."""
    return f"{count / 1e9:.2f} GB" if count >= _IN_GIGABYTES else f"{count / 1e6:.1f} MB"
