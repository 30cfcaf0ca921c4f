"""What each power mode leaves of a Jetson: multiprocessors, the GPU's highest clock, and memory bandwidth.

Multiprocessors and clocks are those of NVIDIA's configuration files for nvpmodel, `nvpmodel_p3767_*_super.conf` and
`nvpmodel_p3701_*.conf`: `TPC_PG_MASK` has a bit for each of eight pairs of multiprocessors that is off, `GPU MAX_FREQ`
is the clock, `EMC MAX_FREQ` that of memory. The clock of a mode that the file leaves open (`MAXN`, `MAXN_SUPER`) is the
highest of NVIDIA's data sheet. Bandwidth follows from memory's clock and bus: two transfers a clock, at 3,199 MHz or
2,133 MHz, over 16 bytes (Orin NX, Orin Nano 8 GB), 8 (Orin Nano 4 GB) or 32 (AGX Orin). A mode that no source of these
names is not here. Orin modules are those of the Super configuration where there is one; the slowest modes of Orin Nano
are those of the usual one.

Thor's figures are NVIDIA's of the Jetson T5000 (2,560 cores, 1.575 GHz, 273 GB/s, 1,035 FP8 TFLOPS with sparsity), as
RidgeRun's "SoM Overview" gives them; 20 multiprocessors are what the driver says (NVIDIA's forum, thread 356355).

These are what the hardware could do at the most. edgeq has measured none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pydantic import BaseModel, ConfigDict

__all__ = ["LANES", "POWER_MODES", "PowerMode", "board_device", "power_mode"]

LANES: Final = 128
"""Threads of one multiprocessor that get an instruction in a clock: four schedulers with a warp of 32 each."""

_ORIN_FP16: Final = 2048
_THOR_FP16: Final = 8192
_FULL, _SLOW = 102.4e9, 68.256e9


class PowerMode(BaseModel):
    """A mode of `nvpmodel` on one device.

    Attributes:
        name: that `nvpmodel` has for it.
        multiprocessors: of the GPU that are on.
        gpu_mhz: the GPU's highest clock.
        bytes_per_second: of memory, at its highest clock.
        fp16_per_clock: dense FP16 operations of one multiprocessor's tensor cores in a clock; a multiplication and an
            addition are two.
        int8_per_clock: likewise of INT8; None where NVIDIA gives none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    multiprocessors: int
    gpu_mhz: int
    bytes_per_second: float
    fp16_per_clock: int = _ORIN_FP16
    int8_per_clock: int | None = 2 * _ORIN_FP16

    @property
    def clocks_per_second(self) -> float:
        """Of all multiprocessors together."""
        return self.multiprocessors * self.gpu_mhz * 1e6

    @property
    def fp16_per_second(self) -> float:
        """Dense FP16 operations of the tensor cores."""
        return self.clocks_per_second * self.fp16_per_clock

    @property
    def int8_per_second(self) -> float | None:
        """Dense INT8 operations of the tensor cores; None where NVIDIA gives none. DLAs are left out."""
        return None if self.int8_per_clock is None else self.clocks_per_second * self.int8_per_clock

    @property
    def instructions_per_second(self) -> float:
        """Of single threads, on all multiprocessors together."""
        return self.clocks_per_second * LANES


def _modes(*rows: tuple[str, int, int, float]) -> tuple[PowerMode, ...]:
    """Of an Orin: name, multiprocessors, clock in MHz, bytes a second of memory."""
    return tuple(
        PowerMode(name=name, multiprocessors=on, gpu_mhz=mhz, bytes_per_second=bandwidth)
        for name, on, mhz, bandwidth in rows
    )


POWER_MODES: Final = {
    "orin-nano-4gb": _modes(
        ("25W", 4, 1020, _FULL / 2),
        ("10W", 4, 612, _SLOW / 2),
        ("7W_AI", 4, 408, _SLOW / 2),
    ),
    "orin-nano-8gb": _modes(
        ("MAXN_SUPER", 8, 1020, _FULL),
        ("25W", 8, 918, _FULL),
        ("15W", 8, 612, _SLOW),
        ("7W", 4, 408, _SLOW),
    ),
    "orin-nx-8gb": _modes(
        ("40W", 8, 1173, _FULL),
        ("20W", 8, 408, _FULL),
        ("15W", 4, 612, _FULL),
        ("10W", 4, 612, _SLOW),
    ),
    "orin-nx-16gb": _modes(
        ("MAXN_SUPER", 8, 1173, _FULL),
        ("40W", 8, 1173, _FULL),
        ("25W", 8, 408, _FULL),
        ("15W", 4, 612, _FULL),
        ("10W", 4, 612, _SLOW),
    ),
    "agx-orin-32gb": _modes(
        ("MAXN", 14, 930, 2 * _FULL),
        ("MODE_40W", 14, 816, 2 * _FULL),
        ("MODE_30W", 8, 612, 2 * _FULL),
        ("MODE_15W", 6, 408, 2 * _SLOW),
    ),
    "agx-orin-64gb": _modes(
        ("MAXN", 16, 1300, 2 * _FULL),
        ("MODE_50W", 16, 816, 2 * _FULL),
        ("MODE_30W", 8, 612, 2 * _FULL),
        ("MODE_15W", 6, 408, 2 * _SLOW),
    ),
    "agx-thor-128gb": (
        PowerMode(
            name="MAXN",
            multiprocessors=20,
            gpu_mhz=1575,
            bytes_per_second=273e9,
            fp16_per_clock=_THOR_FP16,
            int8_per_clock=None,
        ),
    ),
}
"""Name of a device in `edgeq.device.PROFILES` -> its modes, the fastest first."""

_BOARDS: Final = {
    "p3767-0000": "orin-nx-16gb",
    "p3767-0001": "orin-nx-8gb",
    "p3767-0003": "orin-nano-8gb",
    "p3767-0004": "orin-nano-4gb",
    "p3767-0005": "orin-nano-8gb",  # with a slot for an SD card, of the developer kit
    "p3701-0000": "agx-orin-64gb",  # of the developer kit: as fast as the 64 GB, whatever memory it has
    "p3701-0004": "agx-orin-32gb",
    "p3701-0005": "agx-orin-64gb",
    "p3834-0008": "agx-thor-128gb",
}


def board_device(compatible: str) -> str | None:
    """The device in `POWER_MODES` that a board is, by its module's number; None for another one.

    Args:
        compatible: of the device tree, such as `nvidia,p3768-0000+p3767-0000-super`.
    """
    return next((device for number, device in _BOARDS.items() if number in compatible), None)


def power_mode(device: str | None, name: str | None) -> PowerMode | None:
    """The mode of a device by nvpmodel's name for it, in whatever case; None where its figures are not known."""
    modes: Sequence[PowerMode] = POWER_MODES.get(device or "", ())
    return next((mode for mode in modes if mode.name.lower() == (name or "").lower()), None)
