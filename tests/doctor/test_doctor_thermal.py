"""Thermal zones, throttled ones and ones that are switched off."""

from __future__ import annotations

from pathlib import Path

from recorded import JETPACK_6, JETPACK_7, changed

from edgeq.doctor.thermal import read_zones, thermal_finding


def test_a_cool_board() -> None:
    found = thermal_finding(JETPACK_6)
    assert found.status == "ok"
    assert found.seen == "cpu-thermal 48.0 °C is the hottest of 4; it is slowed down at 99.0 °C"


def test_a_throttled_board() -> None:
    """Two zones are at 99.25 degrees; tj-thermal has no passive trip point and cannot be told to be throttled."""
    found = thermal_finding(JETPACK_7)
    assert (found.status, found.means) == ("warning", "the kernel slows the machine down: gpu-thermal")


def test_a_zone_that_is_switched_off() -> None:
    assert "cv0-thermal" not in [zone.name for zone in read_zones(JETPACK_6)]


def test_a_zone_far_below_zero_is_none(tmp_path: Path) -> None:
    root = changed(JETPACK_6, tmp_path, {"sys/class/thermal/thermal_zone1/temp": "-256000\n"})
    assert "gpu-thermal" not in [zone.name for zone in read_zones(root)]


def test_no_zones(tmp_path: Path) -> None:
    assert thermal_finding(tmp_path).status == "unknown"
