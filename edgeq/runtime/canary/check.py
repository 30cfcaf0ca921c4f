"""Does an engine compute what the workshop saw? This is what catches an FP16 overflow, or a bad engine, on a device.

A cosine with NaN in it is never a pass: features are looked at before they are compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeq.engine import Engine
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.engine.outputs import flat_row
from edgeq.errors import EngineError, InputError, ParityError
from edgeq.families.base import Arrays, output_rows
from edgeq.quality.token_parity import TokenParity, measure_tokens
from edgeq.runtime.canary.answers import ask_canaries
from edgeq.runtime.canary.canary_set import CanaryOutput, CanarySet, KnownCanary, open_canaries
from edgeq.runtime.canary.report import DEFAULT_BOUNDS, CanaryBounds, CanaryCheck, CanaryReport, ClassCheck

__all__ = ["Seen", "canary_feeds", "check_canaries", "compare_canaries", "require_talk", "run_canaries"]

Seen = tuple[NDArray[np.float32], ...]
"""What an engine gave for each canary, in the form of its reference."""

_SEVERAL: Final = 2
_VECTOR: Final = 2
"""Axes of what is one vector: logits or an embedding, and not pictures of tokens."""

_FARTHEST: Final = 0.5
"""The largest relative error that a bad INT8 graph of the workshop can excuse; an engine that gives nothing has 1."""


def check_canaries(
    bundle: Path,
    engine: Engine | None = None,
    *,
    bounds: CanaryBounds = DEFAULT_BOUNDS,
    answers: bool = False,
    threads: int | None = None,
) -> CanaryReport:
    """Run a bundle's canaries through an engine and compare with what the workshop saw.

    Args:
        bundle: of either kind; every byte of it is checked first.
        engine: made from the bundle's graph; None takes that graph itself in ONNX Runtime.
        bounds: what counts as the same.
        answers: ask a vision-language model the canaries' questions as well, which loads its language model.
        threads: of one operator.

    Raises:
        ArtifactError: it is no bundle, is damaged, or has no canaries that can be used.
        InputError: answers were asked for, of a classifier.
        ModelError: the preprocessing, the tokenizer or the language model cannot be used.
        EngineError: the engine refuses the graph, does not run, or has other inputs or outputs than the graph.
    """
    canaries = open_canaries(bundle)
    require_talk(canaries, answers)
    engine = engine or OnnxRuntimeEngine(canaries.graph, threads=threads)
    report = compare_canaries(canaries, run_canaries(engine, canaries), bounds)
    return ask_canaries(bundle, engine, canaries, report, threads=threads) if answers else report


def require_talk(canaries: CanarySet, answers: bool) -> None:
    """Raise InputError where answers are asked for and there is nobody to answer."""
    if answers and canaries.talk is None:
        raise InputError("a model without language answers no questions", next_step="leave out --answers")


def run_canaries(engine: Engine, canaries: CanarySet) -> Seen:
    """What an engine gives for each canary, float32, NaN and infinity included.

    Raises:
        EngineError: it does not run, has other inputs, or not the outputs that are compared.
    """
    outputs = canaries.outputs or engine.outputs
    if not set(outputs) <= set(engine.outputs) or (not canaries.outputs and len(outputs) != 1):
        raise _other_graph(engine, canaries.known[0], canaries.outputs)
    made = (engine.run(canary_feeds(engine, one), outputs) for one in canaries.known)
    if canaries.parts:
        return tuple(_row(found, canaries.parts) for found in made)
    if canaries.unit:
        return tuple(_unit(_only(found)) for found in made)
    return tuple(output_rows(found)[None] if canaries.stacked else _only(found) for found in made)


def canary_feeds(engine: Engine, known: KnownCanary) -> Arrays:
    """What an engine is given of a canary.

    Raises:
        EngineError: it has other inputs.
    """
    if len(known.feeds) == len(engine.inputs) == 1:
        return dict(zip(engine.inputs, known.feeds.values(), strict=True))
    if known.feeds.keys() != set(engine.inputs):
        raise _other_graph(engine, known, ())
    return known.feeds


def _row(made: Arrays, parts: Sequence[CanaryOutput]) -> NDArray[np.float32]:
    """What a classifier's graph gave in each output, one behind the other, float32 [1, numbers]."""
    if len(parts) == 1 and parts[0].classes:
        return _only(made)  # as it is: another shape is an error
    rows = []
    for part in parts:
        flat = flat_row(made[part.name], part.every)
        if part.resized:
            flat = np.pad(flat[: part.numbers], (0, max(0, part.numbers - len(flat))))
        rows.append(flat)
    return np.concatenate(rows)[None]


