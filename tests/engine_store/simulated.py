"""Settings, a machine, a bundle and a simulated builder: the store is real, what is stored is no engine.

The bundle is quick to make and needs no ONNX: its graphs are bytes that only their digests are taken of.

Run as a script it is another process that builds: `simulated.py STORE RELEASE HOW`. It prints a line for each event
("waiting", "building"), and at the end what it got, as JSON. HOW is `once`, `paused` (half of it is written, then it
waits for a line on stdin) or `small-files` (no file may be larger than 4 KiB, as on a full disk).
"""

from __future__ import annotations

import hashlib
import json
import resource
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeq.bundle.manifest import write_manifest
from edgeq.bundle.retrieval_settings import RETRIEVAL_SETTINGS, RetrievalSettings
from edgeq.bundle.vlm_settings import VLM_SETTINGS, VlmSettings
from edgeq.engine_store.key import KeyParts, key_parts
from edgeq.engine_store.machine import Machine
from edgeq.engine_store.maker import Job
from edgeq.engine_store.planned import PREPROCESS
from edgeq.engine_store.store import EngineStore
from edgeq.errors import EdgeqError
from edgeq.files import sha256_file
from edgeq.tensorrt.bundled_cache import CALIBRATION_CACHE
from edgeq.tensorrt.calibration_cache import CalibrationCache
from edgeq.tensorrt.inputs import ENGINE_INPUTS, Binding, EngineGraph, EngineInputs
from edgeq.tensorrt.precisions import LayerPrecision
from edgeq.tensorrt.settings import BuildSettings, ShapeRange

ORIN = Machine(compute_capability="8.7", device="NVIDIA Jetson Orin NX", platform="L4T 36.4.3", architecture="aarch64")
RELEASE = "10.3.0"
SIZE = 100_000
PREPROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 4, "width": 4},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.25, 0.25, 0.25],
}


def settings(release: str | None = RELEASE, *, workspace_bytes: int = 256 << 20) -> BuildSettings:
    """Of a small INT8 classifier with implicit quantization."""
    return BuildSettings(
        graph="model.fp32.onnx",
        graph_sha256="11" * 32,
        quantization="implicit",
        quantization_reason="implicit: in a test",
        tensorrt=release,
        network_flags=(),
        builder_flags=("INT8", "FP16", "OBEY_PRECISION_CONSTRAINTS"),
        layers=(LayerPrecision(name="head", op="Gemm", precision="float32", outputs=("float32",)),),
        output_types={"logits": "float32"},
        profile=(ShapeRange(input="pixels", min=(1, 3, 4, 4), opt=(2, 3, 4, 4), max=(8, 3, 4, 4)),),
        workspace_bytes=workspace_bytes,
        calibration="cache",
        peak_bytes=1,
    )


def parts(release: str | None = RELEASE, machine: Machine = ORIN) -> KeyParts:
    """Of those settings."""
    return key_parts(
        settings(release),
        machine,
        graph={"model.fp32.onnx": "11" * 32},
        plan_sha256="22" * 32,
        calibration_sha256="33" * 32,
    )


def engine_inputs(directory: Path, graph: str, *, plan: str = "plan.yaml", **changed: Any) -> EngineInputs:
    """Of two files in `directory`, for images [batch, 3, 4, 4]; the same graph on both modes."""
    described = EngineGraph(
        file=graph,
        sha256=sha256_file(directory / graph),
        weight_bytes=1_000_000,
        inputs=(Binding(name="pixels", dtype="float32", shape=(None, 3, 4, 4)),),
        outputs=(Binding(name="logits", dtype="float32", shape=(None, 2)),),
        layers=settings().layers,
    )
    given = {"precision": "int8", "graphs": {"implicit": described, "explicit": described}} | changed
    return EngineInputs(**given, plan_sha256=sha256_file(directory / plan))


def write_classifier(directory: Path) -> Path:
    """A bundle of a classifier as far as a build looks at it."""
    directory.mkdir(parents=True)
    for name in ("model.fp32.onnx", "model.int8.ort.onnx", "plan.yaml"):
        (directory / name).write_text(f"this stands for {name}")
    (directory / PREPROCESS).write_text(json.dumps(PREPROCESSOR))
    CalibrationCache((10, 3, 0), (("pixels", 0.5),)).save(directory / CALIBRATION_CACHE)
    engine_inputs(directory, "model.fp32.onnx").save(directory / ENGINE_INPUTS)
    write_manifest(directory)
    return directory


