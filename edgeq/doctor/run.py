"""The examination: every check in its order, none of which ends it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgeq.bundle.needs import DeviceFacts
from edgeq.device import probe
from edgeq.doctor.built import engine_findings
from edgeq.doctor.bundles import (
    Examined,
    current_bundle,
    examine_bundle,
    installed_finding,
    needs_finding,
    planned_bytes,
)
from edgeq.doctor.disk import disk_finding
from edgeq.doctor.engines import onnxruntime_finding, other_findings, tensorrt_finding, tensorrt_version
from edgeq.doctor.finding import DoctorFinding, Examination
from edgeq.doctor.jetson import clock_finding, power_finding, release_finding
from edgeq.doctor.kernels import nf4_finding, packed_finding, torch_finding
from edgeq.doctor.memory import allocation_finding, memory_finding, memory_kind
from edgeq.doctor.packages import bitsandbytes_version, package_findings, python_finding
from edgeq.doctor.probes import Probes, probe_memory, run_probes
from edgeq.doctor.thermal import thermal_finding
from edgeq.engine.power import read_power
from edgeq.engine_store.machine import read_machine
from edgeq.engine_store.store import EngineStore, default_store
from edgeq.errors import ArtifactError, InputError
from edgeq.install.store import ROOT

__all__ = ["DoctorRequest", "examine"]

Progress = Callable[[str, int, int], None]
"""Called with what is done next, how many steps are done, and of how many."""


@dataclass(frozen=True)
class DoctorRequest:
    """What to look at.

    Attributes:
        bundle: None takes the installed version that is in use, if there is one.
        store: where bundles are installed.
        engines: where engines are kept; None takes the place that `edgeq build` takes.
        needed_bytes: memory to try out; None takes the bundle's memory plan.
        root: where the system's `etc`, `proc`, `sys` and `var` are; another one for a test.
    """

    bundle: Path | None = None
    store: Path = ROOT
    engines: Path | None = None
    needed_bytes: int | None = None
    root: Path = Path("/")


def examine(
    request: DoctorRequest, *, probe_packages: Callable[[], Probes] = run_probes, progress: Progress | None = None
) -> Examination:
    """Look at everything.

    Args:
        request: what to look at.
        probe_packages: runs the probes of what is installed; another one for a test.
        progress: called before each step that takes long.
    """
    said = progress or (lambda *_: None)
    said("reading the bundle", 0, 3)
    bundle = examine_bundle(request.bundle or current_bundle(request.store))
    said("launching kernels", 1, 3)
    probes = probe_packages()
    said("taking memory", 2, 3)
    allocation = _allocation(request, bundle, probes)
    return Examination.of(
        (
            *_packages(request, bundle, probes),
            *_system(request),
            allocation,
            *_bundle(request, bundle, probes),
        )
    )


def _packages(request: DoctorRequest, bundle: Examined, probes: Probes) -> tuple[DoctorFinding, ...]:
    """Python, edgeq, and what computes."""
    jetson, language = read_power(request.root) is not None, bundle.language
    has_tensorrt = tensorrt_version(probes.tensorrt) is not None
    return (
        python_finding(),
        *package_findings(language=language, nf4=bundle.nf4),
        torch_finding(probes.torch, jetson=jetson, language=language),
        nf4_finding(probes.torch, installed=bitsandbytes_version(), jetson=jetson, language=bundle.nf4),
        packed_finding(probes.torch, needed=language and not bundle.nf4),
        onnxruntime_finding(probes.onnxruntime, tensorrt=has_tensorrt),
        tensorrt_finding(probes.tensorrt, jetson=jetson),
        *other_findings(probes.others),
    )


def _system(request: DoctorRequest) -> tuple[DoctorFinding, ...]:
    """The machine by what its files say, and the disk."""
    power = read_power(request.root)
    return (
        release_finding(request.root, power),
        power_finding(request.root, power),
        clock_finding(request.root, power),
        thermal_finding(request.root),
        memory_finding(request.root, jetson=power is not None),
    )


def _allocation(request: DoctorRequest, bundle: Examined, probes: Probes) -> DoctorFinding:
    """Try out the memory that is asked for, or that the bundle's plan needs."""
    kind = memory_kind(probes.torch)
    try:
        needed = request.needed_bytes or planned_bytes(bundle)
    except ArtifactError as error:
        return DoctorFinding(name="allocation", status="missing", seen=error.what, next_step="prepare the bundle again")
    return allocation_finding(None if needed is None else probe_memory(kind, needed), kind, needed)


def _bundle(request: DoctorRequest, bundle: Examined, probes: Probes) -> tuple[DoctorFinding, ...]:
    """The bundle, its needs, and the room for it."""
    size = bundle.manifest.total_bytes if bundle.manifest else 0
    machine = read_machine(request.root, gpu=lambda: probes.gpu)
    engines = EngineStore(request.engines or default_store())
    return (
        bundle.finding,
        needs_finding(bundle, _facts(request, probes)),
        *engine_findings(bundle, tensorrt_version(probes.tensorrt), engines, machine),
        installed_finding(request.store),
        disk_finding(request.store, size),
    )


def _facts(request: DoctorRequest, probes: Probes) -> DeviceFacts:
    """This device, as a bundle's needs are compared with it."""
    try:
        memory = probe(request.root).total_bytes
    except InputError:
        memory = None
    return DeviceFacts(
        memory_bytes=memory,
        compute_capability=probes.gpu.compute_capability if probes.gpu else None,
        tensorrt=tensorrt_version(probes.tensorrt),
    )