def _only(made: Arrays) -> NDArray[np.float32]:
    (values,) = made.values()
    return values.astype(np.float32)


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of length one, float32 [n, d]; NaN where one has no length, which is never a pass."""
    exact = rows.astype(np.float64)
    with np.errstate(all="ignore"):
        unit: NDArray[np.float32] = (exact / np.linalg.norm(exact, axis=-1, keepdims=True)).astype(np.float32)
    return unit


def _other_graph(engine: Engine, known: KnownCanary, outputs: Sequence[str]) -> EngineError:
    return EngineError(
        f"the engine has inputs {list(engine.inputs)} and outputs {list(engine.outputs)}",
        expected=f"inputs such as {list(known.feeds)}" + (f", and outputs {list(outputs)}" if outputs else ""),
        causes=("it was made from another graph",),
    )


def compare_canaries(
    canaries: CanarySet, seen: Seen, bounds: CanaryBounds = DEFAULT_BOUNDS, *, against: Seen | None = None
) -> CanaryReport:
    """Compare what an engine gave with what the workshop saw, or with what another engine gave here.

    Args:
        canaries: of the bundle.
        seen: by the engine, one for each canary.
        bounds: what counts as the same.
        against: takes the place of the workshop's FP32 graph.
    """
    known = canaries.known
    if against is not None:
        known = tuple(replace(one, reference=other) for one, other in zip(known, against, strict=True))
    compared = [
        _compared(*_cut(known, seen, place, canaries.parts), bounds, canaries.unit, part)
        for place, part in enumerate(canaries.parts or (None,))
    ]
    return CanaryReport(
        kind=canaries.manifest.kind,
        against=canaries.against if against is None else "ONNX Runtime here",
        bounds=bounds,
        canaries=tuple(map(_joined, zip(*(checks for checks, _ in compared), strict=True))),
        failures=tuple(failure for _, failures in compared for failure in failures),
    )


def _cut(
    known: Sequence[KnownCanary], seen: Seen, place: int, parts: Sequence[CanaryOutput]
) -> tuple[Sequence[KnownCanary], Seen]:
    """What was known and seen of one output; all of it where rows are of another length than they should be."""
    whole = sum(part.numbers for part in parts)
    if len(parts) < _SEVERAL or any(row.shape != (1, whole) for row in seen):
        return known, seen
    start = sum(part.numbers for part in parts[:place])
    piece = np.s_[:, start : start + parts[place].numbers]
    cut = [
        replace(one, reference=one.reference[piece], int8=None if one.int8 is None else one.int8[piece])
        for one in known
    ]
    return cut, tuple(row[piece] for row in seen)


def _compared(
    known: Sequence[KnownCanary], seen: Seen, bounds: CanaryBounds, unit: bool, part: CanaryOutput | None
) -> tuple[tuple[CanaryCheck, ...], tuple[str, ...]]:
    """All canaries in one output, and what does not hold of them, the worst canary first."""
    allowed = bounds.embeddings if unit else _allowed(known, bounds)
    checks = tuple(
        _check(n, one, found, allowed, bounds, part) for n, (one, found) in enumerate(zip(known, seen, strict=True))
    )
    failing = sorted((check for check in checks if check.failure), key=_badness)
    return checks, (
        *(check.failure for check in failing),
        *_far_on_average(known, checks, bounds, _named(part)),
        *_other_classes(checks, bounds),
    )


def _joined(checks: Sequence[CanaryCheck]) -> CanaryCheck:
    """One canary: the answer's figures, and what is wrong in any output."""
    failures = dict.fromkeys(check.failure for check in checks if check.failure)
    return checks[0].model_copy(update={"failure": "; ".join(failures)})


def _named(part: CanaryOutput | None) -> str:
    """What is compared, for a sentence."""
    return "the logits have" if part is None or part.classes else f"the output {part.name} has"


def _allowed(known: Sequence[KnownCanary], bounds: CanaryBounds) -> float:
    """The largest 1 - cosine of a canary to FP32."""
    int8 = _workshop_errors(known)
    return max(bounds.logits, _excused(max(int8), bounds) ** 2 / 2) if int8 else bounds.features


def _excused(error: float, bounds: CanaryBounds) -> float:
    """The relative error that the workshop's own excuses."""
    return min(bounds.times_workshop * error, _FARTHEST)


def _workshop_errors(known: Sequence[KnownCanary]) -> list[float]:
    """Relative error of the workshop's INT8 graph on each canary; empty for a vision-language model."""
    return [_relative(one.int8, one.reference) for one in known if one.int8 is not None]


