"""A two-tower bundle that is served, its text encoder watched and held."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from running import WAIT_S

from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.runtime.retrieval.encoders import TextEncoder
from edgeq.runtime.retrieval.two_tower import open_two_tower
from edgeq.runtime.retrieval.workers import CACHE_BYTES, RetrievalWorkers
from edgeq.service.load_bundle import open_served
from edgeq.service.served_model import ServedModel
from edgeq.service.served_retrieval import ServedRetrieval
from edgeq.service.settings import ServiceSettings

SETTINGS = ServiceSettings(threads=1, backend="onnxruntime")


class HeldEngine:
    """A text graph that tells its runs and can be held.

    Attributes:
        runs: texts of each run.
        go: runs wait for it; set at first.
        entered: set as a run begins.
        gives: in the place of what the graph gives, where it is not None.
    """

    def __init__(self, engine: OnnxRuntimeEngine) -> None:
        self._engine = engine
        self.inputs, self.outputs = engine.inputs, engine.outputs
        self.runs: list[int] = []
        self.go = threading.Event()
        self.go.set()
        self.entered = threading.Event()
        self.gives: Any = None

    def run(self, feeds: Any, outputs: Any = None) -> Any:
        self.runs.append(len(next(iter(feeds.values()))))
        self.entered.set()
        assert self.go.wait(WAIT_S)
        return self._engine.run(feeds, outputs) if self.gives is None else {self.outputs[0]: self.gives}


def watched(bundle: Path, *, queue: int = 16, cache_bytes: int = CACHE_BYTES) -> tuple[ServedModel, HeldEngine]:
    """The bundle as it is served, and its text graph."""
    served = open_served(bundle, SETTINGS)
    served.close()
    model = open_two_tower(bundle, threads=1)
    engine = HeldEngine(OnnxRuntimeEngine(bundle / model.settings.text, threads=1))
    model = replace(model, text=TextEncoder(engine, model.tokenizer, model.settings))
    workers = RetrievalWorkers(model, queue=queue, cache_bytes=cache_bytes)
    return replace(served, retrieval=ServedRetrieval(workers, None)), engine
