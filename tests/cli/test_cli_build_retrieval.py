"""`edgeq build` and `edgeq verify-engine` of a bundle with two encoders."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from command import Edgeq, assert_refused
from retrieval_bundle import retrieval_bundle, text_bundle

from edgeq.bundle.manifest import write_manifest
from edgeq.engine_store.machine import Machine
from edgeq.engine_store.maker import Job
from edgeq.engine_store.run import BuiltEncoders
from edgeq.engine_store.verify_engine import EncoderReports, EngineReport
from edgeq.tensorrt.settings import BuildSettings

ORIN = Machine(compute_capability="8.7", device="NVIDIA Jetson Orin NX", platform="L4T 36.4.3", architecture="aarch64")


class Simulated:
    """In the place of TensorRT."""

    release = "10.3.0"

    def make(self, job: Job) -> bytes:
        return job.settings.encoder.encode()


@pytest.fixture
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts in FP16, of up to 16 tokens; not to be written to."""
    return retrieval_bundle(tmp_path_factory)


@pytest.fixture
def without_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)


@pytest.mark.usefixtures("without_tensorrt")
def test_a_dry_run_prints_both(bundle: Path, edgeq: Edgeq, tmp_path: Path) -> None:
    done = edgeq("build", bundle, "--dry-run", "--tensorrt", "10.3.0", "--store", tmp_path / "store")
    assert (done.status, done.err) == (0, "")
    said = " ".join(done.out.split())
    for words in (
        "TensorRT would be told of text/model.fp16.onnx",
        "shapes of input_ids, profile 0 1x1 .. 32x8 .. 64x8",
        "shapes of input_ids, profile 1 1x9 .. 32x16 .. 64x16",
        "text_embeds float32",
        "TensorRT would be told of vision.fp16.onnx",
        "shapes of pixel_values 1x3x32x32 .. 8x3x32x32 .. 32x3x32x32",
        "image_embeds float32",
    ):
        assert words in said
    assert said.count("STRONGLY_TYPED") == 2
    assert not (tmp_path / "store").exists()


@pytest.mark.usefixtures("without_tensorrt")
def test_the_json_has_the_settings_of_each(bundle: Path, edgeq: Edgeq) -> None:
    found = json.loads(
        edgeq("build", bundle, "--dry-run", "--tensorrt", "11.0.0", "--batch", "1", "2", "4", "--json").out
    )
    text, vision = (BuildSettings.model_validate(found["encoders"][encoder]) for encoder in ("text", "vision"))
    assert [[entry.max for entry in profile] for profile in text.profiles] == [[(4, 8)], [(4, 16)]]
    assert [entry.max for entry in vision.profile] == [(4, 3, 32, 32)]
    assert {text.tensorrt, vision.tensorrt} == {"11.0.0"}
    assert list(found["encoders"]) == ["text", "vision"]


@pytest.mark.usefixtures("without_tensorrt")
def test_refusals_come_before_work(bundle: Path, edgeq: Edgeq, tmp_path: Path) -> None:
    assert_refused(edgeq("build", bundle, "--store", tmp_path / "store"), "TensorRT is not installed", "next:")
    assert_refused(
        edgeq("build", bundle, "--dry-run", "--images", bundle.parent / "images"), "needs no calibration", "--images"
    )
    assert list(tmp_path.iterdir()) == []


