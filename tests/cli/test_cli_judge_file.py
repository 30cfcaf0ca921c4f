"""`edgeq judge` of an ONNX file in the real ONNX Runtime; where an engine of TensorRT is judged, that is simulated."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from classifier_bundle import classifier_bundle
from command import Edgeq, assert_refused
from onnx import numpy_helper

from edgeq.engine_store.candidate import Candidate, graph_candidate
from edgeq.judge import engine_file


@pytest.fixture
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of the tiny network; not to be written to."""
    return classifier_bundle(tmp_path_factory)


@pytest.fixture
def pictures(bundle: Path) -> Path:
    """The labelled ones that it was made with."""
    return bundle.parent / "pictures"


def changed(bundle: Path, output: Path, factor: float) -> Path:
    """The FP32 graph with other weights in its head."""
    model = onnx.load(bundle / "model.fp32.onnx")
    head = next(tensor for tensor in model.graph.initializer if tensor.name == "head.weight")
    head.CopyFrom(numpy_helper.from_array((factor * numpy_helper.to_array(head)).astype("float32"), head.name))
    onnx.save(model, output)
    return output


def test_a_graph_that_is_the_bundles(edgeq: Edgeq, bundle: Path, tmp_path: Path) -> None:
    done = edgeq(
        "judge", bundle / "model.int8.ort.onnx", "--against", bundle, "--threads", "1", "-o", tmp_path / "j.json"
    )
    assert done.status == 0
    assert "Verdict: sees." in done.out
    assert "8 of 8 canaries give what the workshop saw" in done.out
    assert engine_file.EngineJudgement.load(tmp_path / "j.json").headline is None


def test_labelled_images(edgeq: Edgeq, bundle: Path, pictures: Path, tmp_path: Path) -> None:
    """As it is, it loses nothing, which 24 images do not show; turned round, the canaries are enough."""
    asked = ("--against", bundle, "--eval", pictures, "--threads", "1", "--json")
    same = json.loads(edgeq("judge", bundle / "model.fp32.onnx", *asked).out)
    assert (same["headline"]["drop"], same["headline"]["labelled"]) == (0.0, True)
    assert (same["verdict"], same["headline"]["examples"]) == ("not shown", 24)
    done = edgeq("judge", changed(bundle, tmp_path / "turned.onnx", -1.0), *asked)
    found: dict[str, Any] = json.loads(done.out)
    assert (done.status, found["verdict"]) == (1, "sees less")
    assert "0 of 8 canaries" in found["reasons"][1]


def test_an_engine_of_simulated_tensorrt(
    edgeq: Edgeq, bundle: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = changed(bundle, tmp_path / "a.onnx", 3.0).rename(tmp_path / "a.engine")

    def opened(*_: Any, file: Path, **_flags: Any) -> Candidate:
        return graph_candidate(file, threads=1)

    monkeypatch.setattr(engine_file, "require", lambda _backend: None)
    monkeypatch.setattr(engine_file, "open_candidate", opened)
    done = edgeq("judge", engine, "--against", bundle, "--eval", pictures, "--threads", "1", "--json")
    found = json.loads(done.out)
    assert (done.status, found["verdict"], found["headline"]["drop"]) == (1, "sees less", 0.0)
    assert "the fault is the engine's" in found["reasons"][1]


def test_what_is_refused(edgeq: Edgeq, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    (tmp_path / "a.plan").write_bytes(b"")
    assert_refused(edgeq("judge", tmp_path / "a.plan", "--against", bundle), "TensorRT is not installed")
    assert_refused(edgeq("judge", tmp_path / "b.onnx", "--against", bundle), "b.onnx is no file")
    graph = bundle / "model.fp32.onnx"
    assert_refused(edgeq("judge", graph, "--against", tmp_path), "is not a bundle")
    assert_refused(edgeq("judge", graph, "--against", bundle, "--sight", "3"), "--sight is for servers")
