"""Texts that find images, and images that find texts: a quantized text encoder beside the whole one.

Images are embedded once, in FP16; an index of them stays valid whatever reads the texts. So the candidate is the INT8
text encoder against the FP16 images, and the reference the FP16 text encoder against the same images. recall@k is the
percentage of queries of which a right answer is among the first k by cosine.

Queries that were chosen together are not independent: one image has several captions, and one caption may stand beside
several images. The standard error of a drop is therefore that over groups of them (`edgeq.quality.tasks.pairs.groups`,
`edgeq.quality.estimate.Ratio`). Images that a line names as right too were not chosen with its captions.

An interval of value and standard error alone would be empty where no query changed, be it one of ten or of ten
thousand. So it is that of Bonett and Price (2012) for a difference of paired proportions, with groups for queries: two
groups are added, of which one loses all of its queries and the other gains them. Their size is the mean size of a
query's own group, which is the groups' size where all are equal, and keeps one large group from passing for many.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from edgeq.artifact import Artifact
from edgeq.errors import EngineError, InputError
from edgeq.quality.estimate import Ratio
from edgeq.quality.tasks.base import Headline, Row, Task, TaskFigures
from edgeq.quality.tasks.pairs import Pairs, groups, inverse

__all__ = [
    "DEFAULT_RETRIEVAL_BOUNDS",
    "MAX_RECALL_DROP",
    "Direction",
    "Drop",
    "Embedded",
    "Recall",
    "RetrievalBounds",
    "RetrievalFigures",
    "RetrievalGate",
    "RetrievalTask",
    "ZeroShot",
    "compare_hits",
    "compare_retrieval",
    "compare_zero_shot",
    "decide_retrieval",
    "ranks",
    "recall",
    "zero_shot",
]

MAX_RECALL_DROP: Final = 0.5
"""Points of recall@1 from text to image; INT8 must lose less."""

_LIMIT: Final = 3.0
"""Times the bound of the drop, for its upper limit."""

_Z: Final = 1.959964
"""Standard errors to either side, for 95 %."""

_BLOCK: Final = 4_000_000
"""Scores held at a time, 8 bytes each."""

_TIE: Final = 1e-12
"""Cosines nearer than this are equal: a product of matrices rounds equal rows differently."""


class Drop(BaseModel):
    """What a candidate loses, in points; positive where it is worse.

    Attributes:
        value: the mean over queries.
        standard_error: over groups of queries, paired; None for a single group.
        low, high: the interval of 95 %, which is not empty where no query changed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    standard_error: float | None
    low: float
    high: float

    def text(self) -> str:
        """As a gain, for a table: `-0.30 ± 0.12 points`."""
        doubt = "" if self.standard_error is None else f" ± {self.standard_error:.2f}"
        return f"{0.0 - self.value:+.2f}{doubt} points"


class Recall(BaseModel):
    """recall@k, in percent.

    Attributes:
        reference: FP16 texts and FP16 images.
        candidate: INT8 texts and FP16 images.
        drop: reference - candidate.
        both_int8: INT8 texts and INT8 images, for comparison; None where there are no INT8 images.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    reference: float
    candidate: float
    drop: Drop
    both_int8: float | None = None


class Direction(BaseModel):
    """From text to image, or from image to text.

    Attributes:
        queries: how many were asked.
        items: how many there were to choose from. With k of them or fewer, recall@k says nothing.
        groups: of queries that hang together.
        group_size: the size of its group that a query has on average.
        same_first: percent of queries for which reference and candidate put the same item first.
        at1, at5, at10: recall@1, @5 and @10.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    queries: int
    items: int
    groups: int
    group_size: float
    same_first: float
    at1: Recall
    at5: Recall
    at10: Recall