def _relative(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    length = float(np.linalg.norm(wanted))
    return float(np.linalg.norm(found - wanted)) / length if length else math.inf


def _check(
    number: int,
    known: KnownCanary,
    found: NDArray[np.float32],
    allowed: float,
    bounds: CanaryBounds,
    part: CanaryOutput | None,
) -> CanaryCheck:
    """One canary; what is wrong with it stands in `failure`."""
    name = f"canary {number} ({known.image})"
    same = known.same_pixels
    if found.shape != known.reference.shape:
        failure = f"{name}: the engine gave the shape {list(found.shape)}, not {list(known.reference.shape)}"
        return CanaryCheck(image=known.image, same_pixels=same, failure=failure)
    if part is not None and part.resized:
        wrong = _gives_nothing(found, known.reference)
        failure = f"{name}: {_named(part)} {wrong}" if wrong else ""
        return CanaryCheck(image=known.image, same_pixels=same, failure=failure)
    try:
        parity = _parity(number, known.reference, found, allowed)
        int8 = _parity(number, known.int8, found, bounds.logits) if known.int8 is not None else None
    except ParityError as error:  # NaN or infinity: the shapes are the same, and the reference is finite
        return CanaryCheck(image=known.image, same_pixels=same, failure=f"{name}: {error.what}")
    near = parity.holds or (int8 is not None and int8.holds)
    apart = _difference(parity, int8, _named(part), vector=known.reference.ndim == _VECTOR)
    return CanaryCheck(
        image=known.image,
        parity=parity,
        int8=int8,
        classes=_classes(known, found) if part is None or part.classes else None,
        same_pixels=same,
        failure="" if near else f"{name}: {apart}",
    )


def _gives_nothing(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> str:
    """What is wrong with a list of what was found, whose length rounding may change; empty where nothing is."""
    if not np.isfinite(found).all():
        return "NaN or infinity"
    return "nothing but zeros, the workshop found something" if wanted.any() and not found.any() else ""


def _parity(number: int, reference: NDArray[np.float32], found: NDArray[np.float32], bound: float) -> TokenParity:
    """Token by token; logits [1, classes] are one token of one picture."""
    pictures = zip(reference, found, strict=True)
    pairs = (((number, tile), np.atleast_2d(right), np.atleast_2d(made)) for tile, (right, made) in enumerate(pictures))
    return measure_tokens(pairs, bound=bound)


def _difference(parity: TokenParity, int8: TokenParity | None, named: str, *, vector: bool) -> str:
    """What the worst token is, and what was demanded of it."""
    where = "the embedding has" if vector else f"token {parity.worst_token} of tile {parity.worst_tile} has"
    where, to = (named, " to FP32") if int8 is not None else (where, "" if vector else " to FP32")
    other = f", to INT8 {int8.worst_cosine:.4f} and {int8.worst_relative:.3g}" if int8 is not None else ""
    return (
        f"{where} the cosine {parity.worst_cosine:.4f}{to}, at least {1 - parity.bound:.4f} is demanded; "
        f"the largest relative error is {parity.worst_relative:.3g}, at most {math.sqrt(2 * parity.bound):.3g} "
        f"is{other}"
    )


def _classes(known: KnownCanary, found: NDArray[np.float32]) -> ClassCheck | None:
    if known.int8 is None:
        return None
    engine, fp32, int8 = (int(logits.argmax()) for logits in (found, known.reference, known.int8))
    return ClassCheck(engine=engine, fp32=fp32, int8=int8)


def _far_on_average(
    known: Sequence[KnownCanary], checks: Sequence[CanaryCheck], bounds: CanaryBounds, named: str
) -> tuple[str, ...]:
    """Whether all of a classifier's canaries together are too far from FP32 and from INT8."""
    pairs = [(check.parity, check.int8) for check in checks]
    errors = [min(fp32.worst_relative, int8.worst_relative) for fp32, int8 in pairs if fp32 and int8]
    if not errors:
        return ()
    allowed = max(math.sqrt(2 * bounds.mean_logits), _excused(fmean(_workshop_errors(known)), bounds))
    if fmean(errors) <= allowed:
        return ()
    return (
        f"{named} a relative error of {fmean(errors):.3g} on average over the canaries, to FP32 or to INT8, "
        f"whichever is nearer; at most {allowed:.3g} is demanded",
    )


def _badness(check: CanaryCheck) -> float:
    """Sorts the worst first: what could not be compared, then the largest error."""
    return -check.parity.worst_relative if check.parity is not None else -math.inf


def _other_classes(checks: Sequence[CanaryCheck], bounds: CanaryBounds) -> tuple[str, ...]:
    other = [check.image for check in checks if check.classes is not None and not check.classes.known]
    if len(other) <= bounds.other_class * len(checks):
        return ()
    return (
        f"{len(other)} of {len(checks)} canaries get a class that neither FP32 nor INT8 gave in the workshop "
        f"({', '.join(other)}), at most {math.floor(bounds.other_class * len(checks))} may",
    )
