"""`edgeq build` on a machine without TensorRT: the dry run, what is refused, and the way to a simulated builder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command import Edgeq, assert_refused
from networks import ALLOWED, QUICK, write_model
from pictures import draw_pictures

from edgeq.engine_store.machine import Machine
from edgeq.engine_store.maker import Job
from edgeq.pipeline.classifier import Options, prepare
from edgeq.pipeline.vlm import PreparedVlm
from edgeq.tensorrt.settings import BuildSettings

ORIN = Machine(compute_capability="8.7", device="NVIDIA Jetson Orin NX", platform="L4T 36.4.3", architecture="aarch64")
MADE = b"this stands for an engine"


class Simulated:
    """In the place of TensorRT."""

    release = "10.3.0"

    def make(self, job: Job) -> bytes:
        job.say("one layer is slow")
        return MADE


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of the tiny network; not to be written to."""
    folder = tmp_path_factory.mktemp("made")
    options = Options(allow=ALLOWED, method="mse", threads=1, timing=QUICK)
    pictures = draw_pictures(folder / "pictures")
    return prepare(write_model(folder / "model"), pictures, folder / "bundle", options=options).bundle


@pytest.fixture
def without_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)


@pytest.fixture
def on_orin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a simulated builder, and memory enough."""
    monkeypatch.setattr("edgeq.cli.device.build.read_machine", lambda: ORIN)
    monkeypatch.setattr("edgeq.engine_store.run.read_machine", lambda: ORIN)
    monkeypatch.setattr("edgeq.engine_store.run.TensorRtMaker", Simulated)
    monkeypatch.setattr("edgeq.engine_store.run.check_memory", lambda *_: None)


@pytest.mark.usefixtures("without_tensorrt")
def test_a_dry_run_prints_all_that_would_be_set(bundle: Path, edgeq: Edgeq, tmp_path: Path) -> None:
    store = tmp_path / "store"
    done = edgeq("build", bundle, "--dry-run", "--tensorrt", "10.3.0", "--batch", "1", "4", "8", "--store", store)
    assert (done.status, done.err) == (0, "")
    said = " ".join(done.out.split())
    for words in (
        "model.int8.trt.onnx",
        "explicit: the default; TensorRT 10.3.0 has both modes",
        "STRONGLY_TYPED",
        "none: the graph says it all",
        "1x3x16x16 .. 4x3x16x16 .. 8x3x16x16",
        "256 MiB",
        "logits float32",
        "head Gemm float32 float32",
    ):
        assert words in said
    assert not store.exists()


@pytest.mark.usefixtures("without_tensorrt")
def test_a_dry_run_of_implicit_quantization(bundle: Path, edgeq: Edgeq) -> None:
    asked = ("--tensorrt", "10.3.0", "--quantization", "implicit")
    said = " ".join(edgeq("build", bundle, "--dry-run", *asked).out.split())
    for words in (
        "model.fp32.onnx",
        "implicit: asked for; TensorRT 10.3.0 has both modes",
        "INT8 FP16 OBEY_PRECISION_CONSTRAINTS",
        "calibration.cache",
        "stem Conv int8 int8",
        "head Gemm float32 float32",
    ):
        assert words in said


@pytest.mark.usefixtures("without_tensorrt")
def test_a_release_that_nobody_knows_yet_is_warned_of(bundle: Path, edgeq: Edgeq) -> None:
    done = edgeq("build", bundle, "--dry-run", "--tensorrt", "12.0", "--json")
    assert (done.status, BuildSettings.model_validate_json(done.out).tensorrt) == (0, "12.0.0")
    assert "TensorRT 12.0.0 is newer than the releases that edgeq was checked against" in done.err
    assert edgeq("build", bundle, "--dry-run", "--tensorrt", "11.4.0").err == ""


@pytest.mark.usefixtures("without_tensorrt")
def test_what_the_key_lacks_is_named(bundle: Path, edgeq: Edgeq, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = ORIN.model_copy(update={"compute_capability": None, "device": None})
    monkeypatch.setattr("edgeq.cli.device.build.read_machine", lambda: nowhere)
    said = " ".join(edgeq("build", bundle, "--dry-run").out.split())
    assert "not known here: tensorrt, compute capability, device" in said
    assert "name one with --tensorrt" in said


@pytest.mark.usefixtures("without_tensorrt")
def test_the_json_of_a_dry_run_is_the_settings(bundle: Path, edgeq: Edgeq) -> None:
    done = edgeq("build", bundle, "--dry-run", "--tensorrt", "11.0.0", "--json")
    settings = BuildSettings.model_validate_json(done.out)
    assert (settings.quantization, settings.graph, settings.tensorrt) == ("explicit", "model.int8.trt.onnx", "11.0.0")
    assert settings.network_flags == ("STRONGLY_TYPED",)


def test_the_dry_run_of_a_vision_language_model(prepared_vlm: PreparedVlm, edgeq: Edgeq) -> None:
    for quantization, flags in (("explicit", ()), ("implicit", ("FP16", "OBEY_PRECISION_CONSTRAINTS"))):
        asked = ("--quantization", quantization) if quantization == "implicit" else ()
        done = edgeq("build", prepared_vlm.bundle, "--dry-run", "--tensorrt", "10.16.1", *asked, "--json")
        settings = BuildSettings.model_validate_json(done.out)
        assert (settings.quantization, settings.graph, settings.builder_flags) == (
            quantization,
            "vision.fp16.onnx",
            flags,
        )
        assert {layer.precision for layer in settings.layers} == {"float16"}


def test_the_impossible_road_names_the_other(bundle: Path, edgeq: Edgeq) -> None:
    done = edgeq("build", bundle, "--dry-run", "--tensorrt", "11.0.0", "--quantization", "implicit")
    assert_refused(done, "implicit", "explicit", "11")


@pytest.mark.usefixtures("without_tensorrt")
def test_without_tensorrt_nothing_is_built(bundle: Path, edgeq: Edgeq, tmp_path: Path) -> None:
    assert_refused(edgeq("build", bundle, "--store", tmp_path / "store"), "TensorRT is not installed", "next:")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--batch", "4", "2", "1"), "4, 2"),
        (("--batch", "0", "1", "2"), "--batch"),
        (("--tensorrt", "ten"), "ten"),
        (("--images", "pictures"), "add --quantization implicit"),
        (("--workspace", "0"), "--workspace"),
    ],
)
def test_what_cannot_be_is_refused(bundle: Path, edgeq: Edgeq, flags: tuple[str, ...], words: str) -> None:
    assert_refused(edgeq("build", bundle, "--dry-run", *flags), words)


def test_no_bundle(edgeq: Edgeq, tmp_path: Path) -> None:
    assert_refused(edgeq("build", tmp_path, "--dry-run"), "is not a bundle")


def test_onnx_runtime_takes_the_graph_as_it_is(bundle: Path, edgeq: Edgeq) -> None:
    done = edgeq("build", bundle, "--backend", "onnxruntime")
    assert (done.status, done.out) == (0, f"{bundle / 'model.int8.ort.onnx'}\n")
    assert "there is nothing to build" in done.err
    found = json.loads(edgeq("build", bundle, "--backend", "onnxruntime", "--json").out)
    assert (found["engine"], found["key"]) == (str(bundle / "model.int8.ort.onnx"), None)
    assert_refused(
        edgeq("build", bundle, "--backend", "onnxruntime", "--quantization", "explicit"),
        "--quantization is for --backend",
    )


@pytest.mark.usefixtures("on_orin")
def test_an_engine_is_built_and_found(bundle: Path, edgeq: Edgeq, tmp_path: Path) -> None:
    first = edgeq("build", bundle, "--store", tmp_path)
    engine = Path(first.out.strip())
    assert (first.status, engine.read_bytes()) == (0, MADE)
    assert "one layer is slow" in first.err
    assert "built, because no engine of this graph is in the store" in first.err
    second = edgeq("build", bundle, "--store", tmp_path)
    assert (second.out, second.err.strip()) == (first.out, "it is in the store")
    made = json.loads(edgeq("build", bundle, "--store", tmp_path, "--json").out)
    assert (made["key"], made["reused"], made["parts"]["device"]) == (engine.parent.name, True, ORIN.device)
    dry = "".join(edgeq("build", bundle, "--store", tmp_path, "--tensorrt", "10.3.0", "--dry-run").out.split())
    assert engine.parent.name in dry


def test_a_dry_run_needs_no_package_of_the_workshop(bundle: Path) -> None:
    code = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("onnx", "onnx_graphsurgeon", "onnxruntime", "torch", "transformers", "tensorrt"):
            raise ModuleNotFoundError(f"{name} is not there", name=name)

sys.meta_path.insert(0, Refuse())
from edgeq.cli import run
sys.exit(run(sys.argv[1:]))
"""
    command = [sys.executable, "-c", code, "build", str(bundle), "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "STRONGLY_TYPED" in done.stdout
