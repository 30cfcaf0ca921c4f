"""A Jetson's release, power mode and clocks, and what they cost.

The figures of power modes are those of `edgeq.device.power_modes`: limits, which edgeq has not measured.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from edgeq.device.power_modes import POWER_MODES, PowerMode, board_device, power_mode
from edgeq.doctor.finding import DoctorFinding
from edgeq.doctor.reading import number_in, text_in
from edgeq.engine.power import Power
from edgeq.engine_store.machine import read_machine

__all__ = ["clock_finding", "power_finding", "release_finding"]

_OLDEST_L4T: Final = 36
_JETPACKS: Final = {"36": "JetPack 6", "38": "JetPack 7 (Thor)", "39": "JetPack 7"}


def release_finding(root: Path, power: Power | None) -> DoctorFinding:
    """The board, its Jetson Linux (L4T) and its JetPack.

    Args:
        root: where `etc`, `proc`, `sys` and `var` are.
        power: read from there; None on a machine that is no Jetson.
    """
    if power is None:
        return _not_here("JetPack", "no /etc/nv_tegra_release: not a Jetson")
    machine = read_machine(root, gpu=lambda: None)
    board, (system, _, release) = machine.device or "a Jetson without a name", machine.platform.partition(" ")
    if system != "L4T":
        step = "in a container, mount /etc/nv_tegra_release"
        return DoctorFinding(name="JetPack", status="unknown", seen=f"{board}, release not known", next_step=step)
    major = release.partition(".")[0]
    package = _package_version(text_in(root / "var/lib/dpkg/status") or "", "nvidia-jetpack")
    jetpack = f"JetPack {package}" if package else _JETPACKS.get(major, "a JetPack that edgeq does not know")
    seen = f"{board}, Jetson Linux {release}, {jetpack}"
    if int(major) < _OLDEST_L4T:
        means = "its TensorRT and Python are too old: edgeq needs JetPack 6 or 7"
        return DoctorFinding(
            name="JetPack", status="missing", seen=seen, means=means, next_step="flash JetPack 6.2 or 7.2"
        )
    return DoctorFinding(name="JetPack", status="ok", seen=seen)


def power_finding(root: Path, power: Power | None) -> DoctorFinding:
    """The power mode, and what it costs against the fastest one."""
    if power is None:
        return _not_here("power mode", "no nvpmodel: not a Jetson")
    if power.mode is None:
        step = "sudo nvpmodel -q; in a container, mount /var/lib/nvpmodel and /etc/nvpmodel.conf"
        return DoctorFinding(name="power mode", status="unknown", seen="no /var/lib/nvpmodel/status", next_step=step)
    name = power.name or "without a name"
    seen = f"{name} (number {power.mode})"
    device = board_device(text_in(root / "proc/device-tree/compatible") or "")
    mode = power_mode(device, power.name)
    if device is None or mode is None:
        means = "edgeq knows no figures for it; a figure without its power mode says nothing"
        return DoctorFinding(name="power mode", status="ok", seen=seen, means=means)
    fastest = POWER_MODES[device][0]
    slower = mode.clocks_per_second < fastest.clocks_per_second
    status, step = ("warning", _faster(root, fastest.name)) if slower else ("ok", "")
    return DoctorFinding(name="power mode", status=status, seen=seen, means=_cost(mode, fastest), next_step=step)


def clock_finding(root: Path, power: Power | None) -> DoctorFinding:
    """What the GPU's and the CPU's clocks may do, and whether `jetson_clocks` holds them."""
    if power is None:
        return _not_here("clocks", "no GPU below /sys/class/devfreq: not a Jetson")
    if power.gpu_mhz is None:
        return DoctorFinding(name="clocks", status="unknown", seen="no GPU below /sys/class/devfreq")
    low, high = power.gpu_mhz
    held = low == high
    gpu = f"GPU held at {high} MHz" if held else f"GPU {low} to {high} MHz"
    means = "" if held else "the clock follows the load: measure latency with `sudo jetson_clocks` only"
    return DoctorFinding(name="clocks", status="ok", seen=gpu + _cpu_clock(root), means=means)


def _not_here(name: str, seen: str) -> DoctorFinding:
    return DoctorFinding(name=name, status="unknown", seen=seen, means="could not be looked at on this machine")


def _package_version(status: str, package: str) -> str | None:
    """The version of an installed package, from dpkg's list."""
    for stanza in status.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line and not line.startswith(" "))
        if fields.get("Package") == package and fields.get("Status", "").endswith(" installed"):
            return fields.get("Version")
    return None


def _cost(mode: PowerMode, fastest: PowerMode) -> str:
    """A mode against the fastest, in words.

    A token of an answer reads all weights, which memory's clock bounds; those of 4 bits are unpacked by instructions,
    which the GPU's clock bounds (`edgeq.plan.ceilings`).
    """
    source = "limits by NVIDIA's tables, not measured by edgeq"
    what = (
        f"{mode.multiprocessors} SM at {mode.gpu_mhz} MHz, {mode.fp16_per_second / 1e12:.1f} TFLOPS in FP16, "
        f"{mode.bytes_per_second / 1e9:.1f} GB/s"
    )
    if mode.clocks_per_second >= fastest.clocks_per_second:
        return f"the GPU's full speed: {what} ({source})"
    times = fastest.clocks_per_second / mode.clocks_per_second
    return f"{what}: images, prompts and the tokens of a 4-bit model take up to {times:.1f} times as long ({source})"


def _faster(root: Path, fastest: str) -> str:
    """How to switch to the fastest mode, whose number differs from board to board."""
    found = re.search(rf"POWER_MODEL\s+ID=(\d+)\s+NAME={fastest}\b", text_in(root / "etc/nvpmodel.conf") or "")
    if found is None:
        return f"flash the Super configuration: /etc/nvpmodel.conf has no {fastest}"
    return f"where power and cooling allow it: sudo nvpmodel -m {found[1]}"


def _cpu_clock(root: Path) -> str:
    """The highest clock that the first CPU cluster is allowed; kHz in the file."""
    khz = number_in(root / "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq")
    return f", CPU up to {khz // 1000} MHz" if khz else ""
