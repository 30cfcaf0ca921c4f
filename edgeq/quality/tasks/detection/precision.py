"""Mean average precision as COCO measures it, by pycocotools, and how sure the drop between two networks is.

mAP is the mean over categories, and over the overlaps 0.50, 0.55, ..., 0.95 from which on a box counts as found, of the
precision at 101 recalls. The standard error of its drop is that of a bootstrap over images, paired: both networks see
the same images drawn again. What is matched with what on an image does not depend on the other images, so pycocotools'
matches are taken, and an image that is drawn twice counts twice. The random numbers are the same each time.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import InputError
from edgeq.extras import install_command
from edgeq.model.heads.boxes import Detections
from edgeq.quality.tasks.detection.objects import Objects
from edgeq.quality.tasks.detection.similarity import sigmas

__all__ = ["Ranked", "measure_precision", "paired_error", "require_pycocotools"]

_DRAWS: Final = 200
_FEWEST_DRAWS: Final = 30
_WORK: Final = 2_000_000_000
"""Matches that all draws go through at most: there are fewer draws where a set is large."""

_RECALLS: Final = np.linspace(0.0, 1.0, 101)
_ALL_SIZES: Final = 0


@dataclass(frozen=True)
class _Matches:
    """Of one category, detections of all images in the order of their scores.

    Attributes:
        image: of each detection, int64 [d].
        right, wrong: whether it is, by overlap, bool [overlaps, d]; neither where it is not counted.
        objects: on each image, int64 [images].
    """

    image: NDArray[np.int64]
    right: NDArray[np.bool_]
    wrong: NDArray[np.bool_]
    objects: NDArray[np.int64]


@dataclass(frozen=True)
class Ranked:
    """One network's detections held against what is right.

    Attributes:
        precision: mAP over overlaps of 0.50 to 0.95, from 0 to 1.
        precision50: with an overlap of 0.50.
        matches: by category.
    """

    precision: float
    precision50: float
    matches: tuple[_Matches, ...]

    def weighted(self, weights: NDArray[np.int64]) -> float:
        """mAP where image i is there `weights[i]` times, int64 [images]; NaN where no object is left."""
        found = [_average(one, weights) for one in self.matches]
        return float(np.nanmean(found)) if not np.isnan(found).all() else float("nan")


def require_pycocotools() -> None:
    """Raise InputError where pycocotools is not installed."""
    try:
        import pycocotools.cocoeval  # noqa: F401
    except ImportError as error:
        raise InputError(
            "pycocotools is not installed, by which mAP is measured",
            next_step=install_command("quantize"),
        ) from error


def measure_precision(
    truth: Sequence[Objects], found: Sequence[Detections], categories: int, *, keypoints: int = 0
) -> Ranked:
    """mAP of detections.

    Args:
        truth: of each image; one object at least.
        found: on each image, in its pixels; classes are numbers of categories.
        categories: how many there are.
        keypoints: of each object, by which detections are matched (OKS); 0 matches them by their boxes.

    Raises:
        InputError: pycocotools is not installed.
    """
    require_pycocotools()
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # it prints as it goes
        right = _coco(_objects(truth), len(truth), categories)
        made = _coco(_detections(found), len(truth), categories)
        evaluation = COCOeval(right, made, "keypoints" if keypoints else "bbox")
        if keypoints:
            evaluation.params.kpt_oks_sigmas = sigmas(keypoints)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision, precision50 = (max(float(value), 0.0) for value in evaluation.stats[:2])
    return Ranked(precision, precision50, tuple(_matches(evaluation, truth, categories)))


def paired_error(reference: Ranked, candidate: Ranked, images: int) -> float | None:
    """Standard error of `reference.precision - candidate.precision`, over the choice of images; None for a single one.

    Args:
        reference, candidate: on the same images.
        images: how many.
    """
    if images < 2:
        return None
    work = sum(one.right.size for ranked in (reference, candidate) for one in ranked.matches)
    draws = int(np.clip(_WORK // max(work, 1), _FEWEST_DRAWS, _DRAWS))
    rng = np.random.default_rng(0)
    drawn = (rng.multinomial(images, np.full(images, 1.0 / images)) for _ in range(draws))
    drops = np.array([reference.weighted(weights) - candidate.weighted(weights) for weights in drawn])
    drops = drops[~np.isnan(drops)]
    return float(drops.std(ddof=1)) if len(drops) > 1 else None


def _coco(annotations: Iterator[dict[str, Any]], images: int, categories: int) -> Any:
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = {
        "images": [{"id": image + 1} for image in range(images)],
        "categories": [{"id": category + 1} for category in range(categories)],
        "annotations": [{"id": number, **one} for number, one in enumerate(annotations, start=1)],  # 0 is "no match"
    }
    coco.createIndex()
    return coco


def _objects(truth: Sequence[Objects]) -> Iterator[dict[str, Any]]:
    for image, objects in enumerate(truth, start=1):
        keypoints = [None] * len(objects) if objects.keypoints is None else list(objects.keypoints)
        rows = zip(objects.boxes, objects.categories, objects.crowd, objects.area, keypoints, strict=True)
        for box, category, crowd, area, points in rows:
            yield {
                "image_id": image,
                "category_id": int(category) + 1,
                "bbox": _edges(box),
                "area": float(area),
                "iscrowd": int(crowd),
                **({} if points is None else _told(points)),
            }


def _detections(found: Sequence[Detections]) -> Iterator[dict[str, Any]]:
    for image, detections in enumerate(found, start=1):
        keypoints = [None] * len(detections) if detections.keypoints is None else list(detections.keypoints)
        rows = zip(detections.boxes, detections.scores, detections.classes, keypoints, strict=True)
        for box, score, category, points in rows:
            edges = _edges(box)
            yield {
                "image_id": image,
                "category_id": int(category) + 1,
                "bbox": edges,
                "area": edges[2] * edges[3],
                "score": float(score),
                "iscrowd": 0,
                **({} if points is None else _told(points)),
            }


def _told(points: NDArray[Any]) -> dict[str, Any]:
    """Keypoints [K, 3] in COCO's words."""
    return {"keypoints": points.reshape(-1).tolist(), "num_keypoints": int((points[:, 2] > 0).sum())}


