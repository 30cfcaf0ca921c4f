"""`edgeq verify-engine`: exit status, table, JSON, the report that is sent back, and everything that is refused."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import pytest
from classifier_bundle import classifier_bundle
from command import Edgeq, assert_refused
from onnx import numpy_helper
from test_rooms import FOR_LANGUAGE, WORKSHOP

from edgeq.bundle.manifest import write_manifest
from edgeq.engine_store.verify_engine import EngineReport

if TYPE_CHECKING:
    from edgeq.pipeline.vlm import PreparedVlm

QUICKLY = ("--seconds", "0.01", "--threads", "1")


@pytest.fixture
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of the tiny network; not to be written to."""
    return classifier_bundle(tmp_path_factory)


@pytest.fixture
def wrong(bundle: Path, tmp_path: Path) -> Path:
    """The FP32 graph with three times the weights in its head."""
    model = onnx.load(bundle / "model.fp32.onnx")
    head = next(tensor for tensor in model.graph.initializer if tensor.name == "head.weight")
    head.CopyFrom(numpy_helper.from_array(3 * numpy_helper.to_array(head), head.name))
    onnx.save(model, tmp_path / "wrong.onnx")
    return tmp_path / "wrong.onnx"


def test_a_good_engine(edgeq: Edgeq, bundle: Path, tmp_path: Path) -> None:
    done = edgeq("verify-engine", bundle, *QUICKLY, "-o", tmp_path / "r.json")
    assert (done.status, done.err.splitlines()) == (0, ["the engine", "the reference"])
    assert "model.int8.ort.onnx in onnxruntime" in done.out
    assert "7.png" in done.out
    assert "p50" in done.out
    assert "not a Jetson" in done.out
    assert "The engine computes what the workshop saw." in done.out
    report = EngineReport.load(tmp_path / "r.json")
    assert report.canaries.passed
    assert report.latency.p50_ms > 0


def test_a_wrong_engine_is_exit_status_1_and_reported_all_the_same(
    edgeq: Edgeq, bundle: Path, wrong: Path, tmp_path: Path
) -> None:
    done = edgeq("verify-engine", bundle, "--engine", wrong, *QUICKLY, "--json", "-o", tmp_path / "r.json")
    assert done.status == 1
    assert "8 of 8 canaries fail" in done.err
    assert "the logits have the cosine" in done.err
    assert "the fault is the engine's" in done.err
    assert "Traceback" not in done.err
    report = EngineReport.model_validate_json(done.out)
    assert EngineReport.load(tmp_path / "r.json") == report
    assert len(report.canaries.failures) >= 8
    assert report.reference is not None
    assert report.reference.canaries.passed


def test_the_device_needs_no_workshop_package(bundle: Path) -> None:
    code = f"""
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {WORKSHOP + FOR_LANGUAGE!r}:
            raise AssertionError(f"{{name}} is a workshop package")

sys.meta_path.insert(0, Refuse())
from edgeq.cli import run
sys.exit(run(["verify-engine", {str(bundle)!r}, *{QUICKLY!r}]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.splitlines()) == (0, ["the engine", "the reference"])


def test_without_tensorrt(edgeq: Edgeq, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    for flags in ((), ("--engine", tmp_path / "engine.plan"), ("--store", tmp_path), ("--quantization", "explicit")):
        done = edgeq("verify-engine", bundle, "--backend", "tensorrt", *flags)
        assert_refused(done, "TensorRT is not installed", "next:")


def test_a_vision_language_model_is_asked(edgeq: Edgeq, prepared_vlm: PreparedVlm) -> None:
    done = edgeq("verify-engine", prepared_vlm.bundle, "--answers", *QUICKLY)
    assert "vision.fp16.onnx in onnxruntime" in done.out
    assert "answer" in done.out
    assert "same" in done.out or " tokens" in done.out
    assert "ONNX Runtime:" not in done.out  # there is no other engine to compare with


def test_options_without_a_meaning(edgeq: Edgeq, bundle: Path, tmp_path: Path) -> None:
    assert_refused(edgeq("verify-engine", bundle, "--store", tmp_path), "--store is for --backend tensorrt")
    assert_refused(
        edgeq("verify-engine", bundle, "--quantization", "implicit"), "--quantization is for --backend tensorrt"
    )
    assert_refused(edgeq("verify-engine", bundle, "--answers", *QUICKLY), "answers no questions")
    assert_refused(edgeq("verify-engine", bundle, "--seconds", "0"), "--seconds")


def test_what_is_no_bundle(edgeq: Edgeq, bundle: Path, tmp_path: Path) -> None:
    assert edgeq("verify-engine", tmp_path).status == 2
    bare = shutil.copytree(bundle, tmp_path / "bare")
    shutil.rmtree(bare / "canaries")
    write_manifest(bare)
    assert_refused(edgeq("verify-engine", bare), "has no canaries", "next: make the bundle again with edgeq prepare")


def test_an_engine_that_is_none(edgeq: Edgeq, bundle: Path, tmp_path: Path) -> None:
    assert_refused(edgeq("verify-engine", bundle, "--engine", tmp_path / "a.onnx"), "a.onnx cannot be read")
    assert_refused(edgeq("verify-engine", bundle, "--engine", tmp_path), "cannot be read")
    (tmp_path / "a.onnx").write_bytes(b"no graph")
    assert_refused(edgeq("verify-engine", bundle, "--engine", tmp_path / "a.onnx", *QUICKLY), "refuses")


def test_a_report_that_cannot_be_written(edgeq: Edgeq, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = edgeq("verify-engine", bundle, *QUICKLY, "-o", tmp_path / "file" / "r.json")
    assert_refused(done, "cannot be written")
