"""The whole examination on boards made by hand, with probes that ended as a test wants it."""

from __future__ import annotations

from pathlib import Path

import made_up
import pytest
from recorded import BARE_PROBES, CPU_PROBES, JETPACK_6, JETPACK_7, ORIN_PROBES, ORIN_TORCH, SYMBOL

from edgeq.bundle.manifest import DeviceNeeds, write_manifest
from edgeq.doctor import run
from edgeq.doctor.child import Outcome
from edgeq.doctor.finding import DoctorFinding, Examination
from edgeq.doctor.memory_probe import MemoryKind
from edgeq.doctor.probes import Probes
from edgeq.doctor.run import DoctorRequest, examine
from edgeq.install.run import install

GB = 1_000_000_000


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[MemoryKind, int]]:
    """How much memory was to be taken; none is."""
    found: list[tuple[MemoryKind, int]] = []

    def probe(kind: MemoryKind, needed: int) -> Outcome:
        found.append((kind, needed))
        return Outcome({"available": 13 * GB, "taken": needed, "whole": True}, 0)

    monkeypatch.setattr(run, "probe_memory", probe)
    return found


def doctor(tmp_path: Path, root: Path, probes: Probes, bundle: Path | None = None) -> Examination:
    request = DoctorRequest(bundle, store=tmp_path / "store", engines=tmp_path / "engines", root=root)
    return examine(request, probe_packages=lambda: probes)


def by_name(examination: Examination) -> dict[str, DoctorFinding]:
    assert len({finding.name for finding in examination.findings}) == len(examination.findings)
    return {finding.name: finding for finding in examination.findings}


def test_an_orin_with_a_bundle(tmp_path: Path, asked: list[tuple[MemoryKind, int]]) -> None:
    needs = DeviceNeeds(compute_capability=("8.7",), tensorrt=">=10.3,<12", memory_bytes=12 * GB)
    bundle = made_up.bundle(tmp_path / "b", kind="vision-language", needs=needs, needed_bytes=6 * GB)
    found = doctor(tmp_path, JETPACK_7, ORIN_PROBES, bundle)
    named = by_name(found)
    assert asked == [("unified", 6 * GB)]
    assert named["allocation"].status == "ok"
    assert named["needs"].status == "ok"
    assert named["engine"].status == "warning"  # not built yet
    assert found.able == all(finding.status != "missing" for finding in found.findings)


def test_the_wheel_that_does_not_run_there(tmp_path: Path) -> None:
    broken = Outcome({k: v for k, v in ORIN_TORCH.facts.items() if k != "nf4_error"}, 1, SYMBOL)
    found = doctor(tmp_path, JETPACK_6, Probes(broken, ORIN_PROBES.onnxruntime, ORIN_PROBES.tensorrt))
    assert not found.able
    assert "-DCOMPUTE_CAPABILITY=87" in by_name(found)["NF4 kernel"].next_step


def test_a_bundle_for_another_device(tmp_path: Path) -> None:
    bundle = made_up.bundle(tmp_path / "b", needs=DeviceNeeds(compute_capability=("8.7",)))
    found = doctor(tmp_path, tmp_path, CPU_PROBES, bundle)
    assert (found.able, by_name(found)["needs"].status) == (False, "missing")


def test_a_bare_machine_says_what_it_could_not_look_at(tmp_path: Path) -> None:
    found = doctor(tmp_path, tmp_path, BARE_PROBES)
    named = by_name(found)
    assert not found.able
    assert named["ONNX Runtime"].status == "missing"
    could_not = (
        "torch",
        "TensorRT",
        "JetPack",
        "power mode",
        "clocks",
        "temperature",
        "memory",
        "allocation",
        "engine",
    )
    assert {name: named[name].status for name in could_not} == dict.fromkeys(could_not, "unknown")


def test_the_installed_bundle_is_taken_where_none_is_given(tmp_path: Path, asked: list[tuple[MemoryKind, int]]) -> None:
    install(made_up.bundle(tmp_path / "b", kind="vision-language", needed_bytes=GB), tmp_path / "store")
    found = by_name(doctor(tmp_path, JETPACK_6, CPU_PROBES))
    assert found["bundle"].seen.startswith("vision-language")
    assert asked == [("system", GB)]


def test_memory_that_is_asked_for_goes_before_the_bundles(tmp_path: Path, asked: list[tuple[MemoryKind, int]]) -> None:
    bundle = made_up.bundle(tmp_path / "b", needed_bytes=6 * GB)
    examine(
        DoctorRequest(bundle, store=tmp_path, needed_bytes=2 * GB, root=JETPACK_6), probe_packages=lambda: ORIN_PROBES
    )
    assert asked == [("unified", 2 * GB)]


def test_a_memory_plan_that_is_none(tmp_path: Path) -> None:
    directory = made_up.bundle(tmp_path / "b")
    (directory / "memory.json").write_text("{}")
    write_manifest(directory)
    assert by_name(doctor(tmp_path, JETPACK_6, CPU_PROBES, directory))["allocation"].status == "missing"


def test_it_tells_what_it_does(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    examine(
        DoctorRequest(store=tmp_path, root=tmp_path),
        probe_packages=lambda: CPU_PROBES,
        progress=lambda _step, done, total: steps.append((done, total)),
    )
    assert steps == [(0, 3), (1, 3), (2, 3)]


def test_it_can_be_read_back(tmp_path: Path) -> None:
    found = doctor(tmp_path, JETPACK_6, ORIN_PROBES)
    found.save(tmp_path / "found.json")
    assert Examination.load(tmp_path / "found.json") == found
