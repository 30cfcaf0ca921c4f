"""Let every layer see images until its figure is sure enough, and no longer."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeq.calibrate.samples import Array
from edgeq.quality.logits import Answers, judge_answers, root_ratio
from edgeq.quantize.search.bounds import WORST, RaceBounds
from edgeq.quantize.search.sweep import Runner, Track, in_order
from edgeq.quantize.search.variants import Workbench

__all__ = ["Race", "RunningEstimate", "images_needed"]

_SIGMAS = 1.645
"""Half the width of a confidence interval, in standard errors: 95 % of a normal distribution are below its end."""

_GROWTH = 3
"""No layer sees more than so many times as many images before all are compared again."""


@dataclass(frozen=True)
class RunningEstimate:
    """What a layer is ranked by, as an estimate of what all images would say.

    Attributes:
        value: larger is worse.
        spread: its standard error if there were images without end.
        images: how many it rests on.
        total: how many there are.
        unit: the size that the error is judged against.
    """

    value: float
    spread: float
    images: int
    total: int
    unit: float

    @property
    def error(self) -> float:
        """Standard error, with the correction for a finite set (Cochran, "Sampling Techniques", 2.6)."""
        return self.spread * math.sqrt(max(0.0, 1.0 - self.images / self.total))

    @property
    def low(self) -> float:
        """Lower end of the confidence interval."""
        return self.value - _SIGMAS * self.error

    @property
    def high(self) -> float:
        """Upper end of the confidence interval."""
        return self.value + _SIGMAS * self.error

    def images_for(self, bound: float) -> int:
        """So many images that the error comes under this part of the unit; those it has where it is already.

        The spread falls with the root of the images: where n0 of them would do in an endless set, 1 / (1 / n0 + 1 /
        total) do in this one (Cochran, 4.5).
        """
        if self.error <= bound * self.unit:
            return self.images
        endless = self.images * (self.spread / (bound * self.unit)) ** 2
        return min(self.total, math.ceil(1.0 / (1.0 / endless + 1.0 / self.total)))


def images_needed(estimates: Mapping[str, RunningEstimate], bounds: RaceBounds) -> dict[str, int]:
    """How many images each layer needs in all, for the layers that need more than they have.

    A layer whose interval meets no other's has its place already, however wide the interval is.
    """
    entry = _entry(estimates.values())
    needed = {}
    for layer, estimate in estimates.items():
        meets = sum(1 for other in estimates.values() if other.low <= estimate.high and other.high >= estimate.low)
        contested = estimate.high >= entry and meets > 1  # it meets itself
        needed[layer] = estimate.images_for(bounds.worst if contested else bounds.others)
    return {layer: count for layer, count in needed.items() if count > estimates[layer].images}


def _entry(estimates: Collection[RunningEstimate]) -> float:
    """What a layer must reach to be among the ten worst: the tenth of the lower ends."""
    lowest = sorted((estimate.low for estimate in estimates), reverse=True)
    return lowest[min(WORST, len(lowest)) - 1] if lowest else 0.0


class Race:
    """All variants of one graph, and what they have answered so far.

    Args:
        bench: makes the variants.
        layers: names of the INT8 layers to be measured, in the graph's order.
        bounds: when a layer has seen enough.
        total: how many images there are.
        first: how many of them every layer sees.
        runner: runs the graphs.

    Attributes:
        int8: what the INT8 network answered, on the first of the images shown; None before the first.
        alone, released: what the variants answered, by layer.
        seen: how many images were shown.
    """

    def __init__(
        self, bench: Workbench, layers: Collection[str], bounds: RaceBounds, total: int, first: int, runner: Runner
    ) -> None:
        self._tracks = (
            Track(bench.whole, bench.cuts, tuple(map(bench.alone, layers)), bench.make, runner),
            Track(bench.int8, bench.cuts, tuple(map(bench.released, layers)), bench.make, runner),
        )
        self._bounds = bounds
        self._total = total
        self._missing = tuple(dict.fromkeys(layers, min(first, total)) for _ in self._tracks)
        self._places: dict[str, NDArray[np.int64]] = {}
        self.int8: Answers | None = None
        self.alone: dict[str, Answers] = {}
        self.released: dict[str, Answers] = {}
        self.seen = 0
        self._int8_open = True

    @property
    def missing(self) -> int:
        """How many more images the layer that needs most does."""
        return max((count for missing in self._missing for count in missing.values()), default=0)

    @property
    def work(self) -> int:
        """Images that are missing, summed over all variants."""
        return sum(count for missing in self._missing for count in missing.values())

    def see(self, samples: Sequence[Array], truth: NDArray[np.int64] | None, advance: Callable[[int], None]) -> None:
        """Show each variant as many of some samples as it still needs.

        Args:
            samples: [1, ...] each, as the graph takes them.
            truth: class indices [n]; None without labels.
            advance: called with the number of samples that a variant has seen.
        """
        batches = in_order(samples)
        reference, alone = self._tracks[0].sweep(batches, self._missing[0], advance)
        self._add(self.alone, self._missing[0], alone, reference, truth)
        if self._int8_open:
            int8, released = self._tracks[1].sweep(batches, self._missing[1], advance)
            self.int8 = _joined(self.int8, judge_answers(reference, int8, truth))
            self._note_places(released)
            self._add(self.released, self._missing[1], released, reference, truth)
        self.seen += len(samples)

    def _add(
        self,
        answers: dict[str, Answers],
        missing: dict[str, int],
        made: Mapping[str, NDArray[np.float32]],
        reference: NDArray[np.float32],
        truth: NDArray[np.int64] | None,
    ) -> None:
        """Judge what variants made of the first images shown."""
        for layer, logits in made.items():
            few = slice(len(logits))
            found = judge_answers(reference[few], logits, None if truth is None else truth[few])
            answers[layer] = _joined(answers.get(layer), found)
            missing[layer] -= len(logits)

    def _note_places(self, released: Mapping[str, NDArray[np.float32]]) -> None:
        """Which of the images shown each released layer has seen, to pair it with the INT8 network's answers."""
        for layer, logits in released.items():
            before = self._places.get(layer, np.empty(0, np.int64))
            self._places[layer] = np.append(before, self.seen + np.arange(len(logits)))

    def settle(self) -> None:
        """Ask how many more images each layer needs."""
        errors = {layer: self._error(answers) for layer, answers in self.alone.items()}
        gains = {layer: self._gain(layer) for layer in self.released}
        gain_bounds = RaceBounds(self._bounds.others, self._bounds.others)
        self._missing = tuple(
            {layer: min(count, _GROWTH * found[layer].images) - found[layer].images for layer, count in needed.items()}
            for found, needed in (
                (errors, images_needed(errors, self._bounds)),
                (gains, images_needed(gains, gain_bounds)),
            )
        )
        whole = self._error(self.int8) if self.int8 else None
        sure = whole is not None and whole.error <= self._bounds.worst * whole.unit
        self._int8_open = bool(self._missing[1]) or not sure

    def gain(self, layer: str) -> tuple[float, float]:
        """The part of the INT8 network's logit error that goes when `layer` is released, and its standard error."""
        assert self.int8 is not None
        left, error = root_ratio(self.released[layer].error, self.int8.error[self._places[layer]])
        return 1.0 - left, error

    def _error(self, answers: Answers) -> RunningEstimate:
        value, spread = root_ratio(answers.error, answers.length)
        return RunningEstimate(value, spread, len(answers.error), self._total, unit=value)

    def _gain(self, layer: str) -> RunningEstimate:
        gain, spread = self.gain(layer)
        return RunningEstimate(gain, spread, len(self._places[layer]), self._total, unit=1.0)


def _joined(before: Answers | None, later: Answers) -> Answers:
    return later if before is None else before.joined(later)
