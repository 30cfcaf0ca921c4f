"""What an engine is tied to in the machine that builds it: GPU, system release, processor.

The GPU is asked through CUDA's driver library, which every machine with an NVIDIA GPU has. That needs no package, makes
no context and takes no GPU memory. A Jetson says in its device tree which board it is; two boards with the same GPU
name ("Orin") differ in their number of multiprocessors, and an engine is tuned for one of them.
"""

from __future__ import annotations

import ctypes
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict

__all__ = ["Gpu", "Machine", "ask_driver", "read_machine"]

_L4T: Final = re.compile(r"# R(\d+) \(release\), REVISION: ([\d.]+)", re.ASCII)
_MAJOR, _MINOR = 75, 76  # CUdevice_attribute: CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR, cuda.h
_NAME_BYTES = 256


class Gpu(BaseModel):
    """A GPU: its name, and its compute capability such as `8.7`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    compute_capability: str


class Machine(BaseModel):
    """What an engine is tied to.

    Attributes:
        compute_capability: of the first GPU, such as `8.7`; None where there is no NVIDIA GPU.
        device: the board of a Jetson, such as `NVIDIA Jetson Orin NX`, elsewhere the GPU; None where it is not known.
        platform: `L4T 36.4.3` (the release that JetPack brings) or `Linux`.
        architecture: of the processor, such as `aarch64`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    compute_capability: str | None
    device: str | None
    platform: str
    architecture: str


def read_machine(root: Path = Path("/"), *, gpu: Callable[[], Gpu | None] | None = None) -> Machine:
    """This machine.

    Args:
        root: where `etc` and `proc` are; another one for a test.
        gpu: asks for the first GPU; the default is `ask_driver`.
    """
    found = (gpu or ask_driver)()
    return Machine(
        compute_capability=found.compute_capability if found else None,
        device=_board(root / "proc/device-tree/model") or (found.name if found else None),
        platform=_release(root / "etc/nv_tegra_release") or platform.system(),
        architecture=platform.machine(),
    )


def ask_driver(library: str = "libcuda.so.1") -> Gpu | None:
    """The first GPU by CUDA's driver; None without a driver or a GPU."""
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return None
    name, device = ctypes.create_string_buffer(_NAME_BYTES), ctypes.c_int()
    major, minor = ctypes.c_int(), ctypes.c_int()
    failed = (
        driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(device), 0)
        or driver.cuDeviceGetName(name, _NAME_BYTES, device)
        or driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
        or driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    )
    if failed:
        return None
    return Gpu(name=name.value.decode("utf-8", "replace"), compute_capability=f"{major.value}.{minor.value}")


def _board(path: Path) -> str | None:
    """The device tree's name of a board, which ends with a zero byte."""
    try:
        return path.read_bytes().rstrip(b"\0").decode("utf-8", "replace").strip() or None
    except OSError:
        return None


def _release(path: Path) -> str | None:
    """`L4T 36.4.3` from `# R36 (release), REVISION: 4.3, GCID: ...`, the first line on every Jetson."""
    try:
        found = _L4T.match(path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
    return f"L4T {found[1]}.{found[2]}" if found else None
