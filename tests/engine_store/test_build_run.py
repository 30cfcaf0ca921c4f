"""From a bundle to an engine in the store. The builder is simulated: nobody here has TensorRT."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from pictures import draw_pictures
from simulated import ORIN, SimulatedMaker, plan_bytes, write_classifier, write_vision

from edgeq.engine.registry import DEFAULT
from edgeq.engine_store.run import BuiltEngine, build
from edgeq.engine_store.store import RECORD, EngineRecord
from edgeq.errors import ArtifactError, EngineError, GateError, OutputError
from edgeq.files import sha256_file

PLENTY = 1 << 40


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_classifier(tmp_path / "bundle")


def run(bundle: Path, maker: SimulatedMaker | None = None, **changed: Any) -> BuiltEngine:
    choices: dict[str, Any] = {"maker": maker or SimulatedMaker(), "machine": ORIN, "free_bytes": PLENTY} | changed
    return build(bundle, bundle.parent / "store", **choices)[""]


def test_the_first_call_builds_and_the_second_finds(bundle: Path) -> None:
    maker = SimulatedMaker()
    first, second = run(bundle, maker), run(bundle, maker)
    assert len(maker.jobs) == 1
    assert (first.reused, second.reused) == (False, True)
    assert (first.engine, first.sha256, first.key) == (second.engine, second.sha256, second.key)
    assert first.engine.read_bytes() == plan_bytes()
    assert first.size == len(plan_bytes())
    record = EngineRecord.load(first.engine.with_name(RECORD))
    assert (record.settings, record.parts) == (first.settings, first.parts)


def test_the_builder_is_told_what_was_planned(bundle: Path) -> None:
    maker = SimulatedMaker()
    built = run(bundle, maker, batch=(1, 2, 4))
    (job,) = maker.jobs
    assert (job.bundle, job.settings, job.images) == (bundle, built.settings, None)
    assert job.settings.tensorrt == maker.release
    assert job.timing_cache.parent == bundle.parent / "store" / ".timing"
    assert "10.3.0" in job.timing_cache.name


def test_another_release_or_another_device_builds_again(bundle: Path) -> None:
    first = run(bundle)
    later = run(bundle, SimulatedMaker("10.16.1"))
    assert later.because.endswith("built for TensorRT 10.3.0, this is 10.16.1")
    other = run(bundle, machine=ORIN.model_copy(update={"device": "NVIDIA Jetson AGX Orin"}))
    assert other.because.endswith("built on NVIDIA Jetson Orin NX, this is NVIDIA Jetson AGX Orin")
    assert len({first.key, later.key, other.key}) == 3


def test_a_damaged_bundle_is_not_built_from(bundle: Path) -> None:
    (bundle / "model.fp32.onnx").write_text("something else")
    maker = SimulatedMaker()
    with pytest.raises(ArtifactError):
        run(bundle, maker)
    assert maker.jobs == []


def test_memory_is_looked_at_before_a_build_and_not_before_a_find(bundle: Path) -> None:
    maker = SimulatedMaker()
    with pytest.raises(GateError, match="may take"):
        run(bundle, maker, free_bytes=1)
    assert maker.jobs == []
    run(bundle, maker)
    assert run(bundle, maker, free_bytes=1).reused


def test_a_full_disk_is_seen_before_the_build(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maker, usage = SimulatedMaker(), shutil.disk_usage(bundle)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=0))
    with pytest.raises(OutputError, match="has 0 MB free"):
        run(bundle, maker)
    assert maker.jobs == []


def test_stages_are_reported(bundle: Path) -> None:
    heard: list[str] = []
    run(bundle, progress=lambda stage, _done, _total: heard.append(stage))
    run(bundle, progress=lambda stage, _done, _total: heard.append(stage))
    assert heard == ["build", "engine: Building"]


def test_the_release_that_is_asked_for_must_be_there(bundle: Path) -> None:
    assert run(bundle, SimulatedMaker("10.16.1"), tensorrt="10.16.1.11").key is not None
    with pytest.raises(EngineError, match=r"TensorRT 10\.16\.1 is installed, and 10\.3\.0 was asked for"):
        run(bundle, SimulatedMaker("10.16.1"), tensorrt="10.3.0")


def test_images_make_another_engine(bundle: Path, tmp_path: Path) -> None:
    images, maker = draw_pictures(tmp_path / "images", each=1), SimulatedMaker()
    implicit: dict[str, Any] = {"quantization": "implicit"}
    assert run(bundle, maker, **implicit).key != run(bundle, maker, images=images, **implicit).key
    assert [job.images for job in maker.jobs] == [None, images]


def test_onnx_runtime_takes_the_graph_as_it_is(bundle: Path, tmp_path: Path) -> None:
    vision = write_vision(tmp_path / "vision")
    for directory, name in ((bundle, "model.int8.ort.onnx"), (vision, "vision.fp16.onnx")):
        built = build(directory, tmp_path / "store", backend=DEFAULT)[""]
        assert (built.engine, built.key, built.reused) == (directory / name, None, True)
        assert built.sha256 == sha256_file(directory / name)
    assert not (tmp_path / "store").exists()


def test_without_tensorrt(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # as if it were not installed
    with pytest.raises(EngineError, match="TensorRT is not installed"):
        build(bundle, bundle.parent / "store")
    assert not (bundle.parent / "store").exists()
