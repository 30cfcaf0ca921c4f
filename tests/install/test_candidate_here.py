"""Which backend runs a bundle here, and in which words that is reported. TensorRT is simulated; the store is real."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from built_engines import ORIN, build_engines, simulate_device
from classifier_bundle import classifier_bundle
from command import Edgeq, assert_refused

import edgeq as package
from edgeq.bundle.manifest import read_manifest
from edgeq.engine_store.candidate import Candidate
from edgeq.errors import EngineError
from edgeq.install import proof
from edgeq.install.candidate_here import AUTO, vision_candidate
from edgeq.service.load_bundle import open_served
from edgeq.service.settings import ServiceSettings

if TYPE_CHECKING:
    from edgeq.pipeline.vlm import PreparedVlm

BUILT = "its engine was built of this bundle for this device"
ASK = ("--threads", "1", "--max-new-tokens", "3")


@pytest.fixture
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be written to."""
    return classifier_bundle(tmp_path_factory)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """A device with a GPU and a simulated TensorRT; every engine that is opened."""
    return simulate_device(monkeypatch, tmp_path / "store")


def candidate(bundle: Path, backend: str = AUTO) -> Candidate:
    return vision_candidate(bundle, bundle, read_manifest(bundle), backend, threads=1)


def test_the_engine_that_was_built(classifier: Path, opened: list[Path], tmp_path: Path) -> None:
    (engine,) = build_engines(classifier, tmp_path / "store")
    for backend, because in ((AUTO, BUILT), ("tensorrt", "it was asked for")):
        found = candidate(classifier, backend)
        assert (found.backend, found.file, found.because) == ("tensorrt 10.3.0", engine, because)
    served = open_served(classifier, ServiceSettings(threads=1))
    assert (served.backend, served.because, opened) == ("tensorrt 10.3.0", BUILT, [engine])
    assert served.canaries is not None
    assert served.canaries.passed
    served.close()


@pytest.mark.usefixtures("opened")
def test_an_engine_of_another_device_is_passed_over_and_named(classifier: Path, tmp_path: Path) -> None:
    build_engines(classifier, tmp_path / "store", ORIN.model_copy(update={"platform": "L4T 36.4.0"}))
    found = candidate(classifier)
    assert found.backend.startswith("onnxruntime ")
    assert "built under L4T 36.4.0, this is L4T 36.4.3" in found.because
    assert found.because.endswith(f"edgeq build {classifier} --backend tensorrt")
    with pytest.raises(EngineError, match="has no engine of"):
        candidate(classifier, "tensorrt")


@pytest.mark.usefixtures("opened")
def test_a_damaged_engine_is_not_loaded(classifier: Path, tmp_path: Path) -> None:
    (engine,) = build_engines(classifier, tmp_path / "store")
    with engine.open("r+b") as file:
        file.write(b"\0\0")
    assert candidate(classifier).backend.startswith("onnxruntime ")


def test_without_a_gpu_or_tensorrt(
    classifier: Path, opened: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_engines(classifier, tmp_path / "store")

    def missing() -> None:
        raise EngineError("TensorRT is not installed for this Python")

    monkeypatch.setattr(proof, "load_tensorrt", missing)
    assert candidate(classifier).because == "no TensorRT engine: TensorRT is not installed for this Python"
    monkeypatch.setattr(proof, "ask_driver", lambda: None)
    assert candidate(classifier).because == "no TensorRT engine: there is no NVIDIA GPU"
    assert candidate(classifier, "onnxruntime").because == "it was asked for"
    assert opened == []


def test_run_answers_with_the_engine_and_says_so(
    edgeq: Edgeq, prepared_vlm: PreparedVlm, tiny_photographs: Path, opened: list[Path], tmp_path: Path
) -> None:
    bundle, image = prepared_vlm.bundle, next(tiny_photographs.rglob("*.jpg"))
    before = json.loads(edgeq("run", bundle, image, "what is it?", *ASK, "--json").out)
    assert before["backend"].startswith("onnxruntime ")
    assert f"edgeq build {bundle} --backend tensorrt" in before["because"]
    assert_refused(edgeq("run", bundle, image, "what?", "--backend", "tensorrt"), "has no engine of")
    assert opened == []
    engines = build_engines(bundle, tmp_path / "store")
    after = json.loads(edgeq("run", bundle, image, "what is it?", *ASK, "--json").out)
    assert (after["backend"], after["because"]) == ("tensorrt 10.3.0", BUILT)
    assert after["token_ids"] == before["token_ids"]
    done = edgeq("run", bundle, image, "what is it?", *ASK)
    assert (done.status, done.out, done.err) == (0, f"{after['text']}\n", f"tensorrt 10.3.0: {BUILT}\n")
    assert set(opened) == engines


def test_the_python_api_tells_both(classifier: Path) -> None:
    with package.open_bundle(classifier, backend="onnxruntime", threads=1) as found:
        assert found.backend.startswith("onnxruntime ")
        assert found.because == "it was asked for"