class ZeroShot(BaseModel):
    """Images classified by texts of their classes, in percent; the classes are given, so that each image is a group.

    Attributes:
        images, classes, templates: how many of each; every class has each template.
        reference, candidate: top-1 with the FP16 and the INT8 text encoder, on FP16 images.
        drop: reference - candidate.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int
    classes: int
    templates: int
    reference: float
    candidate: float
    drop: Drop


class RetrievalFigures(TaskFigures):
    """What a candidate does to a reference's search.

    Attributes:
        text_to_image: captions that find their images.
        image_to_text: images that find their captions.
        zero_shot: of labelled images; None where there were none.
    """

    task: Literal["retrieval"] = "retrieval"
    version: Literal["edgeq.retrieval-quality/1"] = "edgeq.retrieval-quality/1"
    text_to_image: Direction
    image_to_text: Direction
    zero_shot: ZeroShot | None = None

    def headline(self) -> Headline:
        """recall@1 from text to image."""
        way, found = self.text_to_image, self.text_to_image.at1
        return Headline(
            name="recall@1 text -> image",
            unit="points",
            reference=found.reference,
            candidate=found.candidate,
            drop=found.drop.value,
            standard_error=found.drop.standard_error,
            examples=way.queries,
            labelled=True,
            alike="same image first",
            agreement=way.same_first,
        )

    def rows(self) -> tuple[Row, ...]:
        """For a table; the reference is FP16."""
        there, back = self.text_to_image, self.image_to_text
        ways = (("text -> image", there), ("image -> text", back))
        return (
            *(row for name, way in ways for row in _rows(name, way)),
            (f"same image first, {there.queries} texts", "", "", f"{there.same_first:.2f} %"),
            (f"same text first, {back.queries} images", "", "", f"{back.same_first:.2f} %"),
            *_zero_shot_rows(self.zero_shot),
        )


def _rows(name: str, way: Direction) -> list[Row]:
    recalls = ((1, way.at1), (5, way.at5), (10, way.at10))
    rows = [
        (f"recall@{k} {name}", f"{found.reference:.2f} %", f"{found.candidate:.2f} %", found.drop.text())
        for k, found in recalls
    ]
    other = way.at1.both_int8
    if other is not None:
        change = f"{other - way.at1.reference:+.2f} points"
        rows.append((f"recall@1 {name}, images in INT8 too", "", f"{other:.2f} %", change))
    return rows


def _zero_shot_rows(found: ZeroShot | None) -> tuple[Row, ...]:
    if found is None:
        return ()
    name = f"zero-shot top-1, {found.images} images"
    return ((name, f"{found.reference:.2f} %", f"{found.candidate:.2f} %", found.drop.text()),)


@dataclass(frozen=True)
class Embedded:
    """What the encoders gave; lengths do not matter.

    Attributes:
        reference_texts, candidate_texts: of the FP16 and the INT8 text encoder, float32 [captions, d].
        reference_images: of the FP16 vision encoder, float32 [images, d].
        candidate_images: of an INT8 vision encoder, for comparison; None where there is none.
    """

    reference_texts: NDArray[np.float32]
    candidate_texts: NDArray[np.float32]
    reference_images: NDArray[np.float32]
    candidate_images: NDArray[np.float32] | None = None


class RetrievalTask(Task[Pairs]):
    """Texts that find images, and images that find texts."""

    name = "retrieval"
    what = "texts and images that find each other, told by pairs.jsonl"

    def open(self, path: Path, labels: Sequence[str] | None = None) -> Pairs:  # noqa: ARG002
        """Images and captions, as `Pairs.open`; a model of two encoders has no class names."""
        return Pairs.open(path)

    def compare(self, pairs: Pairs, embedded: Embedded, zero_shot: ZeroShot | None = None) -> RetrievalFigures:
        """As `compare_retrieval`.

        Args:
            pairs: which belong together.
            embedded: its captions and images, in its order.
            zero_shot: figures to put beside.
        """
        return compare_retrieval(pairs.relevant, embedded, zero_shot, written=pairs.written)


def compare_retrieval(
    relevant: Sequence[frozenset[int]],
    embedded: Embedded,
    zero_shot: ZeroShot | None = None,
    *,
    written: Sequence[frozenset[int]] | None = None,
) -> RetrievalFigures:
    """Search in both directions with both text encoders, and compare.

    Args:
        relevant: for each caption the images that are right for it, as rows of the images' embeddings.
        embedded: what the encoders gave.
        zero_shot: figures to put beside, of `compare_zero_shot`.
        written: for each caption the images that it was chosen with; None for those that are right for it.

    Raises:
        InputError: a caption or an image has nothing that is right for it.
        EngineError: an encoder gave NaN or infinity, or arrays do not fit each other.
    """
    images = len(embedded.reference_images)
    if not relevant:
        raise InputError("there is no caption to judge by")
    _check_rows("captions", len(relevant), embedded.reference_texts, embedded.candidate_texts)
    _check_rows("images", images, embedded.reference_images, embedded.candidate_images)
    _check_right(relevant, len(relevant), images, what="caption")
    captions_of = inverse(relevant, images)
    _check_right(captions_of, images, len(relevant), what="image")
    of_captions, of_images = groups(relevant if written is None else written, images)
    sides = [
        _Side(embedded.reference_texts, embedded.reference_images),
        _Side(embedded.candidate_texts, embedded.reference_images),
    ]
    if embedded.candidate_images is not None:
        sides.append(_Side(embedded.candidate_texts, embedded.candidate_images))
    return RetrievalFigures(
        text_to_image=_direction([_search(side.texts, side.images, relevant) for side in sides], of_captions, images),
        image_to_text=_direction(
            [_search(side.images, side.texts, captions_of) for side in sides], of_images, len(relevant)
        ),
        zero_shot=zero_shot,
    )


@dataclass(frozen=True)
class _Side:
    """A text encoder's embeddings beside a vision encoder's, float32 [captions, d] and [images, d]."""

    texts: NDArray[np.float32]
    images: NDArray[np.float32]


_Found = tuple[NDArray[np.int64], NDArray[np.int64]]
"""The rank of each query's best right item, and the item that is first."""


