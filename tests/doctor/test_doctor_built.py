"""Engines in a store: the store is real, the engine is not one, and nothing loads it."""

from __future__ import annotations

from pathlib import Path

import made_up
import pytest

from edgeq.bundle.manifest import write_manifest
from edgeq.doctor.built import engine_findings
from edgeq.doctor.bundles import Examined, examine_bundle
from edgeq.doctor.finding import DoctorFinding
from edgeq.engine_store.key import engine_key
from edgeq.engine_store.machine import Machine
from edgeq.engine_store.planned import build_key, plan_build
from edgeq.engine_store.quicker import CHOICE, Contender, EngineChoice
from edgeq.engine_store.store import ENGINE, EngineStore
from edgeq.tensorrt.inputs import ENGINE_INPUTS, FP16_INPUTS

RELEASE = "10.3.0"
ORIN = Machine(compute_capability="8.7", device="NVIDIA Jetson Orin NX", platform="L4T 36.4.3", architecture="aarch64")


@pytest.fixture
def bundle(tmp_path: Path) -> Examined:
    return examine_bundle(made_up.bundle(tmp_path / "bundle"))


@pytest.fixture
def store(tmp_path: Path) -> EngineStore:
    return EngineStore(tmp_path / "engines")


def build(bundle: Examined, store: EngineStore, release: str = RELEASE, described: str = ENGINE_INPUTS) -> Path:
    """Put something under the key of the bundle's engine."""
    assert bundle.directory is not None
    assert bundle.manifest is not None
    settings = plan_build(bundle.directory, tensorrt=release, described=described)
    parts = build_key(bundle.directory, bundle.manifest, settings, ORIN, described=described)
    return store.build(settings, parts, _make).engine


def _make(path: Path) -> None:
    path.write_bytes(b"e" * 1_500_000)


def look(bundle: Examined, store: EngineStore, release: str | None = RELEASE) -> DoctorFinding:
    (found,) = engine_findings(bundle, release, store, ORIN)
    return found


def test_it_is_built(bundle: Examined, store: EngineStore) -> None:
    key = build(bundle, store).parent.name
    found = look(bundle, store)
    assert (found.status, found.seen) == ("ok", f"{key[:12]} in {store.root}, 1.5 MB, as it was built")


def test_it_is_not_built(bundle: Examined, store: EngineStore) -> None:
    found = look(bundle, store)
    assert (found.status, "none of this graph" in found.seen) == ("warning", True)
    assert found.next_step == f"edgeq build {bundle.directory} --backend tensorrt"


def test_fp16_in_the_place_of_int8_is_what_is_built(tmp_path: Path, store: EngineStore) -> None:
    directory = made_up.bundle(tmp_path / "both")
    (directory / "int8.onnx").write_bytes(made_up.GRAPH)
    made_up.engine_inputs("int8.onnx").save(directory / ENGINE_INPUTS)
    made_up.engine_inputs().save(directory / FP16_INPUTS)
    write_manifest(directory)
    bundle = examine_bundle(directory)
    assert bundle.manifest is not None
    half = build(bundle, store, described=FP16_INPUTS)
    assert look(bundle, store).status == "warning", "nobody chose it"
    settings = plan_build(directory, tensorrt=RELEASE)
    missing = engine_key(build_key(directory, bundle.manifest, settings, ORIN)) or ""
    contenders = {
        "int8": Contender(key=missing, sees=False, failures=("no kernel",), milliseconds=None),
        "fp16": Contender(key=half.parent.name, sees=True, failures=(), milliseconds=None),
    }
    because = "no INT8 engine could be made here: no kernel"
    EngineChoice(chosen="fp16", because=because, engines=contenders, latency=None, power=None).save(
        half.with_name(CHOICE)
    )
    found = look(bundle, store)
    assert found.status == "ok"
    assert found.seen == f"FP16 in the place of INT8, {half.parent.name[:12]} in {store.root}, 1.5 MB: {because}"


def test_one_of_another_release(bundle: Examined, store: EngineStore) -> None:
    build(bundle, store, "10.16.1")
    found = look(bundle, store)
    assert found.status == "warning"
    assert "10.16.1" in found.seen
    assert RELEASE in found.seen


def test_one_that_was_changed(bundle: Examined, store: EngineStore) -> None:
    build(bundle, store).write_bytes(b"something else")
    found = look(bundle, store)
    assert (found.status, "is not what its record says" in found.seen) == ("warning", True)


def test_where_no_engine_is_needed(bundle: Examined, store: EngineStore) -> None:
    without = look(bundle, store, None)
    assert (without.status, "ONNX Runtime" in without.means) == ("unknown", True)
    assert look(examine_bundle(None), store).status == "unknown"


def test_a_machine_without_a_gpu(bundle: Examined, store: EngineStore) -> None:
    nowhere = ORIN.model_copy(update={"compute_capability": None, "device": None})
    (found,) = engine_findings(bundle, RELEASE, store, nowhere)
    assert (found.status, "not known here" in found.seen) == ("unknown", True)


def test_a_bundle_without_a_description_of_its_engine(tmp_path: Path, store: EngineStore) -> None:
    directory = made_up.bundle(tmp_path / "b")
    (directory / "engine.json").unlink()
    write_manifest(directory)
    assert look(examine_bundle(directory), store).status == "warning"


def test_the_engines_name_is_the_stores(store: EngineStore, bundle: Examined) -> None:
    """Two spellings of a release have one key."""
    assert build(bundle, store).name == ENGINE
    assert engine_key is not None
    assert look(bundle, store, "10.3.0.30").status == "ok"


def test_each_encoder_of_a_bundle_with_several(tmp_path: Path, store: EngineStore) -> None:
    directory = made_up.bundle(tmp_path / "towers")
    for encoder in ("text", "vision"):
        (directory / encoder).mkdir()
        made_up.engine_inputs(f"{encoder}.onnx").save(directory / encoder / ENGINE_INPUTS)
        (directory / f"{encoder}.onnx").write_bytes(made_up.GRAPH)
    (directory / ENGINE_INPUTS).unlink()
    manifest = write_manifest(directory, kind="retrieval")
    settings = plan_build(directory, encoder="vision", tensorrt=RELEASE)
    store.build(settings, build_key(directory, manifest, settings, ORIN), _make)
    text, vision = engine_findings(examine_bundle(directory), RELEASE, store, ORIN)
    assert [(found.name, found.status) for found in (text, vision)] == [
        ("engine: text", "warning"),
        ("engine: vision", "ok"),
    ]
    assert text.next_step == f"edgeq build {directory} --backend tensorrt"
