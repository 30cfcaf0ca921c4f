"""ONNX Runtime and TensorRT by how their probes ended, and the probes themselves here."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version

import pytest
from recorded import NO_TENSORRT, ONNXRUNTIME, ORIN_TENSORRT

from edgeq.doctor import engine_probe
from edgeq.doctor.child import Outcome
from edgeq.doctor.engines import onnxruntime_finding, tensorrt_finding, tensorrt_version


def told(capsys: pytest.CaptureFixture[str], name: str) -> dict[str, object]:
    engine_probe.main(name)
    lines = capsys.readouterr().out.splitlines()
    return {key: fact for line in lines for key, fact in json.loads(line.partition(" ")[2]).items()}


def test_onnxruntime_here(capsys: pytest.CaptureFixture[str]) -> None:
    found = onnxruntime_finding(Outcome(told(capsys, "onnxruntime"), 0), tensorrt=False)
    assert found.status == "ok"
    assert found.seen.startswith(f"{version('onnxruntime')}, providers: ")
    assert "CPU" in found.seen


def test_no_tensorrt(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    outcome = Outcome(told(capsys, "tensorrt"), 0)
    assert tensorrt_version(outcome) is None
    assert tensorrt_finding(outcome, jetson=False).status == "unknown"
    on_a_jetson = tensorrt_finding(outcome, jetson=True)
    assert (on_a_jetson.status, "--system-site-packages" in on_a_jetson.next_step) == ("warning", True)


def test_no_engine_at_all() -> None:
    assert onnxruntime_finding(None, tensorrt=False).status == "missing"
    assert onnxruntime_finding(None, tensorrt=True).status == "warning"
    broken = onnxruntime_finding(Outcome({}, -11), tensorrt=False)
    assert (broken.status, "SIGSEGV" in broken.seen) == ("missing", True)
    assert onnxruntime_finding(ONNXRUNTIME, tensorrt=False).seen == "1.31.1, providers: CPU"


@pytest.mark.parametrize(
    ("release", "why"),
    [
        ("10.3.0", "explicit: the default; TensorRT 10.3.0 has both modes"),
        ("10.16.2.10", "explicit: the default; TensorRT 10.16.2 has both modes"),
        ("11.0.0", "explicit: TensorRT 11.0.0 has no calibrators and no layer precisions any more"),
    ],
)
def test_the_road_follows_from_the_release(release: str, why: str) -> None:
    outcome = Outcome({**ORIN_TENSORRT.facts, "tensorrt": release}, 0)
    found = tensorrt_finding(outcome, jetson=True)
    assert (found.status, found.seen) == ("ok", release)
    assert found.means == f"quantization is {why}"
    assert tensorrt_version(outcome) == release


def test_a_release_that_is_newer_than_known_is_warned_of() -> None:
    found = tensorrt_finding(Outcome({**ORIN_TENSORRT.facts, "tensorrt": "12.0.1"}, 0), jetson=True)
    assert (found.status, found.seen) == ("warning", "12.0.1")
    assert "is newer than the releases that edgeq was checked against" in found.means


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome({"gpu": None, "tensorrt": "10.3.0", "runtime_error": "factory function returned nullptr"}, 0),
        Outcome({"gpu": None, "tensorrt": "10.3.0"}, -6),
    ],
)
def test_a_tensorrt_without_a_gpu(outcome: Outcome) -> None:
    assert tensorrt_finding(outcome, jetson=True).status == "warning"
    assert tensorrt_version(outcome) is None


def test_a_tensorrt_that_is_broken() -> None:
    outcome = Outcome({"error": "TensorRT is installed but cannot be loaded: libnvinfer.so.10", "next_step": "x"}, 0)
    assert tensorrt_finding(outcome, jetson=False).status == "warning"
    assert tensorrt_finding(Outcome({}, -11), jetson=False).status == "warning"
    assert tensorrt_finding(NO_TENSORRT, jetson=False).status == "unknown"
