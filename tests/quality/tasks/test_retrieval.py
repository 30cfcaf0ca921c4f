"""recall@k in both directions, its drop and the gate, against plain loops and figures worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pictures import draw_pictures

from edgeq.errors import ArtifactError, EngineError, InputError
from edgeq.quality.tasks import recall as module
from edgeq.quality.tasks.pairs import groups, inverse
from edgeq.quality.tasks.recall import compare_hits, ranks, recall
from edgeq.quality.tasks.registry import RETRIEVAL
from edgeq.quality.tasks.retrieval import Embedded, compare_retrieval
from edgeq.quality.tasks.retrieval_figures import Direction, Drop, Recall, RetrievalFigures, ZeroShot
from edgeq.quality.tasks.retrieval_gate import RetrievalBounds, RetrievalGate, decide_retrieval
from edgeq.quality.tasks.zero_shot import compare_zero_shot, zero_shot

Z = 1.959964
"""The normal distribution is within so many standard deviations with 95 %."""


def single(*items: int) -> list[frozenset[int]]:
    """One right item for each query."""
    return [frozenset({item}) for item in items]


def unit(degrees: Sequence[float], length: float = 1.0) -> NDArray[np.float32]:
    """Vectors in a plane."""
    angles = np.radians(degrees)
    return (length * np.stack([np.cos(angles), np.sin(angles)], axis=1)).astype(np.float32)


def slow_rank(query: Sequence[float], items: Sequence[Sequence[float]], right: frozenset[int]) -> int:
    """By the definition, on lists."""

    def cosine(item: Sequence[float]) -> float:
        lengths = math.sqrt(math.fsum(a * a for a in query) * math.fsum(b * b for b in item))
        return math.fsum(a * b for a, b in zip(query, item, strict=True)) / lengths if lengths else 0.0

    scores = [cosine(item) for item in items]
    best = max(scores[item] for item in right)
    return sum(1 for item, score in enumerate(scores) if item not in right and score >= best - 1e-9)


def test_the_best_right_item_counts_by_hand() -> None:
    """Of a query at 0 degrees the items are nearer in the order 1, 3, 0, 2."""
    query, items = unit([0.0]), unit([30.0, -10.0, 180.0, 20.0])
    expected = {frozenset({1}): 0, frozenset({3}): 1, frozenset({0}): 2, frozenset({2}): 3}
    expected |= {frozenset({0, 2}): 2, frozenset({2, 3}): 1, frozenset({0, 2, 3}): 1, frozenset({0, 1, 2, 3}): 0}
    for right, rank in expected.items():
        assert ranks(query, items, [right]).tolist() == [rank]


def test_lengths_do_not_matter() -> None:
    items = unit([30.0, 50.0])
    items[1] *= 1e6
    assert ranks(unit([0.0], 1e-20), items, single(0)).tolist() == [0]


@pytest.mark.parametrize("block", [1, 7, 90, 4_000_000])
def test_as_plain_loops_with_many_ties_and_several_right_items(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small whole numbers: many items are equal or of one direction; one is zero, and one query."""
    monkeypatch.setattr(module, "_BLOCK", block)
    rng = np.random.default_rng(3)
    queries, items = (rng.integers(-2, 3, (count, 3)).astype(np.float32) for count in (40, 30))
    items *= rng.integers(1, 4, (30, 1)).astype(np.float32)
    queries[5], items[7] = 0.0, 0.0
    right = [frozenset(rng.choice(30, rng.integers(1, 5), replace=False).tolist()) for _ in range(40)]
    expected = [slow_rank(query, items.tolist(), own) for query, own in zip(queries.tolist(), right, strict=True)]
    assert ranks(queries, items, right).tolist() == expected
    assert 0 < expected.count(0) < 40


def test_a_tie_counts_against_and_not_between_right_items() -> None:
    items = unit([10.0, 10.0, 10.0, 90.0])
    assert ranks(unit([0.0]), items, [frozenset({0, 1})]).tolist() == [1], "the third is as near, and wrong"
    assert ranks(unit([0.0]), items, [frozenset({0, 1, 2})]).tolist() == [0]


