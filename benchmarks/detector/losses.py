"""Which anchors answer for which box, and how wrong they are: task-aligned assignment, CIoU, distributions of edges.

Assignment: TOOD (arXiv:2108.07755). CIoU: arXiv:1911.08287. Distributions: arXiv:2006.04388.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from benchmarks.detector.network import BINS, Raw, anchors, box_of
from benchmarks.detector.scenes import SIDE

__all__ = ["Assigned", "assign", "detection_loss", "overlap"]

_CANDIDATES: Final = 10
_SCORE_POWER: Final = 0.5
_OVERLAP_POWER: Final = 6.0
_SCORE_GAIN: Final = 0.5
_BOX_GAIN: Final = 7.5
_EDGE_GAIN: Final = 1.5


@dataclass(frozen=True)
class Assigned:
    """What each anchor of each image [n, A] is to say.

    Attributes:
        positive: whether it answers for a box, bool [n, A].
        boxes: left, top, right, bottom of that box in pixels, [n, A, 4].
        scores: [n, A, classes], 0 but for the box's class of a positive one: how good its box is.
    """

    positive: Tensor
    boxes: Tensor
    scores: Tensor


def detection_loss(raw: Raw, wanted: Sequence[Tensor], side: int = SIDE) -> Tensor:
    """One number for a batch.

    Args:
        raw: of `Detector.raw`.
        wanted: for each image [k, 5]: class, left, top, right, bottom in pixels.
        side: of the images, in pixels.
    """
    places, strides = anchors(side)
    found = box_of(raw.edges, places, strides)
    assigned = assign(raw.scores.detach().sigmoid(), found.detach(), _padded(wanted), places * strides[:, None])
    whole = assigned.scores.sum().clamp(min=1.0)
    score = binary_cross_entropy_with_logits(raw.scores, assigned.scores, reduction="sum") / whole
    positive = assigned.positive
    if not positive.any():
        return _SCORE_GAIN * score
    weight = assigned.scores.sum(-1)[positive]
    box = ((1 - overlap(found[positive], assigned.boxes[positive], complete=True)) * weight).sum() / whole
    anchor = positive.nonzero()[:, 1]
    distances = _distances(assigned.boxes[positive], places[anchor], strides[anchor])
    edge = (_edge_loss(raw.edges[positive], distances) * weight).sum() / whole
    return _SCORE_GAIN * score + _BOX_GAIN * box + _EDGE_GAIN * edge


@torch.no_grad()
def assign(scores: Tensor, boxes: Tensor, wanted: Tensor, middles: Tensor) -> Assigned:
    """For each wanted box those anchors inside of it whose score and box agree best; of two boxes the nearer one.

    Args:
        scores: [n, A, classes], 0 to 1.
        boxes: [n, A, 4] in pixels.
        wanted: [n, k, 5]: class, left, top, right, bottom; class -1 where there is none.
        middles: of the anchors, [A, 2] in pixels.
    """
    classes, targets = wanted[..., 0].long(), wanted[..., 1:]
    near, far = targets[:, :, None].chunk(2, -1)
    inside = ((middles > near) & (middles < far)).all(-1) & (classes >= 0)[:, :, None]
    shared = overlap(boxes[:, None], targets[:, :, None]).clamp(min=0) * inside
    chosen = scores.transpose(1, 2).gather(1, classes.clamp(min=0)[:, :, None].expand(-1, -1, scores.shape[1]))
    agreement = chosen**_SCORE_POWER * shared**_OVERLAP_POWER * inside
    best = agreement + inside * 1e-12
    threshold = best.topk(min(_CANDIDATES, best.shape[-1]), -1).values[..., -1:]
    candidate = inside & (best >= threshold)
    owner = torch.where(candidate, shared + 1e-9, torch.zeros(())).argmax(1)
    positive = candidate.any(1)
    owned = torch.zeros_like(candidate).scatter_(1, owner[:, None], True) & candidate
    agreement, shared = agreement * owned, shared * owned
    ratio = shared.amax(-1, keepdim=True) / agreement.amax(-1, keepdim=True).clamp(min=1e-9)
    quality = (agreement * ratio).amax(1)
    label = classes.gather(1, owner).clamp(min=0)
    goal = torch.zeros_like(scores).scatter_(2, label[..., None], (quality * positive)[..., None])
    return Assigned(positive, targets.gather(1, owner[..., None].expand(-1, -1, 4)), goal)


def overlap(one: Tensor, other: Tensor, *, complete: bool = False) -> Tensor:
    """IoU of boxes [..., 4]; `complete` takes off distance of their middles and difference of their shapes (CIoU)."""
    low, high = torch.maximum(one[..., :2], other[..., :2]), torch.minimum(one[..., 2:], other[..., 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    size, other_size = (one[..., 2:] - one[..., :2]), (other[..., 2:] - other[..., :2])
    iou = shared / (size.prod(-1) + other_size.prod(-1) - shared).clamp(min=1e-6)
    if not complete:
        return iou
    whole = torch.maximum(one[..., 2:], other[..., 2:]) - torch.minimum(one[..., :2], other[..., :2])
    apart = ((one[..., :2] + one[..., 2:]) - (other[..., :2] + other[..., 2:])).square().sum(-1) / 4
    shapes = [torch.atan(each[..., 0] / each[..., 1].clamp(min=1e-6)) for each in (size, other_size)]
    shape = 4 / math.pi**2 * (shapes[0] - shapes[1]).square()
    with torch.no_grad():
        trade = shape / (1 - iou + shape).clamp(min=1e-6)
    return iou - apart / whole.square().sum(-1).clamp(min=1e-6) - trade * shape


def _distances(boxes: Tensor, places: Tensor, strides: Tensor) -> Tensor:
    """Strides [p, 4] from anchors to the edges of boxes [p, 4]."""
    scaled = boxes / strides[:, None]
    return torch.cat([places - scaled[:, :2], scaled[:, 2:] - places], 1).clamp(0, BINS - 1.01)


def _edge_loss(edges: Tensor, distances: Tensor) -> Tensor:
    """Cross entropy [p] of distributions [p, 4, BINS] with the two bins around each distance [p, 4], edges averaged."""
    low = distances.long()
    part = distances - low
    logits = edges.flatten(0, 1)
    lower, upper = (cross_entropy(logits, each.flatten(), reduction="none").view_as(low) for each in (low, low + 1))
    return (lower * (1 - part) + upper * part).mean(-1)


def _padded(wanted: Sequence[Tensor]) -> Tensor:
    """[n, k, 5] of the most boxes that an image has, at least one; class -1 where it has fewer."""
    most = max(1, *(len(boxes) for boxes in wanted))
    padded = torch.full((len(wanted), most, 5), -1.0)
    for row, boxes in zip(padded, wanted, strict=True):
        row[: len(boxes)] = boxes
    return padded
