"""Any number of labels for each image: two networks on the same labelled images.

A network says yes to a label whose logit is above 0, where the sigmoid is above 0.5. The headline needs no such
threshold: mean average precision ranks the images by each label's logit. Average precision is that of scikit-learn's
`average_precision_score`: the sum over thresholds of (R_k - R_(k-1)) P_k, precision and recall at the k-th one, every
distinct logit being a threshold; nothing is interpolated, as PASCAL VOC does it. mAP is its mean over the labels that
occur among the images judged.

The standard error of mAP's drop is that of the jackknife over images, paired: both networks lose the same image, and
the difference is taken then. Average precision changes smoothly with the weight of an image, which is what the
jackknife asks for; it needs no random numbers, and leaving out each of n images costs no more than one pass over the
sorted logits. A label with a single image leaves the mean with it.

Labels come from folders or from a CSV file. In folders, an image that is in several (the same bytes) has all their
labels. The CSV file is in the set as `labels.csv`, or beside it under its name (`evaluation.csv` beside
`evaluation.zip`): `image,labels` with `;` between labels, or `image` and a column of 0 and 1 for each label.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import ImageError, InputError
from edgeq.files import open_plain
from edgeq.model.images.image_set import ImageItem, ImageSet
from edgeq.model.images.stores.kinds import open_store
from edgeq.quality.tasks.base import Examples, Headline, ImageTask, Outputs, Row, Tally, TaskFigures, require_finite
from edgeq.quality.tasks.classification import label_indices

__all__ = ["MAX_CSV_BYTES", "MAX_SCORES", "MultiLabel", "MultiLabelTask", "average_precision", "mean_precision"]

MAX_CSV_BYTES: Final = 64 * 2**20
"""A longer file of labels is not read."""

MAX_SCORES: Final = 200_000_000
"""Images times labels at most: the logits of both networks are kept, 4 bytes each."""

_CSV: Final = "labels.csv"
_SHOWN: Final = 5
_FORMS: Final = (
    'a line "image,labels" first, then one for each image with ";" between labels; or a column of 0 and 1 for'
)

Labels = frozenset[str]
"""The labels of one image, as the set writes them."""


class MultiLabel(TaskFigures):
    """What a candidate does to a reference's labels; percent and points.

    Attributes:
        images: number of labelled images.
        labels: how many occur among them; mAP is the mean over these.
        map_reference, map_candidate: mean average precision.
        drop: map_reference - map_candidate.
        drop_standard_error: of `drop`, by the paired jackknife; None where leaving out an image leaves no label.
        micro_f1_reference, micro_f1_candidate: F1 of all decisions on all images together.
        same_labels: images for which both say yes to the same labels.
        logit_error: ||candidate - reference|| / ||reference|| over all logits.
    """

    task: Literal["multilabel"] = "multilabel"
    version: Literal["edgeq.multilabel/1"] = "edgeq.multilabel/1"
    images: int
    labels: int
    map_reference: float
    map_candidate: float
    drop: float
    drop_standard_error: float | None
    micro_f1_reference: float
    micro_f1_candidate: float
    same_labels: float
    logit_error: float

    def headline(self) -> Headline:
        """Mean average precision."""
        return Headline(
            name="mAP",
            unit="points",
            reference=self.map_reference,
            candidate=self.map_candidate,
            drop=self.drop,
            standard_error=self.drop_standard_error,
            examples=self.images,
            labelled=True,
            alike="same labels",
            agreement=self.same_labels,
        )

    def rows(self) -> tuple[Row, ...]:
        """For a table."""
        f1 = self.micro_f1_reference, self.micro_f1_candidate
        return (
            self.headline().row("mAP"),
            ("micro-F1", f"{f1[0]:.2f} %", f"{f1[1]:.2f} %", f"{f1[1] - f1[0]:+.2f} points"),
            (f"same labels, {self.images} images", "", "", f"{self.same_labels:.2f} %"),
            ("relative logit error", "", "", f"{self.logit_error:.4f}"),
        )


class MultiLabelTask(ImageTask[Labels]):
    """Any number of labels for each image."""

    name = "multilabel"
    what = f"any number of labels for each image, told by its folders or by {_CSV}"
    figures: ClassVar[type[TaskFigures] | None] = MultiLabel
    problem_type = "multi_label_classification"
    one_vector: ClassVar[bool] = True

    def open(self, path: Path, labels: Sequence[str] | None) -> Examples[Labels]:
        """Images, each once, with their labels; those must be the model's where its config names them."""
        table = _find_csv(path)
        if table is None:
            images = _in_folders(path)
            _check(images.labels, labels, "folders", images)
            return _merged(images)
        where, data = table
        images = ImageSet.open(path)
        truth, named = _read_csv(data, where, images)
        _check(named, labels, f"labels of {where}", images)
        return Examples(images, truth)

    def classes(self, examples: Examples[Labels]) -> int | None:
        """The labels that occur."""
        return len(frozenset[str]().union(*examples.truth.values()))

    def tally(self, examples: Examples[Labels], labels: Sequence[str] | None, classes: int) -> Tally:
        """mAP and its drop, micro-F1, equal sets of labels, logit error; every logit is kept."""
        named = sorted(frozenset[str]().union(*examples.truth.values()))
        names = labels if labels is not None else [str(index) for index in range(classes)]
        indices = label_indices(named, names, classes, what="labels")
        _check_size(len(examples), classes)
        return _Tally({name: [indices[label] for label in found] for name, found in examples.truth.items()})


