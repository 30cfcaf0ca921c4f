"""An ONNX file or a TensorRT engine beside the bundle that it should compute: by canaries and by labelled images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

from edgeq.artifact import Artifact
from edgeq.bundle.manifest import read_manifest
from edgeq.engine import Engine
from edgeq.engine.base import EngineBackend
from edgeq.engine.onnxruntime import default_threads
from edgeq.engine.registry import BUILT, DEFAULT, require
from edgeq.engine_store.candidate import Candidate, open_candidate
from edgeq.engine_store.store import default_store
from edgeq.engine_store.verify_engine import EngineReport, canary_sets, verify_engine
from edgeq.errors import EngineError, InputError, shell_word
from edgeq.export.stage import FP32
from edgeq.judge.bounds import DEFAULT_JUDGE_BOUNDS, JudgeBounds
from edgeq.judge.judgement import Verdict, judge_drop
from edgeq.model.checkpoint.source import open_model
from edgeq.model.images.stream import ImageStream
from edgeq.pipeline.fit_task import choose_for, refit_task
from edgeq.quality.tasks.base import Headline, Outputs

__all__ = ["EngineJudgement", "is_engine_file", "judge_engine_file"]

_BACKENDS: Final[dict[str, EngineBackend]] = {".onnx": DEFAULT, ".engine": BUILT, ".plan": BUILT}
"""By the end of a file's name: what runs it."""

_SECONDS: Final = 1.0
"""How long each engine is timed; `edgeq verify-engine` takes longer."""

Progress = Callable[[str, int, int], None]


class EngineJudgement(Artifact):
    """What came of it.

    Attributes:
        target: name of the file.
        verdict: "sees": its canaries, and what is right where there are labelled images, are within the bounds; "sees
            less": one of both is shown to be beyond; "not shown": too few labelled images.
        reasons: sentences.
        bounds: what was demanded of labelled images.
        report: of the canaries.
        headline: on labelled images; None without.
    """

    otherwise = "holds no judgement of an engine"
    made_by = "edgeq judge"

    version: Literal["edgeq.engine-judgement/1"] = "edgeq.engine-judgement/1"
    target: str
    verdict: Verdict
    reasons: tuple[str, ...]
    bounds: JudgeBounds
    report: EngineReport
    headline: Headline | None


def is_engine_file(name: str) -> bool:
    """Whether a name is that of an ONNX file or of a TensorRT engine, by its end."""
    return "://" not in name and Path(name).suffix in _BACKENDS


def judge_engine_file(
    target: Path,
    bundle: Path,
    *,
    labelled: Path | None = None,
    bounds: JudgeBounds = DEFAULT_JUDGE_BOUNDS,
    threads: int | None = None,
    progress: Progress | None = None,
) -> EngineJudgement:
    """Run a bundle's canaries through an engine and, where there are labelled images, those as well.

    The images go through the bundle's FP32 graph in ONNX Runtime and through the engine.

    Args:
        target: an ONNX file, or an engine that was built for this device (`.engine`, `.plan`). An engine can hold code.
        bundle: that it should compute.
        labelled: a folder or zip of labelled images, as `edgeq evaluate` takes them.
        bounds: what is demanded of them.
        threads: of one operator.
        progress: called as (stage, done, total).

    Raises:
        InputError: there is no such file, the bundle has several encoders, or labelled images say nothing of it.
        ArtifactError: the bundle is damaged, or has no canaries.
        ImageError: the images cannot be read, or are labelled with other classes.
        EngineError: what runs it is not installed, or it does not run, or has other outputs.
    """
    if not target.is_file():
        raise InputError(f"{target} is no file", expected="an ONNX file, or a TensorRT engine")
    manifest = read_manifest(bundle)
    if labelled is not None and manifest.kind != "classifier":
        raise InputError(
            f"{bundle} is the bundle of a {manifest.kind} model: labelled images say nothing of one engine of it",
            next_step=f"edgeq judge {shell_word(str(target))} --against {shell_word(str(bundle))}",
        )
    backend = _BACKENDS[target.suffix]
    require(backend)
    sets = canary_sets(bundle, manifest)
    if len(sets) > 1:
        raise InputError(
            f"{bundle} has several encoders: {', '.join(sets)}",
            expected="the bundle of one network",
            next_step=f"edgeq verify-engine {shell_word(str(bundle))} --encoder {next(iter(sets))} "
            f"--engine {shell_word(str(target))}",
        )
    (canaries,) = sets.values()
    candidate = open_candidate(bundle, manifest, canaries.graph, backend, default_store(), file=target, threads=threads)
    report = verify_engine(bundle, canaries, candidate, seconds=_SECONDS, threads=threads, report=progress)
    headline = None
    if labelled is not None:
        headline = _headline(candidate, bundle, labelled, threads or default_threads(), progress or (lambda *_: None))
    verdict, reasons = _verdict(report, headline, bounds)
    return EngineJudgement(
        target=target.name, verdict=verdict, reasons=reasons, bounds=bounds, report=report, headline=headline
    )


def _verdict(report: EngineReport, headline: Headline | None, bounds: JudgeBounds) -> tuple[Verdict, tuple[str, ...]]:
    checked = report.canaries
    seen = f"{len(checked.canaries) - sum(bool(each.failure) for each in checked.canaries)} of {len(checked.canaries)}"
    canaries = f"{seen} canaries give what the workshop saw; {report.conclusion}"
    if headline is None:
        return ("sees" if checked.passed else "sees less"), (canaries,)
    verdict, reason = judge_drop(headline, bounds, "images")
    return (verdict if checked.passed else "sees less"), (reason, canaries)


def _headline(candidate: Candidate, bundle: Path, labelled: Path, threads: int, progress: Progress) -> Headline:
    """The figure that decides, on labelled images."""
    source, task = choose_for(open_model(bundle / FP32), None)
    examples = task.open(labelled, source.labels)
    task = refit_task(task, source, bundle, examples.images, threads=threads)
    reference, engine = DEFAULT.open(bundle / FP32, threads=threads), candidate.open()
    answers = task.outputs(reference.outputs)
    if not {*answers} <= {*engine.outputs}:
        raise EngineError(
            f"{candidate.file} has the outputs {', '.join(engine.outputs)}",
            expected=f"{', '.join(answers)}, as the bundle's graph names them",
        )
    tally, done = None, 0
    for items, pixels in ImageStream(examples.images, source.preprocess, batch_size=1, total=len(examples)):
        ours, theirs = (_run(each, pixels, answers) for each in (reference, engine))
        tally = tally or task.search_tally(examples, source.labels, ours[0].shape[-1])
        tally.add([item.name for item in items], ours, theirs)
        done += len(items)
        progress("judge: labelled images", done, len(examples))
    assert tally is not None, "a labelled set has an image, or the stream raises"
    return tally.figures().headline()


def _run(engine: Engine, pixels: Any, answers: tuple[str, ...]) -> Outputs:
    values = engine.run({engine.inputs[0]: pixels}, answers)
    return tuple(values[name] for name in answers)
