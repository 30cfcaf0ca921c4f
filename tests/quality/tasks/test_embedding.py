"""How near two networks' answers are, on answers written by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgeq.errors import EngineError, ImageError
from edgeq.quality.tasks.embedding import EmbeddingTask, Fidelity, compare_answers


def test_equal_answers() -> None:
    answers = np.array([[1, 0], [0, 2], [3, 3]], np.float32)
    found = compare_answers(answers, answers)
    assert (found.images, found.error, found.agreement, found.neighbours) == (3, 0.0, 100.0, 100.0)
    assert found.cosine_worst == pytest.approx(1.0)


def test_figures_by_hand() -> None:
    reference = np.array([[3, 4], [4, 3], [0, 10]], np.float32)
    candidate = np.array([[4, 3], [4, 3], [0, 10]], np.float32)
    found = compare_answers(reference, candidate)
    assert found.error == pytest.approx(math.sqrt(2) / math.sqrt(25 + 25 + 100))
    assert found.cosine_worst == pytest.approx(24 / 25)
    assert found.cosine_mean == pytest.approx((24 / 25 + 1 + 1) / 3)
    assert found.agreement == pytest.approx(100 * 2 / 3)
    # Cosines of the reference: 1-2 0.96, 1-3 0.8, 2-3 0.6; of the candidate: 1-2 1.0, 1-3 and 2-3 0.6.
    # The nearest of 1 is 2, of 2 is 1 in both; of 3 it is 1 in both, the first of two that are as near.
    assert found.neighbours == 100.0


def test_another_nearest_image_is_seen_though_the_largest_number_stays() -> None:
    reference = np.array([[10, 0], [10, 1], [10, 9]], np.float32)
    candidate = np.array([[10, 0], [10, 8], [10, 9]], np.float32)
    found = compare_answers(reference, candidate)
    assert found.agreement == 100.0
    assert found.neighbours == pytest.approx(100 * 2 / 3), "the second image went over to the third"


def test_what_all_answers_share_hides_nothing_from_the_spread() -> None:
    apart = np.array([[1, 0], [-1, 0], [0, 2], [0, -2]], np.float32)  # squares 10, mean 0
    off = np.array([[0, 1], [0, 0], [0, 0], [0, 0]], np.float32)
    for shared in (0.0, 1000.0):
        found = compare_answers(apart + shared, apart + shared + off)
        assert found.spread_error == pytest.approx(math.sqrt(1 / 10))
    assert found.error < 1e-3
    assert found.cosine_worst > 0.999999


def test_one_answer_for_all_images_tells_none_apart() -> None:
    same = np.array([[3, 4]] * 5, np.float32)
    assert compare_answers(same, same + 1).spread_error is None
    assert compare_answers(same[:1], same[:1]).spread_error is None


def test_two_images_have_no_choice_of_neighbours() -> None:
    assert compare_answers(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32)).neighbours is None


def test_a_tally_compares_all_that_was_added() -> None:
    tally = EmbeddingTask().begin()
    for image in np.eye(4, dtype=np.float32):
        tally.add(["a"], (image[None],), (2 * image[None],))
    assert tally.figures() == compare_answers(np.eye(4, dtype=np.float32), 2 * np.eye(4, dtype=np.float32))
    with pytest.raises(ImageError):
        EmbeddingTask().begin().figures()


def test_an_answer_that_is_no_number_is_an_error() -> None:
    broken = np.array([[1.0, np.nan]], np.float32)
    with pytest.raises(EngineError, match="NaN or infinity"):
        compare_answers(np.ones((1, 2), np.float32), broken)


def test_each_output_is_compared_by_itself_and_the_worst_decides() -> None:
    scores, boxes = np.array([[0.5, 0.25]], np.float32), np.full((1, 3, 4), 200.0, np.float32)
    tally = EmbeddingTask().begin(("scores", "boxes"))
    for _ in range(2):
        tally.add(["a"], (scores, boxes), (scores + np.array([[0.0, 0.25]], np.float32), boxes + np.float32(2.0)))
    found = tally.figures()
    assert isinstance(found, Fidelity)
    ours, theirs = found.outputs
    assert (ours.output, ours.images, theirs.output) == ("scores", 2, "boxes")
    assert ours.error == pytest.approx(0.25 / math.hypot(0.5, 0.25))
    assert theirs.error == pytest.approx(0.01)
    assert (found.error, found.headline().drop) == (ours.error, ours.error)
    assert (ours.agreement, theirs.agreement, found.agreement) == (100.0, None, 100.0)
    assert [row[3] for row in found.rows()[-2:]] == ["0.4472", "0.0100"]
    assert Fidelity.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize("shape", [(3, 84, 5), (3, 2, 4, 4), (3,)])
def test_answers_of_any_rank(shape: tuple[int, ...]) -> None:
    answers = np.arange(1, 1 + math.prod(shape), dtype=np.float32).reshape(shape)
    found = compare_answers(answers, answers * np.float32(1.5))
    assert (found.images, found.agreement, found.neighbours) == (3, None, None)
    assert found.error == pytest.approx(0.5)
    assert found.cosine_worst == pytest.approx(1.0)


def test_what_was_found_may_be_more_or_less() -> None:
    ours, theirs = np.array([[3.0, 4.0], [0.0, 5.0]], np.float32), np.array([[3.0, 4.0]], np.float32)
    tally = EmbeddingTask().begin(("found", "numbers"))
    tally.add(["a"], (ours, np.array([2])), (theirs, np.array([1])))
    tally.add(["b"], (theirs, np.array([1])), (theirs, np.array([1])))
    tally.add(["c"], (ours[:0], np.array([0])), (ours[:0], np.array([0])))
    found = tally.figures()
    assert isinstance(found, Fidelity)
    assert (found.outputs[0].images, found.outputs[0].resized) == (3, 1)
    assert found.outputs[0].error == pytest.approx(5.0 / math.sqrt(25 + 25 + 25))
    assert "1 of other sizes" in found.rows()[-2][3]


def test_one_output_is_written_as_before() -> None:
    found = compare_answers(np.eye(4, dtype=np.float32), np.eye(4, dtype=np.float32))
    figures = ["images", "error", "cosine_mean", "cosine_worst", "agreement", "neighbours", "spread_error"]
    assert list(found.model_dump()) == figures


def test_numbers_of_what_was_chosen_do_not_decide() -> None:
    scores, places = np.array([[3.0, 4.0]], np.float32), np.array([[0, 7]])
    tally = EmbeddingTask().begin(("scores", "places"))
    tally.add(["a"], (scores, places), (scores * np.float32(1.1), places[:, ::-1]))
    found = tally.figures()
    assert isinstance(found, Fidelity)
    assert found.error == pytest.approx(0.1)
    assert found.outputs[1].error == pytest.approx(math.sqrt(2.0))