class _Tally:
    """`Tally` of logits [n, labels]."""

    def __init__(self, truth: Mapping[str, Sequence[int]]) -> None:
        self._truth = truth
        self._right: list[NDArray[np.bool_]] = []
        self._logits: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []

    def add(self, names: Sequence[str], reference: Outputs, candidate: Outputs) -> None:
        require_finite(reference, candidate)
        right = np.zeros(reference[0].shape, np.bool_)
        for row, name in enumerate(names):
            right[row, self._truth[name]] = True
        self._right.append(right)
        self._logits.append((reference[0], candidate[0]))

    def figures(self) -> MultiLabel:
        right = np.concatenate(self._right) if self._right else np.zeros((0, 0), np.bool_)
        if not right.any():
            raise ImageError("no labelled image could be judged", expected="a label on one of them at least")
        ours, theirs = (np.concatenate(part) for part in zip(*self._logits, strict=True))
        reference, candidate = mean_precision(right, ours), mean_precision(right, theirs)
        f1 = [_micro_f1(right, logits > 0) for logits in (ours, theirs)]
        difference = float(np.linalg.norm(theirs.astype(np.float64) - ours))
        length = max(float(np.linalg.norm(ours.astype(np.float64))), math.sqrt(np.finfo(np.float64).tiny))
        return MultiLabel(
            images=len(right),
            labels=int(right.any(axis=0).sum()),
            map_reference=100.0 * reference[0],
            map_candidate=100.0 * candidate[0],
            drop=100.0 * (reference[0] - candidate[0]),
            drop_standard_error=_jackknife(100.0 * (reference[1] - candidate[1])),
            micro_f1_reference=100.0 * f1[0],
            micro_f1_candidate=100.0 * f1[1],
            same_labels=100.0 * float(((ours > 0) == (theirs > 0)).all(axis=1).mean()),
            logit_error=difference / length,
        )


