"""A device with a GPU and a simulated TensorRT: its engine of a graph is that graph, which ONNX Runtime runs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.engine_store import candidate, run
from edgeq.engine_store.machine import Gpu, Machine
from edgeq.engine_store.maker import Job
from edgeq.install import candidate_here, proof

__all__ = ["ORIN", "Maker", "build_engines", "simulate_device"]

ORIN = Machine(compute_capability="8.7", device="NVIDIA Jetson Orin NX", platform="L4T 36.4.3", architecture="aarch64")
_TENSORRT = SimpleNamespace(__version__="10.3.0", __file__="here")


class Maker:
    """Its engine of an encoder is the encoder's graph."""

    release = "10.3.0"

    def make(self, job: Job) -> bytes:
        return (job.bundle / job.settings.graph).read_bytes()


def simulate_device(monkeypatch: pytest.MonkeyPatch, store: Path) -> list[Path]:
    """Make this machine one; `store` is that of its engines. Returns every engine that is opened from now on."""
    found: list[Path] = []

    def load(engine: Path, _memory: object, *, trt: object) -> OnnxRuntimeEngine:
        assert trt is _TENSORRT
        found.append(engine)
        return OnnxRuntimeEngine(engine.read_bytes(), threads=1)

    monkeypatch.setattr(candidate, "load_tensorrt", lambda: _TENSORRT)
    monkeypatch.setattr(candidate, "open_memory", lambda: None)
    monkeypatch.setattr(candidate, "TensorRtEngine", load)
    monkeypatch.setattr(candidate, "read_machine", lambda: ORIN)
    monkeypatch.setattr(candidate_here, "default_store", lambda: store)
    monkeypatch.setattr(proof, "load_tensorrt", lambda: _TENSORRT)
    monkeypatch.setattr(proof, "ask_driver", lambda: Gpu(name="Orin", compute_capability="8.7"))
    monkeypatch.setattr(run, "check_memory", lambda *_: None)
    return found


def build_engines(bundle: Path, store: Path, machine: Machine = ORIN) -> set[Path]:
    """Build all engines of a bundle with it."""
    return {made.engine for made in run.build(bundle, store, maker=Maker(), machine=machine).values()}