def test_both_are_built_and_found(bundle: Path, edgeq: Edgeq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeq.engine_store.run.read_machine", lambda: ORIN)
    monkeypatch.setattr("edgeq.engine_store.run.TensorRtMaker", Simulated)
    monkeypatch.setattr("edgeq.engine_store.run.check_memory", lambda *_: None)
    first = edgeq("build", bundle, "--store", tmp_path)
    engines = [Path(line) for line in first.out.split()]
    assert [engine.read_bytes() for engine in engines] == [b"text", b"vision"]
    assert "text: built, because no engine of this graph is in the store" in first.err
    made = BuiltEncoders.model_validate_json(edgeq("build", bundle, "--store", tmp_path, "--json").out).encoders
    assert [one.engine for one in made.values()] == engines
    assert all(one.reused for one in made.values())
    assert "vision: it is in the store" in edgeq("build", bundle, "--store", tmp_path).err


def test_onnx_runtime_takes_both_graphs_as_they_are(bundle: Path, edgeq: Edgeq) -> None:
    done = edgeq("build", bundle, "--backend", "onnxruntime")
    assert done.out.split() == [str(bundle / "text/model.fp16.onnx"), str(bundle / "vision.fp16.onnx")]


def test_both_engines_are_verified_or_one(bundle: Path, edgeq: Edgeq, tmp_path: Path) -> None:
    asked = ("verify-engine", bundle, "--seconds", "0.01", "--threads", "1")
    done = edgeq(*asked, "-o", tmp_path / "report.json")
    assert done.status == 0, done.err
    reports = EncoderReports.load(tmp_path / "report.json").encoders
    assert {encoder: report.engine for encoder, report in reports.items()} == {
        "text": "model.fp16.onnx",
        "vision": "vision.fp16.onnx",
    }
    for report in reports.values():
        assert report.canaries.kind == "retrieval"
        assert [check.parity is not None and check.parity.worst_cosine > 0.9999 for check in report.canaries.canaries]
        assert report.reference is None, "the engine is that graph in ONNX Runtime itself"
    assert "text: model.fp16.onnx in onnxruntime" in done.out
    alone = json.loads(edgeq(*asked, "--encoder", "vision", "--json").out)["encoders"]
    assert {encoder: EngineReport.model_validate(one).encoder for encoder, one in alone.items()} == {"vision": "vision"}
    assert_refused(edgeq(*asked, "--encoder", "audio"), "the bundle has text, vision")
    assert_refused(edgeq(*asked, "--engine", tmp_path / "engine.plan"), "--encoder text or vision")
    assert_refused(edgeq(*asked, "--answers"), "answers no questions")


def test_a_text_encoder_alone_has_one_engine_under_its_name(
    tmp_path_factory: pytest.TempPathFactory, edgeq: Edgeq
) -> None:
    alone = text_bundle(tmp_path_factory)
    planned = json.loads(edgeq("build", alone, "--dry-run", "--tensorrt", "10.3.0", "--json").out)["encoders"]
    assert {encoder: settings["graph"] for encoder, settings in planned.items()} == {"text": "text/model.fp16.onnx"}
    done = edgeq("verify-engine", alone, "--seconds", "0.01", "--threads", "1", "--json")
    assert list(EncoderReports.model_validate_json(done.out).encoders) == ["text"]
    assert edgeq("build", alone, "--backend", "onnxruntime").out.split() == [str(alone / "text/model.fp16.onnx")]


def test_an_engine_that_sees_something_else_fails(bundle: Path, edgeq: Edgeq, tmp_path: Path) -> None:
    """The texts of the workshop had other embeddings: the exit status is 1, and the images are not blamed."""
    copy = tmp_path / "bundle"
    shutil.copytree(bundle, copy)
    (copy / "manifest.json").unlink()
    listed = json.loads((copy / "canaries" / "canaries.json").read_text())
    listed["texts"][0]["text"] = "a [/bold] move \x1b[31m in red"
    (copy / "canaries" / "canaries.json").write_text(json.dumps(listed))
    vectors = np.load(copy / "canaries" / "texts.npy")
    vectors[0] = -vectors[0]
    np.save(copy / "canaries" / "texts.npy", vectors)
    write_manifest(copy, kind="retrieval")
    done = edgeq("verify-engine", copy, "--seconds", "0.01", "--threads", "1", "-o", tmp_path / "report.json")
    assert done.status == 1
    assert f"1 of {len(vectors)} canaries fail" in done.err
    assert "canary 0 (a [/bold] move  [31m in red)" in done.err
    assert "\x1b" not in done.out + done.err
    assert "the embedding has the cosine -1.0000, at least 0.9800 is demanded" in done.err
    found = EncoderReports.load(tmp_path / "report.json").encoders
    assert (found["text"].canaries.passed, found["vision"].canaries.passed) == (False, True)
    np.save(copy / "canaries" / "texts.npy", vectors[:1])
    write_manifest(copy, kind="retrieval")
    assert_refused(edgeq("verify-engine", copy, "--seconds", "0.01"), "texts.npy has the shape", "expected: [")
