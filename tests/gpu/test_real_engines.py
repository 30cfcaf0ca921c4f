"""Engines built and run for real: `make test-gpu`, on a machine with an NVIDIA GPU and TensorRT.

Without EDGEQ_GPU=1 all of it is skipped; with it a missing TensorRT is a failure and not a skip.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from classifier_bundle import classifier_bundle
from retrieval_bundle import retrieval_bundle

from edgeq.cli import run
from edgeq.engine_store.run import build
from edgeq.engine_store.verify_engine import EncoderReports, EngineReport
from edgeq.tensorrt.loading import QuantizationMode, load_tensorrt, version_of

pytestmark = pytest.mark.skipif(
    os.environ.get("EDGEQ_GPU") != "1", reason="no GPU: make test-gpu runs this where there is one"
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier_bundle(tmp_path_factory)


def modes() -> tuple[QuantizationMode, ...]:
    return ("implicit", "explicit") if version_of(load_tensorrt())[0] < 11 else ("explicit",)


def verified(bundle: Path, engine: Path, report: Path) -> EngineReport:
    """The engine's report, once `edgeq verify-engine` let it pass."""
    arguments = ["verify-engine", str(bundle), "--backend", "tensorrt", "--engine", str(engine), "--seconds", "1"]
    assert run([*arguments, "-o", str(report)]) == 0
    return EngineReport.load(report)


def test_a_classifier_on_every_road(bundle: Path, tmp_path: Path) -> None:
    for quantization in modes():
        made = build(bundle, tmp_path / "store", quantization=quantization)[""]
        assert not made.reused
        assert build(bundle, tmp_path / "store", quantization=quantization)[""].reused
        assert verified(bundle, made.engine, tmp_path / f"{quantization}.json").canaries.passed


def test_calibration_on_this_device(bundle: Path, tmp_path: Path) -> None:
    if "implicit" not in modes():
        pytest.skip("this TensorRT has no calibrators")
    images = next(path for path in bundle.parent.iterdir() if path.name == "pictures")
    made = build(bundle, tmp_path / "store", quantization="implicit", images=images)[""]
    assert made.settings is not None
    assert made.settings.calibration == "images"
    assert verified(bundle, made.engine, tmp_path / "report.json").canaries.passed


def test_the_eyes_of_a_vision_language_model(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    prepared = request.getfixturevalue("prepared_vlm").bundle
    for quantization in modes():
        made = build(prepared, tmp_path / "store", quantization=quantization)[""]
        assert verified(prepared, made.engine, tmp_path / f"{quantization}.json").canaries.passed


def test_both_encoders_of_a_two_tower_model(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    bundle = retrieval_bundle(tmp_path_factory)
    made = build(bundle, tmp_path / "store")
    assert list(made) == ["text", "vision"]
    arguments = ["verify-engine", str(bundle), "--backend", "tensorrt", "--store", str(tmp_path / "store")]
    assert run([*arguments, "--seconds", "1", "-o", str(tmp_path / "report.json")]) == 0
    assert all(report.canaries.passed for report in EncoderReports.load(tmp_path / "report.json").encoders.values())
