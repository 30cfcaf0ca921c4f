"""A bundle made for OpenVINO: prepared, judged, verified, "built" and installed, and where OpenVINO is missing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import pytest
from classifier_bundle import classifier_bundle
from command import ALLOW_FLAGS, Edgeq, assert_refused
from onnx import numpy_helper
from pictures import draw_pictures

from edgeq.bundle.manifest import read_manifest, write_manifest
from edgeq.engine_store.verify_engine import EngineReport
from edgeq.extras import install_command
from edgeq.files import read_json_object
from edgeq.quality.judge import Quality

if TYPE_CHECKING:
    from edgeq.pipeline.vlm import PreparedVlm

GRAPH, USUAL = "model.int8.ov.onnx", "model.int8.ort.onnx"
QUICKLY = ("--seconds", "0.01", "--threads", "1")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_pictures(tmp_path_factory.mktemp("drawn") / "pictures")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny classifier's, for OpenVINO; not to be written to."""
    return classifier_bundle(tmp_path_factory, "openvino")


# ---- the workshop


@pytest.mark.usefixtures("quick_latency")
def test_prepare_and_evaluate(edgeq: Edgeq, tiny_model: Path, pictures: Path, tmp_path: Path) -> None:
    given = ("--images", pictures, "--eval", pictures, "--threads", "1", *ALLOW_FLAGS)
    done = edgeq("prepare", tiny_model, *given, "--backend", "openvino", "-o", tmp_path / "b")
    assert done.status == 0, done.err
    assert "FP32 against INT8, openvino " in done.out
    listed = {file.name for file in read_manifest(tmp_path / "b").files}
    assert {GRAPH, USUAL, "model.int8.trt.onnx"} <= listed
    assert Quality.load(tmp_path / "b" / "quality.json").backend.startswith("openvino ")
    judged = edgeq("evaluate", tmp_path / "b", "--eval", pictures, "--threads", "1")
    assert judged.status == 0, judged.err
    assert "openvino " in judged.out


def test_the_canaries_are_what_openvino_gave(bundle: Path) -> None:
    assert read_json_object(bundle / "canaries" / "canaries.json")["int8"] == GRAPH


def test_without_the_flag_there_is_no_such_graph(tmp_path_factory: pytest.TempPathFactory) -> None:
    listed = {file.name for file in read_manifest(classifier_bundle(tmp_path_factory)).files}
    assert USUAL in listed
    assert GRAPH not in listed


# ---- the device


def test_verify_engine(edgeq: Edgeq, bundle: Path, tmp_path: Path) -> None:
    done = edgeq("verify-engine", bundle, "--backend", "openvino", *QUICKLY, "-o", tmp_path / "r.json")
    assert (done.status, done.err.splitlines()) == (0, ["the engine", "the reference"])
    assert f"{GRAPH} in openvino " in done.out
    assert "The engine computes what the workshop saw." in done.out
    assert EngineReport.load(tmp_path / "r.json").canaries.passed


def test_there_is_nothing_to_build(edgeq: Edgeq, bundle: Path) -> None:
    done = edgeq("build", bundle, "--backend", "openvino")
    assert (done.status, done.out) == (0, f"{bundle / GRAPH}\n")
    assert "OpenVINO runs the bundle's graph as it is: there is nothing to build" in done.err
    assert_refused(edgeq("build", bundle, "--backend", "openvino", "--dry-run"), "--dry-run is for --backend tensorrt")


@pytest.mark.parametrize("flags", [(), ("--backend", "openvino"), ("--backend", "onnxruntime")])
def test_install(edgeq: Edgeq, bundle: Path, tmp_path: Path, flags: tuple[str, ...]) -> None:
    done = edgeq("install", bundle, "--root", tmp_path / "root", "--threads", "1", *flags)
    assert done.status == 0, done.err
    assert "its canaries passed" in done.out


def test_a_vision_language_models_eyes(edgeq: Edgeq, prepared_vlm: PreparedVlm, tmp_path: Path) -> None:
    done = edgeq("verify-engine", prepared_vlm.bundle, "--backend", "openvino", "--answers", *QUICKLY)
    assert done.status == 0, done.err
    assert "vision.fp16.onnx in openvino " in done.out
    built = edgeq("build", prepared_vlm.bundle, "--backend", "openvino")
    assert built.out == f"{prepared_vlm.bundle / 'vision.fp16.onnx'}\n"
    done = edgeq("install", prepared_vlm.bundle, "--root", tmp_path / "root", "--backend", "openvino", "--threads", "1")
    assert done.status == 0, done.err


# ---- where it is not installed


@pytest.mark.usefixtures("without_openvino")
def test_without_openvino_nothing_begins(
    edgeq: Edgeq, bundle: Path, tiny_model: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said before the model is opened, and names what to install."""

    def opened(*_: object, **__: object) -> None:
        raise AssertionError("work was begun")

    for work in (
        "pipeline.classifier.open_image_model",
        "api.workshop.stages.open_model",
        "pipeline.stages.judge",
        "cli.device.verify_engine.canary_sets",
        "api.device.bundles.install",
        "service.load_bundle.examine",
    ):
        monkeypatch.setattr(f"edgeq.{work}", opened)
    on = ("--backend", "openvino")
    verbs: tuple[tuple[str | Path, ...], ...] = (
        ("prepare", tiny_model, "--images", pictures, "-o", tmp_path / "b", *ALLOW_FLAGS, *on),
        ("quantize", bundle, "--scales", bundle / "scales.json", "-o", tmp_path / "q", *on),
        ("evaluate", bundle, "--eval", pictures),
        ("verify-engine", bundle, *on),
        ("install", bundle, "--root", tmp_path / "root", *on),
        ("serve", bundle, *on),
    )
    for verb in verbs:
        status = 70 if verb[0] == "serve" else 2
        assert_refused(edgeq(*verb), "OpenVINO is not installed", f"next: {install_command('openvino')}", status=status)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("without_openvino")
def test_what_needs_no_openvino_goes_on_without_it(edgeq: Edgeq, bundle: Path) -> None:
    assert edgeq("verify-engine", bundle, *QUICKLY).status == 0
    assert edgeq("build", bundle, "--backend", "openvino").status == 0


def test_a_bundle_whose_openvino_graph_is_wrong(edgeq: Edgeq, bundle: Path, tmp_path: Path) -> None:
    """The graph of another backend beside it is right, and is not what is looked at."""
    wrong = shutil.copytree(bundle, tmp_path / "wrong")
    model = onnx.load(wrong / GRAPH)
    for tensor in model.graph.initializer:
        if tensor.name in ("head.weight", "head.bias"):
            tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name))
    onnx.save(model, wrong / GRAPH)
    write_manifest(wrong, labels=read_manifest(bundle).labels)
    assert edgeq("verify-engine", wrong, "--backend", "openvino", *QUICKLY).status == 1
    assert edgeq("verify-engine", wrong, "--backend", "onnxruntime", *QUICKLY).status == 0
    done = edgeq("install", wrong, "--root", tmp_path / "root", "--threads", "1")
    assert done.status == 1
    assert "canaries fail" in done.err
