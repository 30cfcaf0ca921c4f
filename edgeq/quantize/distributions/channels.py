"""A histogram that also keeps the range of each channel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeq.calibrate.histogram import Histogram

__all__ = ["ChannelHistogram"]


class ChannelHistogram(Histogram):
    """Counts of one tensor's values, and the least and the greatest value of each channel, its last axis.

    Attributes:
        lowest, highest: float32 [channels]; None before the first image.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lowest: NDArray[np.float32] | None = None
        self.highest: NDArray[np.float32] | None = None

    def add(self, values: NDArray[np.float32]) -> None:
        """Count the values of one image's tensor, [..., channels].

        Raises:
            CalibrationError: a value is NaN or infinite.
        """
        super().add(values)
        rows = values.reshape(-1, values.shape[-1])
        low, high = rows.min(axis=0), rows.max(axis=0)
        self.lowest = low if self.lowest is None else np.minimum(self.lowest, low)
        self.highest = high if self.highest is None else np.maximum(self.highest, high)
