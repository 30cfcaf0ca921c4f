"""Is the calibration set large enough, and like what the network will see?"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from edgeq.calibrate.histogram import BINS, Histogram
from edgeq.calibrate.scales import Scales
from edgeq.engine.registry import DEFAULT
from edgeq.errors import CalibrationError

__all__ = ["DRIFT_BOUND", "Diagnosis", "clipped_share", "diagnose", "distance", "drift", "histograms_of"]

DRIFT_BOUND: Final = 0.03
"""Above this median distance, two sets of images are called unlike.

Seen on ResNet-56 with CIFAR-10: 0.005 with 500 calibration images, 0.011 with 64, 0.041 with 24."""
CLIPPED_BOUND: Final = 0.01
"""Above this share of clipped values, a tensor is named."""

_COARSE_BINS = 64


class Diagnosis(BaseModel):
    """What the histograms tell about the calibration set.

    Attributes:
        never_fired: tensors that were zero on every image.
        clipped: largest share of one tensor's values outside its range, and that tensor's name.
        drift: median distance between the histograms of a tenth of the images and of the rest; None where not known.
        evaluation_drift: the same between the calibration and the evaluation images.
        evaluation_clipped: as `clipped`, for the evaluation images.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    never_fired: tuple[str, ...]
    clipped: tuple[float, str]
    drift: float | None
    evaluation_drift: float | None = None
    evaluation_clipped: tuple[float, str] | None = None

    def warnings(self) -> Iterator[str]:
        """What a careful reader should know."""
        if self.never_fired:
            names = ", ".join(self.never_fired[:3])
            yield f"{len(self.never_fired)} tensors were zero on every calibration image: {names}"
        if self.drift is not None and self.drift > DRIFT_BOUND:
            yield f"the calibration set is too small: a tenth of it differs by {self.drift:.2f} from the rest (of 1)"
        if self.evaluation_drift is not None and self.evaluation_drift > DRIFT_BOUND:
            yield f"calibration and evaluation images are unlike: they differ by {self.evaluation_drift:.2f} (of 1)"
        for name, worst in (("calibration", self.clipped), ("evaluation", self.evaluation_clipped)):
            if worst is not None and worst[0] > CLIPPED_BOUND:
                yield f"{worst[0]:.1%} of the {name} values of tensor {worst[1]} are clipped"


def diagnose(scales: Scales, evaluation: Mapping[str, Histogram] | None = None) -> Diagnosis:
    """Read the histograms of `scales`, which must hold them, and of evaluation images where given."""
    calibration = histograms_of(scales)
    return Diagnosis(
        never_fired=tuple(name for name, histogram in calibration.items() if histogram.exponent is None),
        clipped=_most_clipped(scales, calibration),
        drift=scales.drift,
        evaluation_drift=drift(calibration, evaluation) if evaluation else None,
        evaluation_clipped=_most_clipped(scales, evaluation) if evaluation else None,
    )


def histograms_of(scales: Scales) -> dict[str, Histogram]:
    """Every tensor's histogram.

    Raises:
        CalibrationError: the scales hold none.
    """
    found = {}
    for name, tensor in scales.tensors.items():
        if tensor.histogram is None:
            raise CalibrationError("these scales hold no histograms", causes=("they come from a TensorRT cache",))
        found[name] = tensor.histogram.unpack(tensor.minimum, tensor.maximum)
    return found


def drift(first: Mapping[str, Histogram], second: Mapping[str, Histogram]) -> float:
    """Median over the tensors of the distance between their histograms; 0.0 where there are none."""
    return statistics.median([distance(first[name], second[name]) for name in second] or [0.0])


def distance(first: Histogram, second: Histogram) -> float:
    """Total variation distance in 64 bins over the common range: 0 for the same shape, 1 for no overlap."""
    both = Histogram()
    both.merge(first)
    both.merge(second)
    shares = [_coarse(histogram, both.exponent) for histogram in (first, second)]
    return float(0.5 * np.abs(shares[0] - shares[1]).sum())


def _coarse(histogram: Histogram, exponent: int | None) -> NDArray[np.float64]:
    widened = Histogram()
    widened.exponent = exponent
    widened.merge(histogram)
    counts = widened.counts.reshape(_COARSE_BINS, -1).sum(axis=1).astype(np.float64)
    shares: NDArray[np.float64] = counts / max(float(counts.sum()), 1.0)
    return shares


def clipped_share(histogram: Histogram, low: float, high: float) -> float:
    """Share, 0 to 1, of the values in bins that are wholly outside [low, high].

    Args:
        histogram: of the tensor.
        low, high: the range's ends, in the tensor's own values.
    """
    if histogram.exponent is None or histogram.total == 0:
        return 0.0
    edges = np.arange(-BINS, BINS) * histogram.width
    outside = (edges >= high) | (edges + histogram.width <= low)
    outside[BINS] = False
    return float(histogram.counts[outside].sum() / histogram.total)


def _most_clipped(scales: Scales, histograms: Mapping[str, Histogram]) -> tuple[float, str]:
    shares = []
    for name, histogram in histograms.items():
        kept = scales.range_of(name, DEFAULT.name)
        shares.append((clipped_share(histogram, kept.low, kept.high), name))
    return max(shares, default=(0.0, ""))  # a plan may leave nothing in INT8
