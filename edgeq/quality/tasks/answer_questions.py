"""The user's own images and questions: a JSONL file beside the images, checked as a whole before any long work.

A line is `{"image": "a.jpg", "question": "...", "answer": "...", "key_terms": ["...", ...]}`; the last two may be left
out. `image` is a name below the folder that the file is in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Final

from PIL import Image
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from edgeq.errors import ImageError, InputError
from edgeq.files import MAX_JSON_BYTES, open_plain
from edgeq.model.images.decode import decode_image
from edgeq.model.images.stores.base import Folder
from edgeq.quality.tasks.json_lines import read_line, split_lines

__all__ = ["MAX_CHARACTERS", "JudgedQuestion", "QuestionItem", "Questions"]

_FORM: Final = 'an object with "image" and "question", and perhaps "answer" and "key_terms"'

MAX_CHARACTERS: Final = 20_000
"""The longest question or reference answer, in characters."""


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("it is empty")
    return text


Text = Annotated[str, Field(max_length=MAX_CHARACTERS), AfterValidator(_not_blank)]


class JudgedQuestion(BaseModel):
    """One line.

    Attributes:
        image: a name below the file's folder, with `/` between its parts.
        question: what is asked, without chat template or image token.
        answer: what a right answer says; None where nobody knows.
        key_terms: words that a right answer has in it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    image: Annotated[str, AfterValidator(_not_blank)]
    question: Text
    answer: Text | None = None
    key_terms: tuple[Text, ...] = ()


@dataclass(frozen=True)
class QuestionItem:
    """A question with its picture.

    Attributes:
        name: of the picture; the same name is the same picture.
        image: mode RGB, upright.
        question, answer, key_terms: as in `JudgedQuestion`.
    """

    name: str
    image: Image.Image
    question: str
    answer: str | None = None
    key_terms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Questions:
    """A file of questions. Iterating decodes one picture at a time, as often as one likes.

    Attributes:
        path: the file.
        entries: its lines in order.
    """

    path: Path
    entries: tuple[JudgedQuestion, ...]
    _folder: Folder

    @classmethod
    def open(cls, path: Path) -> Questions:
        """Read the file and look at every image that it names.

        Raises:
            InputError: the file is missing, too long or empty; a line is not UTF-8, no JSON object, has an unknown key,
                lacks one, or has one that is empty or of the wrong type. It names file and line.
            ImageError: an image is missing, is outside the folder or cannot be decoded; it names file and line too.
        """
        path = Path(path)
        lines = _lines(path)
        folder = Folder(path.parent)
        found = cls(path, tuple(read_line(line, where, JudgedQuestion, _FORM) for where, line in lines), folder)
        places: dict[str, str] = {}
        for (where, _), entry in zip(lines, found.entries, strict=True):
            places.setdefault(entry.image, where)
        names = frozenset(folder.names())
        for image, where in places.items():
            _check_image(folder, names, image, where)
        return found

    def __len__(self) -> int:
        """How many questions there are."""
        return len(self.entries)

    def __iter__(self) -> Iterator[QuestionItem]:
        """The questions in order, each with its picture; raises ImageError where one is gone by now."""
        for entry in self.entries:
            yield QuestionItem(entry.image, self.read(entry.image), entry.question, entry.answer, entry.key_terms)

    def read(self, name: str) -> Image.Image:
        """One picture by its name: mode RGB, upright; raises ImageError."""
        return decode_image(self._folder.read(name), name)


def _lines(path: Path) -> list[tuple[str, bytes]]:
    """(where, line) of every line that is not blank."""
    try:
        with open_plain(path) as file:
            data = file.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror or error}",
            expected="a JSONL file of questions, beside its images",
        ) from error
    if len(data) > MAX_JSON_BYTES:
        raise InputError(f"{path} is too long for questions", expected=f"at most {MAX_JSON_BYTES:,} bytes")
    found = split_lines(data, str(path))
    if not found:
        raise InputError(f"{path} has no question", expected='lines such as {"image": "a.jpg", "question": "..."}')
    return found


def _check_image(folder: Folder, names: frozenset[str], name: str, where: str) -> None:
    inside = not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name.replace("\\", "/")).parts
    if not inside:
        raise ImageError(f"{where}: {name} leads out of the folder", expected="a name below the file's own folder")
    if name not in names:
        raise ImageError(
            f"{where}: there is no image {name}",
            expected="the name of a file below the folder that the questions lie in",
        )
    try:
        decode_image(folder.read(name), name)
    except ImageError as error:
        raise ImageError(f"{where}: {error.what}", causes=error.causes, next_step=error.next_step) from error
