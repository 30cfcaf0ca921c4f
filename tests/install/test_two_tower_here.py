"""What runs both encoders of a two-tower model here. TensorRT is simulated: its engines are graphs for ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from built_engines import ORIN, Maker, build_engines, simulate_device
from retrieval_bundle import retrieval_bundle

import edgeq
from edgeq.api.device.retrieval import index_images, open_search
from edgeq.bundle.manifest import read_manifest
from edgeq.catalog.read import open_catalog
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.engine_store import run
from edgeq.errors import EngineError
from edgeq.install import candidate_here, proof
from edgeq.install.candidate_here import open_two_tower_here
from edgeq.install.store import ENGINES, MARKER
from edgeq.runtime.retrieval.two_tower import open_two_tower
from edgeq.service.load_bundle import open_served
from edgeq.service.settings import ServiceSettings

BUILT = "its engine was built of this bundle for this device"
TEXTS = ["a photo of a cat", "a tree"]


@pytest.fixture
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be written to."""
    return retrieval_bundle(tmp_path_factory)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """A device with a GPU and a simulated TensorRT; every engine that is opened."""
    return simulate_device(monkeypatch, tmp_path / "store")


def test_engines_run_both_encoders_where_they_were_built(bundle: Path, opened: list[Path], tmp_path: Path) -> None:
    engines = build_engines(bundle, tmp_path / "store")
    with edgeq.open_bundle(bundle, threads=1) as towers, edgeq.open_bundle(bundle, backend="onnxruntime") as usual:
        assert (towers.backend, towers.because) == ("tensorrt 10.3.0", BUILT)
        assert usual.backend.startswith("onnxruntime ")
        assert set(opened) == engines
        np.testing.assert_allclose(towers.embed_texts(TEXTS), usual.embed_texts(TEXTS), atol=1e-5)
        image = bundle.parent / "images" / "0.png"
        np.testing.assert_allclose(towers.embed(image), usual.embed(image), atol=1e-5)


def test_without_engines_onnx_runtime_runs_both_and_says_why(bundle: Path, opened: list[Path], tmp_path: Path) -> None:
    with edgeq.open_bundle(bundle, threads=1) as towers:
        assert towers.backend.startswith("onnxruntime ")
        assert towers.because.startswith(
            f"no TensorRT engine: the store {tmp_path / 'store'} has no engine of {bundle}"
        )
        assert towers.because.endswith(f"edgeq build {bundle} --backend tensorrt")
    with pytest.raises(EngineError, match="has no engine of"):
        edgeq.open_bundle(bundle, backend="tensorrt")
    assert opened == []


def test_one_engine_alone_is_not_enough(bundle: Path, opened: list[Path], tmp_path: Path) -> None:
    text, _ = sorted(build_engines(bundle, tmp_path / "store"), key=lambda path: path.stat().st_size)
    text.unlink()
    with edgeq.open_bundle(bundle, threads=1) as towers:
        assert towers.backend.startswith("onnxruntime ")
    with pytest.raises(EngineError, match="has no engine of"):
        edgeq.open_bundle(bundle, backend="tensorrt")
    assert opened == [], "nothing is loaded before both are found"


def test_without_tensorrt_or_a_gpu_onnx_runtime_runs_them(
    bundle: Path, opened: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_engines(bundle, tmp_path / "store")
    monkeypatch.setattr(proof, "ask_driver", lambda: None)
    _, version = open_two_tower_here(bundle, bundle, read_manifest(bundle), "auto", threads=1)
    assert (version.split()[0], opened) == ("onnxruntime", [])


def test_the_service_runs_the_engines_and_shows_them_the_canaries(
    bundle: Path, opened: list[Path], tmp_path: Path
) -> None:
    engines = build_engines(bundle, tmp_path / "store")
    served = open_served(bundle, ServiceSettings(threads=1))
    assert (served.backend, served.because, set(opened)) == ("tensorrt 10.3.0", BUILT, engines)
    assert served.canaries is not None
    assert served.canaries.passed
    served.close()


def test_index_and_search_run_the_engines(bundle: Path, opened: list[Path], tmp_path: Path) -> None:
    engines = build_engines(bundle, tmp_path / "store")
    said: list[str] = []
    index_images(bundle, bundle.parent / "images", tmp_path / "catalog", threads=1, workers=1, say=said.append)
    assert set(opened) == engines
    opened.clear()
    search = open_search(tmp_path / "catalog", threads=1, say=said.append)
    assert said == [f"tensorrt 10.3.0: {BUILT}"] * 2
    (first,) = search.by_image(bundle.parent / "images" / "2.png", k=1)
    assert first.image_path.endswith("2.png")
    assert set(opened) == engines
    opened.clear()
    index_images(
        bundle, bundle.parent / "images", tmp_path / "usual", threads=1, workers=1, kind=None, backend="onnxruntime"
    )
    assert opened == []
    mine, theirs = (open_catalog(tmp_path / name) for name in ("catalog", "usual"))
    for row in range(4):
        np.testing.assert_allclose(mine.vector(row), theirs.vector(row), atol=2e-3)


def test_an_installed_bundle_has_engines_of_its_own(bundle: Path, opened: list[Path], tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "versions").mkdir(parents=True)
    (root / MARKER).write_text("{}")
    place = root / "versions" / "one"
    place.symlink_to(bundle)
    assert candidate_here._engines(place, place) == tmp_path / "store", "a link leads to where the bundle lies"
    place.unlink()
    place.mkdir()
    for file in read_manifest(bundle).files:
        (place / file.name).parent.mkdir(parents=True, exist_ok=True)
        (place / file.name).write_bytes((bundle / file.name).read_bytes())
    (place / "manifest.json").write_bytes((bundle / "manifest.json").read_bytes())
    engines = build_engines(place, root / ENGINES)
    edgeq.open_bundle(place, threads=1).close()
    assert set(opened) == engines


def test_installing_builds_both_and_compares_them_with_the_canaries(
    bundle: Path, opened: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def load(model: Path | bytes, *, threads: int | None = None, batch: int | None = None) -> OnnxRuntimeEngine:
        assert isinstance(model, Path)
        asked.append(model)
        return OnnxRuntimeEngine(model.read_bytes(), threads=threads or batch)

    simulated = SimpleNamespace(name="tensorrt", title="TensorRT", built=True, open=load)
    monkeypatch.setattr(proof, "backend_here", lambda: simulated)
    monkeypatch.setattr(run, "TensorRtMaker", Maker)
    monkeypatch.setattr(run, "read_machine", lambda: ORIN)
    proof.canary_check(tmp_path / "engines", threads=1)(bundle)
    assert {path.parent.parent for path in asked} == {tmp_path / "engines"}
    assert len(asked) == 2
    assert opened == []


def test_openvino_runs_both_graphs(bundle: Path) -> None:
    pytest.importorskip("openvino")
    towers, version = open_two_tower_here(bundle, bundle, read_manifest(bundle), "openvino", threads=1)
    assert version.startswith("openvino ")
    usual = open_two_tower(bundle, threads=1)
    cosines = (towers.text.embed(TEXTS) * usual.text.embed(TEXTS)).sum(axis=1)
    assert (cosines > 0.9999).all()
