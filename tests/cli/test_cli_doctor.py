"""`edgeq doctor`: one real examination of this machine, its exit status, and machines that lack everything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from command import Edgeq, assert_refused

from edgeq.doctor import run
from edgeq.doctor.child import Outcome
from edgeq.doctor.finding import Examination
from edgeq.doctor.probes import Probes

NOTHING = Probes(None, None, Outcome({"error": "TensorRT is not installed"}, 0))
ONNXRUNTIME = Probes(
    None, Outcome({"onnxruntime": "1.31.1", "providers": ["CPUExecutionProvider"]}, 0), NOTHING.tensorrt
)

HIDDEN = (
    *("onnx", "onnx_graphsurgeon", "onnxscript", "torch", "transformers", "safetensors", "huggingface_hub"),
    *("onnxruntime", "bitsandbytes", "accelerate", "matplotlib", "tensorrt"),
)

HIDE = f"""
import importlib.machinery, importlib.metadata
hidden, finder, by_name = {HIDDEN!r}, importlib.machinery.PathFinder, importlib.metadata.Distribution.from_name

def find_spec(name, path=None, target=None, look=finder.find_spec):
    return None if name.partition(".")[0] in hidden else look(name, path, target)

def from_name(name):
    if name.replace("-", "_") in hidden:
        raise importlib.metadata.PackageNotFoundError(name)
    return by_name(name)

finder.find_spec = find_spec
importlib.metadata.Distribution.from_name = staticmethod(from_name)
"""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine is there, and nothing else."""
    _take(monkeypatch, ONNXRUNTIME)


def _take(monkeypatch: pytest.MonkeyPatch, probes: Probes) -> None:
    monkeypatch.setattr("edgeq.cli.device.doctor.examine", partial(run.examine, probe_packages=lambda: probes))


def test_this_machine(edgeq: Edgeq, tmp_path: Path) -> None:
    """Real probes, each in its process."""
    done = edgeq("doctor", "--root", tmp_path, "--needs-memory", "0.01", "--json")
    found = Examination.model_validate_json(done.out)
    findings = {finding.name: finding for finding in found.findings}
    assert done.status == (0 if found.able else 1)
    for name in ("python", "edgeq", "torch", "NF4 kernel", "ONNX Runtime", "OpenVINO", "memory", "allocation"):
        assert findings[name].status == "ok", found
    assert "devices: CPU" in findings["OpenVINO"].seen
    assert (done.status, done.err) == (0, "")


@pytest.mark.usefixtures("quick")
def test_a_table_for_people(edgeq: Edgeq, tmp_path: Path) -> None:
    done = edgeq("doctor", "--root", tmp_path)
    assert (done.status, done.err) == (0, "")
    for word in ("python", "ONNX Runtime", "1.31.1", "not a Jetson", "unknown", "next: edgeq doctor BUNDLE"):
        assert word in done.out


def test_something_is_missing(edgeq: Edgeq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _take(monkeypatch, NOTHING)
    done = edgeq("doctor", "--root", tmp_path, "--json")
    assert done.status == 1
    assert not Examination.model_validate_json(done.out).able
    assert "lacks something that is needed: ONNX Runtime" in done.err
    assert "Traceback" not in done.err


@pytest.mark.usefixtures("quick")
def test_a_bundle_that_is_none(edgeq: Edgeq, tmp_path: Path) -> None:
    done = edgeq("doctor", tmp_path / "nowhere", "--root", tmp_path)
    assert done.status == 1
    assert "needed: bundle" in done.err
    assert "is not a bundle" in " ".join(done.out.split())


@pytest.mark.parametrize("amount", ["0", "-1", "much", "nan", "inf", "1e30"])
def test_memory_that_is_no_amount(edgeq: Edgeq, tmp_path: Path, amount: str) -> None:
    assert_refused(edgeq("doctor", "--root", tmp_path, "--needs-memory", amount), "--needs-memory")


def test_it_runs_where_nothing_is_installed(tmp_path: Path) -> None:
    """Not even edgeq's other half: packages are hidden from this process and from the probes."""
    (tmp_path / "sitecustomize.py").write_text(HIDE)
    code = "import sys; from edgeq.cli import run; sys.exit(run(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "doctor", "--json", "--root", str(tmp_path), "--needs-memory", "0.01"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    found = {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert found["torch"]["seen"] == "torch is not installed"
    assert found["NF4 kernel"]["seen"] == "bitsandbytes is not installed"
    assert found["TensorRT"]["seen"] == "TensorRT is not installed for this Python"
    assert "lacks onnxruntime" in found["extras"]["seen"]
    assert found["allocation"]["status"] == "ok"
    assert done.stderr.startswith("error: this machine lacks something that is needed: ONNX Runtime")