def _direction(sides: Sequence[_Found], of_queries: NDArray[np.int64], items: int) -> Direction:
    """The figures of reference, candidate and, where it is there, INT8 against INT8."""
    sizes = np.bincount(of_queries)
    (ours, first), (theirs, other_first), *both = sides

    def at(k: int) -> Recall:
        return Recall(
            reference=recall(ours, k),
            candidate=recall(theirs, k),
            drop=compare_hits(ours < k, theirs < k, of_queries),
            both_int8=recall(both[0][0], k) if both else None,
        )

    return Direction(
        queries=len(ours),
        items=items,
        groups=len(sizes),
        group_size=_own_size(sizes),
        same_first=100.0 * float((first == other_first).mean()),
        at1=at(1),
        at5=at(5),
        at10=at(10),
    )


def ranks(
    queries: NDArray[np.float32], items: NDArray[np.float32], relevant: Sequence[frozenset[int]]
) -> NDArray[np.int64]:
    """Where each query's best right item stands, by cosine.

    It is the number of wrong items that are as near as it or nearer: a tie counts against, so that embeddings which are
    all alike find nothing. A vector of zeros has a cosine of 0 with everything.

    Args:
        queries: float32 [q, d].
        items: float32 [n, d].
        relevant: for each query the items that are right; one at least.

    Returns:
        int64 [q]; 0 is first.

    Raises:
        InputError: a query has no right item, or one that is not there.
        EngineError: an array holds NaN or infinity, or the two do not fit each other.
    """
    _check_right(relevant, len(queries), len(items))
    return _search(queries, items, relevant)[0]


def recall(found: NDArray[np.int64], k: int) -> float:
    """recall@k in percent.

    Args:
        found: of `ranks`, int64 [q].
        k: 1 at least.

    Raises:
        InputError: there is no query, or k is below 1.
    """
    if len(found) == 0 or k < 1:
        raise InputError(f"recall@{k} of {len(found)} queries", expected="a query at least, and k of 1 or more")
    return 100.0 * float((found < k).mean())


