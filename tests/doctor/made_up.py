"""Bundles made of a few bytes, and the memory plan and engine description that may lie in them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edgeq.bundle.manifest import DeviceNeeds, Kind, write_manifest
from edgeq.device import PROFILES
from edgeq.plan.budget import MemoryItem, Phase, Workload
from edgeq.plan.kv import KvCache
from edgeq.plan.memory import ImageMemory, MemoryPlan
from edgeq.tensorrt.inputs import ENGINE_INPUTS, Binding, EngineGraph, EngineInputs

GRAPH, PLAN = b"no graph", b"no plan"


def bundle(
    directory: Path, *, kind: Kind = "classifier", needs: DeviceNeeds | None = None, needed_bytes: int | None = None
) -> Path:
    """A bundle whose digests are right."""
    directory.mkdir(parents=True)
    (directory / "vision.fp16.onnx").write_bytes(GRAPH)
    (directory / "plan.yaml").write_bytes(PLAN)
    engine_inputs().save(directory / ENGINE_INPUTS)
    if needed_bytes is not None:
        memory_plan(needed_bytes).save(directory / "memory.json")
    write_manifest(directory, kind=kind, needs=needs)
    return directory


def engine_inputs(file: str = "vision.fp16.onnx") -> EngineInputs:
    """Of an FP16 vision encoder."""
    graph = EngineGraph(
        file=file,
        sha256=hashlib.sha256(GRAPH).hexdigest(),
        weight_bytes=1000,
        inputs=(Binding(name="pixels", dtype="float32", shape=(None, 3, 28, 28)),),
        outputs=(Binding(name="features", dtype="float32", shape=(None, 4, 8)),),
        layers=(),
    )
    return EngineInputs(
        precision="fp16", graphs={"explicit": graph}, pictures=1, plan_sha256=hashlib.sha256(PLAN).hexdigest()
    )


def memory_plan(needed_bytes: int) -> MemoryPlan:
    """A plan that needs so much at one moment."""
    moment = Phase(name="answering", items=(MemoryItem(name="all", bytes=needed_bytes, how="made up"),))
    return MemoryPlan(
        model="made up",
        model_type="llava",
        device=PROFILES["orin-nx-16gb"],
        request=Workload(context=64, images=1, batch=1, image_size=(28, 28)),
        double_quant=True,
        tied_head=False,
        components=(),
        kv=KvCache(bytes_per_token=1, cross_bytes_per_token=0, layer_bytes_per_token=1, layers=((None, 1),)),
        image=ImageMemory(tokens=4, cross_tokens=0, markers=0, tiles=1, sequences=1, sequence=4, kv_bytes=4),
        phases=(moment,),
        needed_bytes=needed_bytes,
        fits=True,
        spare_bytes=0,
        reason="",
        changes=(),
    )
