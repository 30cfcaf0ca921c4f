"""Images classified by texts of their classes, as CLIP's paper does it (Radford et al. 2021, arXiv 2103.00020, 3.1).

A class is a name put into templates such as `a photo of a {}.`; it is the mean of these texts' embeddings of length
one, brought to length one again. An image belongs to the class that is nearest by cosine.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import EngineError, InputError
from edgeq.files import MAX_JSON_BYTES, open_plain
from edgeq.model.images.image_set import ImageSet
from edgeq.quality.estimate import wilson_limits
from edgeq.quality.tasks.recall import Z, check_right, compare_hits, directions, recall, search
from edgeq.quality.tasks.retrieval_figures import ZeroShot

__all__ = ["MAX_CLASS_TEXTS", "TEMPLATES", "ClassTexts", "compare_zero_shot", "zero_shot"]

TEMPLATES: Final = ("a photo of a {}.",)
"""Where no others are given."""

MAX_CLASS_TEXTS: Final = 100_000
"""Classes times templates at most; a thousand classes of ImageNet with CLIP's eighty templates are 80,000."""

_MAX_CHARACTERS: Final = 4_000
_SHOWN: Final = 5


@dataclass(frozen=True)
class ClassTexts:
    """Classes and how they are said.

    Attributes:
        names: of the classes, each once.
        templates: each with `{}` in it, where the name goes.
        labels: the class of each image of the set, int64 [images], as places in `names`.
    """

    names: tuple[str, ...]
    templates: tuple[str, ...]
    labels: NDArray[np.int64]

    @classmethod
    def open(cls, images: ImageSet, classes: Path | None = None, templates: Path | None = None) -> ClassTexts:
        """Read classes and templates, and look for the class of every image.

        Args:
            images: in folders that stand for classes.
            classes: a text file with a class in each line: its name, which its folder has too, or the folder, a tab and
                the name. A class may have no image. None takes the folders' names.
            templates: a text file with a template in each line; None takes `TEMPLATES`.

        Raises:
            InputError: a file cannot be read, is empty, too long or no UTF-8; a class is named twice; a folder is no
                class; a template has no `{}`; there are too many texts. It names file and line.
        """
        names = dict(zip(images.labels, images.labels, strict=True)) if classes is None else _classes(classes)
        said = TEMPLATES if templates is None else _templates(templates)
        if len(names) < 2:
            raise InputError(f"there is one class, {next(iter(names.values()))}", expected="two at least")
        if len(names) * len(said) > MAX_CLASS_TEXTS:
            raise InputError(
                f"{len(names):,} classes in {len(said):,} templates are {len(names) * len(said):,} texts",
                expected=f"at most {MAX_CLASS_TEXTS:,}",
            )
        places = {folder: place for place, folder in enumerate(names)}
        unknown = [label for label in images.labels if label not in places]
        if unknown:
            raise InputError(
                f"{len(unknown)} folders of {images.path} are no class of {classes}: {', '.join(unknown[:_SHOWN])}",
                expected=f"folders such as {', '.join(list(places)[:_SHOWN])}",
                causes=("folders are called otherwise than classes: then a line is FOLDER, a tab, NAME",),
            )
        labels = np.array([places[str(item.label)] for item in images.items], np.int64)
        return cls(tuple(names.values()), said, labels)

    def texts(self) -> list[str]:
        """Every class in every template, the templates of a class side by side."""
        return [template.replace("{}", name) for name in self.names for template in self.templates]


def _classes(path: Path) -> dict[str, str]:
    """Folder -> name."""
    found: dict[str, str] = {}
    for where, line in _lines(path, "class names"):
        folder, _, name = (part.strip() for part in line.partition("\t"))
        if folder in found:
            raise InputError(f"{where}: {folder} is there already", expected="each class once")
        found[folder] = name or folder
    twice = [name for name, count in Counter(map(str.casefold, found.values())).items() if count > 1]
    if twice:
        raise InputError(f"{path}: two classes are called {twice[0]}", expected="names that tell classes apart")
    return found


def _templates(path: Path) -> tuple[str, ...]:
    found = _lines(path, "templates")
    for where, line in found:
        if "{}" not in line:
            raise InputError(f"{where} has no {{}}: {line[:80]}", expected="a text such as: a photo of a {}.")
    return tuple(dict.fromkeys(line for _, line in found))


def _lines(path: Path, what: str) -> list[tuple[str, str]]:
    """(where, line) of each line that is not blank."""
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path} is not a file", expected=f"a text file of {what}, one in each line")
        with open_plain(path) as file:
            data = file.read(MAX_JSON_BYTES + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror or error}", expected=f"a text file of {what}, one in each line"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: byte {error.start:,}", expected=f"{what} in UTF-8") from error
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if len(data) > MAX_JSON_BYTES or len(lines) > MAX_CLASS_TEXTS:
        raise InputError(f"{path} is too long for {what}", expected=f"at most {MAX_CLASS_TEXTS:,} lines")
    if not lines:
        raise InputError(f"{path} has no {what}", expected="one in each line")
    for number, line in lines:
        if len(line) > _MAX_CHARACTERS:
            raise InputError(f"{path}, line {number} is too long", expected=f"at most {_MAX_CHARACTERS:,} characters")
    return [(f"{path}, line {number}", line) for number, line in lines]


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
    every = directions(class_text_vectors.reshape(classes * templates, width), "texts of classes")
    means = every.reshape(classes, templates, width).mean(axis=1)
    right = [frozenset((int(label),)) for label in labels]
    check_right(right, len(image_vectors), classes)
    return search(image_vectors, means, right)[0]


def compare_zero_shot(
    image_vectors: NDArray[np.float32],
    labels: NDArray[np.int64],
    reference_texts: NDArray[np.float32] | None,
    candidate_texts: NDArray[np.float32],
) -> ZeroShot:
    """Classify the same images with the texts of both encoders, or of the candidate alone.

    Args:
        image_vectors: of the FP16 vision encoder, float32 [n, d].
        labels: the right class of each image, int64 [n].
        reference_texts, candidate_texts: of both text encoders, float32 [classes, templates, d]; None where there is no
            reference.

    Raises:
        InputError: there is no image, or a label is no class.
        EngineError: an encoder gave NaN or infinity, or arrays do not fit each other.
    """
    theirs = zero_shot(image_vectors, labels, candidate_texts)
    found = recall(theirs, 1)
    low, high = _interval(found / 100.0, len(theirs))
    alone = ZeroShot(
        images=len(labels),
        classes=candidate_texts.shape[0],
        templates=candidate_texts.shape[1],
        candidate=found,
        low=low,
        high=high,
    )
    if reference_texts is None:
        return alone
    if reference_texts.shape != candidate_texts.shape:
        raise EngineError(
            f"texts of classes are {list(reference_texts.shape)} of the reference, "
            f"{list(candidate_texts.shape)} of the candidate",
            expected="equal shapes",
        )
    ours = zero_shot(image_vectors, labels, reference_texts)
    return alone.model_copy(update={"reference": recall(ours, 1), "drop": compare_hits(ours == 0, theirs == 0)})


def _interval(share: float, count: int) -> tuple[float, float]:
    """Wilson's interval of 95 % for a share of `count`, in percent."""
    low, high = wilson_limits(share, count, Z)
    return 100.0 * low, 100.0 * high
