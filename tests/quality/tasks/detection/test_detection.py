"""mAP and its doubt, and what is found again: worked out by hand, and held against pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeq.errors import ImageError
from edgeq.model.heads.boxes import Detections
from edgeq.quality.tasks.detection.found_again import MAX_LOST, Comparison, FoundAgain
from edgeq.quality.tasks.detection.objects import Objects
from edgeq.quality.tasks.detection.precision import Ranked, measure_precision, paired_error

SIDE = 100


def objects(*rows: Sequence[float], crowd: Sequence[bool] = ()) -> Objects:
    """(category, left, top, right, bottom) each."""
    values = np.array(rows, np.float64).reshape(-1, 5)
    boxes = values[:, 1:]
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    crowds = np.array(crowd or [False] * len(values), np.bool_)
    return Objects(SIDE, SIDE, boxes, values[:, 0].astype(np.int64), crowds, area)


def found(*rows: Sequence[float]) -> Detections:
    """(class, score, left, top, right, bottom) each."""
    values = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(values[:, 2:], values[:, 1], values[:, 0].astype(np.int64))


def test_precision_by_hand() -> None:
    """Category 0: one of two found, with IoU 0.8, and nothing wrong before it. Category 1: found behind a wrong one."""
    truth = [objects((0, 0, 0, 10, 10), (0, 50, 50, 60, 60), (1, 20, 20, 30, 30))]
    made = [found((0, 0.9, 0, 0, 10, 8), (1, 0.8, 70, 70, 90, 90), (1, 0.7, 20, 20, 30, 30))]
    ranked = measure_precision(truth, made, 2)
    # precision 1 up to recall 0.5, which is 51 of 101 recalls; precision 0.5 at every recall
    assert ranked.precision50 == pytest.approx((51 / 101 + 0.5) / 2)
    # IoU 0.8 counts for 0.50 to 0.80 or 0.75, by rounding
    assert ranked.precision == pytest.approx((0.7 * 51 / 101 + 0.5) / 2, abs=0.03)


def test_crowds_and_categories_without_objects_do_not_count() -> None:
    truth = [objects((0, 0, 0, 10, 10), (0, 40, 40, 90, 90), crowd=[False, True])]
    made = [found((0, 0.9, 45, 45, 60, 60), (0, 0.8, 0, 0, 10, 10), (2, 0.9, 0, 0, 10, 10))]
    assert measure_precision(truth, made, 3).precision == pytest.approx(1.0)


def test_nothing_found_is_nothing() -> None:
    ranked = measure_precision([objects((0, 0, 0, 10, 10))], [found()], 1)
    assert (ranked.precision, ranked.precision50) == (0.0, 0.0)


def drawn(rng: np.random.Generator, images: int, noise: float) -> tuple[list[Objects], list[Detections]]:
    """Up to six objects of three categories an image, and detections that miss some, shift most and invent others."""
    truth, made = [], []
    for _ in range(images):
        count = int(rng.integers(0, 7))
        corner = rng.uniform(0, 70, (count, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(5, 30, (count, 2))], axis=1)
        categories = rng.integers(0, 3, count)
        crowd = [bool(value) for value in rng.random(count) < 0.1]
        truth.append(objects(*np.column_stack([categories, boxes]), crowd=crowd))
        kept = rng.random(count) < 0.8
        moved = boxes[kept] + rng.normal(0, noise, (int(kept.sum()), 4))
        rows = np.column_stack([categories[kept], rng.random(len(moved)).round(2), moved])  # equal scores occur
        others = [
            (float(rng.integers(0, 3)), rng.random(), 10.0, 10.0, 30.0, 30.0) for _ in range(int(rng.integers(0, 3)))
        ]
        made.append(found(*rows, *others))
    return truth, made


def test_images_that_count_once_give_what_pycocotools_gives() -> None:
    """The arithmetic of the bootstrap is ours: with weights of 1 it must be COCO's to the last digit."""
    truth, made = drawn(np.random.default_rng(0), 40, 1.0)
    ranked = measure_precision(truth, made, 3)
    assert 0.1 < ranked.precision < 0.9
    assert ranked.weighted(np.ones(40, np.int64)) == pytest.approx(ranked.precision, abs=1e-12)


def test_an_image_drawn_twice_is_two_images() -> None:
    truth, made = drawn(np.random.default_rng(1), 12, 1.0)
    weights = np.array([0, 2, 1, 3, 1, 0, 1, 1, 2, 0, 1, 0])
    ranked = measure_precision(truth, made, 3)
    again = [place for place, times in enumerate(weights) for _ in range(times)]
    repeated = measure_precision([truth[place] for place in again], [made[place] for place in again], 3)
    assert ranked.weighted(weights) == pytest.approx(repeated.precision, abs=1e-12)


