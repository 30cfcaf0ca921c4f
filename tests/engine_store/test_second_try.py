"""Builds whose precisions cannot be obeyed: what is tried again, what judges it, what is kept. TensorRT is simulated.

ONNX Runtime stands in for it: the engine is the graph itself, and the canaries are the bundle's own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from classifier_bundle import classifier_bundle
from simulated import ORIN, RELEASE, write_classifier
from test_quicker import Blind

from edgeq.bundle.manifest import read_manifest
from edgeq.doctor.built import engine_findings
from edgeq.doctor.bundles import examine_bundle
from edgeq.engine.base import Engine
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.engine_store.candidate import find_engine
from edgeq.engine_store.maker import Job
from edgeq.engine_store.run import BuiltEngine, build
from edgeq.engine_store.second_try import SECOND_TRY, SecondTry
from edgeq.engine_store.store import EngineStore
from edgeq.errors import EdgeqError, EngineError, GateError, QuantizeError
from edgeq.tensorrt.outcome import REPORT, BuildReport, UnbuiltError

OBEY, PREFER = "OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS"
DIFFERS = ("stem: planned int8, the engine has float16 to float16",)
FAILURES: tuple[EdgeqError, ...] = (
    UnbuiltError("TensorRT built no engine of model.fp32.onnx"),
    QuantizeError("the engine differs from its plan in 1 places", causes=DIFFERS),
)


@pytest.fixture
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of the tiny network; not to be written to."""
    return classifier_bundle(tmp_path_factory)


@dataclass
class StrictMaker:
    """In the place of a TensorRT that cannot obey; preferred precisions it leaves, and says so as the builder does."""

    failure: EdgeqError
    release: str = RELEASE
    flags: list[tuple[str, ...]] = field(default_factory=list)
    again: EdgeqError | None = None

    def make(self, job: Job) -> bytes:
        self.flags.append(job.settings.builder_flags)
        if PREFER not in job.settings.builder_flags:
            raise self.failure
        if self.again is not None:
            raise self.again
        assert job.evidence is not None
        job.evidence.mkdir(parents=True)
        report = BuildReport(tensorrt=self.release, settings=job.settings, what="it differs", differs=DIFFERS)
        report.save(job.evidence / REPORT)
        return (job.bundle / job.settings.graph).read_bytes()


def open_graph(model: Path | bytes, *, threads: int | None = None, batch: int | None = None) -> Engine:  # noqa: ARG001
    return OnnxRuntimeEngine(model, threads=1)


def open_blind(model: Path | bytes, *, threads: int | None = None, batch: int | None = None) -> Engine:  # noqa: ARG001
    return Blind(OnnxRuntimeEngine(model, threads=1))


def run(bundle: Path, store: Path, maker: StrictMaker, **changed: Any) -> BuiltEngine:
    given: dict[str, Any] = {"quantization": "implicit", "machine": ORIN, "free_bytes": 1 << 40, "opener": open_graph}
    return build(bundle, store, maker=maker, **(given | changed))[""]


def engines(store: Path) -> list[str]:
    return sorted(path.name for path in store.iterdir() if not path.name.startswith("."))


@pytest.mark.parametrize("failure", FAILURES, ids=["nothing built", "another precision"])
def test_a_second_try_prefers_what_could_not_be_obeyed(bundle: Path, tmp_path: Path, failure: EdgeqError) -> None:
    maker = StrictMaker(failure)
    said: list[str] = []
    built = run(bundle, tmp_path, maker, say=said.append)
    assert maker.flags == [("INT8", "FP16", OBEY), ("INT8", "FP16", PREFER)]
    assert built.engine.read_bytes() == (bundle / "model.fp32.onnx").read_bytes()
    assert built.settings is not None
    assert built.settings.builder_flags == ("INT8", "FP16", PREFER)
    second = built.second_try
    assert second is not None
    assert (second.first, second.differs) == (failure.what, DIFFERS)
    assert second == SecondTry.load(built.engine.with_name(SECOND_TRY))
    assert "a second try with PREFER_PRECISION_CONSTRAINTS" in built.because
    assert "1 layers compute in something else than planned, and the canaries pass" in built.because
    assert str(second.evidence) in built.because
    assert said == [f"{failure.what}: a second try prefers the planned precisions, and the canaries decide"]