def mean_precision(right: NDArray[np.bool_], scores: NDArray[np.float32]) -> tuple[float, NDArray[np.float64]]:
    """mAP over the labels that occur, from 0 to 1, and what it is without each image.

    Args:
        right: which labels each image has, [n, labels]; one at least.
        scores: larger where a label is likelier, [n, labels].

    Returns:
        mAP, and float64 [n] of mAP without image i, NaN where no label occurs without it.
    """
    wholes, sums, counts = [], np.zeros(len(right)), np.zeros(len(right))
    for label in np.flatnonzero(right.any(axis=0)):
        whole, without = average_precision(right[:, label], scores[:, label])
        there = ~np.isnan(without)
        wholes.append(whole)
        sums += np.where(there, without, 0.0)
        counts += there
    return float(np.mean(wholes)), np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def average_precision(right: NDArray[np.bool_], scores: NDArray[np.float32]) -> tuple[float, NDArray[np.float64]]:
    """Average precision of one label, from 0 to 1, and what it is without each image.

    Equal scores are one threshold. Without an image at threshold h, precision is the same before h, and has one image
    less from h on, so that sums from both ends give all n values.

    Args:
        right: which images have the label, [n]; one at least.
        scores: [n].

    Returns:
        Average precision, and float64 [n] of it without image i, NaN where that is the only one with the label.
    """
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # the last image of each threshold
    found = np.cumsum(right[order])[ends].astype(np.float64)
    seen = ends + 1.0
    new = np.diff(found, prepend=0.0)
    total, fewer = found[-1], np.maximum(seen - 1.0, 1.0)
    terms = new * found / seen
    before = np.cumsum(terms) - terms
    after_wrong = np.cumsum((new * found / fewer)[::-1])[::-1]  # this threshold's own term among them
    after_right = np.cumsum((new * (found - 1.0) / fewer)[::-1])[::-1] - new * (found - 1.0) / fewer
    without_right = before + (new - 1.0) * (found - 1.0) / fewer + after_right
    place = np.searchsorted(ends, np.arange(len(scores)))
    without = np.empty(len(scores))
    without[order] = np.where(
        right[order],
        without_right[place] / (total - 1.0) if total > 1.0 else np.nan,
        (before + after_wrong)[place] / total,
    )
    return float(terms.sum() / total), without


def _jackknife(without: NDArray[np.float64]) -> float | None:
    """Standard error of a figure from what it is without each image."""
    count = len(without)
    if count < 2 or np.isnan(without).any():
        return None
    return math.sqrt((count - 1) / count * float(np.square(without - without.mean()).sum()))


def _micro_f1(right: NDArray[np.bool_], said: NDArray[np.bool_]) -> float:
    return 2.0 * float((right & said).sum()) / float(right.sum() + said.sum())


def _check(named: Sequence[str], labels: Sequence[str] | None, what: str, images: ImageSet) -> None:
    """Raise ImageError unless every label is one of the model's, and the logits can be kept."""
    if labels is not None:
        label_indices(named, labels, len(labels), what=what)
    _check_size(len(images), len(named))


def _check_size(images: int, labels: int) -> None:
    if images * labels > MAX_SCORES:
        raise ImageError(
            f"{images:,} images with {labels:,} labels are too many to judge",
            expected=f"at most {MAX_SCORES:,} logits of each network",
            next_step="judge by fewer images",
        )


def _in_folders(path: Path) -> ImageSet:
    try:
        return ImageSet.open(path, labelled=True)
    except ImageError as error:
        other = f"put them into such folders, or write their labels into {_CSV}"
        raise ImageError(
            error.what, expected=error.expected, causes=error.causes, next_step=error.next_step or other
        ) from error


def _merged(images: ImageSet) -> Examples[Labels]:
    """Each image once, with the labels of all folders that it is in: the same bytes are the same image."""
    first: dict[str, ImageItem] = {}
    truth: dict[str, set[str]] = {}
    named: dict[str, dict[str, ImageItem]] = {}
    for item in images.items:
        digest = item.name  # of its own where it cannot be read, which is found out again, and said, when it is judged
        with suppress(ImageError):
            digest = images.digest(item)
        kept = first.setdefault(digest, item)
        truth.setdefault(kept.name, set()).add(str(item.label))
        named.setdefault(PurePosixPath(item.name).name, {}).setdefault(digest, item)
    for same_name in named.values():
        _check_same_name(list(same_name.values()))
    kept_names = {item.name for item in first.values()}
    copies = [item for item in images.items if item.name not in kept_names]
    return Examples(images.without(copies), {name: frozenset(labels) for name, labels in truth.items()})


def _check_same_name(items: Sequence[ImageItem]) -> None:
    """Raise ImageError where images with one file name and other bytes are in folders of several labels."""
    other = next((item for item in items if item.label != items[0].label), None)
    if other is not None:
        raise ImageError(
            f"{items[0].name} and {other.name} have the same name and other bytes: is it one image with two labels?",
            expected="the same bytes in each folder of an image, and different names for different images",
            next_step=f"copy or rename them, or write the labels into {_CSV}",
        )


