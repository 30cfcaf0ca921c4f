"""The benchmark of verification: its arithmetic, and one turn on a small bundle."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.verify_bundle import MAX_PEAK_BYTES, Round, measure, summarize
from edgeq.bundle.manifest import write_manifest

GB = 10**9


def test_speeds_and_ratio() -> None:
    """Ratios are taken within a round: 2, 1 and 0.5; medians of times are 4 and 4 seconds for 8 GB."""
    rounds = [Round(2.0, 4.0, 30), Round(4.0, 4.0, 50), Round(8.0, 4.0, 40)]
    summary = summarize(rounds, 8 * GB)
    assert (summary.ratio, summary.edgeq, summary.sha256sum) == pytest.approx((1.0, 2.0, 2.0))
    assert (summary.gigabytes, summary.rounds, summary.peak, summary.passed) == (8.0, 3, 50, True)


@pytest.mark.parametrize(
    ("turn", "passed"),
    [
        (Round(10.0, 7.0, MAX_PEAK_BYTES - 1), True),
        (Round(10.0, 6.9, MAX_PEAK_BYTES - 1), False),
        (Round(10.0, 7.0, MAX_PEAK_BYTES), False),
    ],
)
def test_both_bounds_count(turn: Round, passed: bool) -> None:
    assert summarize([turn], GB).passed is passed


def test_a_turn(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(bytes(1000))
    write_manifest(tmp_path)
    (turn,) = measure(tmp_path, 1)
    assert turn.edgeq > 0
    assert turn.sha256sum > 0
    assert 10_000_000 < turn.peak < MAX_PEAK_BYTES
