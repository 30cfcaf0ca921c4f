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

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import EngineError, InputError
from edgeq.quality.tasks.base import Task
from edgeq.quality.tasks.pairs import Pairs, groups, inverse
from edgeq.quality.tasks.recall import Found, check_right, compare_hits, own_size, recall, search
from edgeq.quality.tasks.retrieval_figures import Direction, Recall, RetrievalFigures, ZeroShot

__all__ = ["Embedded", "RetrievalTask", "compare_retrieval"]


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
        zero_shot: figures to put beside, of `edgeq.quality.tasks.zero_shot`.
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
    check_right(relevant, len(relevant), images, what="caption")
    captions_of = inverse(relevant, images)
    check_right(captions_of, images, len(relevant), what="image")
    of_captions, of_images = groups(relevant if written is None else written, images)
    sides = [
        _Side(embedded.reference_texts, embedded.reference_images),
        _Side(embedded.candidate_texts, embedded.reference_images),
    ]
    if embedded.candidate_images is not None:
        sides.append(_Side(embedded.candidate_texts, embedded.candidate_images))
    return RetrievalFigures(
        text_to_image=_direction([search(side.texts, side.images, relevant) for side in sides], of_captions, images),
        image_to_text=_direction(
            [search(side.images, side.texts, captions_of) for side in sides], of_images, len(relevant)
        ),
        zero_shot=zero_shot,
    )


@dataclass(frozen=True)
class _Side:
    """A text encoder's embeddings beside a vision encoder's, float32 [captions, d] and [images, d]."""

    texts: NDArray[np.float32]
    images: NDArray[np.float32]


def _direction(sides: Sequence[Found], of_queries: NDArray[np.int64], items: int) -> Direction:
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
        group_size=own_size(sizes),
        same_first=100.0 * float((first == other_first).mean()),
        at1=at(1),
        at5=at(5),
        at10=at(10),
    )


def _check_rows(what: str, count: int, ours: NDArray[np.float32], theirs: NDArray[np.float32] | None) -> None:
    """Raise EngineError unless there is a row of both for each caption or image, and both are of one width."""
    for values in (ours, theirs):
        if values is not None and (values.ndim != 2 or len(values) != count or values.shape != ours.shape):
            raise EngineError(
                f"embeddings of {count} {what} are {list(values.shape)}",
                expected=f"[{count}, d], and one d for all",
            )
