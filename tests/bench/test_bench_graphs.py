"""The benchmark of classifiers and of CLIP's encoders: counts, bounds, and batches that an engine does not take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from classifier_bundle import classifier_bundle
from command import Edgeq
from numpy.typing import NDArray
from retrieval_bundle import retrieval_bundle
from square_detector import detector_place

from edgeq.bench.graphs import GraphFigures, GraphLoad, measure_graph
from edgeq.bench.report import BenchLoad, BenchReport
from edgeq.bench.run import BenchRequest, bench
from edgeq.bundle.manifest import MANIFEST
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.errors import EngineError
from edgeq.families.base import Arrays
from edgeq.files import sha256_file
from edgeq.runtime.canary.canary_set import open_canaries
from edgeq.runtime.vision_graph import VisionModel

OLD = Path(__file__).resolve().parents[1] / "golden" / "bundles-0.1.0" / "classifier"
REPEATS = 12
LOAD = BenchLoad(repeats=REPEATS, warmup=1, tokens=2, clients=(1,), batches=(1, 3), threads=1)


def check(figures: GraphFigures, what: str, batches: Sequence[int] = (1, 3)) -> None:
    """Counts are exact, and rates are those of the medians."""
    assert figures.what == what
    assert [each.batch for each in figures.batches] == list(batches)
    for times in (figures.whole, *(each.run for each in figures.batches)):
        assert times.runs == REPEATS
        assert times.p90_ms is not None
        assert 0 < times.p50_ms <= times.p90_ms
    for each in figures.batches:
        assert each.per_second == pytest.approx(1e3 * each.batch / each.run.p50_ms)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier_bundle(tmp_path_factory)


def test_a_classifier(classifier: Path) -> None:
    report = bench(BenchRequest(classifier, LOAD))
    (figures,) = report.graphs
    check(figures, "image")
    assert (report.kind, report.answers, report.ceiling) == ("classifier", None, None)
    assert report.backend.startswith("onnxruntime")


def test_a_detector(tmp_path_factory: pytest.TempPathFactory) -> None:
    """From an image to boxes in its own pixels."""
    (figures,) = bench(BenchRequest(detector_place(tmp_path_factory) / "bundle", LOAD)).graphs
    check(figures, "image")


def test_a_bundle_of_before_in_a_store(edgeq: Edgeq, tmp_path: Path) -> None:
    """The version that is in use is measured; its graphs and canaries are those of release 0.1.0."""
    root = tmp_path / "store"
    assert edgeq("install", OLD, "--root", root, "--backend", "onnxruntime").status == 0
    report = bench(BenchRequest(root, LOAD))
    check(report.graphs[0], "image")
    assert report.manifest_sha256 == sha256_file(OLD / MANIFEST)


def test_both_encoders_of_clip(tmp_path_factory: pytest.TempPathFactory) -> None:
    report = bench(BenchRequest(retrieval_bundle(tmp_path_factory), LOAD))
    texts, images = report.graphs
    check(texts, "text")
    check(images, "image")


def test_a_batch_that_is_too_large(tmp_path_factory: pytest.TempPathFactory, edgeq: Edgeq) -> None:
    """A run takes 64 texts, or 32 images."""
    flags = ("--repeats", "2", "--warmup", "0", "--batch", "32", "--batch", "65", "--threads", "1")
    bundle = retrieval_bundle(tmp_path_factory)
    for figures in BenchReport.model_validate_json(edgeq("bench", bundle, *flags, "--json").out).graphs:
        assert ([each.batch for each in figures.batches], figures.refused) == ([32], (65,))
    assert edgeq("bench", bundle, *flags).out.count("Not taken by the engine: batches of 65.") == 2


class OneAtATime:
    """An engine whose batch is `most` at most; it runs the real one.

    Attributes:
        given: to it, in their order.
    """

    def __init__(self, engine: OnnxRuntimeEngine, most: int = 1) -> None:
        self.engine, self.most = engine, most
        self.given: list[NDArray[Any]] = []
        self.inputs, self.outputs = engine.inputs, engine.outputs

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None) -> Arrays:
        self.given.extend(feeds.values())
        if any(len(each) > self.most for each in feeds.values()):
            raise EngineError(f"the engine takes {self.most}")
        return self.engine.run(feeds, outputs) if outputs else self.engine.run(feeds)


def measured(bundle: Path, load: GraphLoad, most: int = 1) -> tuple[GraphFigures, list[NDArray[Any]]]:
    """What is measured with such an engine, and what it was given."""
    canaries = open_canaries(bundle)
    engine = OneAtATime(OnnxRuntimeEngine(canaries.graph, threads=1), most)
    model = VisionModel.of_bundle(bundle, engine)
    return measure_graph(engine, model, canaries, load, lambda *_: None), engine.given


def test_a_batch_that_the_engine_does_not_take_is_said(classifier: Path) -> None:
    figures, given = measured(classifier, GraphLoad(REPEATS, 1, (1, 2)))
    check(figures, "image", (1,))
    assert figures.refused == (2,)
    assert len(given) == 2 * (REPEATS + 1) + 1, "whole, batch 1, and one try of batch 2"


def test_a_batch_is_made_of_the_canaries(classifier: Path) -> None:
    """More than there are come again in their order."""
    size = len(open_canaries(classifier).known) + 1
    _, given = measured(classifier, GraphLoad(1, 0, (size,)), most=size)
    assert len(given[-1]) == size
    np.testing.assert_array_equal(given[-1][-1], given[-1][0])
