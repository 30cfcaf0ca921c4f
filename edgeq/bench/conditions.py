"""What the machine did while it was measured: temperature, clocks, throttling.

All of it is read from files that Linux and a Jetson have, without being root: thermal zones and cooling devices, the
GPU's and the processors' present clocks, and a Jetson's counters of over-current events. They are read before, twice a
second meanwhile, and after.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict

from edgeq.doctor.reading import number_in, text_in
from edgeq.doctor.thermal import Zone, read_zones

__all__ = ["Conditions", "ConditionsWatch", "processor_name", "watched"]

EVERY_S: Final = 0.5
_FANS: Final = ("fan",)


class Conditions(BaseModel):
    """What was seen.

    Attributes:
        samples: times that it was looked.
        zone: name of the thermal zone that was the hottest; None where none says a temperature.
        start_celsius, highest_celsius: of the hottest zone at the start, and of all at any time.
        gpu_mhz, cpu_mhz: lowest and highest present clock, of the GPU and of the first processor; None where it is not
            said.
        throttled: what slowed the machine down, in words; empty where nothing did.
        looked_for_throttling: whether there was anything that would say it.
        load: processes that ran or wanted to, in the mean over the minute before; None where it is not known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: int
    zone: str | None
    start_celsius: float | None
    highest_celsius: float | None
    gpu_mhz: tuple[int, int] | None
    cpu_mhz: tuple[int, int] | None
    throttled: tuple[str, ...]
    looked_for_throttling: bool
    load: float | None

    def __str__(self) -> str:
        """In words for a person."""
        heat = "temperature unknown"
        if self.zone is not None:
            heat = f"{self.start_celsius:.0f} to {self.highest_celsius:.0f} °C ({self.zone})"
        clocks = [
            f"{what} {mhz[0]:,} to {mhz[1]:,} MHz"
            for what, mhz in (("GPU", self.gpu_mhz), ("CPU", self.cpu_mhz))
            if mhz is not None
        ]
        slowed = f"throttled: {', '.join(self.throttled)}" if self.throttled else "not throttled"
        busy = [] if self.load is None else [f"a load of {self.load:.1f} in the minute before"]
        return ", ".join([heat, *clocks, slowed if self.looked_for_throttling else "throttling unknown", *busy])


@dataclass
class ConditionsWatch:
    """Collects what is seen; `look` may be called from one thread at a time.

    Attributes:
        root: where `sys` is.
        samples: times that it was looked.
        start: the hottest zone at the first look.
        hottest: at any.
        gpu, cpu: present clocks, in MHz.
        throttled: what slowed the machine down, in the order in which it was seen.
        events: counters of over-current events at the first look.
        told: there was something that would say it.
        load: at the first look.
    """

    root: Path = Path("/")
    samples: int = 0
    start: Zone | None = None
    hottest: Zone | None = None
    gpu: list[int] = field(default_factory=list)
    cpu: list[int] = field(default_factory=list)
    throttled: dict[str, None] = field(default_factory=dict)
    events: dict[Path, int] = field(default_factory=dict)
    told: bool = False
    load: float | None = None

    def look(self) -> None:
        """Read everything once."""
        self.samples += 1
        for zone in read_zones(self.root):
            if self.hottest is None or zone.celsius > self.hottest.celsius:
                self.hottest = zone
            if zone.throttles is not None:
                self._note(f"{zone.name} at {zone.throttles:.0f} °C", slowed=zone.celsius >= zone.throttles)
        if self.samples == 1:
            self.start, self.load = self.hottest, _load(self.root)
        self.gpu += _mhz((self.root / "sys/class/devfreq").glob("17000000.*/cur_freq"), 1_000_000)
        self.cpu += _mhz([self.root / "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq"], 1000)
        for device in sorted((self.root / "sys/class/thermal").glob("cooling_device*")):
            kind, state = text_in(device / "type") or device.name, number_in(device / "cur_state")
            if state is not None and not any(fan in kind.lower() for fan in _FANS):
                self._note(f"cooling device {kind}", slowed=state > 0)
        for counter in sorted((self.root / "sys/class/hwmon").glob("hwmon*/oc*_event_cnt")):
            count = number_in(counter)
            if count is not None:
                before = self.events.setdefault(counter, count)
                self._note(f"over-current, {counter.name.removesuffix('_event_cnt')}", slowed=count > before)

    def seen(self) -> Conditions:
        """All of it together."""
        return Conditions(
            samples=self.samples,
            zone=None if self.hottest is None else self.hottest.name,
            start_celsius=None if self.start is None else self.start.celsius,
            highest_celsius=None if self.hottest is None else self.hottest.celsius,
            gpu_mhz=(min(self.gpu), max(self.gpu)) if self.gpu else None,
            cpu_mhz=(min(self.cpu), max(self.cpu)) if self.cpu else None,
            throttled=tuple(self.throttled),
            looked_for_throttling=self.told,
            load=self.load,
        )

    def _note(self, what: str, *, slowed: bool) -> None:
        self.told = True
        if slowed:
            self.throttled[what] = None


@contextmanager
def watched(root: Path = Path("/")) -> Iterator[ConditionsWatch]:
    """Look at the machine before, meanwhile and after.

    Args:
        root: where `sys` is; another one for a test.
    """
    watch, over = ConditionsWatch(root), threading.Event()
    watch.look()

    def go_on() -> None:
        while not over.wait(EVERY_S):
            watch.look()

    thread = threading.Thread(target=go_on, name="edgeq-bench-conditions", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        over.set()
        thread.join()
        watch.look()


def processor_name(root: Path = Path("/")) -> str | None:
    """What `/proc/cpuinfo` calls the first processor; None where it has no name, as on a Jetson."""
    lines = (text_in(root / "proc/cpuinfo") or "").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def _load(root: Path) -> float | None:
    """The first number of `/proc/loadavg`."""
    try:
        return float((text_in(root / "proc/loadavg") or "").partition(" ")[0])
    except ValueError:
        return None


def _mhz(files: Iterator[Path] | list[Path], unit: int) -> list[int]:
    """Clocks that files tell, in MHz."""
    found = (number_in(file) for file in files)
    return [number // unit for number in found if number]
