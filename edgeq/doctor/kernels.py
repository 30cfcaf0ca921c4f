"""What the torch probe found: torch, its GPU, and whether kernels for NF4, INT4 and INT8 run and are right."""

from __future__ import annotations

import re
from typing import Any, Final

from edgeq.doctor.child import Outcome
from edgeq.doctor.finding import DoctorFinding
from edgeq.extras import install_command

__all__ = ["BOUND", "nf4_finding", "packed_finding", "torch_finding"]

BOUND: Final = 0.02
"""The largest error of a product, as a part of its largest number; arithmetic in BF16 comes to a few thousandths."""

_PACKED: Final = "INT4, INT8"
_UNPACKING: Final = "Unpacking"
"""What stands in for a kernel (`edgeq.runtime.vlm.packed.products`)."""

_WRONG_BUILD: Final = re.compile(
    "named symbol not found|no kernel image|invalid device function|device kernel image is invalid", re.IGNORECASE
)


def torch_finding(probe: Outcome | None, *, jetson: bool, language: bool) -> DoctorFinding:
    """Torch's version, and what it computes on.

    Args:
        probe: None where torch is not installed.
        jetson: this is a Jetson, where torch without CUDA is of little use.
        language: a vision-language bundle needs it.
    """
    install = f"{install_command('device', 'language')}; on a Jetson first a torch that was built for its JetPack"
    if probe is None:
        return _not_installed("torch", language, install)
    facts = probe.facts
    if "torch" not in facts:
        return DoctorFinding(name="torch", status="missing", seen=f"torch cannot be imported: {probe.ending}")
    seen = f"torch {facts['torch']}, " + _computes_on(facts)
    if "computes" not in facts:
        means = f"torch cannot compute: {probe.ending}"
        return DoctorFinding(name="torch", status="missing", seen=seen, means=means, next_step=install)
    if jetson and not facts.get("cuda"):
        means = "a language model would run on the CPU, many times slower"
        return DoctorFinding(name="torch", status="warning", seen=seen, means=means, next_step=install)
    return DoctorFinding(name="torch", status="ok", seen=seen)


def _not_installed(package: str, language: bool, install: str) -> DoctorFinding:
    needs = "a language model in NF4" if package == "bitsandbytes" else "a vision-language bundle"
    return DoctorFinding(
        name="NF4 kernel" if package == "bitsandbytes" else package,
        status="missing" if language else "unknown",
        seen=f"{package} is not installed",
        means=f"{needs} needs it, a classifier does not",
        next_step=install,
    )


def _computes_on(facts: Any) -> str:
    """CUDA's state in words."""
    if not facts.get("cuda_built"):
        return "built without CUDA"
    if not facts.get("cuda"):
        return f"built for CUDA {facts['cuda_built']}, but it finds no GPU"
    gpu = facts.get("gpu", {})
    kind = "memory shared with the CPU" if gpu.get("integrated") else "memory of its own"
    return f"CUDA {facts['cuda_built']} on {gpu.get('name')} (compute capability {gpu.get('capability')}, {kind})"


def nf4_finding(probe: Outcome | None, *, installed: str | None, jetson: bool, language: bool) -> DoctorFinding:
    """Whether bitsandbytes' NF4 kernels run here, and compute what they should.

    Args:
        probe: of torch; None where that is not installed.
        installed: bitsandbytes' version; None where it is not installed.
        jetson: this is a Jetson.
        language: a bundle's language model in NF4 needs it.
    """
    if probe is None or installed is None:
        package = "bitsandbytes" if installed is None else "torch, which bitsandbytes needs,"
        found = _not_installed(package, language, install_command("device", "language"))
        return found.model_copy(update={"name": "NF4 kernel"})
    if "computes" not in probe.facts:
        means = "torch does not work, and bitsandbytes computes with it"
        return DoctorFinding(name="NF4 kernel", status="missing", seen="not launched", means=means)
    if "nf4_error" not in probe.facts:
        return _failed(probe, installed, jetson=jetson)
    return _launched(probe.facts, installed, jetson=jetson)


