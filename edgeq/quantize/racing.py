"""Let every layer see images until its figure is sure enough, and no longer."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeq.quantize.answers import Answers, judge_answers, root_ratio
from edgeq.quantize.sweep import Runner, Track
from edgeq.quantize.variants import Workbench

__all__ = ["WORST", "Bounds", "Estimate", "Race", "undecided"]

WORST = 10
"""So many layers are measured more exactly than the others."""

_SIGMAS = 2.0
"""Half the width of a confidence interval, in standard errors: 95 % for a normal distribution."""


@dataclass(frozen=True)
class Estimate:
    """What a layer is ranked by.

    Attributes:
        value: larger is worse.
        error: its standard error.
        unit: the size that `error` is judged against.
    """

    value: float
    error: float
    unit: float


@dataclass(frozen=True)
class Bounds:
    """When a layer has seen enough images: the standard error is at most this part of the figure.

    The error is that of the figure as an estimate of what all the images given would say, so it is smaller than the
    error over the choice of images, and nothing once all were seen. For `released` it is that of the gain, as it is.

    Attributes:
        worst: for layers that may be among the ten worst.
        others: for all others.
    """

    worst: float = 0.03
    others: float = 0.10


def undecided(estimates: Mapping[str, Estimate], bounds: Bounds) -> frozenset[str]:
    """The layers that need more images."""
    lowest = sorted((e.value - _SIGMAS * e.error for e in estimates.values()), reverse=True)
    entry = lowest[min(WORST, len(lowest)) - 1] if lowest else 0.0

    def bound(estimate: Estimate) -> float:
        may_be_worst = estimate.value + _SIGMAS * estimate.error >= entry
        return estimate.unit * (bounds.worst if may_be_worst else bounds.others)

    return frozenset(layer for layer, estimate in estimates.items() if estimate.error > bound(estimate))


class Race:
    """All variants of one graph, and what they have answered so far.

    Args:
        bench: makes the variants.
        layers: names of the INT8 layers to be measured, in the graph's order.
        bounds: when a layer has seen enough.
        runner: runs the graphs.

    Attributes:
        int8: what the INT8 network answered, on all images seen; None before the first.
        alone, released: what the variants answered, on the first of these images, by layer.
    """

    def __init__(self, bench: Workbench, layers: Collection[str], bounds: Bounds, runner: Runner) -> None:
        self._alone = Track(bench.whole, bench.cuts, tuple(map(bench.alone, layers)), bench.make, runner)
        self._released = Track(bench.int8, bench.cuts, tuple(map(bench.released, layers)), bench.make, runner)
        self._open_alone = self._open_released = frozenset(layers)
        self._bounds = bounds
        self.int8: Answers | None = None
        self.alone: dict[str, Answers] = {}
        self.released: dict[str, Answers] = {}

    @property
    def running(self) -> int:
        """How many variants need more images."""
        return len(self._open_alone) + len(self._open_released)

    def see(self, pixels: NDArray[np.float32], truth: NDArray[np.int64] | None, advance: Callable[[int], None]) -> None:
        """Show the variants that are still running some images.

        Args:
            pixels: float32 [n, 3, H, W].
            truth: class indices [n]; None without labels.
            advance: called with n for each variant.
        """
        reference, alone = self._alone.sweep(pixels, self._open_alone, advance)
        int8, released = self._released.sweep(pixels, self._open_released, advance)
        self.int8 = _joined(self.int8, judge_answers(reference, int8, truth))
        for answers, made in ((self.alone, alone), (self.released, released)):
            for layer, logits in made.items():
                answers[layer] = _joined(answers.get(layer), judge_answers(reference, logits, truth))

    def settle(self, total: int) -> None:
        """Let the layers go whose figures are sure enough, as estimates of those over `total` images."""
        errors = {layer: _error(self.alone[layer], total) for layer in self.alone}
        gains = {layer: self._gain(layer, total) for layer in self.released}
        self._open_alone &= undecided(errors, self._bounds)
        self._open_released &= undecided(gains, self._bounds)

    def gain(self, layer: str) -> tuple[float, float]:
        """The part of the INT8 network's logit error that goes when `layer` is released, and its standard error."""
        assert self.int8 is not None
        answers = self.released[layer]
        left, error = root_ratio(answers.error, self.int8.error[: len(answers.error)])
        return 1.0 - left, error

    def _gain(self, layer: str, total: int) -> Estimate:
        gain, error = self.gain(layer)
        return Estimate(gain, error * _unseen(self.released[layer], total), unit=1.0)


def _error(answers: Answers, total: int) -> Estimate:
    value, error = root_ratio(answers.error, answers.length)
    return Estimate(value, error * _unseen(answers, total), unit=value)


def _unseen(answers: Answers, total: int) -> float:
    """What turns a standard error over all images there are into that over `total` (Cochran, 2.6: 1 - n / N)."""
    return math.sqrt(max(0.0, 1.0 - len(answers.error) / total))


def _joined(before: Answers | None, later: Answers) -> Answers:
    return later if before is None else before.joined(later)
