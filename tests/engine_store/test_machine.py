"""A Jetson by its files, a workstation by its driver: the driver is a stand-in, compiled here and called for real."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from edgeq.engine_store.machine import Gpu, ask_driver, read_machine

TEGRA = (
    "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan 8 01:49:37 UTC 2025"
)
BOARD = "NVIDIA Jetson Orin NX Engineering Reference Developer Kit"

DRIVER = """
#include <string.h>
int cuInit(unsigned flags) { return flags; }
int cuDeviceGet(int *device, int ordinal) { *device = 7; return ordinal ? 101 : FAULT; }
int cuDeviceGetName(char *name, int length, int device) { strncpy(name, "Orin", length); return device != 7; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    if (attribute == 75) *value = 8; else if (attribute == 76) *value = 7; else return 1;
    return device != 7;
}
"""


def driver(directory: Path, *, fault: int = 0) -> str:
    """A stand-in for libcuda.so.1 whose cuDeviceGet returns `fault`."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    library = directory / "libcuda.so.1"
    command = ["cc", "-shared", "-fPIC", f"-DFAULT={fault}", "-x", "c", "-", "-o", str(library)]
    subprocess.run(command, input=DRIVER.encode(), check=True)
    return str(library)


def test_a_jetson(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text(TEGRA + "\n")
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/model").write_bytes(BOARD.encode() + b"\0")
    found = read_machine(tmp_path, gpu=lambda: Gpu(name="Orin", compute_capability="8.7"))
    assert (found.platform, found.device, found.compute_capability) == ("L4T 36.4.3", BOARD, "8.7")
    assert found.architecture == platform.machine()


def test_a_workstation(tmp_path: Path) -> None:
    found = read_machine(tmp_path, gpu=lambda: Gpu(name="NVIDIA RTX A4000", compute_capability="8.6"))
    assert (found.platform, found.device) == (platform.system(), "NVIDIA RTX A4000")


def test_no_gpu(tmp_path: Path) -> None:
    found = read_machine(tmp_path, gpu=lambda: None)
    assert (found.compute_capability, found.device) == (None, None)


def test_the_driver_is_asked(tmp_path: Path) -> None:
    assert ask_driver(driver(tmp_path)) == Gpu(name="Orin", compute_capability="8.7")


def test_a_driver_without_a_gpu(tmp_path: Path) -> None:
    assert ask_driver(driver(tmp_path, fault=100)) is None  # CUDA_ERROR_NO_DEVICE


def test_no_driver(tmp_path: Path) -> None:
    assert ask_driver(str(tmp_path / "libcuda.so.1")) is None
