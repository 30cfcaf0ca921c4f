"""What follows from how the torch probe ended."""

from __future__ import annotations

from dataclasses import replace

import pytest
from recorded import CPU_TORCH, ORIN_GPU, ORIN_TORCH, SYMBOL

from edgeq.doctor.child import Outcome
from edgeq.doctor.finding import DoctorFinding
from edgeq.doctor.kernels import nf4_finding, packed_finding, torch_finding


def without(outcome: Outcome, *names: str, returncode: int = 1, said: str = "") -> Outcome:
    """As if the probe had ended before it told these."""
    facts = {name: fact for name, fact in outcome.facts.items() if name not in names}
    return Outcome(facts, returncode, said)


def nf4(probe: Outcome | None, *, jetson: bool = False, language: bool = False) -> DoctorFinding:
    return nf4_finding(probe, installed="0.50.2", jetson=jetson, language=language)


def test_a_cpu() -> None:
    found = torch_finding(CPU_TORCH, jetson=False, language=True)
    assert (found.status, found.seen) == ("ok", "torch 2.13.0+cpu, built without CUDA")
    assert nf4(CPU_TORCH, language=True).status == "ok"


def test_an_orin() -> None:
    found = torch_finding(ORIN_TORCH, jetson=True, language=True)
    assert found.status == "ok"
    assert "CUDA 12.6 on Orin (compute capability 8.7, memory shared with the CPU)" in found.seen
    kernel = nf4(ORIN_TORCH, jetson=True)
    assert (kernel.status, "on cuda" in kernel.seen) == ("ok", True)


@pytest.mark.parametrize(("language", "status"), [(True, "missing"), (False, "unknown")])
def test_what_is_not_installed_is_missing_where_a_bundle_needs_it(language: bool, status: str) -> None:
    assert torch_finding(None, jetson=False, language=language).status == status
    assert nf4(None, language=language).status == status
    absent = nf4_finding(CPU_TORCH, installed=None, jetson=False, language=language)
    assert (absent.status, absent.name) == (status, "NF4 kernel")
    assert "bitsandbytes is not installed" in absent.seen


def test_a_jetson_with_a_torch_for_servers() -> None:
    """The wheel of PyPI finds no GPU on L4T."""
    blind = Outcome({**CPU_TORCH.facts, "cuda_built": "12.8"}, 0)
    found = torch_finding(blind, jetson=True, language=True)
    assert (found.status, "it finds no GPU" in found.seen) == ("warning", True)
    assert nf4(blind, jetson=True).status == "warning"
    assert torch_finding(blind, jetson=False, language=True).status == "ok"


def test_a_torch_that_cannot_be_imported() -> None:
    broken = Outcome({}, 1, "ImportError: libcudart.so.12: cannot open shared object file")
    assert "libcudart.so.12" in torch_finding(broken, jetson=True, language=False).seen
    assert torch_finding(broken, jetson=True, language=False).status == "missing"
    assert nf4(broken).seen == "not launched"


def test_a_torch_without_kernels_for_the_gpu() -> None:
    names = ("computes", "bitsandbytes", "nf4_device", "nf4_error")
    broken = without(ORIN_TORCH, *names, said="CUDA error: no kernel image is available for execution on the device")
    found = torch_finding(broken, jetson=True, language=True)
    assert (found.status, "no kernel image" in found.means) == ("missing", True)
    assert nf4(broken, jetson=True).status == "missing"


@pytest.mark.parametrize(
    ("fault", "step"),
    [
        ("libgomp.so.1: cannot open shared object file: No such file or directory", "apt-get install libgomp1"),
        ("libbitsandbytes_cpu.so was not loaded", "python3 -m bitsandbytes"),
    ],
)
def test_a_cpu_without_bitsandbytes_own_library(fault: str, step: str) -> None:
    """As a Debian without libgomp1 has it: right, but a product of 64 x 64 took 3.5 s instead of 9 ms, emulated."""
    found = nf4(Outcome({**CPU_TORCH.facts, "nf4_library": fault}, 0), language=True)
    assert (found.status, fault in found.seen, step in found.next_step) == ("warning", True, True)
    assert nf4(Outcome({**CPU_TORCH.facts, "nf4_library": ""}, 0)).status == "ok"


