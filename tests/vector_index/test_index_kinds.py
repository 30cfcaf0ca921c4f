"""Factory strings, numbers of lists and bytes, worked out by hand."""

from __future__ import annotations

import pytest

from edgeq.errors import InputError
from edgeq.vector_index.kinds import (
    KINDS,
    IndexKind,
    code_bytes,
    factory_string,
    index_bytes,
    lists,
    training_points,
)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (10_000_000, 16_384),  # 4 sqrt = 12,649; 2^13.63
        (1_000_000, 4_096),  # 4,000
        (20_000, 512),  # 566, and 39 x 512 = 19,968 rows are there
        (19_967, 256),  # one too few for 512
        (78, 2),
        (77, 1),
        (1, 1),
    ],
)
def test_lists(rows: int, expected: int) -> None:
    assert lists(rows) == expected


@pytest.mark.parametrize(
    ("dimension", "expected"),
    [(512, 64), (768, 64), (1152, 64), (384, 64), (128, 32), (64, 16), (100, 25), (514, 2), (127, 1), (3, 1)],
)
def test_bytes_of_a_code(dimension: int, expected: int) -> None:
    assert code_bytes(dimension) == expected
    assert dimension % expected == 0


def test_factory_strings() -> None:
    assert [factory_string(kind, 10_000_000, 768) for kind in KINDS] == [
        "IDMap,SQfp16",
        "IDMap,SQ8",
        "IVF16384,SQ8",
        "IVF16384,PQ64",
        "IDMap,HNSW32,SQfp16",
    ]


@pytest.mark.parametrize(
    ("kind", "memory", "vectors"),
    [
        ("flat", 10**7 * (1024 + 8), 0),
        ("sq8", 10**7 * (512 + 8) + 4096, 0),
        ("ivf-sq8", 10**7 * (512 + 8) + 4096 + 16_384 * (2048 + 8), 0),
        ("ivf-pq", 10**7 * (64 + 8) + 16_384 * (2048 + 8) + 256 * 2048, 10**7 * 1024),
        # 64 links at the bottom, a level, an offset; 32 links further up for one in 31.
        ("hnsw", 10**7 * (1024 + 8 + 256 + 12) + round(10**7 * 128 / 31), 0),
    ],
)
def test_bytes_of_ten_million(kind: IndexKind, memory: int, vectors: int) -> None:
    found = index_bytes(kind, 10**7, 512)
    assert (found.memory, found.file, found.vectors) == (memory, memory, vectors)
    assert found.build > memory


def test_training_points() -> None:
    assert training_points("flat", 10**7) == training_points("hnsw", 10**7) == 0
    assert training_points("ivf-sq8", 10**7) == training_points("ivf-pq", 10**7) == 39 * 16_384
    assert training_points("ivf-sq8", 20_000) == 20_000
    assert training_points("ivf-pq", 9_984) == 9_984
    with pytest.raises(InputError, match="too few for ivf-pq"):
        training_points("ivf-pq", 9_983)