def write_vision(directory: Path) -> Path:
    """A bundle of a vision-language model as far as a build looks at it: five pictures an image, weights apart."""
    directory.mkdir(parents=True)
    for name in ("vision.fp16.onnx", "vision.fp16.onnx.data", "plan.yaml"):
        (directory / name).write_text(f"this stands for {name}")
    vlm = {"model_type": "llava", "image_token": "<image>", "image_token_id": 9, "tokens": 4, "context": 64}
    VlmSettings(**vlm, vision="vision.fp16.onnx", stop=()).save(directory / VLM_SETTINGS)
    engine_inputs(directory, "vision.fp16.onnx", precision="fp16", pictures=5).save(directory / ENGINE_INPUTS)
    write_manifest(directory, kind="vision-language")
    return directory


def write_retrieval(directory: Path) -> Path:
    """A bundle of a two-tower model as far as a build looks at it: texts in INT8, images in FP16."""
    for name in ("text/model.int8.ort.onnx", "text/model.int8.trt.onnx", "text/plan.yaml"):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(f"this stands for {name}")
    for name in ("vision.fp16.onnx", "vision.fp16.onnx.data", "vision.plan.yaml"):
        (directory / name).write_text(f"this stands for {name}")
    RetrievalSettings(
        model_type="clip",
        dimension=2,
        vision="vision.fp16.onnx",
        text="text/model.int8.ort.onnx",
        context=16,
        padding="trim",
        pooling="first",
        eos_id=3,
        pad_id=0,
        logit_scale=100.0,
    ).save(directory / RETRIEVAL_SETTINGS)
    texts = EngineGraph(
        file="text/model.int8.trt.onnx",
        sha256=sha256_file(directory / "text/model.int8.trt.onnx"),
        weight_bytes=2_000_000,
        inputs=(Binding(name="input_ids", dtype="int64", shape=("batch", "length")),),
        outputs=(Binding(name="text_embeds", dtype="float32", shape=("batch", 2)),),
        layers=settings().layers,
    )
    EngineInputs(
        precision="int8",
        graphs={"explicit": texts},
        ranges={"batch": (1, 32, 64)},
        buckets={"length": ((1, 8, 8), (9, 16, 16))},
        plan_sha256=sha256_file(directory / "text/plan.yaml"),
    ).save(directory / "text" / ENGINE_INPUTS)
    (directory / "vision").mkdir()
    vision = engine_inputs(
        directory, "vision.fp16.onnx", plan="vision.plan.yaml", precision="fp16", ranges={"batch": (1, 8, 32)}
    )
    vision.save(directory / "vision" / ENGINE_INPUTS)
    write_manifest(directory, kind="retrieval")
    return directory


@dataclass
class SimulatedMaker:
    """In the place of TensorRT: notes what it is asked for, and makes bytes."""

    release: str = RELEASE
    jobs: list[Job] = field(default_factory=list)

    def make(self, job: Job) -> bytes:
        job.progress("engine: Building", 1, 2)
        self.jobs.append(job)
        return plan_bytes(self.release)


def plan_bytes(release: str = RELEASE) -> bytes:
    """What the simulated builder makes: bytes that depend on the release alone."""
    return hashlib.sha256(release.encode()).digest() * (SIZE // 32)


def make(path: Path, release: str = RELEASE) -> None:
    """The simulated builder."""
    path.write_bytes(plan_bytes(release))


def _say(event: str) -> None:
    print(event, flush=True)


def _other_process(root: Path, release: str, how: str) -> None:
    if how == "small-files":
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    def make_here(path: Path) -> None:
        if how == "paused":
            path.write_bytes(plan_bytes(release)[: SIZE // 2])
            _say("building")
            sys.stdin.readline()
        else:
            _say("building")
        make(path, release)

    try:
        kept = EngineStore(root).build(settings(release), parts(release), make_here, waiting=lambda: _say("waiting"))
        found = {"reused": kept.reused, "sha256": kept.record.sha256, "because": kept.because}
    except EdgeqError as error:
        found = {"error": type(error).__name__, "text": str(error)}
    _say(json.dumps(found))


if __name__ == "__main__":
    _other_process(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
