"""Examples whose answer is another one after quantization: who they are, and small pictures of them in the bundle."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image

from edgeq.bundle_report.pictures import small_jpeg
from edgeq.errors import ImageError, InputError
from edgeq.files import atomic_write
from edgeq.quality.judge import Quality
from edgeq.quality.tasks.answer_figures import VlmQuality

__all__ = ["CHANGED", "MOST_PICTURES", "ChangedExample", "changed_answers", "save_changed"]

CHANGED: Final = "changed"
"""The pictures' folder in a bundle; `0.jpg` belongs to the first example."""

MOST_PICTURES: Final = 24


@dataclass(frozen=True)
class ChangedExample:
    """One of them.

    Attributes:
        image: its name among what was judged.
        reference, candidate: what each network says.
        right: what is right; empty where nobody knows.
        question: that was asked; empty of a classifier.
    """

    image: str
    reference: str
    candidate: str
    right: str = ""
    question: str = ""

    def lines(self, reference: str) -> tuple[tuple[str, str], ...]:
        """What stands below its picture; `reference` is what the reference is called."""
        told = (
            ("image", self.image),
            ("question", self.question),
            (reference, self.reference),
            ("quantized", self.candidate),
            ("right", self.right),
        )
        return tuple((name, text) for name, text in told if text)


def changed_answers(quality: Quality | VlmQuality | None) -> tuple[ChangedExample, ...] | None:
    """Those that the figures name; None where they name none of any kind."""
    if quality is not None and not isinstance(quality, Quality):
        return tuple(
            ChangedExample(each.image, each.reference, each.candidate, each.answer or "", each.question)
            for each in quality.divergences
        )
    answers = None if quality is None else quality.answers
    if answers is None or (not answers.changed and answers.agreement < 100.0):  # figures of before they were named
        return None
    return tuple(ChangedExample(each.image, each.reference, each.candidate, each.right) for each in answers.changed)


def save_changed(quality: Quality | VlmQuality | None, read: Callable[[str], Image.Image], bundle: Path) -> None:
    """Write small pictures of the first of them; an image that cannot be read any more has none.

    Args:
        quality: the figures.
        read: gives an image (mode RGB) by its name.
        bundle: the directory that is being made.

    Raises:
        OutputError: the disk is full.
    """
    for place, each in enumerate((changed_answers(quality) or ())[:MOST_PICTURES]):
        with suppress(ImageError, InputError, KeyError):
            atomic_write(bundle / CHANGED / f"{place}.jpg", small_jpeg(read(each.image)))
