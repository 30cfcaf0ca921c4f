"""What a booted machine did, and what became of it when its power was cut."""

from __future__ import annotations

from typing import ClassVar, Final, Literal

from edgeq.artifact import Artifact
from rehearsal.machine.cuts import Cut
from rehearsal.report import RehearsalStep, StandIn

__all__ = ["LEFT_OUT", "MachineReport"]

LEFT_OUT: Final = (
    "the GPU, CUDA and TensorRT",
    "torch and bitsandbytes, and with them vision-language bundles",
    "L4T's kernel, boot loader and A/B partitions: the kernel is Debian's, and QEMU loads it itself",
    "a disk that loses what it was told to flush, or that breaks",
    "JetPack's Ubuntu with Python 3.10 or 3.12: Debian's is another",
)


class MachineReport(Artifact):
    """All of a rehearsal of a machine that boots.

    Attributes:
        began: UTC.
        edgeq: its version.
        emulator: QEMU's version.
        stand_ins: for what is NVIDIA's.
        left_out: what a device has, and this machine does not.
        steps: in their order.
        seed: of the moments of power cuts.
        cuts: each of them.
        complete: it came to its end; a report is written after each step, too.
        passed: every step was as expected, and after every cut a whole version started by itself.
    """

    otherwise: ClassVar[str] = "is no report of a machine's rehearsal"
    made_by: ClassVar[str] = "make rehearse-boot"

    version: Literal["edgeq.rehearsal-machine/1"] = "edgeq.rehearsal-machine/1"
    began: str
    edgeq: str
    emulator: str
    stand_ins: tuple[StandIn, ...]
    left_out: tuple[str, ...]
    steps: tuple[RehearsalStep, ...]
    seed: int
    cuts: tuple[Cut, ...]
    complete: bool
    passed: bool
