"""What a checkpoint's headers say beside what it should hold."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final

from edgeq.model.checkpoint.stored import StoredTensor

__all__ = ["HALF", "stored_faults"]

HALF: Final = ("F16", "BF16")
"""What safetensors calls the 16-bit types."""


def stored_faults(
    expected: Mapping[str, tuple[Collection[str], tuple[int, ...] | None]], stored: Mapping[str, StoredTensor]
) -> Iterator[str]:
    """Every tensor that is missing, too much, or of another type or shape, in a line each.

    Args:
        expected: name -> the dtypes that it may have, and its shape; None for any.
        stored: what the headers say.
    """
    yield from (f"{name}: not stored" for name in sorted(expected.keys() - stored.keys()))
    yield from (f"{name}: stored, and nothing needs it" for name in sorted(stored.keys() - expected.keys()))
    for name in sorted(expected.keys() & stored.keys()):
        (dtypes, shape), found = expected[name], stored[name]
        if found.dtype not in dtypes or (shape is not None and found.shape != shape):
            wanted = f"{' or '.join(dtypes)} {None if shape is None else list(shape)}"
            yield f"{name}: stored as {found.dtype} {list(found.shape)}, expected {wanted}"
