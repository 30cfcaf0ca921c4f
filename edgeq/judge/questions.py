"""What is asked, and what is right: the user's own questions, a bundle's canaries, and the sight test."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from edgeq.bundle.manifest import Manifest
from edgeq.errors import ArtifactError
from edgeq.quality.tasks.answer_questions import Questions
from edgeq.quality.tasks.answer_wording import found_terms, same_wording
from edgeq.runtime.canary.canaries import CANARIES, CANARY_LIST, Canaries
from edgeq.runtime.canary.files import read_picture

__all__ = ["CANARY_GROUP", "OWN_GROUP", "AskedQuestion", "canary_questions", "in_parts", "own_questions"]

OWN_GROUP: Final = "your questions"
CANARY_GROUP: Final = "canaries"

_DIGITS: Final = {
    word: str(number)
    for number, word in enumerate(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
}


@dataclass(frozen=True)
class AskedQuestion:
    """One question about one image.

    Attributes:
        group: whose figures it counts to: `OWN_GROUP`, `CANARY_GROUP`, or a skill of the sight test.
        name: of the image.
        question: in plain text.
        read: gives the image, mode RGB; called when it is asked.
        answer: the right one, in full; None where nobody knows.
        key_terms: words that a right answer has in it.
        options: where one of them is right, all of them; a right answer names `answer` and no other.
    """

    group: str
    name: str
    question: str
    read: Callable[[], Image.Image]
    answer: str | None = None
    key_terms: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    @property
    def known(self) -> bool:
        """Whether it is known what is right."""
        return self.answer is not None or bool(self.key_terms)

    def png(self) -> bytes:
        """The image as a PNG file."""
        file = io.BytesIO()
        self.read().save(file, "PNG", compress_level=1)
        return file.getvalue()

    def key(self, png: bytes) -> str:
        """What tells it from other questions: SHA-256 of question and image, in hexadecimal."""
        return hashlib.sha256(self.question.encode() + b"\0" + png).hexdigest()

    def score(self, said: str) -> float:
        """How right an answer is, 0 to 1: the option alone; else the wording; else the share of key terms."""
        if self.options:
            text = _with_digits(said)
            named = [option for option in self.options if found_terms(text, (option,))]
            return float([name.casefold() for name in _longest(named)] == [(self.answer or "").casefold()])
        if self.answer is not None and same_wording(said, self.answer):
            return 1.0
        return found_terms(said, self.key_terms) / len(self.key_terms) if self.key_terms else 0.0


def own_questions(path: Path) -> tuple[AskedQuestion, ...]:
    """A JSONL file of questions beside its images, as `Questions.open` reads it; raises what that raises."""
    questions = Questions.open(path)
    return tuple(
        AskedQuestion(
            OWN_GROUP,
            entry.image,
            entry.question,
            _reader(questions.read, entry.image),
            entry.answer,
            entry.key_terms,
        )
        for entry in questions.entries
    )


def canary_questions(bundle: Path, manifest: Manifest) -> tuple[AskedQuestion, ...]:
    """The canaries of a vision-language bundle; the workshop's answers are the right ones.

    Args:
        bundle: its directory.
        manifest: of it; every file was checked.

    Raises:
        ArtifactError: it is the bundle of something else, or its canaries cannot be read.
    """
    if manifest.kind != "vision-language":
        raise ArtifactError(
            f"{bundle} answers no questions about images: it is the bundle of a {manifest.kind} model",
            expected="the bundle of a vision-language model",
            next_step=f'edgeq verify-engine "{bundle}"',
        )
    if not (bundle / CANARY_LIST).exists():
        return ()
    return tuple(
        AskedQuestion(
            CANARY_GROUP, each.image, each.question, _reader(read_picture, bundle / CANARIES / each.image), each.answer
        )
        for each in Canaries.load(bundle / CANARY_LIST).canaries
    )


def in_parts(questions: Sequence[AskedQuestion], seed: int) -> tuple[AskedQuestion, ...]:
    """The same questions, so that the first of them, however many, are a random sample with each group's share in it.

    Args:
        questions: in any order.
        seed: of the order.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    groups: dict[str, list[AskedQuestion]] = {}
    for question in questions:
        groups.setdefault(question.group, []).append(question)
    placed = [
        ((place + 0.5) / len(group), group[index])
        for group in groups.values()
        for place, index in enumerate(rng.permutation(len(group)))
    ]
    return tuple(question for _, question in sorted(placed, key=lambda each: each[0]))


def _reader(read: Callable[..., Image.Image], what: object) -> Callable[[], Image.Image]:
    return lambda: read(what)


def _with_digits(text: str) -> str:
    """Numbers up to nine as digits."""
    return re.sub(r"\w+", lambda word: _DIGITS.get(word[0].casefold(), word[0]), text)


def _longest(named: Sequence[str]) -> list[str]:
    """Without those that are part of another: "crack" in "hairline crack"."""
    return [name for name in named if not any(name != other and name in other for other in named)]
