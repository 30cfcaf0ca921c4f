"""What a candidate text encoder does to a search: recall, drops with their intervals, rows for a table."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from edgeq.quality.tasks.base import Headline, Row, TaskFigures

__all__ = ["Direction", "Drop", "Recall", "RetrievalFigures", "ZeroShot"]


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
        candidate: top-1 with the text encoder that is judged, on FP16 images.
        low, high: its interval of 95 %.
        reference: top-1 with the text encoder that it is held against; None where there is none.
        drop: reference - candidate.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int
    classes: int
    templates: int
    candidate: float
    low: float
    high: float
    reference: float | None = None
    drop: Drop | None = None

    def rows(self) -> tuple[Row, ...]:
        """For a table."""
        drop = self.drop
        change = "" if drop is None else f"{drop.text()}, 95 % {0.0 - drop.high:+.2f} to {0.0 - drop.low:+.2f}"
        return (
            (
                f"zero-shot top-1, {self.images} images",
                "" if self.reference is None else f"{self.reference:.2f} %",
                f"{self.candidate:.2f} %",
                change,
            ),
            ("with 95 % between", "", f"{self.low:.2f} and {self.high:.2f} %", ""),
        )


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
            *(() if self.zero_shot is None else self.zero_shot.rows()),
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
