"""The power mode, from the files that a Jetson has."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeq.engine.power import Power, read_power

CONF = """#
# < POWER_MODEL ID=9 NAME=IN_A_COMMENT >
< PARAM TYPE=FILE NAME=CPU_ONLINE >
CORE_0 /sys/devices/system/cpu/cpu0/online
< POWER_MODEL ID=0 NAME=MAXN_SUPER >
GPU MAX_FREQ -1
< POWER_MODEL ID=1 NAME=10W >
< POWER_MODEL ID=2 NAME=15W >
< POWER_MODEL ID=10 NAME=40W >
< PM_CONFIG DEFAULT=2 >
"""


@pytest.fixture
def jetson(tmp_path: Path) -> Path:
    """A root as of an Orin NX with JetPack 6, without a power mode."""
    put(tmp_path / "proc/device-tree/compatible", "nvidia,p3768-0000+p3767-0000\0nvidia,p3767-0000\0nvidia,tegra234\0")
    return tmp_path


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_another_machine_has_none(tmp_path: Path) -> None:
    assert read_power(tmp_path) is None
    put(tmp_path / "proc/device-tree/compatible", "raspberrypi,4-model-b\0brcm,bcm2711\0")
    assert read_power(tmp_path) is None


@pytest.mark.parametrize(
    ("status", "mode", "name"),
    [
        ("pmode:0002\n", 2, "15W"),
        ("pmode:0000 fmode:fanmode_quiet", 0, "MAXN_SUPER"),
        ("pmode:0010\nfmode:fanmode_quiet\n", 10, "40W"),  # decimal, though it begins with a zero
        ("fmode:quiet\npmode:0001", 1, "10W"),
        ("pmode:0009", 9, None),
        ("pmode:\n", None, None),
        ("\0\xff", None, None),
    ],
)
def test_the_mode_by_number_and_name(jetson: Path, status: str, mode: int | None, name: str | None) -> None:
    put(jetson / "etc/nvpmodel.conf", CONF)
    put(jetson / "var/lib/nvpmodel/status", status)
    assert read_power(jetson) == Power(mode=mode, name=name, gpu_mhz=None)


def test_files_that_a_container_does_not_see(jetson: Path) -> None:
    assert read_power(jetson) == Power(mode=None, name=None, gpu_mhz=None)
    put(jetson / "var/lib/nvpmodel/status", "pmode:0002")
    assert read_power(jetson) == Power(mode=2, name=None, gpu_mhz=None)
    assert str(read_power(jetson)) == "power mode without a name (2)"


def test_the_release_file_alone_makes_a_jetson(tmp_path: Path) -> None:
    put(tmp_path / "etc/nv_tegra_release", "# R36 (release), REVISION: 4.3, GCID: 1\n")
    assert read_power(tmp_path) is not None


@pytest.mark.parametrize("device", ["17000000.gpu", "17000000.ga10b"])
def test_the_gpus_clock(jetson: Path, device: str) -> None:
    put(jetson / f"sys/class/devfreq/{device}/min_freq", "306000000\n")
    put(jetson / f"sys/class/devfreq/{device}/max_freq", "1173000000\n")
    put(jetson / "sys/class/devfreq/15340000.vic/min_freq", "1\n")
    put(jetson / "etc/nvpmodel.conf", CONF)
    put(jetson / "var/lib/nvpmodel/status", "pmode:0000")
    found = read_power(jetson)
    assert found == Power(mode=0, name="MAXN_SUPER", gpu_mhz=(306, 1173))
    assert str(found) == "power mode MAXN_SUPER (0), GPU 306 to 1173 MHz"
