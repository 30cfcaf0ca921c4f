"""The check after a switch: which engine is looked at, and where it comes from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from classifier_bundle import classifier_bundle

from edgeq.engine.base import EngineBackend
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.engine.registry import BUILT, DEFAULT
from edgeq.engine_store.machine import Gpu
from edgeq.engine_store.run import BuiltEngine
from edgeq.errors import EngineError
from edgeq.install import proof


@pytest.fixture
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of the tiny network; not to be written to."""
    return classifier_bundle(tmp_path_factory)


def missing() -> object:
    raise EngineError("TensorRT is not installed for this Python")


@pytest.mark.parametrize(
    ("gpu", "load", "backend"),
    [
        (None, object, "onnxruntime"),
        (Gpu(name="Orin", compute_capability="8.7"), missing, "onnxruntime"),
        (Gpu(name="Orin", compute_capability="8.7"), object, "tensorrt"),
    ],
)
def test_tensorrt_where_it_can_run(
    monkeypatch: pytest.MonkeyPatch, gpu: Gpu | None, load: object, backend: str
) -> None:
    monkeypatch.setattr(proof, "ask_driver", lambda: gpu)
    monkeypatch.setattr(proof, "load_tensorrt", load)
    assert proof.backend_here().name == backend


def test_the_engine_that_was_built_is_the_one_that_is_checked(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT is simulated: its engine is a graph that ONNX Runtime runs, and one that does not exist."""
    asked, opened = [], []

    def build(source: Path, engines: Path, *, backend: EngineBackend, **_options: object) -> dict[str, BuiltEngine]:
        asked.append((source, engines, backend))
        made = BuiltEngine(
            backend="tensorrt", engine=tmp_path / "engine.plan", size=1, sha256="", reused=False, because=""
        )
        return {"": made}

    def load(
        model: Path | bytes,
        *,
        threads: int | None = None,  # noqa: ARG001
        batch: int | None = None,  # noqa: ARG001
    ) -> OnnxRuntimeEngine:
        opened.append(model)
        return OnnxRuntimeEngine(bundle / "model.int8.ort.onnx", threads=1)

    monkeypatch.setattr(proof, "build", build)
    simulated = replace(BUILT, open=load)
    proof.canary_check(tmp_path / "engines", backend=simulated)(bundle)
    assert asked == [(bundle, tmp_path / "engines", simulated)]
    assert opened == [tmp_path / "engine.plan"]


def test_onnx_runtime_needs_nothing_built(bundle: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    check = proof.canary_check(
        tmp_path / "engines", backend=DEFAULT, threads=1, progress=lambda *step: told.append(step)
    )
    check(bundle)
    assert told == [("checking", 0, 0)]
    assert not (tmp_path / "engines").exists()