@pytest.mark.parametrize("said", [SYMBOL, "CUDA error: no kernel image is available for execution on the device"])
def test_a_wheel_for_other_machines(said: str) -> None:
    found = nf4(without(ORIN_TORCH, "nf4_error", said=said), jetson=True)
    assert (found.status, said in found.seen) == ("missing", True)
    assert "built for servers" in found.means
    assert "-DCOMPUTE_BACKEND=cuda -DCOMPUTE_CAPABILITY=87" in found.next_step
    assert "BNB_SKIP_CMAKE=1 pip install --no-build-isolation" in found.next_step, (
        "else pip builds it again, for the CPU"
    )


def test_a_wheel_for_other_machines_elsewhere() -> None:
    """An RTX 3090 is no Orin, and has another number."""
    card = Outcome({**ORIN_TORCH.facts, "gpu": {**ORIN_GPU, "capability": "8.6"}}, 0)
    found = nf4(without(card, "nf4_error", said=SYMBOL))
    assert "-DCOMPUTE_CAPABILITY=86" in found.next_step
    assert "Jetson" not in found.means


@pytest.mark.parametrize(
    ("returncode", "words"), [(-11, "SIGSEGV"), (-6, "SIGABRT"), (None, "did not end"), (3, "status 3")]
)
def test_a_kernel_that_ends_the_process(returncode: int | None, words: str) -> None:
    found = nf4(replace(without(ORIN_TORCH, "nf4_error"), returncode=returncode))
    assert (found.status, words in found.seen) == ("missing", True)
    assert "COMPUTE_CAPABILITY" not in found.next_step


def test_a_kernel_that_ends_the_process_at_some_rows() -> None:
    last = without(ORIN_TORCH, "nf4_error")
    found = nf4(replace(last, facts={**last.facts, "nf4_launching": 3}, returncode=-11))
    assert "at 3 rows: it was ended by SIGSEGV" in found.seen


@pytest.mark.parametrize("error", [0.3, float("nan")])
def test_a_kernel_that_is_wrong(error: float) -> None:
    found = nf4(Outcome({**ORIN_TORCH.facts, "nf4_error": error}, 0))
    assert (found.status, "every answer would be wrong" in found.means) == ("missing", True)


PACKED = {"4": ("Int4Cpu", 4e-3), "8": ("Int8", 6e-3)}


def packed(needed: bool = True, **kernels: tuple[str, float]) -> DoctorFinding:
    return packed_finding(Outcome({**CPU_TORCH.facts, "packed": {**PACKED, **kernels}}, 0), needed=needed)


def test_kernels_for_integers() -> None:
    found = packed()
    assert (found.status, found.means) == ("ok", "")
    assert found.seen.startswith(
        "torch multiplied INT4 weights by Int4Cpu with a relative error of 4.0e-03, INT8 weights"
    )


@pytest.mark.parametrize(("needed", "status"), [(True, "missing"), (False, "unknown")])
def test_kernels_for_integers_that_were_not_launched(needed: bool, status: str) -> None:
    """Without torch, with one that fails before, and with one that fails there."""
    assert packed_finding(None, needed=needed).status == status
    assert packed_finding(Outcome({}, 1), needed=needed).status == status
    fault = Outcome({**CPU_TORCH.facts, "packed_fault": "no such operator"}, 0)
    assert packed_finding(fault, needed=needed).seen == "no such operator"


@pytest.mark.parametrize("error", [0.3, float("nan")])
@pytest.mark.parametrize(("needed", "status"), [(True, "missing"), (False, "warning")])
def test_a_kernel_for_integers_that_is_wrong(error: float, needed: bool, status: str) -> None:
    found = packed(needed, **{"8": ("Int8", error)})
    assert (found.status, "every answer would be wrong" in found.means) == (status, True)


@pytest.mark.parametrize(("needed", "status"), [(True, "warning"), (False, "ok")])
def test_no_kernel_for_integers(needed: bool, status: str) -> None:
    found = packed(needed, **{"8": ("Unpacking", 1e-7)})
    assert (found.status, "no kernel for INT8 here" in found.means) == (status, True)
