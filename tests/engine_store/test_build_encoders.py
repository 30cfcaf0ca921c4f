"""A bundle of two encoders: an engine for each, planned together, built one after the other, found each by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from simulated import ORIN, RELEASE, SimulatedMaker, plan_bytes, write_classifier, write_retrieval

from edgeq.bundle.manifest import read_manifest, write_manifest
from edgeq.engine.openvino import BACKEND as OPENVINO
from edgeq.engine.registry import DEFAULT
from edgeq.engine_store.candidate import find_engine
from edgeq.engine_store.planned import build_key, encoders_of, plan_build
from edgeq.engine_store.run import BuiltEngine, build
from edgeq.errors import ArtifactError, EngineError, GateError
from edgeq.files import sha256_file
from edgeq.tensorrt.inputs import ENGINE_INPUTS

PLENTY = 1 << 40
ENCODERS = ("text", "vision")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_retrieval(tmp_path / "towers")


def run(bundle: Path, maker: SimulatedMaker | None = None, **changed: Any) -> dict[str, BuiltEngine]:
    choices: dict[str, Any] = {"maker": maker or SimulatedMaker(), "machine": ORIN, "free_bytes": PLENTY} | changed
    return build(bundle, bundle.parent / "store", **choices)


def test_the_encoders_are_those_with_inputs_for_an_engine(bundle: Path, tmp_path: Path) -> None:
    assert encoders_of(read_manifest(bundle)) == ENCODERS
    assert encoders_of(read_manifest(write_classifier(tmp_path / "classifier"))) == ("",)
    deeper = bundle / "text" / "older"
    deeper.mkdir()
    (deeper / ENGINE_INPUTS).write_text("{}")
    write_manifest(bundle, kind="retrieval")
    assert encoders_of(read_manifest(bundle)) == ENCODERS


def test_each_encoder_gets_its_engine_once(bundle: Path) -> None:
    maker = SimulatedMaker()
    first, second = run(bundle, maker), run(bundle, maker)
    assert (tuple(first), tuple(second)) == (ENCODERS, ENCODERS)
    assert [job.settings.encoder for job in maker.jobs] == list(ENCODERS)
    assert [job.bundle / job.settings.graph for job in maker.jobs] == [
        bundle / "text/model.int8.trt.onnx",
        bundle / "vision.fp16.onnx",
    ]
    assert len({made.key for made in first.values()}) == 2
    for encoder in ENCODERS:
        assert (first[encoder].reused, second[encoder].reused) == (False, True)
        assert first[encoder].engine.read_bytes() == plan_bytes()
        assert first[encoder].engine == second[encoder].engine


def test_what_each_is_told(bundle: Path) -> None:
    text, vision = (plan_build(bundle, encoder=encoder, tensorrt=RELEASE) for encoder in ENCODERS)
    assert (text.quantization, text.calibration, text.builder_flags) == ("explicit", "none", ())
    assert [[entry.opt for entry in profile] for profile in text.profiles] == [[(32, 8)], [(32, 16)]]
    assert (vision.quantization, [entry.max[0] for entry in vision.profile]) == ("explicit", [32])
    assert plan_build(bundle, encoder="vision", tensorrt=RELEASE, quantization="implicit").builder_flags == (
        "FP16",
        "OBEY_PRECISION_CONSTRAINTS",
    )
    with pytest.raises(ArtifactError, match="no graph for implicit quantization"):
        plan_build(bundle, encoder="text", tensorrt=RELEASE, quantization="implicit")


def test_the_key_has_the_files_of_its_own_graph(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    text, vision = (
        build_key(bundle, manifest, plan_build(bundle, encoder=encoder, tensorrt=RELEASE), ORIN) for encoder in ENCODERS
    )
    assert text.graph == {"text/model.int8.trt.onnx": sha256_file(bundle / "text/model.int8.trt.onnx")}
    assert text.plan_sha256 == sha256_file(bundle / "text/plan.yaml")
    assert text.calibration_sha256 == ""
    names = ("vision.fp16.onnx", "vision.fp16.onnx.data")
    assert vision.graph == {name: sha256_file(bundle / name) for name in names}


@pytest.mark.parametrize("changed", ["text/model.int8.trt.onnx", "vision.plan.yaml"])
def test_a_bundle_put_together_from_two_is_refused_before_anything_is_built(bundle: Path, changed: str) -> None:
    (bundle / changed).write_text("of another model")
    write_manifest(bundle, kind="retrieval")
    maker = SimulatedMaker()
    with pytest.raises(ArtifactError, match="speaks of another"):
        run(bundle, maker)
    assert maker.jobs == []


def test_memory_for_both_is_looked_at_before_the_first_is_built(bundle: Path) -> None:
    """Texts have the larger graph here, and are built; images would be refused a few minutes later."""
    text, vision = (plan_build(bundle, encoder=encoder, tensorrt=RELEASE) for encoder in ENCODERS)
    assert vision.peak_bytes < text.peak_bytes
    maker = SimulatedMaker()
    with pytest.raises(GateError, match=r"text/model\.int8\.trt\.onnx may take"):
        run(bundle, maker, free_bytes=vision.peak_bytes)
    assert maker.jobs == []
    built = run(bundle, maker, batch=(1, 2, 4))
    assert run(bundle, maker, batch=(1, 2, 4), free_bytes=1) == {
        encoder: made.model_copy(update={"reused": True, "because": "it is in the store"})
        for encoder, made in built.items()
    }


def test_stages_say_which_encoder(bundle: Path) -> None:
    heard: list[str] = []
    run(bundle, progress=lambda stage, _done, _total: heard.append(stage))
    assert heard == [f"{encoder}: {stage}" for encoder in ENCODERS for stage in ("build", "engine: Building")]


@pytest.mark.parametrize("backend", [DEFAULT, OPENVINO])
def test_other_backends_take_both_graphs_as_they_are(bundle: Path, backend: Any) -> None:
    made = build(bundle, bundle.parent / "store", backend=backend)
    assert {encoder: one.engine for encoder, one in made.items()} == {
        "text": bundle / "text/model.int8.ort.onnx",
        "vision": bundle / "vision.fp16.onnx",
    }
    assert not (bundle.parent / "store").exists()
    own = bundle / "text" / OPENVINO.graph
    own.write_text("made for OpenVINO")
    write_manifest(bundle, kind="retrieval")
    taken = build(bundle, bundle.parent / "store", backend=backend)["text"].engine
    assert (taken == own) == (backend is OPENVINO)


def test_each_engine_is_found_for_its_encoder(bundle: Path) -> None:
    manifest, store = read_manifest(bundle), bundle.parent / "store"
    with pytest.raises(EngineError, match="has no engine of") as caught:
        find_engine(bundle, manifest, store, RELEASE, encoder="text", machine=ORIN)
    assert "an engine of text/model.int8.trt.onnx with explicit quantization" in str(caught.value)
    made = run(bundle)
    for encoder in ENCODERS:
        found = find_engine(bundle, manifest, store, RELEASE, encoder=encoder, machine=ORIN)
        assert found == made[encoder].engine
