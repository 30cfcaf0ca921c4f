"""faiss, loaded when it is first needed: the one place that knows it has no types.

What an array's pointer is to faiss, how many threads a call has, and which file flags this release knows stands here.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

from edgeq.errors import InputError
from edgeq.extras import install_command

__all__ = ["faiss", "mapping_flags", "matrix_products", "use_threads"]

_ENCODED_AT_ONCE: Final = 1024
"""Rows for which faiss makes tables of distances at once when it encodes; its own number takes gigabytes."""

_PRODUCTS_FROM: Final = 20
_NO_PRODUCTS: Final = 2**31 - 1
"""Vectors from which on faiss compares by matrix products."""


@cache
def faiss() -> Any:
    """The module `faiss`, set so that a query's scores are the same alone and among others.

    Raises:
        InputError: it is not installed.
    """
    try:
        loaded = importlib.import_module("faiss")
    except ImportError as error:
        raise InputError(
            "faiss is not installed, which the search index needs",
            causes=(str(error),),
            next_step=install_command("retrieval"),
        ) from error
    loaded.cvar.product_quantizer_compute_codes_bs = _ENCODED_AT_ONCE
    loaded.cvar.distance_compute_blas_threshold = _NO_PRODUCTS
    return loaded


@contextmanager
def matrix_products() -> Iterator[None]:
    """Have faiss compare by matrix products while something is built: several times as fast for many vectors.

    Sums then depend on how many vectors are compared at once, in their last bit. It is one setting of the process: a
    search that runs meanwhile is as right, but for that bit.
    """
    settings = faiss().cvar
    settings.distance_compute_blas_threshold = _PRODUCTS_FROM
    try:
        yield
    finally:
        settings.distance_compute_blas_threshold = _NO_PRODUCTS


def use_threads(threads: int) -> None:
    """Give faiss so many threads for what this thread calls from here on; OpenMP keeps the number per thread."""
    faiss().omp_set_num_threads(threads)


def mapping_flags() -> int:
    """How an index is opened without reading all of it into memory.

    faiss 1.11 and later map a file of any kind; before, only the lists of an inverted file.
    """
    library = faiss()
    return int(getattr(library, "IO_FLAG_MMAP_IFC", library.IO_FLAG_MMAP))
