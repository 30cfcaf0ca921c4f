"""What a Jetson draws now: the rails that its INA3221 monitors measure.

The kernel's driver `ina3221` gives each of up to three rails a label, millivolts and milliamperes
(Documentation/hwmon/ina3221). On an Orin NX `VDD_IN` is the whole module, and the others are parts of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeq.doctor.reading import number_in, text_in

__all__ = ["Rail", "read_rails"]

_MONITOR: Final = "ina3221"
_CHANNELS: Final = (1, 2, 3)


@dataclass(frozen=True)
class Rail:
    """A rail that is measured.

    Attributes:
        name: its label, such as VDD_IN.
        watts: that it carries now.
    """

    name: str
    watts: float


def read_rails(root: Path) -> tuple[Rail, ...]:
    """All rails with a label whose voltage and current can be read; empty on a machine that measures none.

    Args:
        root: where `sys` is; another one for a test.
    """
    monitors = sorted((root / "sys/class/hwmon").glob("hwmon*"))
    measuring = [monitor for monitor in monitors if text_in(monitor / "name") == _MONITOR]
    rails = (_rail(monitor, channel) for monitor in measuring for channel in _CHANNELS)
    return tuple(rail for rail in rails if rail is not None)


def _rail(monitor: Path, channel: int) -> Rail | None:
    label = text_in(monitor / f"in{channel}_label")
    millivolts, milliamperes = number_in(monitor / f"in{channel}_input"), number_in(monitor / f"curr{channel}_input")
    if not label or millivolts is None or milliamperes is None:
        return None
    return Rail(label, millivolts * milliamperes / 1e6)
