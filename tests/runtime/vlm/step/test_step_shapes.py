"""In which shapes a step is run."""

from __future__ import annotations

import pytest

from edgeq.runtime.vlm.step.shapes import MOST_SHAPES, StepShape, narrowest_shape, step_shapes


def test_shapes_of_four_slots_by_hand() -> None:
    """A slot of 2112 rows: powers of two from 256 on and what is half as much again, below 0.8 x 2112 = 1689.6."""
    shapes = step_shapes(4, 2112, by_length=True)
    lengths = [2112, 1536, 1024, 768, 512, 384, 256]
    assert shapes == tuple(StepShape(slots, rows) for rows in lengths for slots in (4, 3, 2, 1))


def test_a_cpu_has_one_length() -> None:
    assert step_shapes(3, 2112, by_length=False) == (StepShape(3, 2112), StepShape(2, 2112), StepShape(1, 2112))
    assert step_shapes(2, 64, by_length=True) == (StepShape(2, 64), StepShape(1, 64))


@pytest.mark.parametrize("slots", [1, 2, 5, 16, 64, 300])
@pytest.mark.parametrize("rows", [64, 2112, 131_136, 8 << 20])
@pytest.mark.parametrize("by_length", [False, True])
def test_there_are_never_many_and_every_step_finds_one(slots: int, rows: int, by_length: bool) -> None:
    shapes = step_shapes(slots, rows, by_length=by_length)
    assert len(shapes) == len(set(shapes)) <= MOST_SHAPES
    assert shapes[0] == max(shapes) == StepShape(slots, rows)
    for occupied in {1, slots // 2 + 1, slots}:
        for seen in {1, rows // 2, rows}:
            found = narrowest_shape(shapes, occupied, seen)
            assert found.slots >= occupied
            assert found.rows >= seen


def test_the_narrowest_one_reads_least() -> None:
    shapes = step_shapes(4, 2112, by_length=True)
    assert narrowest_shape(shapes, 1, 640) == StepShape(1, 768)
    assert narrowest_shape(shapes, 3, 257) == StepShape(3, 384)
    assert narrowest_shape(shapes, 1, 1537) == StepShape(1, 2112)
    assert narrowest_shape((shapes[0], StepShape(2, 2112)), 1, 10) == StepShape(2, 2112), "of those that are left"
    assert narrowest_shape((shapes[0], StepShape(1, 2112), StepShape(2, 256)), 1, 10) == StepShape(2, 256)
