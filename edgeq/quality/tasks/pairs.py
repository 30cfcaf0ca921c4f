"""The user's own images and captions, for retrieval: a JSONL file and its images, checked before any long work.

A line is `{"image": "a.jpg", "captions": ["...", ...], "relevant": ["b.jpg", ...]}`. `relevant` may be left out:
further images that are right for these captions too. An image may have several lines. The file is `pairs.jsonl` in a
folder or zip of images, or has a name of its own. Its images are in the zip of its name beside it (`cats.zip` beside
`cats.jsonl`) where there is one, or else below its folder.

An image that no line names is left out: nobody has said which captions are wrong for it. Captions that are equal but
for case and spaces are one, right for all images of each: as two, either would be wrong where the other is right.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from edgeq.errors import ImageError, InputError
from edgeq.files import MAX_JSON_BYTES, open_plain
from edgeq.model.images.decode import IMAGE_SUFFIXES
from edgeq.model.images.image_set import ImageItem, ImageSet
from edgeq.model.images.stores.kinds import open_store
from edgeq.quality.tasks.json_lines import read_line, split_lines

__all__ = [
    "MAX_CAPTIONS",
    "MAX_CHARACTERS",
    "MAX_LINES",
    "MAX_PAIRS",
    "PAIRS_FILE",
    "PairLine",
    "Pairs",
    "groups",
    "inverse",
]

PAIRS_FILE: Final = "pairs.jsonl"
"""What the file is called in a folder or zip."""

MAX_LINES: Final = 100_000
"""A file with more lines is not used."""

MAX_CHARACTERS: Final = 4_000
"""The longest caption, in characters: a text encoder reads some hundred of them."""

MAX_CAPTIONS: Final = 250_000
"""Captions at most; each has an embedding of both text encoders, all of which are kept."""

MAX_PAIRS: Final = 10_000_000
"""Captions times their right images at most, over all lines."""

_FORM: Final = 'an object with "image" and "captions", and perhaps "relevant"'


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("it is empty")
    return text


def _not_empty(captions: tuple[str, ...]) -> tuple[str, ...]:
    if not captions:
        raise ValueError("it is empty")
    return captions


Name = Annotated[str, AfterValidator(_not_blank)]
Caption = Annotated[str, Field(max_length=MAX_CHARACTERS), AfterValidator(_not_blank)]


class PairLine(BaseModel):
    """One line.

    Attributes:
        image: a name below the folder or in the zip, with `/` between its parts.
        captions: each says what is to be seen; one at least.
        relevant: further images that the captions are right for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    image: Name
    captions: Annotated[tuple[Caption, ...], AfterValidator(_not_empty)]
    relevant: tuple[Name, ...] = ()


@dataclass(frozen=True)
class Pairs:
    """Images and captions, each once, and which belong together.

    Attributes:
        path: the file, or the zip that it is in.
        images: those that a line names, in the order of their names.
        captions: in the order of the file.
        relevant: for each caption the images that are right for it, as places in `images.items`; one at least. Every
            image is right for one caption at least.
        written: for each caption the images on whose lines it stands; one at least. They are how captions were chosen.
    """

    path: Path
    images: ImageSet
    captions: tuple[str, ...]
    relevant: tuple[frozenset[int], ...]
    written: tuple[frozenset[int], ...]

    @classmethod
    def open(cls, path: Path) -> Pairs:
        """Read the file, and look at the header of every image that it names.

        Args:
            path: the file; or a folder or zip with `pairs.jsonl` in it.

        Raises:
            InputError: the file is missing, too long or empty, or leaves nothing to choose from; a line is not UTF-8,
                no JSON object, has an unknown key, lacks one, or has one that is empty, too long or of the wrong type.
                It names file and line.
            ImageError: an image is missing or is none, which names file and line too; or the zip is damaged or not
                safe.
        """
        place, data, beside = _find(Path(path))
        lines = [(where, read_line(line, where, PairLine, _FORM)) for where, line in _lines(data, place)]
        _check_numbers(lines, place)
        images = ImageSet.open(beside)
        named = _named(lines, images)
        images = images.without(item for item in images.items if item not in named)
        indices = {item.name: index for index, item in enumerate(images.items)}
        captions, relevant, written = _united((line for _, line in lines), indices)
        if len(images) < 2 or len(captions) < 2:
            raise InputError(
                f"{place} leaves nothing to choose from: {len(images)} images, {len(captions)} captions",
                expected="two different images and captions at least, and some hundred for a judgement",
            )
        return cls(Path(path), images, captions, relevant, written)

    @property
    def captions_of(self) -> tuple[frozenset[int], ...]:
        """For each image the captions that are right for it, as places in `captions`; one at least."""
        return inverse(self.relevant, len(self.images))


def inverse(relevant: Sequence[frozenset[int]], count: int) -> tuple[frozenset[int], ...]:
    """For each of `count` items the queries that it is right for.

    Args:
        relevant: for each query the items that are right for it, each below `count`.
        count: number of items.
    """
    found: list[list[int]] = [[] for _ in range(count)]
    for query, items in enumerate(relevant):
        for item in items:
            found[item].append(query)
    return tuple(frozenset(queries) for queries in found)