@pytest.mark.parametrize("which", ["queries", "items", "both", "zero queries", "zero items"])
def test_embeddings_that_are_all_alike_find_nothing(which: str) -> None:
    """Of sizes at which a product of matrices rounds some equal columns differently."""
    rng = np.random.default_rng(0)
    queries, items = (rng.normal(size=(count, 77)).astype(np.float32) for count in (203, 103))
    if which in ("items", "both"):
        items[:] = items[0]
    if which in ("queries", "both"):
        queries[:] = queries[0]
    if which == "zero queries":
        queries[:] = 0.0
    if which == "zero items":
        items[:] = 0.0
    right = single(*(query % 103 for query in range(203)))
    found = ranks(queries, items, right)
    if which == "queries":  # each item is found by the queries that it happens to be nearest to: one item's share
        assert recall(found, 1) <= 100.0 * 2 / 203
    else:
        assert found.tolist() == [102] * 203
        assert [recall(found, k) for k in (1, 5, 10)] == [0.0, 0.0, 0.0]


def test_recall_by_hand() -> None:
    found = np.array([0, 4, 5, 9, 10, 0, 3, 77])
    assert [recall(found, k) for k in (1, 5, 10)] == [25.0, 50.0, 75.0]
    for wrong, k in ((found[:0], 1), (found, 0)):
        with pytest.raises(InputError):
            recall(wrong, k)


def test_what_cannot_be_ranked() -> None:
    vectors = unit([0.0, 10.0])
    for right, words in (
        ([frozenset[int](), frozenset({0})], "right for query 0"),
        (single(0, 2), r"\[2\] are said to be right for query 1"),
        (single(-1, 0), r"\[-1\]"),
        (single(0), "what is right for 1"),
    ):
        with pytest.raises(InputError, match=words):
            ranks(vectors, vectors, right)
    broken = vectors.copy()
    broken[1, 0] = np.inf
    for queries, items in ((broken, vectors), (vectors, broken), (vectors, np.eye(3, dtype=np.float32))):
        with pytest.raises(EngineError):
            ranks(queries, items, single(0, 1))


