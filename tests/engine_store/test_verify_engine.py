"""The report on an engine, with real ONNX Runtime; the engines that are wrong were made so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import pytest
from classifier_bundle import classifier_bundle
from onnx import numpy_helper

from edgeq.bundle.manifest import write_manifest
from edgeq.engine.power import Power
from edgeq.engine_store.candidate import Candidate, graph_candidate
from edgeq.engine_store.verify_engine import EngineReport, verify_engine
from edgeq.errors import EngineError, GateError, InputError
from edgeq.files import sha256_file
from edgeq.runtime.canary.canary_set import open_canaries

if TYPE_CHECKING:
    from edgeq.pipeline.vlm import PreparedVlm

FP32, INT8 = "model.fp32.onnx", "model.int8.ort.onnx"


@pytest.fixture
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of the tiny network; not to be written to."""
    return classifier_bundle(tmp_path_factory)


def verified(bundle: Path, engine: Path | None = None, **choices: object) -> EngineReport:
    canaries = open_canaries(bundle)
    candidate = graph_candidate(engine or canaries.graph, threads=1)
    return verify_engine(bundle, canaries, candidate, seconds=0.01, threads=1, **choices)  # type: ignore[arg-type]


def negated(source: Path, target: Path) -> Path:
    """A classifier that says the opposite."""
    model = onnx.load(source)
    for tensor in model.graph.initializer:
        if tensor.name in ("head.weight", "head.bias"):
            tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name))
    onnx.save(model, target)
    return target


def test_a_good_engine(bundle: Path, tmp_path: Path) -> None:
    report = verified(bundle)
    report.raise_if_failed()
    assert report.conclusion == "the engine computes what the workshop saw"
    assert (report.engine, report.engine_sha256) == (INT8, sha256_file(bundle / INT8))
    assert report.manifest_sha256 == sha256_file(bundle / "manifest.json")
    assert report.bundle == "bundle"
    assert report.backend.startswith("onnxruntime ")
    assert report.reference is not None
    assert report.reference.graph == FP32
    assert report.reference.canaries.passed
    assert report.reference.engine.against == "ONNX Runtime here"
    assert report.latency.batch == report.reference.latency.batch == 1
    report.save(tmp_path / "r.json")
    assert EngineReport.load(tmp_path / "r.json") == report
    assert str(bundle.parent) not in (tmp_path / "r.json").read_text()  # it is sent to others


def test_a_wrong_engine_is_told_from_wrong_pixels(bundle: Path, tmp_path: Path) -> None:
    report = verified(bundle, negated(bundle / FP32, tmp_path / "a.onnx"))
    assert report.reference is not None
    assert report.reference.canaries.passed
    assert not report.reference.engine.passed
    with pytest.raises(GateError) as caught:
        report.raise_if_failed()
    assert "8 of 8 canaries fail" in caught.value.what
    assert f"ONNX Runtime computes it here with {FP32}: the fault is the engine's" in caught.value.causes


def test_other_pixels_here_than_in_the_workshop(bundle: Path, tmp_path: Path) -> None:
    """The preprocessing subtracts another mean: that is no fault of the engine."""
    other = shutil.copytree(bundle, tmp_path / "b")
    config = json.loads((other / "preprocessor_config.json").read_text())
    (other / "preprocessor_config.json").write_text(json.dumps(config | {"image_mean": [3.0, -3.0, 0.0]}))
    write_manifest(other)
    report = verified(other)
    assert all(canary.same_pixels is False for canary in report.canaries.canaries)
    assert report.reference is not None
    assert report.reference.engine.canaries[0].parity is not None
    with pytest.raises(GateError) as caught:
        report.raise_if_failed()
    causes = " ".join(caught.value.causes)
    assert "images become other pixels here than in the workshop" in causes
    assert f"ONNX Runtime with {FP32} does not compute it here either" in causes


def test_one_engine_is_open_at_a_time(bundle: Path) -> None:
    """The engine is gone when the reference is opened: both may not fit."""
    opened: list[object] = []
    stages: list[tuple[str, int]] = []
    canaries = open_canaries(bundle)
    real = graph_candidate(canaries.graph, threads=1)

    class Counted:
        def __init__(self) -> None:
            self._engine = real.open()
            self.inputs, self.outputs, self.run = self._engine.inputs, self._engine.outputs, self._engine.run
            opened.append(None)

        def __del__(self) -> None:
            opened.pop()

    candidate = Candidate(real.backend, real.file, Counted)
    verify_engine(
        bundle,
        canaries,
        candidate,
        seconds=0.01,
        threads=1,
        report=lambda stage, _done, _total: stages.append((stage, len(opened))),
    )
    assert stages == [("the engine", 0), ("the reference", 0)]


def test_the_power_mode_of_the_device(bundle: Path, tmp_path: Path) -> None:
    for name, text in (
        ("etc/nv_tegra_release", "# R36 (release), REVISION: 4.3, GCID: 1\n"),
        ("etc/nvpmodel.conf", "< POWER_MODEL ID=3 NAME=25W >\n"),
        ("var/lib/nvpmodel/status", "pmode:0003\n"),
        ("proc/device-tree/model", "NVIDIA Jetson Orin NX\0"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    report = verified(bundle, root=tmp_path)
    assert report.power == Power(mode=3, name="25W", gpu_mhz=None)
    assert (report.machine.device, report.machine.platform) == ("NVIDIA Jetson Orin NX", "L4T 36.4.3")


def test_an_engine_that_is_not_there(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"a\.onnx cannot be read"):
        verified(bundle, tmp_path / "a.onnx")
    (tmp_path / "a.onnx").write_bytes(b"no graph")
    with pytest.raises(EngineError, match=r"refuses .*a\.onnx"):
        verified(bundle, tmp_path / "a.onnx")


def test_a_classifier_is_not_asked(bundle: Path) -> None:
    with pytest.raises(InputError, match="answers no questions"):
        verified(bundle, answers=True)


def test_a_vision_language_model(prepared_vlm: PreparedVlm, tmp_path: Path) -> None:
    """Its own graph in ONNX Runtime is the reference; a copy of it elsewhere is compared with it."""
    report = verified(prepared_vlm.bundle, answers=True)
    report.raise_if_failed()
    assert report.reference is None
    assert all(canary.answer for canary in report.canaries.canaries)
    copy = tmp_path / "copy.onnx"
    shutil.copy(prepared_vlm.bundle / "vision.fp16.onnx", copy)
    report = verified(prepared_vlm.bundle, copy)
    assert report.reference is not None
    assert [canary.parity and canary.parity.worst_relative for canary in report.reference.engine.canaries] == [0] * 3