def groups(written: Sequence[frozenset[int]], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which captions and images were chosen together: through a caption on the lines of both images, at any remove.

    Where each caption stands on one line, a group is an image with its captions.

    Args:
        written: for each caption the images on whose lines it stands; each below `count`.
        count: number of images. One that no caption stands beside is a group of its own.

    Returns:
        The group of each caption, int64 [captions], and of each image, int64 [count], counted from 0.
    """
    above = list(range(count))

    def top(image: int) -> int:
        while above[image] != image:
            above[image] = above[above[image]]
            image = above[image]
        return image

    for images in written:
        first, *others = images
        for other in others:
            above[top(other)] = top(first)
    tops = np.array([top(image) for image in range(count)], np.int64)
    _, of_images = np.unique(tops, return_inverse=True)
    of_captions = of_images[[next(iter(images)) for images in written]]
    return of_captions.astype(np.int64), of_images.astype(np.int64)


def _find(path: Path) -> tuple[str, bytes, Path]:
    """The file as it is called in errors, its bytes, and where its images are."""
    if path.suffix.lower() == ".zip" and path.is_file():
        store = open_store(path)
        if PAIRS_FILE not in store.names():
            raise InputError(f"{path} has no {PAIRS_FILE}", expected="it beside the images, in the zip")
        place = str(path / PAIRS_FILE)
        return place, _bounded(store.read(PAIRS_FILE), place), path
    file = path / PAIRS_FILE if path.is_dir() else path
    try:
        if file.exists() and not file.is_file():  # reading a pipe or a device could wait for ever
            raise InputError(f"{file} is not a file", expected="a JSONL file of images and captions")
        with open_plain(file) as opened:
            data = opened.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        raise InputError(
            f"{file} cannot be read: {error.strerror or error}",
            expected=f"a JSONL file of images and captions; {PAIRS_FILE} in a folder or zip of images",
        ) from error
    packed = file.with_suffix(".zip")
    return str(file), _bounded(data, str(file)), packed if packed.is_file() else file.parent


def _bounded(data: bytes, place: str) -> bytes:
    if len(data) > MAX_JSON_BYTES:
        raise InputError(f"{place} is too long for captions", expected=f"at most {MAX_JSON_BYTES:,} bytes")
    return data


def _lines(data: bytes, place: str) -> list[tuple[str, bytes]]:
    """(where, line) of every line that is not blank."""
    count = data.count(b"\n")
    if count > MAX_LINES:
        raise InputError(f"{place} has {count:,} lines", expected=f"at most {MAX_LINES:,}", next_step="judge by fewer")
    found = split_lines(data, place)
    if not found:
        raise InputError(f"{place} has no line", expected='lines such as {"image": "a.jpg", "captions": ["..."]}')
    return found


def _check_numbers(lines: Sequence[tuple[str, PairLine]], place: str) -> None:
    """Raise InputError where there are more captions or pairs than can be kept."""
    captions = sum(len(line.captions) for _, line in lines)
    pairs = sum(len(line.captions) * (1 + len(line.relevant)) for _, line in lines)
    for count, most, what in ((captions, MAX_CAPTIONS, "captions"), (pairs, MAX_PAIRS, "pairs of caption and image")):
        if count > most:
            raise InputError(
                f"{place} has {count:,} {what}", expected=f"at most {most:,}", next_step="judge by fewer lines"
            )


def _named(lines: Iterable[tuple[str, PairLine]], images: ImageSet) -> set[ImageItem]:
    """The images that the lines name, each looked at once; raises ImageError, which names file and line."""
    known = {item.name: item for item in images.items}
    found: set[ImageItem] = set()
    for where, line in lines:
        for name in (line.image, *line.relevant):
            item = known.get(name)
            if item is None:
                raise ImageError(
                    f"{where}: there is no image {name[:200]}",
                    expected=f"a name below {images.path}, with / between its parts, ending in "
                    + " ".join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES)),
                )
            if item not in found:
                _check_image(images, item, where)
                found.add(item)
    return found


def _check_image(images: ImageSet, item: ImageItem, where: str) -> None:
    try:
        images.size(item)
    except ImageError as error:
        raise ImageError(
            f"{where}: {error.what}", expected=error.expected, causes=error.causes, next_step=error.next_step
        ) from error


def _united(
    lines: Iterable[PairLine], indices: Mapping[str, int]
) -> tuple[tuple[str, ...], tuple[frozenset[int], ...], tuple[frozenset[int], ...]]:
    """Each caption once, as it was written first, all images that are right for it, and those that it stands beside."""
    captions: dict[str, str] = {}
    relevant: dict[str, set[int]] = {}
    written: dict[str, set[int]] = {}
    for line in lines:
        right = {indices[name] for name in (line.image, *line.relevant)}
        for caption in line.captions:
            same = " ".join(caption.casefold().split())
            captions.setdefault(same, caption)
            relevant.setdefault(same, set()).update(right)
            written.setdefault(same, set()).add(indices[line.image])
    return tuple(captions.values()), tuple(map(frozenset, relevant.values())), tuple(map(frozenset, written.values()))
