"""Which engine of the store is verified; the engines are simulated, and none is opened."""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import pytest
from classifier_bundle import classifier_bundle
from simulated import ORIN

from edgeq.bundle.manifest import read_manifest
from edgeq.engine_store.candidate import find_engine, tensorrt_candidate
from edgeq.engine_store.planned import build_key, plan_build
from edgeq.engine_store.store import EngineStore
from edgeq.errors import EngineError
from edgeq.tensorrt.loading import QuantizationMode


@pytest.fixture
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of the tiny network; not to be written to."""
    return classifier_bundle(tmp_path_factory)


def stored(bundle: Path, store: Path, release: str, quantization: QuantizationMode | None = None) -> Path:
    """What `edgeq build` leaves in a store, but for the engine itself."""
    settings = plan_build(bundle, quantization=quantization, tensorrt=release)
    parts = build_key(bundle, read_manifest(bundle), settings, ORIN)

    def make(path: Path) -> None:
        path.write_bytes(release.encode())

    return EngineStore(store).build(settings, parts, make).engine


def test_the_engine_of_this_bundle_and_device_is_found(bundle: Path, tmp_path: Path) -> None:
    manifest = read_manifest(bundle)
    modes: tuple[QuantizationMode | None, ...] = (None, "implicit")
    asked = tuple(product(("10.3.0", "10.16.1"), modes))
    made = {(release, quantization): stored(bundle, tmp_path, release, quantization) for release, quantization in asked}
    assert len(set(made.values())) == 4
    for (release, quantization), engine in made.items():
        assert find_engine(bundle, manifest, tmp_path, release, quantization=quantization, machine=ORIN) == engine
    assert (
        find_engine(bundle, manifest, tmp_path, "10.3.0", quantization="explicit", machine=ORIN) == made["10.3.0", None]
    )


def test_an_engine_of_another_release_is_not_taken(bundle: Path, tmp_path: Path) -> None:
    manifest = read_manifest(bundle)
    with pytest.raises(EngineError, match="has no engine of") as caught:
        find_engine(bundle, manifest, tmp_path, "10.3.0", machine=ORIN)
    assert f"next: edgeq build {bundle} --backend tensorrt" in str(caught.value)
    stored(bundle, tmp_path, "10.16.1")
    with pytest.raises(EngineError, match="has no engine of") as caught:
        find_engine(bundle, manifest, tmp_path, "10.3.0", machine=ORIN)
    assert "built for TensorRT 10.16.1, this is 10.3.0" in caught.value.causes[0]


def test_a_damaged_engine_is_not_taken(bundle: Path, tmp_path: Path) -> None:
    stored(bundle, tmp_path, "10.3.0").write_bytes(b"10.3.1")
    with pytest.raises(EngineError, match="has no engine of"):
        find_engine(bundle, read_manifest(bundle), tmp_path, "10.3.0", machine=ORIN)


def test_tensorrt_is_asked_for_first(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineError, match="TensorRT is not installed"):
        tensorrt_candidate(bundle, read_manifest(bundle), tmp_path)