def _find_csv(path: Path) -> tuple[str, bytes] | None:
    """The file of labels, as it is called in errors, and its bytes; None where there is none."""
    store, whole = open_store(path), path.resolve()  # "." has a name then
    beside = whole.parent / f"{whole.stem if whole.suffix.lower() == '.zip' else whole.name}.csv"
    inside = _CSV in store.names()
    if inside and beside.is_file():
        raise InputError(f"there are two files of labels: {path / _CSV} and {beside}", next_step="remove one of them")
    if inside:
        return str(path / _CSV), _bounded(store.read(_CSV), str(path / _CSV))
    return (str(beside), _bounded(_start(beside), str(beside))) if beside.is_file() else None


def _start(path: Path) -> bytes:
    try:
        with open_plain(path) as file:
            return file.read(MAX_CSV_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def _bounded(data: bytes, where: str) -> bytes:
    if len(data) > MAX_CSV_BYTES:
        raise InputError(f"{where} is too long for labels", expected=f"at most {MAX_CSV_BYTES:,} bytes")
    return data


def _read_csv(data: bytes, where: str, images: ImageSet) -> tuple[dict[str, Labels], tuple[str, ...]]:
    """The labels of every image, and all labels that the file names.

    Raises:
        InputError: the file is not what it should be; the error names file and line.
        ImageError: it and the images do not belong together.
    """
    rows = _rows(data, where)
    _, header = next(rows, ("", []))
    if len(header) < 2 or header[0] != "image":
        raise InputError(
            f"{where} begins with {','.join(header)[:80]!r}" if header else f"{where} is empty",
            expected=f"{_FORMS} each label",
        )
    columns = None if header[1:] == ["labels"] else tuple(header[1:])
    if columns is not None:
        _refuse_twice(columns, f"{where} has the column")
    names = {item.name for item in images.items}
    truth: dict[str, Labels] = {}
    for place, cells in rows:
        name, labels = _row(cells, columns, len(header), place)
        if name in truth:
            raise InputError(f"{place}: {name} is there already", expected="one line for each image")
        if name not in names:
            raise ImageError(
                f"{place}: there is no image {name}", expected=f"a name below {images.path}, with / between its parts"
            )
        truth[name] = labels
    _check_whole(truth, images, where)
    return truth, columns or tuple(sorted(frozenset[str]().union(*truth.values())))


def _check_whole(truth: Mapping[str, Labels], images: ImageSet, where: str) -> None:
    """Raise unless there is a label at all, and a line for every image."""
    if not any(truth.values()):
        raise InputError(f"{where} gives no image a label", expected=f"{_FORMS} each label")
    missing = [item.name for item in images.items if item.name not in truth]
    if missing:
        raise ImageError(
            f"{len(missing)} of {len(images)} images are not in {where}, the first is {missing[0]}",
            expected="a line for each; that of an image without labels has nothing behind the comma",
        )


def _rows(data: bytes, where: str) -> Iterator[tuple[str, list[str]]]:
    """(file and line, cells without spaces around them) of every line that is not blank."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not UTF-8: byte {error.start}", expected="a CSV file in UTF-8") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield f"{where}, line {reader.line_num}", [cell.strip() for cell in cells]
    except csv.Error as error:
        raise InputError(f"{where}, line {reader.line_num}: {error}", expected="a CSV file with commas") from error


def _row(cells: Sequence[str], columns: Sequence[str] | None, count: int, place: str) -> tuple[str, Labels]:
    """One image's name and labels."""
    if len(cells) != count:
        raise InputError(f"{place}: {len(cells)} cells, the first line has {count}")
    if columns is None:
        labels = [label.strip() for label in cells[1].split(";") if label.strip()]
        _refuse_twice(labels, f"{place} has the label")
        return cells[0], frozenset(labels)
    other = next((cell for cell in cells[1:] if cell not in ("0", "1")), None)
    if other is not None:
        raise InputError(f"{place}: {other[:80]!r} stands in a label's column", expected="0 or 1")
    return cells[0], frozenset(column for column, cell in zip(columns, cells[1:], strict=True) if cell == "1")


def _refuse_twice(names: Sequence[str], before: str) -> None:
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise InputError(f"{before} {', '.join(twice[:_SHOWN])} twice")
