"""A detector of the YOLOv8 kind: convolutions with SiLU, three scales, boxes from distributions, one output."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from benchmarks.detector.scenes import LABELS, SIDE

__all__ = ["BINS", "STRIDES", "Detector", "Raw", "anchors", "box_of"]

STRIDES: Final = (8, 16, 32)
"""Pixels of the input from place to place of each scale."""

BINS: Final = 12
"""A box's edge is 0 to BINS - 1 strides away from its anchor, the mean of a distribution over these."""

_WIDTHS: Final = (16, 32, 64, 128, 224)
_DEPTHS: Final = (1, 2, 2, 1)
_HEAD: Final = 48
_PRIOR: Final = 0.01


@dataclass(frozen=True)
class Raw:
    """What training looks at, for all A anchors of all scales.

    Attributes:
        scores: logits [n, A, classes].
        edges: logits [n, A, 4, BINS] of how far left, top, right and bottom are away.
    """

    scores: Tensor
    edges: Tensor


class Detector(nn.Module):
    """RGB [n, 3, SIDE, SIDE], 0 to 1, to [n, 4 + classes, A].

    Rows: centre x, centre y, width and height of a box in pixels of the input, then each class's score, 0 to 1.
    """

    bins: Tensor
    places: Tensor
    strides: Tensor

    def __init__(self) -> None:
        super().__init__()
        widths, depths = _WIDTHS, _DEPTHS
        self.stem = _Conv(3, widths[0], stride=2)
        self.stages = nn.ModuleList(
            nn.Sequential(_Conv(before, after, stride=2), _Split(after, after, depth, shortcut=True))
            for before, after, depth in zip(widths, widths[1:], depths, strict=False)
        )
        self.pyramid = _Pyramid(widths[-1])
        small, middle, large = widths[2:]
        self.up_middle = _Split(large + middle, middle, 1)
        self.up_small = _Split(middle + small, small, 1)
        self.down_middle = _Conv(small, small, stride=2)
        self.to_middle = _Split(small + middle, middle, 1)
        self.down_large = _Conv(middle, middle, stride=2)
        self.to_large = _Split(middle + large, large, 1)
        self.boxes = nn.ModuleList(_head(width, 4 * BINS) for width in (small, middle, large))
        rare = -math.log(1 / _PRIOR - 1)
        self.scores = nn.ModuleList(_head(width, len(LABELS), rare) for width in (small, middle, large))
        self.register_buffer("bins", torch.arange(BINS).float().reshape(1, BINS, 1, 1), persistent=False)
        places, strides = anchors()
        self.register_buffer("places", places.T[None], persistent=False)
        self.register_buffer("strides", strides[None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Boxes and scores of every anchor."""
        edges, scores = self._heads(images)
        distances = (_bins_of(edges).transpose(1, 2).softmax(1) * self.bins).sum(1)
        near, far = distances.chunk(2, 1)
        left_top, right_bottom = self.places - near, self.places + far
        boxes = torch.cat([(left_top + right_bottom) / 2, right_bottom - left_top], 1) * self.strides
        return torch.cat([boxes, scores.sigmoid()], 1)

    def raw(self, images: Tensor) -> Raw:
        """The same before it is made boxes."""
        edges, scores = self._heads(images)
        return Raw(scores.transpose(1, 2).float(), _bins_of(edges).permute(0, 3, 1, 2).float())

    def _heads(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [n, 4 * BINS, A] and [n, classes, A]."""
        scales = self._scales(images)
        edges = [head(scale).flatten(2) for head, scale in zip(self.boxes, scales, strict=True)]
        scores = [head(scale).flatten(2) for head, scale in zip(self.scores, scales, strict=True)]
        return torch.cat(edges, 2), torch.cat(scores, 2)

    def _scales(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features at each stride, from the top down and up again (FPN, PAN)."""
        found = [self.stem(images)]
        for stage in self.stages:
            found.append(stage(found[-1]))
        small, middle, large = found[2], found[3], self.pyramid(found[4])
        middle = self.up_middle(torch.cat([_doubled(large), middle], 1))
        small = self.up_small(torch.cat([_doubled(middle), small], 1))
        middle = self.to_middle(torch.cat([self.down_middle(small), middle], 1))
        return small, middle, self.to_large(torch.cat([self.down_large(middle), large], 1))


def anchors(side: int = SIDE) -> tuple[Tensor, Tensor]:
    """Middles of all places [A, 2], x and y in strides, and their strides [A] in pixels; `side` is the image's."""
    places, strides = [], []
    for stride in STRIDES:
        middles = torch.arange(side // stride) + 0.5
        rows, columns = torch.meshgrid(middles, middles, indexing="ij")
        places.append(torch.stack([columns.flatten(), rows.flatten()], 1))
        strides.append(torch.full((len(places[-1]),), float(stride)))
    return torch.cat(places), torch.cat(strides)


def box_of(edges: Tensor, places: Tensor, strides: Tensor) -> Tensor:
    """Logits of edges [..., A, 4, BINS] to left, top, right and bottom in pixels [..., A, 4]."""
    distances = edges.softmax(-1) @ torch.arange(BINS).float()
    near, far = distances.chunk(2, -1)
    return torch.cat([places - near, places + far], -1) * strides[:, None]


class _Conv(nn.Sequential):
    """Convolution, BatchNorm, SiLU."""

    def __init__(self, before: int, after: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(after, eps=1e-3, momentum=0.03),
            nn.SiLU(),
        )


class _Split(nn.Module):
    """Half of the channels pass, half go through 3 x 3 convolutions one behind the other; all of these are joined."""

    def __init__(self, before: int, after: int, depth: int, *, shortcut: bool = False) -> None:
        super().__init__()
        half = after // 2
        self.enter = _Conv(before, after, kernel=1)
        self.blocks = nn.ModuleList(nn.Sequential(_Conv(half, half), _Conv(half, half)) for _ in range(depth))
        self.leave = _Conv((2 + depth) * half, after, kernel=1)
        self.shortcut = shortcut

    def forward(self, features: Tensor) -> Tensor:
        parts = list(self.enter(features).chunk(2, 1))
        for block in self.blocks:
            parts.append(block(parts[-1]) + parts[-1] if self.shortcut else block(parts[-1]))
        joined: Tensor = self.leave(torch.cat(parts, 1))
        return joined


class _Pyramid(nn.Module):
    """Maxima over 5, 9 and 13 places beside the features themselves (SPPF)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter = _Conv(width, width // 2, kernel=1)
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.leave = _Conv(2 * width, width, kernel=1)

    def forward(self, features: Tensor) -> Tensor:
        parts = [self.enter(features)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        joined: Tensor = self.leave(torch.cat(parts, 1))
        return joined


def _head(width: int, outputs: int, bias: float = 0.0) -> nn.Sequential:
    last = nn.Conv2d(_HEAD, outputs, 1)
    if last.bias is not None:
        nn.init.constant_(last.bias, bias)
    return nn.Sequential(_Conv(width, _HEAD), _Conv(_HEAD, _HEAD), last)


def _bins_of(edges: Tensor) -> Tensor:
    """[n, 4 * BINS, A] to [n, 4, BINS, A]."""
    return edges.reshape(-1, 4, BINS, edges.shape[2])


def _doubled(features: Tensor) -> Tensor:
    return nn.functional.interpolate(features, scale_factor=2.0, mode="nearest")
