"""Temperatures, and the temperature at which the kernel slows the machine down."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeq.doctor.finding import DoctorFinding
from edgeq.doctor.reading import number_in, text_in

__all__ = ["Zone", "read_zones", "thermal_finding"]

_OFF_BELOW: Final = -40.0
"""A zone whose part is switched off says something like -256 degrees."""


@dataclass(frozen=True)
class Zone:
    """A thermal zone.

    Attributes:
        name: its type, else its folder.
        celsius: its temperature.
        throttles: lowest temperature at which it is throttled, in degrees Celsius; None where it does not say one.
    """

    name: str
    celsius: float
    throttles: float | None


def read_zones(root: Path) -> tuple[Zone, ...]:
    """All zones that say a temperature."""
    zones = (_zone(path) for path in sorted((root / "sys/class/thermal").glob("thermal_zone*")))
    return tuple(zone for zone in zones if zone is not None and zone.celsius > _OFF_BELOW)


def thermal_finding(root: Path) -> DoctorFinding:
    """The hottest zone, and how far the nearest one is from being throttled."""
    zones = read_zones(root)
    if not zones:
        seen = "no zone below /sys/class/thermal says a temperature"
        return DoctorFinding(
            name="temperature", status="unknown", seen=seen, means="could not be looked at on this machine"
        )
    hottest = max(zones, key=lambda zone: zone.celsius)
    seen = f"{hottest.name} {hottest.celsius:.1f} °C is the hottest of {len(zones)}"
    throttled = [zone.name for zone in zones if zone.throttles is not None and zone.celsius >= zone.throttles]
    if throttled:
        means = f"the kernel slows the machine down: {', '.join(throttled)}"
        return DoctorFinding(name="temperature", status="warning", seen=seen, means=means, next_step="cool it better")
    limit = f"; it is slowed down at {hottest.throttles:.1f} °C" if hottest.throttles is not None else ""
    return DoctorFinding(name="temperature", status="ok", seen=seen + limit)


def _zone(path: Path) -> Zone | None:
    """One zone; reading one whose part is switched off is an error, and then it is none."""
    millidegrees = number_in(path / "temp")
    if millidegrees is None:
        return None
    trips = [
        number_in(kind.with_name(kind.name.replace("_type", "_temp")))
        for kind in path.glob("trip_point_*_type")
        if text_in(kind) == "passive"
    ]
    passive = [trip / 1000 for trip in trips if trip is not None]
    return Zone(text_in(path / "type") or path.name, millidegrees / 1000, min(passive, default=None))
