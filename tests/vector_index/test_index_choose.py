"""The choice at its borders, with bytes worked out by hand for 512 numbers a vector."""

from __future__ import annotations

import pytest

from edgeq.errors import InputError
from edgeq.vector_index.choose import choose_kind

WORK = 3 * 16_384 * 2048 + 64_000_000
LISTS = 4096 * (2048 + 8)
FLAT = 10**6 * 1032
SQ8 = 10**6 * 520 + 4096 + LISTS
PQ = 10**6 * 72 + LISTS + 256 * 2048
TRAINING = 39 * 4096 * (1024 + 24) + 3 * 32_768 * 2048 + 2 * 4096 * 2048 + 8 * 10**6


def kind(rows: int, memory: int, *, built_here: bool = True) -> str:
    return choose_kind(rows, 512, memory, built_here=built_here)[0]


def test_each_kind_down_to_its_last_byte() -> None:
    """Adding is what takes most for flat and ivf-sq8, 8 bytes a row beside the latter; for ivf-pq training is."""
    flat, sq8, pq = FLAT + WORK, SQ8 + 8 * 10**6 + WORK, TRAINING + WORK
    assert PQ + 8 * 10**6 < TRAINING < SQ8
    assert kind(10**6, flat) == "flat"
    assert kind(10**6, flat - 1) == kind(10**6, sq8) == "ivf-sq8"
    assert kind(10**6, sq8 - 1) == kind(10**6, pq) == "ivf-pq"
    with pytest.raises(InputError, match=r"fits 0\.56 GB"):
        kind(10**6, pq - 1)


def test_an_index_built_elsewhere_needs_less() -> None:
    assert kind(10**6, FLAT, built_here=False) == "flat"
    assert kind(10**6, FLAT - 1, built_here=False) == kind(10**6, SQ8, built_here=False) == "ivf-sq8"
    assert kind(10**6, SQ8 - 1, built_here=False) == kind(10**6, PQ, built_here=False) == "ivf-pq"
    with pytest.raises(InputError, match=r"fits 80\.9 MB"):
        kind(10**6, PQ - 1, built_here=False)


def test_beyond_a_million_rows_not_all_are_compared() -> None:
    assert kind(10**6, 10**12) == "flat"
    assert kind(10**6 + 1, 10**12) == "ivf-sq8"


def test_short_codes_need_rows_to_learn_from() -> None:
    assert kind(9_984, 9_984 * 72 + 256 * 2056 + 256 * 2048, built_here=False) == "ivf-pq"
    with pytest.raises(InputError, match="ivf-sq8"):
        kind(9_983, 9_983 * 72 + 256 * 2056 + 256 * 2048, built_here=False)


@pytest.mark.parametrize(
    ("memory", "reason"),
    [
        (10**10, "flat: 1,000,000 vectors are few enough to compare all of them, exactly, in 1.20 GB of 10.00 GB"),
        (10**9, "ivf-sq8: float16 vectors do not fit; 8 bits a number in lists take 0.70 GB of 1.00 GB"),
        (
            6 * 10**8,
            "ivf-pq: 8 bits a number do not fit; short codes take 0.56 GB of 0.60 GB, and float16 vectors on disk "
            "decide at the end",
        ),
    ],
)
def test_the_reason_has_the_numbers(memory: int, reason: str) -> None:
    assert choose_kind(10**6, 512, memory)[1] == reason


def test_the_refusal_has_the_numbers() -> None:
    with pytest.raises(InputError) as refused:
        choose_kind(10**7, 512, 10**8)
    assert "10,000,000 vectors of 512 numbers fits 100.0 MB" in refused.value.what
    assert "ivf-sq8 5.58 GB, ivf-pq" in refused.value.expected  # 5.2337 + 0.08 + 0.1007 + 0.1647


@pytest.mark.parametrize(("rows", "dimension"), [(0, 512), (5, 0)])
def test_nothing_to_index(rows: int, dimension: int) -> None:
    with pytest.raises(InputError, match="need no index"):
        choose_kind(rows, dimension, 10**9)
