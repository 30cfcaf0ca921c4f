"""How much power a Jetson may take: no figure of one means anything without its power mode.

`nvpmodel` writes the mode's number to `/var/lib/nvpmodel/status` ("pmode:0002", and another line for the fan); its name
is in `/etc/nvpmodel.conf` ("< POWER_MODEL ID=2 NAME=MAXN_SUPER >"). Both can be read without being root. In a container
they must be mounted.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict

__all__ = ["Power", "read_power"]

_MOST_BYTES: Final = 1 << 20
_MODE: Final = re.compile(r"\bpmode:(\d{1,9})\b", re.ASCII)
_NAMED: Final = re.compile(r"^\s*<\s*POWER_MODEL\s+ID=(\d{1,9})\s+NAME=([^\s>]+)\s*>", re.ASCII | re.MULTILINE)


class Power(BaseModel):
    """What a Jetson may take.

    Attributes:
        mode: number of `nvpmodel`'s mode; None where it is not known.
        name: of the mode, such as MAXN_SUPER; None where it is not known.
        gpu_mhz: lowest and highest clock of the GPU, equal where `jetson_clocks` holds it; None where it is not known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: int | None
    name: str | None
    gpu_mhz: tuple[int, int] | None

    def __str__(self) -> str:
        """In words for a person."""
        words = "not known" if self.mode is None else f"{self.name or 'without a name'} ({self.mode})"
        clock = f", GPU {self.gpu_mhz[0]} to {self.gpu_mhz[1]} MHz" if self.gpu_mhz else ""
        return f"power mode {words}{clock}"


def read_power(root: Path = Path("/")) -> Power | None:
    """What this machine may take; None where it is not a Jetson.

    Args:
        root: where `etc`, `proc`, `sys` and `var` are; another one for a test.
    """
    soc = _text(root / "proc/device-tree/compatible")
    if "nvidia,tegra" not in soc and not (root / "etc/nv_tegra_release").exists():
        return None
    found = _MODE.search(_text(root / "var/lib/nvpmodel/status"))
    mode = int(found[1]) if found else None
    names = {int(number): name for number, name in _NAMED.findall(_text(root / "etc/nvpmodel.conf"))}
    clock = _gpu_clock(root / "sys/class/devfreq")
    return Power(mode=mode, name=None if mode is None else names.get(mode), gpu_mhz=clock)


def _gpu_clock(devices: Path) -> tuple[int, int] | None:
    """From an Orin's GPU, which JetPack 5 calls 17000000.ga10b and JetPack 6 17000000.gpu; in Hz there."""
    for device in sorted(devices.glob("17000000.*")):
        ends = [_text(device / name) for name in ("min_freq", "max_freq")]
        if all(end.isdecimal() for end in ends):
            return int(ends[0]) // 1_000_000, int(ends[1]) // 1_000_000
    return None


def _text(path: Path) -> str:
    """A small file's text; empty where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES).decode("utf-8", errors="replace").strip()
    except OSError:
        return ""
