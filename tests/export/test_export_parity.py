"""The parity measure: figures by hand, and every way in which there is nothing to measure."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeq.errors import ParityError
from edgeq.export.parity import Parity, measure_outputs, measure_parity, prove_outputs, prove_parity

Array = NDArray[np.float32]


def identity(batch: Array) -> Array:
    return batch


def shifted(amount: float) -> Callable[[Array], Array]:
    return lambda batch: batch + np.float32(amount)


BATCHES = [np.array([[0, 4]], dtype=np.float32), np.array([[-4, 1], [2, 3]], dtype=np.float32)]


def test_figures_by_hand() -> None:
    assert measure_parity(identity, shifted(2), BATCHES) == Parity(3, 2.0, 8.0, 0.25, 1e-4)


def test_the_largest_error_counts_in_whatever_batch_it_is() -> None:
    def wrong_once(batch: Array) -> Array:
        return np.where(batch == -4, -5, batch).astype(np.float32)

    assert measure_parity(identity, wrong_once, BATCHES).max_abs_error == 1.0
    assert measure_parity(identity, wrong_once, BATCHES[::-1]).max_abs_error == 1.0


def test_equal_networks_pass_and_give_the_figures_back() -> None:
    assert prove_parity(identity, identity, iter(BATCHES)) == Parity(3, 0.0, 8.0, 0.0)


@pytest.mark.parametrize(("amount", "holds"), [(0.25, True), (0.5, True), (0.75, False)])
def test_the_bound_itself_still_passes(amount: float, holds: bool) -> None:
    parity = measure_parity(identity, shifted(amount), BATCHES, bound=0.0625)
    assert parity.holds is holds


def test_beyond_the_bound_is_an_error_with_the_figures() -> None:
    with pytest.raises(ParityError, match=r"by 0.25 of the output range \(2 of 8, 3 images\)") as caught:
        prove_parity(identity, shifted(2), BATCHES)
    assert caught.value.expected == "at most 0.0001"


def test_constant_outputs_have_no_range_to_compare_with() -> None:
    flat = [np.ones((2, 2), dtype=np.float32)]
    assert measure_parity(identity, identity, flat).relative == 0.0
    with pytest.raises(ParityError, match="differs from its source by inf"):
        prove_parity(identity, shifted(1e-3), flat)


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinity")])
def test_what_is_not_a_number_is_named_with_its_side(value: float, word: str) -> None:
    def broken(batch: Array) -> Array:
        return np.full_like(batch, value)

    with pytest.raises(ParityError, match=f"the candidate computes {word}"):
        measure_parity(identity, broken, BATCHES)
    with pytest.raises(ParityError, match=f"the reference computes {word}"):
        measure_parity(broken, identity, BATCHES)


def test_other_shapes_are_an_error_even_where_they_broadcast() -> None:
    with pytest.raises(ParityError, match=r"shape \[1, 1\]"):
        measure_parity(identity, lambda batch: batch[:, :1], BATCHES)


@pytest.mark.parametrize("batches", [[], [np.zeros((0, 2), dtype=np.float32)]], ids=["none", "empty"])
def test_no_images_prove_nothing(batches: list[Array]) -> None:
    with pytest.raises(ParityError, match="no images"):
        measure_parity(identity, identity, batches)


def test_each_output_is_held_against_its_own_range() -> None:
    """An error of 0.01 is nothing beside boxes of hundreds of pixels, and much of scores from 0 to 1."""

    def right(batch: Array) -> tuple[Array, ...]:
        return batch * np.float32(100), batch / np.float32(8)

    def made(batch: Array) -> tuple[Array, ...]:
        return right(batch)[0], right(batch)[1] + np.float32(0.01)

    boxes, scores = measure_outputs(right, made, BATCHES)
    assert (boxes.relative, boxes.output_range, scores.output_range) == (0.0, 800.0, 1.0)
    assert scores.relative == pytest.approx(0.01, rel=1e-5)
    with pytest.raises(ParityError, match="of the output range of scores"):
        prove_outputs(right, made, BATCHES, names=("boxes", "scores"))


def test_a_list_of_what_was_found_may_be_another_on_one_image_in_ten() -> None:
    def right(_batch: Array) -> tuple[Array, ...]:
        return (np.array([[1.0, 2.0], [3.0, 5.0]], np.float32),)

    def other(batch: Array) -> tuple[Array, ...]:
        return (right(batch)[0][: 1 if batch[0, 0] < places else 2],)

    images = [np.full((1, 1), place, np.float32) for place in range(20)]
    places = 2
    assert measure_outputs(right, other, images, listed=(True,))[0].holds
    with pytest.raises(ParityError, match="shape"):
        measure_outputs(right, other, images)
    places = 3
    assert not measure_outputs(right, other, images, listed=(True,))[0].holds


def test_an_image_on_which_nothing_is_found_is_compared_too() -> None:
    nothing = measure_outputs(lambda _: (np.zeros((0, 6)),), lambda _: (np.zeros((0, 6)),), BATCHES)
    assert nothing == (Parity(3, 0.0, 0.0, 0.0),)
    with pytest.raises(ParityError, match=r"shape \[1, 6\]"):
        measure_outputs(lambda _: (np.zeros((0, 6)),), lambda _: (np.zeros((1, 6)),), BATCHES)


def test_outputs_that_are_nearly_constant_differ_by_their_rounding() -> None:
    """0.5 with a range of 1e-6: one rounding of float32 is 6e-8, a sixteenth of the range and no other network."""
    right = np.array([[0.5, 0.5 + 1e-6]], np.float32)
    one_rounding, other = np.nextafter(right, np.float32(1)), right + np.float32(1e-5)
    assert measure_parity(lambda _: right, lambda _: one_rounding, [right]).holds
    assert not measure_parity(lambda _: right, lambda _: other, [right]).holds
