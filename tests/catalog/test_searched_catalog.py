"""A catalog with its index: filters over columns that not every shard has, and the masks that are kept."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from edgeq.catalog import searched as module
from edgeq.catalog.arrow import equal_rows


@pytest.mark.parametrize(
    ("column", "value", "right"),
    [
        (pa.chunked_array([["a", None], ["b", "a"]]), "a", [1, 0, 0, 1]),
        (pa.chunked_array([pa.array(["a", "b", "a"]).dictionary_encode()]), "a", [1, 0, 1]),
        (pa.chunked_array([["1", "2"]]), 1, [0, 0]),
        (pa.chunked_array([[1, 2, None]]), 2, [0, 1, 0]),
        (pa.chunked_array([[1, 2, None]]), 2.0, [0, 1, 0]),
        (pa.chunked_array([[1, 2]]), 1.5, [0, 0]),
        (pa.chunked_array([[1, 2]]), 1e300, [0, 0]),
        (pa.chunked_array([[1, 2]]), "1", [0, 0]),
        (pa.chunked_array([[0.5, 2.0, None]]), 2, [0, 1, 0]),
        (pa.chunked_array([[0.5, 2.0]]), 0.5, [1, 0]),
        (pa.chunked_array([[None, None]]), "a", [0, 0]),
        (pa.chunked_array([[]], pa.string()), "a", []),
    ],
)
def test_where_a_column_has_a_value(column: pa.ChunkedArray, value: str | int | float, right: list[int]) -> None:
    found = equal_rows(column, value)
    assert found.dtype == np.bool_
    assert found.tolist() == [bool(each) for each in right]


class Reader:
    """A catalog of 20 rows whose column `n` is the row's number; it counts how often it is looked through."""

    def __init__(self) -> None:
        self.looked: list[int] = []

    def __len__(self) -> int:
        return 20

    def rows_with(self, column: str, values: list[int]) -> list[np.ndarray] | None:
        self.looked.append(len(values))
        return [np.arange(20) == value for value in values] if column == "n" else None

    def rows(self, numbers: list[int]) -> list[dict[str, int]]:
        return [{"n": number} for number in numbers]


class Index:
    """Finds what is allowed, in order."""

    def search(self, query: object, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:  # noqa: ARG002
        rows = np.flatnonzero(allowed) if allowed is not None else np.arange(20)
        ids = np.full(k, -1)
        ids[: min(k, len(rows))] = rows[:k]
        return ids[None], np.zeros((1, k), np.float32)


def test_a_column_is_looked_through_once_for_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader()
    catalog = module.SearchedCatalog(reader, Index())  # type: ignore[arg-type]
    query = np.zeros(3, np.float32)

    def found(*values: int) -> list[int]:
        return [row.row for row in catalog.near(query, 20, {"n": values})]

    assert found(3, 17, 3) == [3, 17]
    assert found(17, 4) == [4, 17]
    assert reader.looked == [2, 1]
    assert found(*range(20)) == list(range(20))
    assert reader.looked == [2, 1, 8, 8, 1]
    monkeypatch.setattr(module, "_MASKS", 2)
    assert found(3) == [3]
    assert found(19) == [19]
    assert len(reader.looked) == 5
    assert found(18) == [18]
    assert reader.looked[5:] == [1]


def test_nothing_is_filtered_by_an_empty_filter() -> None:
    catalog = module.SearchedCatalog(Reader(), Index())  # type: ignore[arg-type]
    assert len(catalog.near(np.zeros(3, np.float32), 20, {})) == 20
