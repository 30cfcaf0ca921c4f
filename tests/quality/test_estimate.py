"""The interval of a share."""

from __future__ import annotations

import pytest

from edgeq.quality.estimate import wilson_limits


def test_the_interval_of_a_share() -> None:
    """Wilson's for 8 of 10, as worked out by hand: (0.8 + 0.19208 ± 1.96 sqrt(0.016 + 0.009604)) / 1.38416."""
    assert wilson_limits(0.8, 10, 1.96) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_limits(0.0, 10, 1.96)[0] == 0.0