def compare_hits(
    reference: NDArray[np.bool_], candidate: NDArray[np.bool_], of_queries: NDArray[np.int64] | None = None
) -> Drop:
    """What the candidate loses of the reference's hits, query by query.

    Args:
        reference, candidate: whether each found what is right, bool [q].
        of_queries: the group of each query, int64 [q], from 0 with none left out; None where each is on its own.

    Raises:
        InputError: there is no query, or the arrays are not of one length.
    """
    own = np.arange(len(reference)) if of_queries is None else of_queries
    if len(reference) == 0 or not len(reference) == len(candidate) == len(own):
        lengths = f"{len(reference)}, {len(candidate)} and {len(own)}"
        raise InputError(f"hits of {lengths} queries", expected="the same queries of both, one at least")
    sizes = np.bincount(own).astype(np.float64)
    lost = np.bincount(own, weights=reference.astype(np.float64) - candidate)
    ratio, wide = Ratio(), Ratio()
    for above, below in zip(lost.tolist(), sizes.tolist(), strict=True):
        ratio.add(above, below)
        wide.add(above, below)
    size = _own_size(sizes)
    for sign in (1.0, -1.0):
        wide.add(sign * size, size)
    drop, doubt = ratio.estimate().times(100.0), wide.estimate().times(100.0)
    half = _Z * (doubt.standard_error or 0.0)
    return Drop(
        value=drop.value,
        standard_error=drop.standard_error,
        low=max(doubt.value - half, -100.0),
        high=min(doubt.value + half, 100.0),
    )