def hits(*counts: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """So many queries found by both, by the reference alone, by the candidate alone, by neither."""
    ours = np.repeat([True, True, False, False], counts)
    return ours, np.repeat([True, False, True, False], counts)


def test_a_drop_without_groups_by_hand() -> None:
    """7 lost and 3 gained of 100: mean 0.04, variance of one (0.1 - 0.0016) * 100 / 99."""
    drop = compare_hits(*hits(60, 7, 3, 30))
    assert drop.value == pytest.approx(4.0)
    assert drop.standard_error == pytest.approx(100 * math.sqrt((0.1 - 0.0016) / 99))
    # One more lost and one more gained, of 102.
    mean = 4 / 102
    half = Z * math.sqrt((12 / 102 - mean**2) / 101)
    assert (drop.low, drop.high) == pytest.approx((100 * (mean - half), 100 * (mean + half)))


def test_the_interval_is_not_empty_where_nothing_changed() -> None:
    """Two of n + 2 differ: the half width is z sqrt(2 / ((n + 2) (n + 1)))."""
    for count in (1, 10, 1000):
        drop = compare_hits(*hits(count, 0, 0, 0))
        assert (drop.value, drop.standard_error) == (0.0, None if count == 1 else 0.0)
        half = 100 * Z * math.sqrt(2 / ((count + 2) * (count + 1)))
        assert (drop.low, drop.high) == pytest.approx((-min(half, 100.0), min(half, 100.0)))


def test_equal_groups_have_the_standard_error_of_their_means() -> None:
    rng = np.random.default_rng(5)
    ours, theirs = rng.random((2, 40, 5)) < np.array([0.6, 0.5])[:, None, None]
    drop = compare_hits(ours.ravel(), theirs.ravel(), np.repeat(np.arange(40), 5))
    means = 100 * (ours.mean(axis=1) - theirs.mean(axis=1))
    assert drop.value == pytest.approx(means.mean())
    assert drop.standard_error == pytest.approx(means.std(ddof=1) / math.sqrt(40))


def test_queries_of_one_image_that_fall_together_are_one() -> None:
    """Each of 50 images has 4 captions with one fate: as uncertain as 50 queries, not as 200."""
    ours, theirs = hits(30, 5, 2, 13)
    whole = compare_hits(ours, theirs)
    fourfold = compare_hits(np.repeat(ours, 4), np.repeat(theirs, 4), np.repeat(np.arange(50), 4))
    assert fourfold.model_dump() == pytest.approx(whole.model_dump())
    naive = compare_hits(np.repeat(ours, 4), np.repeat(theirs, 4))
    assert naive.standard_error is not None
    assert whole.standard_error is not None
    assert naive.standard_error == pytest.approx(whole.standard_error * math.sqrt(49 / 199))


def test_unequal_groups_against_a_bootstrap_over_groups() -> None:
    rng = np.random.default_rng(11)
    sizes = rng.integers(1, 9, 150)
    own = np.repeat(np.arange(150), sizes)
    ours, theirs = rng.random(len(own)) < 0.6, rng.random(len(own)) < rng.random(150)[own]
    drop = compare_hits(ours, theirs, own)
    lost = np.bincount(own, weights=ours.astype(float) - theirs)
    drawn = rng.integers(0, 150, (4000, 150))
    again = 100 * lost[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    assert drop.value == pytest.approx(100 * lost.sum() / sizes.sum())
    assert drop.standard_error == pytest.approx(again.std(), rel=0.06)
    alone = compare_hits(ours, theirs).standard_error
    assert alone is not None
    assert alone < 0.9 * again.std(), "without groups it would be too small"


def test_one_large_group_does_not_pass_for_many() -> None:
    """1000 queries in one group beside 200 on their own, nothing changed: nearly all of it is one observation."""
    own = np.concatenate([np.zeros(1000, np.int64), np.arange(1, 201)])
    found = np.ones(1200, np.bool_)
    assert compare_hits(found, found, own).high > 50.0
    assert compare_hits(found, found).high < 0.3


def test_hits_of_other_lengths_or_none() -> None:
    one, two = np.ones(1, np.bool_), np.ones(2, np.bool_)
    for ours, theirs, own in ((one, two, None), (two, two, np.zeros(1, np.int64)), (one[:0], one[:0], None)):
        with pytest.raises(InputError):
            compare_hits(ours, theirs, own)


IMAGES = unit([0.0, 40.0, 90.0])
RELEVANT = [frozenset({0}), frozenset({0, 1}), frozenset({1}), frozenset({2}), frozenset({2})]
"""Captions 0 to 2 tie images 0 and 1 together; image 2 has 3 and 4."""
TEXTS = unit([5.0, 10.0, 30.0, 85.0, 50.0])
"""Nearest images: 0, 0, 1, 2, and for the last 1 at 10 degrees, 2 at 40."""
WORSE = unit([25.0, 35.0, 10.0, 85.0, 80.0], 3.0)
"""Nearest images: 1 (0 is next), 1, 0 (1 is next), 2, 2."""


def test_both_directions_by_hand() -> None:
    found = compare_retrieval(RELEVANT, Embedded(TEXTS, WORSE, IMAGES))
    there, back = found.text_to_image, found.image_to_text
    assert (there.queries, there.items, there.groups) == (5, 3, 2)
    # Right at once with the reference: 0, 1, 2, 3 and not 4; with the candidate: 1, 3, 4.
    assert (there.at1.reference, there.at1.candidate) == (80.0, 60.0)
    assert there.at1.drop.value == pytest.approx(20.0)
    # Both groups: 3 captions with 2 lost, 2 captions with 1 gained; residuals 2 - 0.2 * 3 and -1 - 0.2 * 2.
    assert there.at1.drop.standard_error == pytest.approx(100 * math.sqrt((1.4**2 + 1.4**2) * 2) / 5)
    assert there.group_size == pytest.approx((3 * 3 + 2 * 2) / 5)
    assert (there.at5.reference, there.at5.candidate, there.at5.drop.value) == (100.0, 100.0, 0.0)
    assert there.same_first == pytest.approx(100 * 1 / 5), "of caption 3 alone"
    # Image 0: caption 0 at 5 degrees; of the candidate caption 2 at 10 degrees, which is wrong, before 0 at 25.
    # Image 1 at 40: captions 2 and 4 are at 10 degrees, a tie against; of the candidate caption 1 at 5 degrees.
    # Image 2: caption 3 in both.
    assert (back.queries, back.items, back.groups) == (3, 5, 2)
    assert back.at1.reference == pytest.approx(200 / 3)
    assert back.at1.candidate == pytest.approx(200 / 3)
    assert back.same_first == pytest.approx(100 / 3)
    assert there.at1.both_int8 is None
    assert found.zero_shot is None


def test_images_in_int8_are_for_comparison_alone() -> None:
    """All INT8 images are turned by 90 degrees: captions at 25 to 35 are nearest to the first, now at 90 degrees."""
    turned = unit([90.0, 130.0, 180.0])
    plain = compare_retrieval(RELEVANT, Embedded(TEXTS, WORSE, IMAGES))
    found = compare_retrieval(RELEVANT, Embedded(TEXTS, WORSE, IMAGES, turned))
    # All captions are nearest to image 0, which is right for the first two.
    assert found.text_to_image.at1.both_int8 == 40.0
    # Image 0 at 90: caption 3, wrong. Image 1 and 2: caption 3 too, which is right for image 2.
    assert found.image_to_text.at1.both_int8 == pytest.approx(100 / 3)
    assert found.headline() == plain.headline()
    assert len(found.rows()) == len(plain.rows()) + 2


def test_each_figure_is_that_of_ranks() -> None:
    """On noisy vectors, with several right images; the parts are tested by themselves."""
    rng = np.random.default_rng(1)
    images = rng.normal(size=(50, 16)).astype(np.float32)
    relevant = [frozenset(rng.choice(50, 1 + caption % 2, replace=False).tolist()) for caption in range(50)]
    relevant += single(*range(50))
    base = np.stack([images[list(right)].mean(axis=0) for right in relevant])
    texts, worse = (base + rng.normal(0, noise, base.shape).astype(np.float32) for noise in (0.8, 1.2))
    found = compare_retrieval(relevant, Embedded(texts, worse, images, -images))
    of_captions, of_images = groups(relevant, 50)
    for way, right, own, sides in (
        (found.text_to_image, relevant, of_captions, ((texts, images), (worse, images), (worse, -images))),
        (found.image_to_text, inverse(relevant, 50), of_images, ((images, texts), (images, worse), (-images, worse))),
    ):
        ours, theirs, both = (ranks(queries, items, right) for queries, items in sides)
        for k, at in ((1, way.at1), (5, way.at5), (10, way.at10)):
            assert (at.reference, at.candidate) == (recall(ours, k), recall(theirs, k))
            assert at.both_int8 == recall(both, k)
            assert at.drop == compare_hits(ours < k, theirs < k, own)
            assert at.reference - at.candidate == pytest.approx(at.drop.value)
    assert found.text_to_image.at1.drop.value > 0


def test_equal_encoders_lose_nothing_and_a_collapsed_one_all() -> None:
    rng = np.random.default_rng(2)
    images = rng.normal(size=(40, 8)).astype(np.float32)
    same = compare_retrieval(single(*range(40)), Embedded(images, 2 * images, images)).headline()
    assert (same.reference, same.candidate, same.drop, same.standard_error) == (100.0, 100.0, 0.0, 0.0)
    assert (same.agreement, same.examples) == (100.0, 40)
    one = np.repeat(images[:1], 40, axis=0)
    lost = compare_retrieval(single(*range(40)), Embedded(images, one, images))
    assert lost.text_to_image.at1.candidate <= 100 / 40, "the one text is right for one image at most"
    assert [at.candidate for at in (lost.image_to_text.at1, lost.image_to_text.at10)] == [0.0, 0.0]
    assert not decide_retrieval(lost).passed


def test_headline_and_rows() -> None:
    found = compare_retrieval(RELEVANT, Embedded(TEXTS, WORSE, IMAGES))
    headline = found.headline()
    assert (headline.name, headline.unit, headline.labelled) == ("recall@1 text -> image", "points", True)
    assert (headline.reference, headline.candidate, headline.examples) == (80.0, 60.0, 5)
    assert headline.drop == pytest.approx(20.0)
    assert headline.standard_error == found.text_to_image.at1.drop.standard_error
    rows = found.rows()
    assert rows[0] == ("recall@1 text -> image", "80.00 %", "60.00 %", "-20.00 ± 56.00 points")
    assert [row[0] for row in rows[1:6]] == [
        "recall@5 text -> image",
        "recall@10 text -> image",
        "recall@1 image -> text",
        "recall@5 image -> text",
        "recall@10 image -> text",
    ]
    assert any(row[0].startswith(headline.alike) and row[3] == "20.00 %" for row in rows)


def test_what_does_not_fit_is_named() -> None:
    for embedded in (
        Embedded(TEXTS[:4], WORSE, IMAGES),
        Embedded(TEXTS, WORSE[:4], IMAGES),
        Embedded(TEXTS, WORSE, IMAGES, IMAGES[:2]),
        Embedded(TEXTS, np.full_like(WORSE, np.nan), IMAGES),
        Embedded(TEXTS, np.ones((5, 3), np.float32), IMAGES),
        Embedded(TEXTS, WORSE, np.ones((3, 3), np.float32)),
    ):
        with pytest.raises(EngineError):
            compare_retrieval(RELEVANT, embedded)
    with pytest.raises(InputError, match="right for caption 4"):
        compare_retrieval([*RELEVANT[:4], frozenset()], Embedded(TEXTS, WORSE, IMAGES))
    with pytest.raises(InputError, match="right for image 2"):
        compare_retrieval([*RELEVANT[:3], *single(0, 1)], Embedded(TEXTS, WORSE, IMAGES))
    with pytest.raises(InputError, match="no caption"):
        compare_retrieval([], Embedded(TEXTS[:0], WORSE[:0], IMAGES[:0]))


def test_zero_shot_takes_the_mean_of_directions_not_of_vectors() -> None:
    """The first class is at 0 and 60 degrees: the mean is at 30, though the second is ten times as long.

    The other class is at 56 degrees. An image at 40 is nearer to 30 (10 degrees) than to 56 (16); one at 50 is nearer
    to 56, and one at 43 is in the middle. If lengths counted, the first class would be at 55, and the border above 55.
    """
    texts = np.stack([np.stack([unit([0.0])[0], unit([60.0], 10.0)[0]]), unit([56.0, 56.0])])
    images = unit([40.0, 50.0, 42.0, 44.0])
    assert zero_shot(images, np.array([0, 1, 1, 1]), texts).tolist() == [0, 0, 1, 0]
    assert zero_shot(images, np.array([1, 0, 0, 0]), texts).tolist() == [1, 1, 0, 1]


def test_zero_shot_normalizes_the_mean_again() -> None:
    """Two texts at 0 and 100 degrees have a mean of length 0.64 at 50; the other class is at 90 with length 1.

    An image at 60 is 10 degrees from the first and 30 from the second; without its length the product would be 0.64
    cos 10 = 0.63 against cos 30 = 0.87.
    """
    texts = np.stack([unit([0.0, 100.0]), unit([90.0, 90.0])])
    assert zero_shot(unit([60.0]), np.array([0]), texts).tolist() == [0]


def test_zero_shot_of_both_encoders_by_hand() -> None:
    reference = unit([0.0, 90.0])[:, None]
    candidate = unit([40.0, 90.0])[:, None]
    images = unit([10.0, 20.0, 50.0, 60.0, 80.0])
    labels = np.array([0, 0, 1, 1, 1])
    # The reference's border is at 45: all right. The candidate's is at 65: 50 and 60 go to class 0.
    found = compare_zero_shot(images, labels, reference, candidate)
    assert (found.images, found.classes, found.templates) == (5, 2, 1)
    assert (found.reference, found.candidate) == (100.0, 60.0)
    assert found.drop is not None
    assert found.drop.value == pytest.approx(40.0)
    assert found.drop.standard_error == pytest.approx(100 * math.sqrt((0.4 - 0.16) / 4))
    rows = compare_retrieval(RELEVANT, Embedded(TEXTS, WORSE, IMAGES), found).rows()
    assert rows[-2][:3] == ("zero-shot top-1, 5 images", "100.00 %", "60.00 %")
    assert rows[-2][3].startswith("-40.00 ± 24.49 points, 95 % ")
    alone = compare_zero_shot(images, labels, None, candidate)
    assert (alone.candidate, alone.reference, alone.drop) == (60.0, None, None)
    # Wilson: (p + z^2 / 2n) / (1 + z^2 / n) = 0.5565, and z / (1 + z^2 / n) * sqrt(p q / n + z^2 / 4n^2) = 0.3260
    assert [alone.low, alone.high] == pytest.approx([23.07, 88.24], abs=0.02)
    assert alone.rows()[0][1:] == ("", "60.00 %", "")


def test_texts_of_classes_that_are_all_alike_classify_nothing() -> None:
    images = unit([10.0, 20.0, 80.0])
    assert zero_shot(images, np.array([0, 1, 1]), np.ones((2, 3, 2), np.float32)).tolist() == [1, 1, 1]


def test_zero_shot_that_does_not_fit() -> None:
    images, texts = unit([0.0]), np.ones((2, 1, 2), np.float32)
    with pytest.raises(InputError, match=r"\[2\]"):
        zero_shot(images, np.array([2]), texts)
    with pytest.raises(InputError, match="of 0 queries"):
        compare_zero_shot(images[:0], np.array([], np.int64), texts, texts)
    for wrong in (texts[0], texts[:, :0], np.ones((2, 1, 3), np.float32), np.full_like(texts, np.nan)):
        with pytest.raises(EngineError):
            zero_shot(images, np.array([0]), wrong)
    with pytest.raises(EngineError, match="equal shapes"):
        compare_zero_shot(images, np.array([0]), texts, texts[:, [0, 0]])


def made(at1: Recall, *, queries: int = 5000, group_size: float = 1.0) -> RetrievalFigures:
    """Figures of which the gate reads recall@1 from text to image; all else would speak against INT8."""
    bad = Recall(
        reference=90.0, candidate=0.0, drop=Drop(value=90.0, standard_error=0.1, low=89.0, high=91.0), both_int8=0.0
    )
    there = Direction(
        queries=queries, items=1000, groups=1000, group_size=group_size, same_first=9.0, at1=at1, at5=bad, at10=bad
    )
    back = there.model_copy(update={"at1": bad})
    return RetrievalFigures(text_to_image=there, image_to_text=back)


def dropped(value: float, high: float, *, error: float | None = 0.1, reference: float = 58.0) -> RetrievalFigures:
    drop = Drop(value=value, standard_error=error, low=2 * value - high, high=high)
    return made(Recall(reference=reference, candidate=reference - value, drop=drop))


@pytest.mark.parametrize(
    ("value", "high", "kept", "judged", "objections"),
    [
        (0.3, 0.6, "int8", True, 0),
        (-2.0, -1.0, "int8", True, 0),
        (0.4999, 1.4999, "int8", True, 0),
        (0.5, 1.4, "floating point", True, 1),
        (0.5, 1.5, "floating point", True, 2),
        (0.4999, 1.5, "floating point", False, 1),
        (0.0, 4.0, "floating point", False, 1),
        (9.0, 30.0, "floating point", True, 2),
    ],
)
def test_the_gate_at_its_borders(value: float, high: float, kept: str, judged: bool, objections: int) -> None:
    gate = decide_retrieval(dropped(value, high))
    assert (gate.kept, gate.passed, gate.judged) == (kept, kept == "int8", judged)
    assert len(gate.reasons) == 2
    assert len(gate.objections) == objections
    assert set(gate.objections) <= set(gate.reasons)
    assert (gate.queries_needed is None) is judged
    assert any("not judged" in reason for reason in gate.reasons) is not judged
    assert (gate.max_drop, gate.max_high) == (0.5, 1.5)
    assert gate.headline.drop == value


def test_the_limit_is_three_times_another_bound_too() -> None:
    bounds = RetrievalBounds(2.0)
    assert decide_retrieval(dropped(1.9, 5.9), bounds).passed
    assert not decide_retrieval(dropped(1.9, 6.0), bounds).passed
    assert not decide_retrieval(dropped(2.0, 5.9), bounds).passed
    for wrong in (0.0, -1.0, math.nan, 100.0):
        with pytest.raises(InputError):
            RetrievalBounds(wrong)


@pytest.mark.parametrize(("count", "judged"), [(183, False), (184, True)])
def test_without_a_change_184_images_are_enough(count: int, judged: bool) -> None:
    """z sqrt(2 / ((n + 2) (n + 1))) is 1.502 % for 183 and 1.494 % for 184."""
    vectors = np.random.default_rng(0).normal(size=(count, 8)).astype(np.float32)
    gate = decide_retrieval(compare_retrieval(single(*range(count)), Embedded(vectors, vectors, vectors)))
    assert (gate.passed, gate.judged) == (judged, judged)
    assert gate.queries_needed in (None, 184, 185, 186), "about"
    assert (gate.queries_needed is None) is judged


@pytest.mark.parametrize(("counts", "captions"), [((50, 0, 0, 50), 1), ((90, 3, 3, 4), 1), ((900, 31, 29, 40), 5)])
def test_so_many_queries_as_it_says_are_needed(counts: tuple[int, int, int, int], captions: int) -> None:
    """The same mixture with 3 % more queries than said is within the limit, with 10 % less it is not."""
    queries = sum(counts) * captions

    def again(total: float) -> Drop:
        images = round(total / captions)
        lost, gained = (round(images * count / sum(counts)) for count in counts[1:3])
        ours, theirs = hits(images - lost - gained, lost, gained, 0)
        own = np.repeat(np.arange(images), captions)
        return compare_hits(np.repeat(ours, captions), np.repeat(theirs, captions), own)

    drop = again(queries)
    assert drop.high >= 1.5
    at1 = Recall(reference=60.0, candidate=60.0 - drop.value, drop=drop)
    gate = decide_retrieval(made(at1, queries=queries, group_size=captions))
    assert not gate.judged
    assert gate.queries_needed is not None
    assert f"{gate.queries_needed:,} texts" in gate.objections[0]
    assert again(1.03 * gate.queries_needed).high < 1.5 <= again(0.9 * gate.queries_needed).high


def test_one_group_has_no_spread_and_is_not_judged() -> None:
    gate = decide_retrieval(dropped(0.0, 100.0, error=None))
    assert (gate.judged, gate.passed, gate.queries_needed) == (False, False, None)
    assert "all hang together" in gate.objections[0]


def test_a_reference_that_finds_nothing_proves_nothing() -> None:
    """A candidate that finds nothing at all would lose 0.4 points of 0.4."""
    for value, high in ((0.0, 0.1), (0.4, 0.9)):
        gate = decide_retrieval(dropped(value, high, reference=0.4))
        assert (gate.judged, gate.passed, gate.queries_needed) == (False, False, None)
        assert "the reference itself" in gate.objections[0]
    assert decide_retrieval(dropped(0.0, 0.1, reference=0.5)).passed


def test_figures_and_decision_are_read_back(tmp_path: Path) -> None:
    nothing = Drop(value=0.0, standard_error=0.0, low=0.0, high=0.0)
    shot = ZeroShot(
        images=5, classes=2, templates=1, candidate=100.0, low=56.6, high=100.0, reference=100.0, drop=nothing
    )
    found = compare_retrieval(RELEVANT, Embedded(TEXTS, WORSE, IMAGES, IMAGES), shot)
    gate = decide_retrieval(found)
    gate.save(tmp_path / "gate.json")
    read = RetrievalGate.load(tmp_path / "gate.json")
    assert read == gate
    assert read.figures == found
    assert (found.task, found.version) == ("retrieval", "edgeq.retrieval-quality/1")
    (tmp_path / "gate.json").write_text("{}")
    with pytest.raises(ArtifactError, match="holds no decision on a text encoder"):
        RetrievalGate.load(tmp_path / "gate.json")


def test_the_task_reads_pairs_and_compares_in_their_order(tmp_path: Path) -> None:
    folder = draw_pictures(tmp_path / "given", each=1)
    (folder / "pairs.jsonl").write_text(
        '{"image": "red/red-000.jpg", "captions": ["red", "warm"]}\n'
        '{"image": "blue/blue-000.jpg", "captions": ["cold"]}\n'
    )
    pairs = RETRIEVAL.open(folder)
    assert [item.name for item in pairs.images.items] == ["blue/blue-000.jpg", "red/red-000.jpg"]
    images, texts, worse = unit([0.0, 90.0]), unit([80.0, 70.0, 10.0]), unit([80.0, 20.0, 10.0])
    found = RETRIEVAL.compare(pairs, Embedded(texts, worse, images))
    assert found.headline().reference == 100.0
    assert found.headline().candidate == pytest.approx(200 / 3)


def test_images_that_are_right_too_do_not_tie_captions_to_each_other() -> None:
    """Twenty captions in two classes, each chosen with an image of its own: twenty groups, and not two."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(20, 8)).astype(np.float32)
    relevant = [frozenset(range(caption % 2, 20, 2)) for caption in range(20)]
    embedded = Embedded(images, images, images)
    assert compare_retrieval(relevant, embedded).text_to_image.groups == 2
    found = compare_retrieval(relevant, embedded, written=single(*range(20))).text_to_image
    assert (found.groups, found.at1.reference) == (20, 100.0)
    assert found.at1.drop.high < compare_retrieval(relevant, embedded).text_to_image.at1.drop.high
