"""What another text encoder may cost a search, where nobody has said which images are right.

For a search among images, a text embedding is as good as what it puts first. Where a candidate puts another image first
than the reference, a right one may be lost or won; that is not known without pairs. But the reference itself tells how
likely each is: CLIP was trained for a softmax over images of cosines times a scale, so that one image is exp(scale *
difference of cosines) times as likely as the other; SigLIP's sigmoid changes less than that. So a caption whose first
image changes counts 1 - exp(-scale * difference), by the reference's cosines: nothing between two images that it can
hardly tell apart, nearly a whole answer for one that it finds far worse. The mean is points of recall@1 that are
expected to be lost, as far as the reference's own confidence can be trusted.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgeq.quality.tasks.base import Headline, Row, TaskFigures
from edgeq.quality.tasks.recall import directions

__all__ = ["FirstImages", "compare_first_images"]


class FirstImages(TaskFigures):
    """What a candidate text encoder puts first.

    Attributes:
        captions, images: how many were asked, and among how many.
        same_first: percent of captions for which both put the same image first.
        expected_drop: points of recall@1 that are expected to be lost; 0 or more.
        standard_error: of it, over captions; None for a single one.
        cosine_mean, cosine_worst: between both embeddings of a caption.
    """

    task: Literal["first-images"] = "first-images"
    version: Literal["edgeq.first-images/1"] = "edgeq.first-images/1"
    captions: int
    images: int
    same_first: float
    expected_drop: float
    standard_error: float | None
    cosine_mean: float
    cosine_worst: float

    def headline(self) -> Headline:
        """The expected drop."""
        return Headline(
            name="expected recall@1",
            unit="points",
            reference=None,
            candidate=None,
            drop=self.expected_drop,
            standard_error=self.standard_error,
            examples=self.captions,
            labelled=False,
            alike="same image first",
            agreement=self.same_first,
        )

    def rows(self) -> tuple[Row, ...]:
        """For a table."""
        expected = f"{self.expected_drop:.2f}{self.headline().doubt} points"
        return (
            (f"expected drop of recall@1, {self.captions} captions", "", "", expected),
            (f"same image first, of {self.images}", "", "", f"{self.same_first:.2f} %"),
            ("cosine", "", "", f"{self.cosine_mean:.5f}, worst {self.cosine_worst:.4f}"),
        )


def compare_first_images(
    reference: NDArray[np.float32], candidate: NDArray[np.float32], images: NDArray[np.float32], scale: float
) -> FirstImages:
    """Let both look for their first image.

    Args:
        reference, candidate: embeddings of the same captions, float32 [captions, d], one row at least; lengths do not
            matter.
        images: float32 [images, d], one row at least.
        scale: what the model multiplies cosines with, above 0.

    Raises:
        EngineError: an array holds NaN or infinity.
    """
    ours, theirs = directions(reference, "embeddings of captions"), directions(candidate, "embeddings of captions")
    stored = directions(images, "embeddings of images")
    scores = ours @ stored.T
    rows = np.arange(len(ours))
    first, other = scores.argmax(axis=1), (theirs @ stored.T).argmax(axis=1)
    lost = -np.expm1(-scale * (scores[rows, first] - scores[rows, other]))
    cosine = (ours * theirs).sum(axis=1)
    return FirstImages(
        captions=len(ours),
        images=len(stored),
        same_first=100.0 * float((first == other).mean()),
        expected_drop=100.0 * float(lost.mean()),
        standard_error=100.0 * float(lost.std(ddof=1)) / math.sqrt(len(lost)) if len(lost) > 1 else None,
        cosine_mean=float(cosine.mean()),
        cosine_worst=float(cosine.min()),
    )
