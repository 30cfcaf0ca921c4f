"""Which head a detector has: told by its outputs' names, shapes and values, the number of its classes and its metadata.

What can be seen in a graph without running it (`Seen.values` is None then) says the kind, or that there is none that is
known; what the numbers mean (corners or centres, pixels or shares, logits or probabilities) is seen in what the graph
gives for real images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import ModelError
from edgeq.model.heads.detector import HEAD_KINDS, Head, HeadKind, KeypointShape
from edgeq.model.heads.seen import MOST_KEYPOINTS, Seen, Shape, ultralytics_task

__all__ = ["recognise_head"]

_COUNT: Final = ("num_dets", "num_detections", "num_boxes")
_ROW: Final = 6
_SHOWN: Final = 8
_MOST_AFTER_NMS: Final = 1000
_MOST_SHARE: Final = 2.0
"""A box in shares of the image may lie somewhat outside; one in pixels is larger somewhere."""
_BACKGROUND: Final = ("background", "__background__", "bg", "none", "n/a")
_ANY_CLASSES: Final = 10_000
"""Where NMS is inside and nobody names the classes, their number is not told by any shape."""


def recognise_head(seen: Seen, kind: str | None = None, *, keypoints: bool = False) -> Head:
    """The head of a detector.

    Args:
        seen: what is known of it.
        kind: given with `--detector-head`; None leaves it to what is seen.
        keypoints: of each object are told as well, which `yolov8` and `nms` can.

    Raises:
        ModelError: it is none of those known, or not the one given; the error names the outputs.
    """
    if kind is not None and kind not in HEAD_KINDS:
        raise ModelError(f"there is no detector head {kind}", expected=f"one of {', '.join(HEAD_KINDS)}")
    if keypoints or ultralytics_task(seen.metadata) == "segment":
        more = _keypoints_behind if keypoints else _coefficients_behind
        head = next(filter(None, (_with_more(seen, one, more) for one in _WITH_MORE if kind in (None, one))), None)
        if head is None:
            raise _unknown_pose(seen, kind) if keypoints else _unknown(seen, kind)
        return head
    tried = HEAD_KINDS if kind is None else (kind,)
    for one in sorted(tried, key=_ORDER.index):
        head = _READERS[one](seen, kind is not None)
        if head is not None:
            return head
    raise _unknown(seen, kind)


_ORDER: Final[tuple[HeadKind, ...]] = ("nms", "detr", "ssd", "yolov5", "yolov8")
"""The most particular first."""

_WITH_MORE: Final[tuple[HeadKind, ...]] = ("nms", "yolov8")
"""Those that may have more behind boxes and scores, likewise."""


def _unknown(seen: Seen, kind: str | None) -> ModelError:
    outputs = ", ".join(f"{name} {_shown(shape)}" for name, shape in list(seen.shapes.items())[:_SHOWN])
    names = seen.names
    classes = "the number of its classes is not known" if names is None else f"it has {len(names)} classes"
    what = "no detector head that is known has" if kind is None else f"a {kind} head does not have"
    return ModelError(
        f"{what} these outputs: {outputs}; {classes}",
        expected="[N, 4+C, A] (yolov8), [N, A, 5+C] (yolov5), scores [N, A, C] and boxes [N, A, 4] (ssd), logits and "
        "pred_boxes (detr), or [N, K, 6] or count, boxes, scores and classes (nms)",
        causes=(
            "the outputs are those of the layers before the boxes are decoded: export with the decoding",
            "config.json (id2label) or the file's metadata names another number of classes",
        ),
        next_step="say the kind with --detector-head, and the classes with id2label in config.json",
    )


def _unknown_pose(seen: Seen, kind: str | None) -> ModelError:
    outputs = ", ".join(f"{name} {_shown(shape)}" for name, shape in list(seen.shapes.items())[:_SHOWN])
    told = seen.keypoints
    return ModelError(
        f"no {'' if kind is None else f'{kind} '}head with keypoints that is known has these outputs: {outputs}",
        expected="one of [N, 4+C+P, A] (yolov8) or [N, K, 6+P] (nms), P = keypoints x (2 or 3)",
        causes=(
            "the file's metadata has no kpt_shape, such as [17, 3]"
            if told is None
            else f"the file's metadata has kpt_shape {list(told)}",
            "the number of its classes is not known"
            if seen.names is None
            else f"it has {len(seen.names)} classes, by config.json (id2label) or the file's metadata",
        ),
        next_step="export with Ultralytics' metadata, or take another task with --task",
    )


_More = dict[str, Any]
"""Fields of `Head` that say what stands behind boxes, scores and classes in each row."""

_Behind = Callable[[Seen, int, NDArray[np.float32] | None], _More | None]
"""What so many numbers behind them are, [n, A, numbers] where the network has run; None for nothing that is known."""


def _with_more(seen: Seen, kind: HeadKind, behind: _Behind) -> Head | None:
    """An output whose rows go on behind boxes, scores and classes: of Ultralytics' pose and instance masks' models."""
    three = [(name, shape) for name, shape in seen.shapes.items() if len(shape) == 3]
    if len(three) != 1:
        return None
    ((name, shape),) = three
    classes = None if seen.names is None else len(seen.names)
    read = _more_after_nms if kind == "nms" else _more_before_nms
    return read(seen, name, shape, classes, behind)


def _more_after_nms(seen: Seen, name: str, shape: Shape, classes: int | None, behind: _Behind) -> Head | None:
    """[N, K, 6+P]; where nobody says what P is, there are more detections than numbers of each."""
    rows, length = shape[1:]
    if length is None or (rows or 0) > _MOST_AFTER_NMS or (seen.keypoints is None and _shorter(shape) != 2):
        return None
    values = None if seen.values is None else seen.values[name]
    if values is not None and not np.array_equal(values[..., 5], np.rint(values[..., 5])):
        return None
    more = behind(seen, length - _ROW, None if values is None else values[..., _ROW:])
    if more is None:
        return None
    return Head(
        kind="nms",
        outputs=(name,),
        classes=classes or _ANY_CLASSES,
        height=seen.height,
        width=seen.width,
        boxes="corners",
        unit=_unit(None if values is None else values[..., :4], "pixels"),
        scores="done",
        **more,
    )


def _more_before_nms(seen: Seen, name: str, shape: Shape, classes: int | None, behind: _Behind) -> Head | None:
    """[N, 4+C+P, A] or [N, A, 4+C+P]; without names there is one class."""
    axis = _shorter(shape)
    length = None if axis is None else shape[axis]
    if axis is None or length is None:
        return None
    last = 4 + (1 if classes is None else classes)
    values = None if seen.values is None else np.moveaxis(seen.values[name], axis, -1)
    more = behind(seen, length - last, None if values is None else values[..., last:])
    if more is None:
        return None
    return Head(
        kind="yolov8",
        outputs=(name,),
        classes=last - 4,
        height=seen.height,
        width=seen.width,
        anchors_last=axis == 1,
        boxes="centre",
        unit=_unit(None if values is None else values[..., :4], "pixels"),
        scores=_activation(None if values is None else values[..., 4:last], "sigmoid"),
        **more,
    )


def _coefficients_behind(seen: Seen, numbers: int, _values: NDArray[np.float32] | None) -> _More | None:
    """One for each plane of the other output, [N, M, rows, columns]."""
    planes = [shape[1] for shape in seen.shapes.values() if len(shape) == 4]
    return {"coefficients": numbers} if planes == [numbers] else None


def _keypoints_behind(seen: Seen, numbers: int, values: NDArray[np.float32] | None) -> _More | None:
    found = _keypoint_shape(seen, numbers, values) if len(seen.shapes) == 1 else None
    return None if found is None else {"keypoints": found}


def _keypoint_shape(seen: Seen, numbers: int, values: NDArray[np.float32] | None) -> KeypointShape | None:
    """Of so many numbers a row: as the metadata says; else threes where each third is a probability, or twos.

    Args:
        seen: what is known of the network.
        numbers: that stand behind boxes, scores and classes.
        values: those, float32 [n, A, numbers]; None where the network has not run.
    """
    if seen.keypoints is not None:
        count, size = seen.keypoints
        return KeypointShape(count=count, values=3 if size == 3 else 2) if count * size == numbers else None
    if numbers <= 0 or numbers > 3 * MOST_KEYPOINTS:
        return None
    thirds = numbers % 3 == 0 and (values is None or _activation(values[..., 2::3], "no") == "done")
    if not thirds and numbers % 2:
        return None
    return KeypointShape(count=numbers // (3 if thirds else 2), values=3 if thirds else 2)


def _shown(shape: Shape) -> str:
    return f"[{', '.join('?' if length is None else str(length) for length in shape)}]"


def _nms(seen: Seen, asked: bool) -> Head | None:
    names = seen.names
    if len(seen.shapes) == 1:
        ((name, shape),) = seen.shapes.items()
        rows = shape[1] if len(shape) == 3 else None
        if len(shape) != 3 or shape[2] != _ROW or rows == _ROW or (rows or 0) > _MOST_AFTER_NMS:
            return None
        if not asked and names is not None and len(names) in (1, 2):  # [N, A, 4+2] or [N, A, 5+1] look the same
            whole = _integers(seen, name)
            if whole is False or (whole is None and rows is not None and rows > _MOST_AFTER_NMS // 2):
                return None
        outputs: tuple[str, ...] = (name,)
    else:
        found = _four(seen)
        if found is None:
            return None
        outputs = found
    boxes = None if seen.values is None else seen.values[outputs[len(outputs) > 1]][..., :4]
    return Head(
        kind="nms",
        outputs=outputs,
        classes=len(names) if names is not None else _ANY_CLASSES,
        height=seen.height,
        width=seen.width,
        boxes="corners",
        unit=_unit(boxes, "pixels"),
        scores="done",
    )


def _integers(seen: Seen, name: str) -> bool | None:
    """Whether the last number of each row is a class; None where that cannot be told."""
    if seen.values is None:
        return None
    last = seen.values[name][..., -1]
    return bool(np.array_equal(last, np.rint(last)))


def _four(seen: Seen) -> tuple[str, ...] | None:
    """Count, boxes, scores and classes of EfficientNMS, by their names and shapes."""
    count = next((name for name in seen.shapes if name.lower() in _COUNT), None)
    boxes = next((name for name, shape in seen.shapes.items() if len(shape) == 3 and shape[2] == 4), None)
    rest = [name for name in seen.shapes if name not in (count, boxes)]
    scores = next((name for name in rest if "score" in name.lower()), None)
    classes = next((name for name in rest if "class" in name.lower() or "label" in name.lower()), None)
    if len(seen.shapes) != 4 or count is None or boxes is None or scores is None or classes is None:
        return None
    return count, boxes, scores, classes


def _pair(seen: Seen) -> tuple[str, str, int | None] | None:
    """Scores, boxes and the length of the scores' last axis, of two outputs with a row for each anchor or query.

    More outputs may stand beside them, such as DETR's last hidden state, where `logits` and `pred_boxes` have names.
    """
    three = {name: shape for name, shape in seen.shapes.items() if len(shape) == 3}
    boxes = "pred_boxes" if "pred_boxes" in three else None
    if boxes is None:
        four = [name for name, shape in three.items() if shape[2] == 4]
        by_name = [name for name in four if "box" in name.lower() or "loc" in name.lower()]
        boxes = next(iter(by_name or four), None)
    if boxes is None or (len(seen.shapes) != 2 and boxes != "pred_boxes"):
        return None
    rest = [name for name in three if name != boxes and three[name][1] in (three[boxes][1], None)]
    scores = "logits" if "logits" in rest else next(iter(rest), None)
    return None if scores is None else (scores, boxes, three[scores][2])


def _detr(seen: Seen, asked: bool) -> Head | None:
    found = _pair(seen)
    if found is None or (not asked and found[1] != "pred_boxes"):
        return None
    scores, boxes, length = found
    names = seen.names
    if length is None or names is None or length - len(names) not in (0, 1):
        return None  # softmax with "no object" at the end, or sigmoid: only the number of classes tells
    nothing = length == len(names) + 1
    return Head(
        kind="detr",
        outputs=(scores, boxes),
        classes=len(names),
        height=seen.height,
        width=seen.width,
        boxes="centre",
        unit="shares",
        scores="softmax" if nothing else "sigmoid",
        background="last" if nothing else "none",
    )


def _ssd(seen: Seen, _asked: bool) -> Head | None:
    found = _pair(seen)
    if found is None or found[1] == "pred_boxes":
        return None
    scores, boxes, length = found
    names = seen.names
    if length is None or (names is not None and length - len(names) not in (0, 1)):
        return None
    values = None if seen.values is None else seen.values[scores]
    background = _has_background(names, length, values)
    return Head(
        kind="ssd",
        outputs=(scores, boxes),
        classes=length - background,
        height=seen.height,
        width=seen.width,
        boxes=_corners_or_centre(None if seen.values is None else seen.values[boxes]),
        unit=_unit(None if seen.values is None else seen.values[boxes], "shares"),
        scores=_activation(values, "softmax" if background else "sigmoid"),
        background="first" if background else "none",
        first_class=int(background and names is not None and length == len(names)),
    )


def _has_background(names: Sequence[str] | None, length: int, values: NDArray[np.float32] | None) -> bool:
    """Whether the first score is that of nothing being there: one more than the classes, or scores that sum to 1."""
    if length < 2:
        return False
    if names is not None:
        return length == len(names) + 1 or str(names[0]).lower() in _BACKGROUND
    return values is not None and bool(np.allclose(values.sum(axis=-1), 1.0, atol=1e-3))


def _yolov5(seen: Seen, asked: bool) -> Head | None:
    return _yolo(seen, "yolov5", asked)


def _yolov8(seen: Seen, asked: bool) -> Head | None:
    return _yolo(seen, "yolov8", asked)


def _yolo(seen: Seen, kind: HeadKind, asked: bool) -> Head | None:
    """One output of three axes, of which one is 4 (or 5) and the classes.

    Without class names the order of the axes tells: YOLOv5 puts the anchors first, YOLOv8 last. There are more anchors
    than numbers for each.
    """
    if len(seen.shapes) != 1:
        return None
    ((name, shape),) = seen.shapes.items()
    before = 5 if kind == "yolov5" else 4
    if len(shape) != 3:
        return None
    names = seen.names
    if names is not None:
        wanted = before + len(names)
        places = [axis for axis in (1, 2) if shape[axis] == wanted]
    else:
        axis = _shorter(shape)
        if axis is None or (not asked and axis != (2 if kind == "yolov5" else 1)):
            return None
        places = [axis]
    if not places:
        return None
    axis = places[0] if len(places) == 1 else (2 if kind == "yolov5" else 1)
    length = shape[axis]
    if length is None or length <= before:
        return None
    values = None if seen.values is None else np.moveaxis(seen.values[name], axis, -1)
    return Head(
        kind=kind,
        outputs=(name,),
        classes=length - before,
        height=seen.height,
        width=seen.width,
        anchors_last=axis == 1,
        boxes="centre",
        unit=_unit(None if values is None else values[..., :4], "pixels"),
        scores=_activation(None if values is None else values[..., 4:], "sigmoid", if_unknown="done"),
    )


def _shorter(shape: Shape) -> int | None:
    """The axis, 1 or 2, that is shorter; None where that is not known."""
    first, second = shape[1], shape[2]
    if first is None or second is None:  # anchors may be of any number, numbers for each are not
        return (1 if second is None else 2) if (first is None) != (second is None) else None
    return None if first == second else (1 if first < second else 2)


def _unit(boxes: NDArray[np.float32] | None, usual: str) -> Any:
    """Pixels or shares of the image's sides."""
    if boxes is None or not boxes.size or not boxes.any():
        return usual
    return "shares" if float(np.quantile(np.abs(boxes), 0.99)) <= _MOST_SHARE else "pixels"


def _corners_or_centre(boxes: NDArray[np.float32] | None) -> Any:
    """Corners where the last two numbers are nearly never below the first two."""
    if boxes is None or not boxes.size:
        return "corners"
    ordered = (boxes[..., 2:] >= boxes[..., :2]).all(axis=-1)
    return "corners" if float(ordered.mean()) > 0.95 else "centre"


def _activation(values: NDArray[np.float32] | None, otherwise: str, *, if_unknown: str = "done") -> Any:
    """`done` where all scores lie between 0 and 1, which logits do not."""
    if values is None or not values.size:
        return if_unknown
    inside = float(values.min()) >= -1e-3 and float(values.max()) <= 1.0 + 1e-3
    return "done" if inside else otherwise


_READERS: Final = {"nms": _nms, "detr": _detr, "ssd": _ssd, "yolov5": _yolov5, "yolov8": _yolov8}
