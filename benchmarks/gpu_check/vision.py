"""The vision engine as `edgeq run` and `edgeq serve` have it: built from a bundle, found in the store, shown the
canaries, and its features left on the GPU. Without TensorRT, what takes its place.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks.gpu_check.findings import Finding, Scale, milliseconds
from edgeq.bundle.manifest import read_manifest
from edgeq.bundle.vlm_settings import VlmSettings
from edgeq.engine import Engine
from edgeq.engine.registry import PROVIDERS
from edgeq.engine_store.run import build
from edgeq.engine_store.store import default_store
from edgeq.errors import EdgeqError, EngineError
from edgeq.families.features import on_host
from edgeq.install.candidate_here import AUTO, vision_candidate
from edgeq.runtime.canary.canary_set import CanarySet, open_canaries
from edgeq.runtime.canary.check import canary_feeds, check_canaries
from edgeq.runtime.vlm.vision_encoder import VisionEncoder

__all__ = ["vision"]


def vision(scale: Scale) -> Iterator[Finding]:
    """Findings on the build, on the engine, and on ONNX Runtime's own providers."""
    if scale.bundle is None and scale.tiny:
        yield {"skipped": "no --bundle of a vision-language model"}
        return
    with TemporaryDirectory() as scratch:
        bundle = scale.bundle or _demo(Path(scratch))
        built: Finding = {}
        if not scale.tiny:
            built = _built(bundle)
            yield built
        found = _engine(scale, bundle, AUTO)
        if built.get("fine"):  # then it is the engine that answers, and nothing of it comes to the host
            found["fine"] = bool(found.get("fine") and found.get("stays_on_gpu"))
        yield found
        for each in PROVIDERS:
            yield _engine(scale, bundle, each.name)


def _demo(scratch: Path) -> Path:
    """The bundle of the demo's model, made here."""
    from benchmarks.cpu_vlm import STEPS

    for step in ("make", "prepare"):
        STEPS[step](scratch, "demo")
    return scratch / "bundle"


def _built(bundle: Path) -> Finding:
    start = time.perf_counter()
    try:
        made = build(bundle, default_store())[""]
    except EdgeqError as error:
        return {"name": "build", "fine": False, "failed": str(error)[:500]}
    taken = round(time.perf_counter() - start, 1)
    return {"name": "build", "seconds": taken, "reused": made.reused, "bytes": made.size, "fine": True}


def _engine(scale: Scale, bundle: Path, backend: str) -> Finding:
    """One backend beside ONNX Runtime on the CPU."""
    found: Finding = {"name": backend}
    try:
        candidate = vision_candidate(bundle, bundle, read_manifest(bundle), backend)
        engine = candidate.open()
    except EngineError as error:
        return found | {"skipped": error.what}
    canaries = open_canaries(bundle, read_manifest(bundle))
    found |= {"backend": candidate.backend, "because": candidate.because}
    report = check_canaries(bundle, engine, answers=True)
    found |= {"canaries": report.passed, "failures": list(report.failures)}
    return found | _features(scale, bundle, engine, canaries) | {"fine": report.passed}


def _features(scale: Scale, bundle: Path, engine: Engine, canaries: CanarySet) -> Finding:
    """Where the features are, how far they are from ONNX Runtime's, and how long they take."""
    feeds = canary_feeds(engine, canaries.known[0])
    encoder = VisionEncoder(engine)
    made = encoder.encode(feeds)
    plain = VisionEncoder.open(bundle / VlmSettings.of(bundle).vision).encode(feeds)
    apart = {
        name: float(np.linalg.norm(on_host(value) - on_host(plain[name])) / np.linalg.norm(on_host(plain[name])))
        for name, value in made.items()
    }
    return {
        "stays_on_gpu": all(isinstance(value, torch.Tensor) and value.is_cuda for value in made.values()),
        "relative_error": apart,
        "encode_ms": milliseconds(lambda: encoder.encode(feeds), scale.device, 1 if scale.tiny else 20),
    }
