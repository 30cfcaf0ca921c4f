"""The devices that edgeq plans for, by their memory.

Memory a system has is less than what the box says: firmware and carve-outs are gone before Linux starts. The totals
are what `tegrastats` and `/proc/meminfo` show, in reports of people who have the device; two are derived, and say so.
None of the figures was measured by edgeq.
"""

from __future__ import annotations

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["PROFILES", "THIS_MACHINE", "DeviceProfile"]

MIB: Final = 1 << 20
THIS_MACHINE: Final = "this-machine"

_IDLE: Final = 1216 * MIB
_CUDA_RUNTIME: Final = 2_000_000_000
_REPORTED: Final = "reports from devices with JetPack 6, headless; not measured by edgeq"
_DERIVED: Final = "derived: the module's memory less what Linux lacks on the {other}; not measured by edgeq"


class DeviceProfile(BaseModel):
    """A device's memory, as a plan needs it.

    Attributes:
        name: as `--device` takes it.
        title: for people.
        memory: `unified` is one memory for CPU and GPU, as on a Jetson; `system` is a machine used without a GPU.
        total_bytes: what Linux has in all.
        reserve_bytes: what the system and others take of it.
        runtime_bytes: one process with Python, torch, transformers, the vision backend, and CUDA's context where there
            is a GPU.
        widens_fp16: the vision backend holds FP16 weights as FP32: ONNX Runtime has no FP16 kernels for most CPUs.
        source: where the figures come from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    memory: Literal["unified", "system"]
    total_bytes: int
    reserve_bytes: int
    runtime_bytes: int
    widens_fp16: bool = False
    source: str

    @property
    def budget_bytes(self) -> int:
        """What is left for edgeq's process."""
        return self.total_bytes - self.reserve_bytes


def _jetson(name: str, title: str, mebibytes: int, source: str = _REPORTED) -> DeviceProfile:
    """A Jetson without a desktop.

    The reserve is what an Orin NX 16 GB takes when idle and headless, by reports between 0.8 and 1.2 GiB, so that 14.1
    of its 15,656 MiB (15.3 GiB) are left; a desktop takes 0.8 GB more, ROS and a camera more again. CUDA's context with
    PyTorch takes 1.5 to 2 GB of the same memory; the upper end is planned.
    """
    return DeviceProfile(
        name=name,
        title=title,
        memory="unified",
        total_bytes=mebibytes * MIB,
        reserve_bytes=_IDLE,
        runtime_bytes=_CUDA_RUNTIME,
        source=source,
    )


PROFILES: Final = {
    profile.name: profile
    for profile in (
        _jetson(
            "orin-nano-4gb", "Jetson Orin Nano 4 GB", 4096 - (8192 - 7620), _DERIVED.format(other="Orin Nano 8 GB")
        ),
        _jetson("orin-nano-8gb", "Jetson Orin Nano 8 GB", 7620),
        _jetson("orin-nx-8gb", "Jetson Orin NX 8 GB", 8192 - (16384 - 15656), _DERIVED.format(other="Orin NX 16 GB")),
        _jetson("orin-nx-16gb", "Jetson Orin NX 16 GB", 15656),
        _jetson("agx-orin-32gb", "Jetson AGX Orin 32 GB", 30697),
        _jetson("agx-orin-64gb", "Jetson AGX Orin 64 GB", 62841),
        _jetson(
            "agx-thor-128gb",
            "Jetson AGX Thor 128 GB",
            125_772,
            "its total from tegrastats' lines of devices with JetPack 7; reserve and runtime as of an Orin NX 16 GB; "
            "not measured by edgeq",
        ),
    )
}
"""The known devices by name, the smallest first; `this-machine` is probed instead."""