def _edges(box: NDArray[Any]) -> list[float]:
    """Left, top, width, height."""
    left, top, right, bottom = map(float, box)
    return [left, top, right - left, bottom - top]


def _matches(evaluation: Any, truth: Sequence[Objects], categories: int) -> Iterator[_Matches]:
    """What pycocotools found, of each category that has an object."""
    by_keypoints = evaluation.params.iouType == "keypoints"
    images, sizes = len(evaluation.params.imgIds), len(evaluation.params.areaRng)
    for category in range(categories):
        start = (category * sizes + _ALL_SIZES) * images
        entries = evaluation.evalImgs[start : start + images]
        counted = [objects.categories[objects.counted(by_keypoints)] for objects in truth]
        objects = np.array([int((one == category).sum()) for one in counted], np.int64)
        if not objects.any():
            continue
        there = [(image, entry) for image, entry in enumerate(entries) if entry is not None]
        scores = np.concatenate([entry["dtScores"] for _, entry in there])
        order = np.argsort(-scores, kind="mergesort")
        image = np.concatenate([np.full(len(entry["dtScores"]), image) for image, entry in there])[order]
        matched, ignored = (
            np.concatenate([entry[key] for _, entry in there], axis=1)[:, order].astype(np.bool_)
            for key in ("dtMatches", "dtIgnore")
        )
        yield _Matches(image.astype(np.int64), matched & ~ignored, ~matched & ~ignored, objects)


def _average(matches: _Matches, weights: NDArray[np.int64]) -> float:
    """Average precision of a category, the mean over overlaps; NaN where it has no object left."""
    total = int(matches.objects @ weights)
    if total == 0:
        return float("nan")
    times = weights[matches.image]
    right, wrong = (np.cumsum(one * times, axis=1, dtype=np.float64) for one in (matches.right, matches.wrong))
    precision = right / (right + wrong + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = right / total
    sums = 0.0
    for reached, height in zip(recall, precision, strict=True):
        places = np.searchsorted(reached, _RECALLS, side="left")
        sums += float(height[places[places < len(height)]].sum())
    return sums / (len(_RECALLS) * len(recall))