def test_the_error_of_a_drop_is_paired() -> None:
    """The doubt is that of what differs between two networks, and no chance is in it."""
    rng = np.random.default_rng(2)
    truth, made = drawn(rng, 60, 0.5)
    shift = np.float32(1.5)
    worse = [
        Detections(one.boxes + shift * rng.normal(0, 1, one.boxes.shape).astype(np.float32), one.scores, one.classes)
        for one in made
    ]
    ours, theirs = measure_precision(truth, made, 3), measure_precision(truth, worse, 3)
    assert paired_error(ours, ours, 60) == 0.0
    assert paired_error(ours, theirs, 1) is None
    error = paired_error(ours, theirs, 60)
    assert error is not None
    assert error == paired_error(ours, theirs, 60)
    alone = spread([ours.weighted(weights) for weights in draws(60)])
    assert 0.0 < error < alone  # paired: sharper than one network's own figure


def draws(images: int) -> list[NDArray[np.int64]]:
    rng = np.random.default_rng(5)
    return [rng.multinomial(images, np.full(images, 1 / images)) for _ in range(100)]


def spread(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1))


def test_pycocotools_says_nothing_on_stdout() -> None:
    with contextlib.redirect_stdout(io.StringIO()) as said:
        ranked = measure_precision([objects((0, 0, 0, 10, 10))], [found((0, 0.5, 0, 0, 10, 10))], 1)
    assert isinstance(ranked, Ranked)
    assert said.getvalue() == ""


def compared(*pairs: tuple[Detections, Detections], fields: dict[str, float] | None = None) -> FoundAgain:
    comparison = Comparison()
    for name, error in (fields or {"boxes": 0.0}).items():
        comparison.fields.add({name: np.ones(4, np.float32)}, {name: np.full(4, 1 + error, np.float32)})
    for ours, theirs in pairs:
        comparison.add(ours, theirs)
    return comparison.figures()


def test_found_again_by_hand() -> None:
    """Four of FP32's: one moved by 2 pixels, one below the threshold, one of another class, one gone; one is new."""
    ours = found((0, 0.9, 0, 0, 20, 20), (0, 0.8, 40, 40, 60, 60), (1, 0.7, 70, 70, 90, 90), (2, 0.3, 0, 50, 20, 70))
    theirs = found((0, 0.8, 2, 0, 22, 20), (2, 0.7, 70, 70, 90, 90), (0, 0.24, 40, 40, 60, 60), (1, 0.5, 5, 50, 95, 99))
    figures = compared((ours, theirs), (found(), found()))
    assert (figures.images, figures.detections, figures.threshold) == (2, 4, 0.25)
    assert figures.lost == 0.75
    assert figures.new == pytest.approx(2 / 3)
    assert figures.score_shift == pytest.approx(0.1)
    assert figures.box_shift == pytest.approx(1.0)  # two of four coordinates by 2 pixels
    assert figures.box_overlap == pytest.approx(18 / 22)
    headline = figures.headline()
    assert (headline.drop, headline.agreement, headline.allowed) == (0.75, 25.0, MAX_LOST)


def test_one_detection_is_found_once() -> None:
    two = found((0, 0.9, 0, 0, 20, 20), (0, 0.8, 1, 0, 21, 20))
    assert compared((two, found((0, 0.9, 0, 0, 20, 20)))).lost == 0.5


def test_fields_have_an_error_each() -> None:
    one = found((0, 0.9, 0, 0, 20, 20))
    figures = compared((one, one), fields={"boxes": 0.001, "scores": 0.3})
    assert figures.field_errors == pytest.approx({"boxes": 0.001, "scores": 0.3}, rel=1e-4)


def test_a_network_that_is_sure_of_nothing_is_looked_at_further_down() -> None:
    weak = found((0, 0.1, 0, 0, 20, 20), (0, 0.04, 40, 40, 60, 60))
    figures = compared((weak, found()))
    assert figures.threshold == pytest.approx(0.05)
    assert (figures.detections, figures.lost) == (1, 1.0)


def test_where_fp32_finds_nothing_the_worst_field_decides() -> None:
    headline = compared((found(), found()), fields={"boxes": 0.01, "scores": 0.4}).headline()
    assert (headline.name, headline.allowed) == ("worst field's error", None)
    assert headline.drop == pytest.approx(0.4, rel=1e-4)


def test_without_images_there_is_no_figure() -> None:
    with pytest.raises(ImageError):
        Comparison().figures()
