"""INT8 or FP16 on the device: ONNX Runtime stands in for TensorRT, and runs each graph as if it were the engine."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from blocks import transformer, write_model
from command import Edgeq
from networks import ALLOWED, QUICK
from numpy.typing import NDArray
from pictures import draw_pictures
from simulated import ORIN, RELEASE

from edgeq.bundle.manifest import read_manifest, write_manifest
from edgeq.engine.base import Engine
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.engine_store.candidate import find_engine
from edgeq.engine_store.maker import Job
from edgeq.engine_store.quicker import CHOICE, EngineChoice, choose_engine
from edgeq.engine_store.run import BuiltEngine, build
from edgeq.errors import ArtifactError, EngineError, GateError, QuantizeError
from edgeq.pipeline.classifier import Options, prepare
from edgeq.quality.gate import GateBounds
from edgeq.runtime.canary.canaries import CANARIES

INT8, FP16 = "model.int8.trt.onnx", "model.fp16.onnx"
PLENTY = 1 << 40


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a transformer whose speed ONNX Runtime's CPU refuses: TensorRT gets both graphs."""
    folder = tmp_path_factory.mktemp("both")
    model = write_model(folder / "model", transformer())
    gate = GateBounds(min_speedup=1e9, max_spread=1.0)
    options = Options(allow=ALLOWED, threads=1, timing=QUICK, method="minmax", gate=gate)
    return prepare(model, draw_pictures(folder / "pictures"), folder / "bundle", options=options).bundle


@dataclass
class GraphMaker:
    """In the place of TensorRT: the engine is the graph itself."""

    release: str = RELEASE
    graphs: list[str] = field(default_factory=list)

    def make(self, job: Job) -> bytes:
        self.graphs.append(job.settings.graph)
        return (job.bundle / job.settings.graph).read_bytes()


class Blind:
    """An engine that gives the opposite of what it should."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.inputs, self.outputs = engine.inputs, engine.outputs

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        return {name: -value for name, value in self._engine.run(feeds, outputs).items()}


@dataclass
class Opener:
    """Opens graphs with ONNX Runtime; those of `blind` give what is wrong."""

    bundle: Path
    blind: tuple[str, ...] = ()
    opened: int = 0

    def __call__(self, model: Path | bytes, *, threads: int | None = None, batch: int | None = None) -> Engine:  # noqa: ARG002
        self.opened += 1
        assert isinstance(model, Path)
        engine = OnnxRuntimeEngine(model, threads=1, integers=False)
        wrong = any(model.read_bytes() == (self.bundle / name).read_bytes() for name in self.blind)
        return Blind(engine) if wrong else engine


def run(bundle: Path, store: Path, opener: Opener, maker: GraphMaker | None = None, **others: Any) -> BuiltEngine:
    given: dict[str, Any] = {"quantization": "explicit", "machine": ORIN, "free_bytes": PLENTY} | others
    return build(bundle, store, maker=maker or GraphMaker(), opener=opener, **given)[""]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timed once: the figures are not looked at, but for which is taken."""
    defaults = dict(choose_engine.__kwdefaults__ or {})
    monkeypatch.setattr(choose_engine, "__kwdefaults__", {**defaults, "timing": QUICK})


def test_both_are_built_and_the_quicker_one_that_sees_is_taken(bundle: Path, tmp_path: Path) -> None:
    maker, opener = GraphMaker(), Opener(bundle)
    built = run(bundle, tmp_path / "store", opener, maker)
    assert maker.graphs == [INT8, FP16]
    choice = built.choice
    assert choice is not None
    assert choice.latency is not None
    assert choice.chosen == ("int8" if choice.latency.speedup > 1 else "fp16")
    assert {name: (engine.sees, engine.failures) for name, engine in choice.engines.items()} == {
        "int8": (True, ()),
        "fp16": (True, ()),
    }
    assert all(engine.milliseconds for engine in choice.engines.values())
    assert built.key == choice.engines[choice.chosen].key
    graph = INT8 if choice.chosen == "int8" else FP16
    assert built.engine.read_bytes() == (bundle / graph).read_bytes()
    assert "times as fast as FP16 here" in built.because
    for engine in choice.engines.values():
        assert EngineChoice.load(tmp_path / "store" / engine.key / CHOICE) == choice


