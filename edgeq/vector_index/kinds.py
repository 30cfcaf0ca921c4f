"""The kinds of index: how faiss is told to make one, and the bytes it takes, from rows and dimension alone.

| kind | of a vector in the index | search looks at |
|---|---|---|
| flat | float16 | all |
| sq8 | 8 bits a number | all |
| ivf-sq8 | 8 bits a number of what its list's centre leaves | the nearest lists |
| ivf-pq | up to 64 bytes in all | the nearest lists, then float16 vectors on disk |
| hnsw | float16, and 32 neighbours or more | a walk from neighbour to neighbour |

Every kind keeps a row number of 8 bytes for each vector.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, get_args

from edgeq.errors import InputError
from edgeq.vector_index.centres import TWO_LEVELS_FROM
from edgeq.vector_index.vectors import BLOCK_ROWS

__all__ = [
    "IVF_KINDS",
    "KINDS",
    "POINTS_A_LIST",
    "SECOND_POINTS",
    "IndexBytes",
    "IndexKind",
    "code_bytes",
    "factory_string",
    "index_bytes",
    "lists",
    "training_points",
]

IndexKind = Literal["flat", "sq8", "ivf-sq8", "ivf-pq", "hnsw"]
KINDS: Final[tuple[IndexKind, ...]] = get_args(IndexKind)
IVF_KINDS: Final[tuple[IndexKind, ...]] = ("ivf-sq8", "ivf-pq")
"""Those with lists."""

POINTS_A_LIST: Final = 39
"""With fewer training points for a centre faiss warns that it is badly placed."""

SECOND_POINTS: Final = 32_768
"""At most so many vectors, as float32, show the ranges of numbers or the centres of a code's parts."""

_PQ_CENTRES: Final = 256
_PQ_POINTS: Final = _PQ_CENTRES * POINTS_A_LIST
_LARGEST_CODE: Final = 64
_SMALLEST_PART: Final = 4
_HNSW_LINKS: Final = 32
_ID_BYTES: Final = 8
_WORK_BYTES: Final = 64_000_000
_DECODED_ROWS: Final = 32_768


@dataclass(frozen=True)
class IndexBytes:
    """What an index takes, in bytes.

    Attributes:
        memory: of the index when all of it is in memory; less is resident where it is mapped and not all was looked at.
        file: of `index.faiss`.
        vectors: of the float16 vectors on disk that a search reads; 0 where it reads none.
        build: the most memory that building takes, without Python and its libraries; an estimate from above.
    """

    memory: int
    file: int
    vectors: int
    build: int


def lists(rows: int) -> int:
    """Lists of an inverted file: the power of two nearest to 4 sqrt(rows) for which training has 39 points a list."""
    wanted = round(math.log2(4 * math.sqrt(max(rows, 1))))
    most = max(rows // POINTS_A_LIST, 1).bit_length() - 1
    return 1 << min(wanted, most)


def code_bytes(dimension: int) -> int:
    """Bytes of a product-quantized vector: the most parts of 4 numbers or more, up to 64, that divide it evenly."""
    most = max(min(_LARGEST_CODE, dimension // _SMALLEST_PART), 1)
    return next(parts for parts in range(most, 0, -1) if dimension % parts == 0)


def factory_string(kind: IndexKind, rows: int, dimension: int) -> str:
    """What `faiss.index_factory` is told.

    Args:
        kind: of the index.
        rows: that it will hold.
        dimension: numbers of a vector.
    """
    return {
        "flat": "IDMap,SQfp16",
        "sq8": "IDMap,SQ8",
        "ivf-sq8": f"IVF{lists(rows)},SQ8",
        "ivf-pq": f"IVF{lists(rows)},PQ{code_bytes(dimension)}",
        "hnsw": f"IDMap,HNSW{_HNSW_LINKS},SQfp16",
    }[kind]


def training_points(kind: IndexKind, rows: int) -> int:
    """How many vectors a kind is trained on; 0 for those that need none.

    Raises:
        InputError: product quantization needs more rows than there are.
    """
    if kind == "ivf-pq" and rows < _PQ_POINTS:
        raise InputError(
            f"{rows:,} vectors are too few for ivf-pq",
            expected=f"{_PQ_POINTS:,} or more: its {_PQ_CENTRES} centres a part are trained on them",
            next_step="take kind flat, which is exact",
        )
    if kind in IVF_KINDS:
        return min(max(POINTS_A_LIST * lists(rows), SECOND_POINTS), rows)
    return min(rows, SECOND_POINTS) if kind == "sq8" else 0


def index_bytes(kind: IndexKind, rows: int, dimension: int) -> IndexBytes:
    """What an index takes.

    Args:
        kind: of the index.
        rows: that it holds.
        dimension: numbers of a vector.

    Raises:
        InputError: as `training_points`.
    """
    memory = rows * (_vector_bytes(kind, dimension) + _ID_BYTES) + _tables(kind, rows, dimension)
    return IndexBytes(
        memory=memory,
        file=memory,
        vectors=2 * rows * dimension if kind == "ivf-pq" else 0,
        build=max(memory + _adding(kind, rows, dimension), _training(kind, rows, dimension)) + _working(dimension),
    )


def _vector_bytes(kind: IndexKind, dimension: int) -> int:
    """Of one vector, without its row number; an HNSW's neighbours come on top."""
    if kind in ("flat", "hnsw"):
        return 2 * dimension
    return code_bytes(dimension) if kind == "ivf-pq" else dimension


def _tables(kind: IndexKind, rows: int, dimension: int) -> int:
    """Beside the vectors: ranges, centres, sizes of lists, and an HNSW's neighbours."""
    found = 0
    if kind in ("sq8", "ivf-sq8"):
        found += 2 * 4 * dimension  # smallest and range of each number
    if kind in IVF_KINDS:
        found += lists(rows) * (4 * dimension + 8)
    if kind == "ivf-pq":
        found += _PQ_CENTRES * 4 * dimension
    if kind == "hnsw":
        # A level and an offset each; twice the links below, and the links on each level above, which one in 32 reaches.
        above = _HNSW_LINKS / (_HNSW_LINKS - 1)
        found += rows * (4 + 8 + 4 * 2 * _HNSW_LINKS) + round(rows * 4 * above)
    return found


def _adding(kind: IndexKind, rows: int, dimension: int) -> int:
    """While vectors are added: the list of each and how it is found, or locks, visits and room to grow of an HNSW."""
    if kind == "hnsw":
        return rows * 40
    if kind not in IVF_KINDS:
        return 0
    # Where there are regions, the centres once more, in arrays that double while they grow.
    return rows * 8 + (3 * lists(rows) * 4 * dimension if lists(rows) >= TWO_LEVELS_FROM else 0)


def _training(kind: IndexKind, rows: int, dimension: int) -> int:
    """While it is trained: the sample as float16, the points that learn ranges or parts as float32, centres twice.

    Where there are regions, centres six times: where they were, where they are found, their sums, and where they go.
    """
    points = training_points(kind, rows)
    if not points:
        return 0
    second = min(points, SECOND_POINTS)
    decoded = min(points, _DECODED_ROWS) * 4 * dimension
    copies = 6 if lists(rows) >= TWO_LEVELS_FROM else 2
    centres = copies * lists(rows) * 4 * dimension if kind in IVF_KINDS else 0
    return points * (2 * dimension + 24) + max(decoded, 3 * second * 4 * dimension) + centres + rows * 8


def _working(dimension: int) -> int:
    """Blocks of rows as float32, what faiss makes of them, and its own buffers."""
    return 3 * BLOCK_ROWS * 4 * dimension + _WORK_BYTES