def test_it_is_found_and_not_tried_again(bundle: Path, tmp_path: Path) -> None:
    maker = StrictMaker(FAILURES[0])
    first = run(bundle, tmp_path, maker)
    again = run(bundle, tmp_path, maker, free_bytes=1)
    assert (again.engine, again.reused, again.second_try) == (first.engine, True, first.second_try)
    assert len(maker.flags) == 2
    manifest = read_manifest(bundle)
    assert find_engine(bundle, manifest, tmp_path, RELEASE, quantization="implicit", machine=ORIN) == first.engine


def test_an_engine_that_obeys_has_none(bundle: Path, tmp_path: Path) -> None:
    class Obeying(StrictMaker):
        def make(self, job: Job) -> bytes:
            return (job.bundle / job.settings.graph).read_bytes()

    built = run(bundle, tmp_path, Obeying(FAILURES[0]))
    assert (built.second_try, built.because) == (None, "no engine of this graph is in the store")


def test_the_canaries_decide(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(
        GateError, match="the engine of the second try does not compute what the workshop saw"
    ) as caught:
        run(bundle, tmp_path, StrictMaker(FAILURES[0]), opener=open_blind)
    assert engines(tmp_path) == []
    assert f"what was built is in {tmp_path / '.evidence'}" in caught.value.next_step
    assert "leave --quantization implicit out" in caught.value.next_step


@pytest.mark.parametrize("failure", FAILURES, ids=["nothing built", "another precision"])
def test_with_explicit_quantization_there_is_nothing_to_loosen(
    bundle: Path, tmp_path: Path, failure: EdgeqError
) -> None:
    maker = StrictMaker(failure)
    with pytest.raises(type(failure), match=failure.what):
        run(bundle, tmp_path, maker, quantization=None)
    assert maker.flags == [()]
    assert engines(tmp_path) == []


def test_what_another_try_would_not_help_is_not_tried_again(bundle: Path, tmp_path: Path) -> None:
    maker = StrictMaker(EngineError("TensorRT built no engine of model.fp32.onnx", causes=("out of memory",)))
    with pytest.raises(EngineError, match="built no engine"):
        run(bundle, tmp_path, maker)
    assert len(maker.flags) == 1


def test_a_second_try_that_fails_as_well(bundle: Path, tmp_path: Path) -> None:
    maker = StrictMaker(FAILURES[1], again=UnbuiltError("TensorRT built no engine, again"))
    with pytest.raises(UnbuiltError, match="again"):
        run(bundle, tmp_path, maker)
    assert engines(tmp_path) == []


def test_without_canaries_nothing_could_judge_it(tmp_path: Path) -> None:
    bundle, maker = write_classifier(tmp_path / "bundle"), StrictMaker(FAILURES[0])
    said: list[str] = []
    with pytest.raises(UnbuiltError):
        run(bundle, tmp_path / "store", maker, say=said.append)
    assert len(maker.flags) == 1
    (sentence,) = said
    assert sentence.startswith("no second try: nothing could judge its engine, ")


def test_what_was_left_of_an_earlier_build_is_removed(bundle: Path, tmp_path: Path) -> None:
    """Otherwise the report of one day would be read as that of another."""
    maker = StrictMaker(FAILURES[1])
    built = run(bundle, tmp_path, maker)
    stale = EngineStore(tmp_path).evidence(built.key or "") / "stale"
    stale.write_text("of yesterday")
    built.engine.unlink()
    assert not run(bundle, tmp_path, maker).reused
    assert not stale.exists()


def test_the_doctor_finds_it(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(bundle, tmp_path, StrictMaker(FAILURES[0]))
    inputs = "edgeq.engine_store.planned.choose_quantization"
    monkeypatch.setattr(inputs, lambda *_args, **_kwargs: ("implicit", "implicit: in a test"))
    (found,) = engine_findings(examine_bundle(bundle), RELEASE, EngineStore(tmp_path), ORIN)
    assert found.status == "ok"


def test_a_release_that_is_newer_than_known_is_warned_of(bundle: Path, tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(QuantizeError):
        run(bundle, tmp_path, StrictMaker(FAILURES[1], "12.0.0"), quantization=None, say=said.append)
    assert said[0].startswith("TensorRT 12.0.0 is newer than the releases that edgeq was checked against")