def test_what_was_found_is_found_again(bundle: Path, tmp_path: Path) -> None:
    opener = Opener(bundle)
    first = run(bundle, tmp_path / "store", opener)
    opened, maker = opener.opened, GraphMaker()
    again = run(bundle, tmp_path / "store", opener, maker)
    assert (again.engine, again.choice, again.reused) == (first.engine, first.choice, True)
    assert (opener.opened, maker.graphs) == (opened, [])


@pytest.mark.parametrize(("blind", "taken"), [(INT8, "fp16"), (FP16, "int8")])
def test_an_engine_that_does_not_see_is_not_taken_however_quick(
    bundle: Path, tmp_path: Path, blind: str, taken: str
) -> None:
    built = run(bundle, tmp_path / "store", Opener(bundle, (blind,)))
    assert built.choice is not None
    assert (built.choice.chosen, built.choice.latency) == (taken, None)
    assert "does not compute here what the workshop saw" in built.because
    found = find_engine(
        bundle, read_manifest(bundle), tmp_path / "store", RELEASE, quantization="explicit", machine=ORIN
    )
    assert found == built.engine, "what is loaded is what was taken"


def test_where_neither_sees_there_is_no_engine(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(GateError, match="neither the INT8 engine nor the FP16 engine"):
        run(bundle, tmp_path / "store", Opener(bundle, (INT8, FP16)))
    with pytest.raises(EngineError, match="has no engine of"):
        find_engine(bundle, read_manifest(bundle), tmp_path / "store", RELEASE, quantization="explicit", machine=ORIN)


@dataclass
class HalfMaker(GraphMaker):
    """A TensorRT whose INT8 engine is another than was planned."""

    def make(self, job: Job) -> bytes:
        engine = super().make(job)
        if job.settings.graph == INT8:
            raise QuantizeError("the engine differs from its plan in 1 places", next_step="it is kept")
        return engine


def test_fp16_takes_the_place_of_an_int8_engine_that_cannot_be_made(bundle: Path, tmp_path: Path) -> None:
    """A strongly typed network has nothing to loosen, and the bundle has another graph."""
    maker, store = HalfMaker(), tmp_path / "store"
    said: list[str] = []
    built = run(bundle, store, Opener(bundle), maker, say=said.append)
    assert maker.graphs == [INT8, FP16]
    assert built.engine.read_bytes() == (bundle / FP16).read_bytes()
    assert built.choice is not None
    assert (built.choice.chosen, built.choice.engines["int8"].failures) == (
        "fp16",
        ("the engine differs from its plan in 1 places",),
    )
    assert "no INT8 engine could be made here: the engine differs from its plan in 1 places" in built.because
    assert said == [
        "the engine differs from its plan in 1 places: the FP16 engine takes its place, if it sees. it is kept"
    ]
    found = find_engine(bundle, read_manifest(bundle), store, RELEASE, quantization="explicit", machine=ORIN)
    assert found == built.engine
    again = run(bundle, store, Opener(bundle), maker)
    assert (again.engine, again.choice, again.reused) == (built.engine, built.choice, True)
    assert maker.graphs == [INT8, FP16], "what cannot be made is not tried each time"


def test_an_fp16_engine_that_does_not_see_takes_no_place(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(GateError, match="no INT8 engine could be made, and the FP16 engine does not compute"):
        run(bundle, tmp_path / "store", Opener(bundle, (FP16,)), HalfMaker())
    with pytest.raises(EngineError, match="has no engine of"):
        find_engine(bundle, read_manifest(bundle), tmp_path / "store", RELEASE, machine=ORIN)


def test_without_canaries_nothing_is_built(bundle: Path, tmp_path: Path) -> None:
    """They decide between the two engines: without them both would be built for nothing."""
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    shutil.rmtree(copy / CANARIES)
    write_manifest(copy)
    maker = GraphMaker()
    with pytest.raises(ArtifactError, match="has no canaries"):
        run(copy, tmp_path / "store", Opener(copy), maker)
    assert maker.graphs == []


def test_both_are_shown_before_anything_is_built(bundle: Path, edgeq: Edgeq) -> None:
    done = edgeq("build", bundle, "--dry-run", "--tensorrt", "11.0.0")
    assert done.status == 0, done.err
    assert f"What TensorRT would be told of {INT8}" in done.out
    assert f"What TensorRT would be told of {FP16}" in done.out