def _launched(facts: Any, installed: str, *, jetson: bool) -> DoctorFinding:
    """The kernels ran: are they right, and where did they run?"""
    error, device = float(facts["nf4_error"]), facts["nf4_device"]
    seen = f"bitsandbytes {installed} multiplied NF4 weights on {device}, with a relative error of {error:.1e}"
    seen += _wrong_rows(facts)
    if not error <= BOUND:  # NaN is not
        means = "the kernel computes something else than NF4 says: every answer would be wrong"
        step = "install another release of bitsandbytes"
        return DoctorFinding(name="NF4 kernel", status="missing", seen=seen, means=means, next_step=step)
    if facts.get("nf4_library"):
        means = "bitsandbytes' own library is not loaded, and what torch does instead takes seconds for each product"
        step = _system_library(facts["nf4_library"])
        return DoctorFinding(
            name="NF4 kernel", status="warning", seen=f"{seen}; {facts['nf4_library']}", means=means, next_step=step
        )
    if jetson and device != "cuda":
        means = "the kernel for the GPU was not tried, since torch finds no GPU"
        return DoctorFinding(name="NF4 kernel", status="warning", seen=seen, means=means)
    return DoctorFinding(name="NF4 kernel", status="ok", seen=seen)


def _system_library(fault: str) -> str:
    """What brings the library that a linker's message says is missing."""
    if "libgomp.so.1" in fault:
        return "sudo apt-get install libgomp1"
    return "ask it directly: python3 -m bitsandbytes"


def _wrong_rows(facts: Any) -> str:
    """Which numbers of rows are multiplied wrongly, as kernels are chosen by it."""
    wrong = [rows for rows, error in facts.get("nf4_errors", {}).items() if not float(error) <= BOUND]
    return f" (wrong at {', '.join(wrong)} rows)" if wrong else ""


def _failed(probe: Outcome, installed: str, *, jetson: bool) -> DoctorFinding:
    """The kernels did not run; a wheel for other machines is recognised."""
    launching = probe.facts.get("nf4_launching")
    at = f", at {launching} rows" if launching else ""
    seen = f"bitsandbytes {installed}{at}: {probe.ending}"
    if not _WRONG_BUILD.search(probe.said):
        return DoctorFinding(
            name="NF4 kernel",
            status="missing",
            seen=seen,
            means="it is installed, and its kernels do not run here",
            next_step="ask it directly: python3 -m bitsandbytes",
        )
    means = "it was built for other machines"
    if jetson:
        means = (
            "the wheel for aarch64 is built for servers (SBSA): on a Jetson it imports, and fails at the first kernel"
        )
    step = _build(probe.facts.get("gpu", {}))
    return DoctorFinding(name="NF4 kernel", status="missing", seen=seen, means=means, next_step=step)


def packed_finding(probe: Outcome | None, *, needed: bool) -> DoctorFinding:
    """Whether torch's kernels for INT4 and INT8 run here, and compute what they should.

    Args:
        probe: of torch; None where that is not installed.
        needed: by a bundle whose language model is in one of them.
    """
    name, status = _PACKED, "missing" if needed else "unknown"
    if probe is None or "packed" not in probe.facts:
        fault = "torch is not installed" if probe is None else probe.facts.get("packed_fault", "not launched")
        return DoctorFinding(name=name, status=status, seen=str(fault))
    kernels: dict[str, tuple[str, float]] = probe.facts["packed"]
    seen = "torch multiplied " + ", ".join(
        f"INT{bits} weights by {kernel} with a relative error of {error:.1e}"
        for bits, (kernel, error) in kernels.items()
    )
    if any(not error <= BOUND for _, error in kernels.values()):  # NaN is not
        means = "a kernel computes something else than the integers say: every answer would be wrong"
        step = "install another release of torch"
        return DoctorFinding(
            name=name, status="missing" if needed else "warning", seen=seen, means=means, next_step=step
        )
    slow = [f"INT{bits}" for bits, (kernel, _) in kernels.items() if kernel == _UNPACKING]
    if slow:
        means = f"no kernel for {' and '.join(slow)} here: weights are unpacked for each product, many times slower"
        return DoctorFinding(name=name, status="warning" if needed else "ok", seen=seen, means=means)
    return DoctorFinding(name=name, status="ok", seen=seen)


def _build(gpu: Any) -> str:
    """How to build bitsandbytes for this GPU."""
    capability = str(gpu.get("capability", "8.7")).replace(".", "")
    return (
        "pip uninstall bitsandbytes, and build it on the device, in its source: "
        f"cmake -DCOMPUTE_BACKEND=cuda -DCOMPUTE_CAPABILITY={capability} -S . && cmake --build . && "
        "BNB_SKIP_CMAKE=1 pip install --no-build-isolation ."
    )
