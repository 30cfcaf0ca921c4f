"""A detector's head: what its outputs hold, and how they become detections.

| kind | outputs | as written by |
|---|---|---|
| `yolov8` | one [N, 4+C, A] or [N, A, 4+C]: centre and size, scores by class; behind them keypoints | YOLOv8, YOLO11 |
| `yolov5` | one [N, A, 5+C] or [N, 5+C, A]: centre and size, objectness, scores by class | YOLOv5, YOLOX, YOLOv7 |
| `ssd` | scores [N, A, C], boxes [N, A, 4], decoded | SSD and the like, with or without a background class |
| `detr` | logits [N, Q, C] or [N, Q, C+1], boxes [N, Q, 4] in shares | DETR, RT-DETR, YOLOS of transformers |
| `nms` | one [N, K, 6]: corners, score, class, and keypoints behind them; \
or count [N, 1], boxes [N, K, 4], scores [N, K], classes [N, K] | \
Ultralytics with NMS, TensorRT's EfficientNMS |

A is the number of anchors, Q of queries, K of detections, C of classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from edgeq.artifact import LaterFields
from edgeq.errors import EngineError
from edgeq.model.heads.boxes import Detections, corners, suppress
from edgeq.model.heads.seen import MOST_KEYPOINTS

__all__ = ["HEAD_KINDS", "Head", "HeadKind", "KeypointShape", "Limits"]

HeadKind = Literal["yolov8", "yolov5", "ssd", "detr", "nms"]
HEAD_KINDS: Final[tuple[HeadKind, ...]] = get_args(HeadKind)

_NMS_IOU: Final[dict[HeadKind, float]] = {"yolov8": 0.7, "yolov5": 0.6, "ssd": 0.45}
"""Overlap above which the less likely box of a class goes: what each of them is published and measured with. The
other kinds give no box twice."""

_BOX: Final = 4
_ROW: Final = 6

Fields = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Limits:
    """How much is looked at.

    Attributes:
        score: what is less likely is left out.
        candidates: the likeliest so many go into NMS.
        detections: of one image at most.
        every_class: a box may be of several classes, which is how mAP is measured; otherwise of its likeliest alone.
    """

    score: float = 0.25
    candidates: int = 1000
    detections: int = 300
    every_class: bool = False


class KeypointShape(BaseModel):
    """What Ultralytics calls `kpt_shape`.

    Attributes:
        count: keypoints of each object.
        values: of each keypoint: 2 are x and y, the third is how surely it is visible.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: int = Field(ge=1, le=MOST_KEYPOINTS)
    values: Literal[2, 3]

    @property
    def numbers(self) -> int:
        """That a detection has for its keypoints."""
        return self.count * self.values


