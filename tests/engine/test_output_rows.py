"""Rows of what a network gives: each output counts alike, large ones are thinned, lists are filled up."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.engine.outputs import OutputRows, flat_row, stride_for, thinned


def test_one_vector_is_its_own_row() -> None:
    images = [(np.array([[float(place), 2.0]], np.float32),) for place in range(3)]
    rows = OutputRows(images)
    np.testing.assert_array_equal(rows(images), np.concatenate([image[0] for image in images]))
    assert rows.first == 2


def test_the_distance_of_rows_is_that_of_relative_errors() -> None:
    """Scores are 10 % away and boxes 1 %: their lengths, 5 and 500, do not matter."""
    reference = [(np.array([[3.0, 4.0]]), np.array([[300.0, 400.0]]))]
    other = [(np.array([[3.3, 4.4]]), np.array([[303.0, 404.0]]))]
    rows = OutputRows(reference)
    assert np.linalg.norm(rows(other) - rows(reference)) == pytest.approx(np.hypot(0.1, 0.01))
    assert rows.first == 2


def test_a_list_is_as_long_as_the_longest_of_the_reference() -> None:
    reference = [(np.array([[1.0, 2.0, 3.0]]),), (np.array([[4.0]]),)]
    rows = OutputRows(reference)
    np.testing.assert_array_equal(rows(reference), [[1, 2, 3], [4, 0, 0]])
    np.testing.assert_array_equal(
        rows([(np.array([[1.0, 2.0, 3.0, 9.0]]),), (np.zeros((1, 0)),)]), [[1, 2, 3], [0] * 3]
    )


@pytest.mark.parametrize(("numbers", "stride"), [(0, 1), (10, 1), (11, 2), (30, 3), (31, 5), (60, 7)])
def test_strides_are_prime(numbers: int, stride: int) -> None:
    assert stride_for(numbers, most=10) == stride


def test_every_field_of_a_large_output_is_seen() -> None:
    boxes = np.arange(4 * 100_000, dtype=np.float32).reshape(1, 100_000, 4)
    row = thinned(boxes)
    assert row.shape[1] <= 1 << 16
    assert {int(value) % 4 for value in row[0]} == {0, 1, 2, 3}
    np.testing.assert_array_equal(row[0], flat_row(boxes, 7))
    vector = np.zeros((1, 100_000), np.float32)
    assert thinned(vector) is vector