def zero_shot(
    image_vectors: NDArray[np.float32], labels: NDArray[np.int64], class_text_vectors: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Where each image's class stands: a class is the mean of its texts' directions.

    Args:
        image_vectors: float32 [n, d].
        labels: the right class of each image, int64 [n].
        class_text_vectors: float32 [classes, templates, d].

    Returns:
        As `ranks`, int64 [n]: top-1 is `recall` of it at 1.

    Raises:
        InputError: a label is no class.
        EngineError: an array holds NaN or infinity, or they do not fit each other.
    """
    if class_text_vectors.ndim != 3 or 0 in class_text_vectors.shape:
        raise EngineError(f"texts of classes are {list(class_text_vectors.shape)}", expected="[classes, templates, d]")
    classes, templates, width = class_text_vectors.shape
    directions = _directions(class_text_vectors.reshape(classes * templates, width), "texts of classes")
    means = directions.reshape(classes, templates, width).mean(axis=1)
    right = [frozenset((int(label),)) for label in labels]
    _check_right(right, len(image_vectors), classes)
    return _search(image_vectors, means, right)[0]


def compare_zero_shot(
    image_vectors: NDArray[np.float32],
    labels: NDArray[np.int64],
    reference_texts: NDArray[np.float32],
    candidate_texts: NDArray[np.float32],
) -> ZeroShot:
    """Classify the same images with the texts of both encoders.

    Args:
        image_vectors: of the FP16 vision encoder, float32 [n, d].
        labels: the right class of each image, int64 [n].
        reference_texts, candidate_texts: of both text encoders, float32 [classes, templates, d].

    Raises:
        InputError: there is no image, or a label is no class.
        EngineError: an encoder gave NaN or infinity, or arrays do not fit each other.
    """
    if reference_texts.shape != candidate_texts.shape:
        raise EngineError(
            f"texts of classes are {list(reference_texts.shape)} of the reference, "
            f"{list(candidate_texts.shape)} of the candidate",
            expected="equal shapes",
        )
    ours, theirs = (zero_shot(image_vectors, labels, texts) for texts in (reference_texts, candidate_texts))
    return ZeroShot(
        images=len(labels),
        classes=reference_texts.shape[0],
        templates=reference_texts.shape[1],
        reference=recall(ours, 1),
        candidate=recall(theirs, 1),
        drop=compare_hits(ours == 0, theirs == 0),
    )


@dataclass(frozen=True)
class RetrievalBounds:
    """What is demanded of an INT8 text encoder.

    Attributes:
        max_drop: recall@1 from text to image loses less than so many points, and the upper end of the drop's interval
            is below three times that.

    Raises:
        InputError: `max_drop` is not above 0.
    """

    max_drop: float = MAX_RECALL_DROP

    def __post_init__(self) -> None:
        """Raises InputError where the bound cannot be used."""
        if not 0.0 < self.max_drop < 100.0:
            raise InputError(f"a drop of less than {self.max_drop:g} points is demanded", expected="above 0, below 100")

    @property
    def max_high(self) -> float:
        """Points that the upper end of the drop's interval must be below."""
        return _LIMIT * self.max_drop


DEFAULT_RETRIEVAL_BOUNDS: Final = RetrievalBounds()


class RetrievalGate(Artifact):
    """Whether the INT8 text encoder is kept, and on what figures.

    Attributes:
        kept: what the bundle reads texts with. INT8 only where it was shown to be within the bounds.
        judged: whether the figures say enough. They do not where the drop is within its bound, and only the number of
            queries leaves it open whether its upper end is; nor where the reference itself finds so little that a
            text encoder which finds nothing would be within the bound.
        reasons: a sentence on the drop and one on what it rests on.
        objections: those of them that speak against INT8; empty where it was kept.
        queries_needed: about how many would show it, where this drop and its spread stay as they are; None where they
            were enough, or where more of them would not help, or nothing is known of their spread.
        max_drop, max_high: the bounds, in points.
        figures: that were held against them.
    """

    otherwise = "holds no decision on a text encoder"
    made_by = "edgeq prepare"

    version: Literal["edgeq.retrieval-gate/1"] = "edgeq.retrieval-gate/1"
    kept: Literal["int8", "floating point"]
    judged: bool
    reasons: tuple[str, ...]
    objections: tuple[str, ...]
    queries_needed: int | None
    max_drop: float
    max_high: float
    figures: RetrievalFigures

    @property
    def passed(self) -> bool:
        """Whether INT8 was kept."""
        return self.kept == "int8"

    @property
    def headline(self) -> Headline:
        """The one figure that decided."""
        return self.figures.headline()


def decide_retrieval(figures: RetrievalFigures, bounds: RetrievalBounds = DEFAULT_RETRIEVAL_BOUNDS) -> RetrievalGate:
    """Hold the figures against the bounds."""
    found, queries = figures.text_to_image.at1, figures.text_to_image.queries
    drop = found.drop
    small, sure = drop.value < bounds.max_drop, drop.high < bounds.max_high
    blind = found.reference < bounds.max_drop
    needed = None if sure or blind or not small else _needed(figures.text_to_image, bounds)
    checks = (
        (small, _drop_reason(figures, bounds)),
        (False, _blind_reason(found, queries)) if blind else (sure, _doubt_reason(drop, bounds, needed)),
    )
    objections = tuple(reason for good, reason in checks if not good)
    return RetrievalGate(
        kept="floating point" if objections else "int8",
        judged=not blind and (sure or not small),
        reasons=tuple(reason for _, reason in checks),
        objections=objections,
        queries_needed=needed,
        max_drop=bounds.max_drop,
        max_high=bounds.max_high,
        figures=figures,
    )


def _drop_reason(figures: RetrievalFigures, bounds: RetrievalBounds) -> str:
    headline = figures.headline()
    doubt = "" if headline.standard_error is None else f" ± {headline.standard_error:.2f}"
    return (
        f"{headline.name} drops by {headline.drop:.2f}{doubt} points on {headline.examples} texts, "
        f"less than {bounds.max_drop:g} is demanded"
    )


def _doubt_reason(drop: Drop, bounds: RetrievalBounds, needed: int | None) -> str:
    limit = f"with 95 % the drop is between {drop.low:.2f} and {drop.high:.2f} points, less than {bounds.max_high:g}"
    if drop.high < bounds.max_high or drop.value >= bounds.max_drop:
        return f"{limit} is demanded"
    if needed is None:
        return f"not judged: {limit} cannot be shown with texts that all hang together"
    return f"not judged: {limit} takes about {needed:,} texts to show"


def _blind_reason(found: Recall, queries: int) -> str:
    return (
        f"not judged: the reference itself puts a right image first for {found.reference:.2f} % of {queries} texts, "
        "and one that never does loses no more than that"
    )


def _needed(way: Direction, bounds: RetrievalBounds) -> int | None:
    """About how many queries bring the upper limit below its bound; None for a single group, which has no spread.

    With n queries of standard error s and N asked for, the interval's variance is about s^2 n / N + 2 (100 size / N)^2,
    the second part from the two groups that are added.
    """
    drop = way.at1.drop
    if drop.standard_error is None:
        return None
    scale = (_Z / (bounds.max_high - drop.value)) ** 2
    spread = drop.standard_error**2 * way.queries * scale
    added = 2.0 * (100.0 * way.group_size) ** 2 * scale
    return max(math.ceil(spread / 2.0 + math.sqrt(spread**2 / 4.0 + added)), way.queries + 1)


def _own_size(sizes: NDArray[np.int64] | NDArray[np.float64]) -> float:
    """The mean over queries of their groups' sizes."""
    wide = sizes.astype(np.float64)
    return float(np.square(wide).sum() / wide.sum())


def _check_rows(what: str, count: int, ours: NDArray[np.float32], theirs: NDArray[np.float32] | None) -> None:
    """Raise EngineError unless there is a row of both for each caption or image, and both are of one width."""
    for values in (ours, theirs):
        if values is not None and (values.ndim != 2 or len(values) != count or values.shape != ours.shape):
            raise EngineError(
                f"embeddings of {count} {what} are {list(values.shape)}",
                expected=f"[{count}, d], and one d for all",
            )


def _check_right(relevant: Sequence[frozenset[int]], queries: int, items: int, *, what: str = "query") -> None:
    """Raise InputError unless each query, called `what`, has a right item, and each of these is there."""
    if len(relevant) != queries:
        raise InputError(f"there are {queries} queries, and what is right for {len(relevant)}")
    for query, right in enumerate(relevant):
        if not right:
            raise InputError(f"nothing is said to be right for {what} {query}", expected="one item at least")
        if min(right) < 0 or max(right) >= items:
            raise InputError(
                f"{sorted(right)[:5]} are said to be right for {what} {query}",
                expected=f"numbers from 0 to {items - 1}",
            )


def _directions(values: NDArray[np.float32] | NDArray[np.float64], what: str) -> NDArray[np.float64]:
    """Vectors [n, d] of length 1, or 0 where there is no direction."""
    if values.ndim != 2 or not np.isfinite(values).all():
        raise EngineError(f"{what} are {list(values.shape)}, or hold NaN or infinity", expected="finite vectors [n, d]")
    wide = values.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    directions: NDArray[np.float64] = wide / np.where(lengths > 0.0, lengths, 1.0)
    return directions


def _search(
    queries: NDArray[np.float32],
    items: NDArray[np.float32] | NDArray[np.float64],
    relevant: Sequence[frozenset[int]],
) -> _Found:
    """As `ranks`, and which item is first; of several, the first of them."""
    asked, stored = _directions(queries, "embeddings of queries"), _directions(items, "embeddings of items")
    if asked.shape[1] != stored.shape[1]:
        raise EngineError(
            f"queries have {asked.shape[1]} numbers, items {stored.shape[1]}", expected="embeddings of one length"
        )
    found, first = np.empty(len(asked), np.int64), np.empty(len(asked), np.int64)
    step = max(_BLOCK // max(len(stored), 1), 1)
    for start in range(0, len(asked), step):
        piece = slice(start, start + step)
        scores = asked[piece] @ stored.T
        right = np.zeros(scores.shape, np.bool_)
        for row, places in enumerate(relevant[piece]):
            right[row, list(places)] = True
        best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
        found[piece] = ((scores >= best - _TIE) & ~right).sum(axis=1)
        first[piece] = (scores >= scores.max(axis=1, keepdims=True) - _TIE).argmax(axis=1)
    return found, first