class Head(LaterFields):
    """A head that was recognised.

    Attributes:
        kind: as in the table above.
        outputs: the graph's outputs, in the table's order.
        classes: that can be found; background is none.
        height, width: of the network's input, in pixels.
        anchors_last: of `yolov5` and `yolov8`: the last axis counts anchors.
        boxes: corners (left, top, right, bottom), or centre and size.
        unit: of the boxes: pixels of the input, or shares of its sides.
        scores: what still has to be done to them.
        background: which score is that of nothing being there.
        first_class: the number of the first class among the model's class names: 1 where background has a name.
        keypoints: behind the scores of `yolov8` and the classes of `nms`, on the scale of the boxes; None where there
            are none, and not written then.
        coefficients: of an instance mask each, in the keypoints' place; 0 where there are none, and not written then.
            The masks themselves, which are sums of another output's planes, are not read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: HeadKind
    outputs: tuple[str, ...] = Field(min_length=1, max_length=_BOX)
    classes: int = Field(ge=1)
    height: int = Field(ge=1)
    width: int = Field(ge=1)
    anchors_last: bool = False
    boxes: Literal["corners", "centre"]
    unit: Literal["pixels", "shares"]
    scores: Literal["done", "sigmoid", "softmax"]
    background: Literal["none", "first", "last"] = "none"
    first_class: int = 0
    keypoints: KeypointShape | None = None
    coefficients: int = Field(default=0, ge=0)
    later: ClassVar[tuple[str, ...]] = ("keypoints", "coefficients")

    def fields(self, outputs: Sequence[NDArray[Any]]) -> Fields:
        """What the outputs hold, as the graph gives it: a field for each thing that has a scale of its own.

        Args:
            outputs: in the order of `outputs`, numbers [n, ...].

        Returns:
            `boxes` [n, A, 4] and `scores` [n, A, C]; of `yolov5` `objectness` [n, A] as well; of `nms` `boxes`
            [n, K, 4], `scores` [n, K] and `classes` [n, K], with `count` [n] where the graph tells it; with keypoints
            `keypoints` [n, A, P, 2], and `visibility` [n, A, P] where they have it; with those of masks `coefficients`
            [n, A, M]. All float32.

        Raises:
            EngineError: the outputs are not those of this head.
        """
        try:
            found = self._split(outputs)
            rows, boxes = len(found["boxes"]), found["boxes"].shape[1]
            good = found["boxes"].shape[2] == _BOX and found["scores"].shape[:2] == (rows, boxes)
            if self.kind != "nms":
                good = good and found["scores"].shape[2:] == (self.classes + (self.background != "none"),)
        except (IndexError, ValueError):
            good = False
        if not good:
            raise EngineError(
                f"the graph gives {', '.join(str(list(output.shape)) for output in outputs)}",
                expected=f"the outputs {', '.join(self.outputs)} of a {self.kind} head with {self.classes} classes",
            )
        return found

    def errors(self, outputs: Sequence[NDArray[Any]]) -> Fields:
        """The fields that can be compared number by number between two networks; after NMS only the scores can.

        Args:
            outputs: as for `fields`.

        Returns:
            float32 [n, ...] by name.
        """
        found = self.fields(outputs)
        return {"scores": found["scores"]} if self.kind == "nms" else found

    def detect(self, outputs: Sequence[NDArray[Any]], limits: Limits) -> list[Detections]:
        """Detections on each image, in pixels of the network's input.

        Args:
            outputs: as for `fields`.
            limits: how much is looked at.

        Raises:
            EngineError: the outputs are not those of this head.
        """
        found = self.fields(outputs)
        rows = ({name: values[row] for name, values in found.items()} for row in range(len(found["boxes"])))
        return [self._after_nms(row, limits) if self.kind == "nms" else self._raw(row, limits) for row in rows]

    def _split(self, outputs: Sequence[NDArray[Any]]) -> Fields:
        first = outputs[0]
        if self.kind in ("yolov8", "yolov5"):
            rows = first.transpose(0, 2, 1) if self.anchors_last else first
            if self.kind == "yolov8":
                last = _BOX + self.classes
                ends = self.keypoints is not None or self.coefficients > 0
                scores = rows[..., _BOX:last] if ends else rows[..., _BOX:]
                return {"boxes": rows[..., :_BOX], "scores": scores, **self._behind(rows[..., last:])}
            return {"boxes": rows[..., :_BOX], "objectness": rows[..., _BOX], "scores": rows[..., _BOX + 1 :]}
        if self.kind != "nms":
            return {"scores": first, "boxes": outputs[1]}
        if len(self.outputs) == 1:
            more = self._behind(first[..., _ROW:])
            return {"boxes": first[..., :_BOX], "scores": first[..., _BOX], "classes": first[..., _BOX + 1], **more}
        count, boxes, scores, classes = outputs
        return {"count": count.reshape(len(boxes)), "boxes": boxes, "scores": scores, "classes": classes}

    def _behind(self, numbers: NDArray[Any]) -> Fields:
        """What stands behind scores or classes, [n, A, ...], as fields."""
        if self.coefficients:
            return {"coefficients": numbers.reshape(*numbers.shape[:2], self.coefficients)}
        if self.keypoints is None:
            return {}
        points = numbers.reshape(*numbers.shape[:2], self.keypoints.count, self.keypoints.values)
        return {"keypoints": points[..., :2], **({"visibility": points[..., 2]} if points.shape[-1] > 2 else {})}

    def _raw(self, fields: Mapping[str, NDArray[np.float32]], limits: Limits) -> Detections:
        """Of one image: fields [A, ...]."""
        scores = self._probabilities(fields["scores"])
        if "objectness" in fields:
            scores = scores * self._probabilities(fields["objectness"])[:, None]
        if limits.every_class and not (self.kind == "detr" and self.scores == "softmax"):
            anchors, classes = np.nonzero(scores >= limits.score)
        else:
            best = scores.argmax(axis=1)
            anchors = np.flatnonzero(scores[np.arange(len(scores)), best] >= limits.score)
            classes = best[anchors]
        likely = scores[anchors, classes]
        order = _largest(likely, limits.candidates)
        places, numbers = anchors[order], classes[order].astype(np.int64) + self.first_class
        found = self._detections(fields, places, likely[order], numbers)
        if self.kind in _NMS_IOU:
            return suppress(found, _NMS_IOU[self.kind], limits.detections)
        return found.only(np.arange(min(len(found), limits.detections)))

    def _after_nms(self, fields: Mapping[str, NDArray[np.float32]], limits: Limits) -> Detections:
        """Of one image: fields [K, ...]; a row is empty where its score is 0, its class -1, or `count` before it."""
        scores, classes = fields["scores"], np.rint(fields["classes"]).astype(np.int64)
        there = (scores >= limits.score) & (classes >= 0) & (classes < self.classes)
        if "count" in fields:
            there &= np.arange(len(scores)) < float(fields["count"])
        places = np.flatnonzero(there)
        places = places[_largest(scores[places], limits.detections)]
        return self._detections(fields, places, scores[places], classes[places])

    def _detections(
        self,
        fields: Mapping[str, NDArray[np.float32]],
        places: NDArray[np.int64],
        scores: NDArray[np.float32],
        classes: NDArray[np.int64],
    ) -> Detections:
        """Of one image: fields [A, ...], and the places that are detections."""
        boxes, keypoints = self._pixels(fields["boxes"][places]), None
        if "keypoints" in fields:
            points = fields["keypoints"][places] * self._unit(2)
            seen = fields["visibility"][places] if "visibility" in fields else np.ones(points.shape[:2], np.float32)
            keypoints = np.concatenate([points, seen[..., None]], axis=-1).astype(np.float32)
        return Detections(boxes, scores.astype(np.float32), classes, keypoints)

    def _probabilities(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.scores == "softmax":
            powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
            scores = powers / powers.sum(axis=-1, keepdims=True)
        elif self.scores == "sigmoid":
            scores = (0.5 * (1.0 + np.tanh(0.5 * scores))).astype(np.float32)  # which does not overflow
        if scores.ndim > 1 and self.background != "none":
            return scores[:, 1:] if self.background == "first" else scores[:, :-1]
        return scores

    def _pixels(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes [n, 4] as corners in pixels of the input."""
        found = corners(boxes) if self.boxes == "centre" else boxes
        return (found * self._unit(_BOX)).astype(np.float32)

    def _unit(self, numbers: int) -> NDArray[np.float32]:
        """Pixels of the input that 1 is, of x, y and so on, float32 [numbers]."""
        sides = [self.width, self.height] if self.unit == "shares" else [1, 1]
        return np.array(sides * (numbers // 2), np.float32)


def _largest(values: NDArray[np.float32], most: int) -> NDArray[np.int64]:
    """Places of the largest values, the largest first; of equal ones the first goes first."""
    order: NDArray[np.int64] = np.argsort(-values, kind="stable")[:most]
    return order
