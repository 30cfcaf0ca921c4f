"""The sight test on the demo's model stored in many ways, some of them blind: is each told for what it is?

    python -m benchmarks.sight [--models plain "outlier weights" ...]

The whole model in FP32 is the reference; FP16 eyes with an NF4 language model are edgeq's. Known to be bad: eyes of
three and of two bits, answers about a grey picture, and answers about the image before. With outlier channels put in by
hand (`benchmarks/outlier_eyes.py`) NF4 eyes are bad as well.

The order is that of what was done to the eyes. Each is asked how likely it finds the reference's own answers, and must
be further from it than the one before, in KL divergence, with 95 %: the difference of each question over its standard
error is at least 1.645. Exit status 1: one is told for what it is not, or the order of two is not shown; but where both
are shown to see less, none is asked for.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from benchmarks.outlier_eyes import WIDE_ACTIVATIONS, WIDE_WEIGHTS, inject_outliers
from edgeq.demo.vlm.story import VLM_WEIGHTS, _draw
from edgeq.demo.vlm.variants import make_variants
from edgeq.families.modules import read_vlm
from edgeq.judge.judgement import Judgement, Verdict
from edgeq.judge.questions import AskedQuestion
from edgeq.judge.run import JudgeOptions, judge_target
from edgeq.judge.sight import sight_questions
from edgeq.judge.target import LocalTarget
from edgeq.pipeline.vlm import VlmOptions, prepare_vlm
from edgeq.pipeline.vlm_reference import load_reference, reference_prompt
from edgeq.quality.answerer import Answer, Answerer
from edgeq.quality.hf_answerer import HfAnswerer
from edgeq.quality.logits import judge_answers
from edgeq.runtime.vlm.model import load_vlm

__all__ = ["Step", "as_expected", "main", "order_table", "rounded", "steps", "table"]

_PHOTOGRAPHS: Final = 64
_TOKENS: Final = 48
_SURE: Final = 1.645
"""Standard errors that a normal variable stays under with 95 %."""

_ASKED: Final = ("kinds of damage", "shadow or corrosion", "hairline cracks", "left or right")
"""Skills of which the demo's model has learned something; of the others the reference itself knows nothing."""

_MODELS: Final[dict[str, float | None]] = {
    "plain": None,
    "outlier weights": WIDE_WEIGHTS,
    "outlier activations": WIDE_ACTIVATIONS,
}
"""Each model, and what three channels of its eyes are scaled by."""

_ORDERED: Final = ("plain", "outlier weights")
"""On which the order is known beforehand: INT8 eyes without channel equalization do not survive wide activations."""


@dataclass(frozen=True)
class _Stored:
    """One way to store the model.

    Attributes:
        name: for people.
        answerer: ready to be asked.
        expected: the verdict; None where that is the question.
        placed: it has a place in the order, behind those before it.
    """

    name: str
    answerer: Answerer
    expected: Verdict | None = None
    placed: bool = True


@dataclass(frozen=True)
class Step:
    """From one way to store the model to the next one in the order.

    Attributes:
        nearer, further: their names.
        difference: by what the KL divergence from the reference grows, mean over questions, in nats a token.
        standard_error: of it, over the questions, paired.
    """

    nearer: str
    further: str
    difference: float
    standard_error: float

    @property
    def z(self) -> float:
        """Standard errors that it grows by."""
        return (
            self.difference / self.standard_error if self.standard_error else math.copysign(math.inf, self.difference)
        )

    @property
    def shown(self) -> bool:
        """Whether it grows, with 95 %."""
        return self.z >= _SURE


class _Blind:
    """Answers about a grey picture, whatever it is shown."""

    def __init__(self, answerer: Answerer) -> None:
        self._answerer = answerer
        self._seen = self.instead_of(Image.new("RGB", (64, 64)))

    def answer(self, image: Image.Image, question: str, max_new_tokens: int) -> Answer:
        self._seen = self.instead_of(image)
        return self._answerer.answer(self._seen, question, max_new_tokens)

    def logits(self, _image: Image.Image, question: str, answer_ids: Sequence[int]) -> NDArray[np.float32]:
        return self._answerer.logits(self._seen, question, answer_ids)

    def features(self, image: Image.Image) -> NDArray[np.float32]:
        return self._answerer.features(self.instead_of(image))

    def instead_of(self, image: Image.Image) -> Image.Image:
        return Image.new("RGB", image.size, (128, 128, 128))


class _Swapped(_Blind):
    """Answers about the image before."""

    def __init__(self, answerer: Answerer) -> None:
        self._before = Image.new("RGB", (64, 64))
        super().__init__(answerer)

    def instead_of(self, image: Image.Image) -> Image.Image:
        shown, self._before = self._before, image
        return shown


class _Once:
    """Is asked for the logits of the same answer once: the judge and the order both want them."""

    def __init__(self, answerer: Answerer) -> None:
        self._answerer = answerer
        self._known: dict[tuple[int, str, tuple[int, ...]], NDArray[np.float32]] = {}

    def answer(self, image: Image.Image, question: str, max_new_tokens: int) -> Answer:
        return self._answerer.answer(image, question, max_new_tokens)

    def logits(self, image: Image.Image, question: str, answer_ids: Sequence[int]) -> NDArray[np.float32]:
        key = (hash(image.tobytes()), question, tuple(answer_ids))
        if key not in self._known:
            self._known[key] = self._answerer.logits(image, question, answer_ids)
        return self._known[key]

    def features(self, image: Image.Image) -> NDArray[np.float32]:
        return self._answerer.features(image)


def rounded(model: nn.Module, bits: int) -> nn.Module:
    """A copy whose vision encoder's and connector's matrices are rounded to so many bits, per output channel."""
    changed = copy.deepcopy(model)
    most = 2 ** (bits - 1) - 1
    for name, parameter in changed.named_parameters():
        if parameter.ndim >= 2 and ("vision" in name or "projector" in name):
            rows = parameter.data.flatten(1)
            scale = rows.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / most
            parameter.data = (torch.round(rows / scale).clamp(-most, most) * scale).view_as(parameter)
    return changed


def steps(distances: Mapping[str, NDArray[np.float64]]) -> list[Step]:
    """From each to the next.

    Args:
        distances: by name, in the order that is to be shown: float64 [questions], of the same questions, two at least.
    """
    found = []
    for (nearer, ours), (further, theirs) in pairwise(distances.items()):
        grows = theirs - ours
        error = float(grows.std(ddof=1)) / math.sqrt(len(grows))
        found.append(Step(nearer, further, float(grows.mean()), error))
    return found


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """For people.

    Args:
        rows: as `main` makes them.
    """
    lines = [
        "| model | | right, % | lost, points (standard error) | same answer, % | KL, nats a token | verdict | after |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        told = row["right"] is not None
        right, lost = (f"{row['right']:.1f}", f"{row['drop']:.1f} ({row['standard_error']:.1f})") if told else ("", "")
        kl = "" if row["kl"] is None else f"{row['kl']:.2g}"
        cells = (row["model"], row["target"], right, lost, f"{row['same']:.1f}", kl, row["verdict"], row["after"])
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def order_table(model: str, found: Sequence[Step]) -> str:
    """For people: by what KL grows from each to the next, and whether that is shown."""
    lines = [f"| {model}: from | to | KL grows by, nats a token (standard error) | z |", "|---|---|---|---|"]
    lines += [
        f"| {step.nearer} | {step.further} | {step.difference:.2g} ({step.standard_error:.1g}) | {step.z:.1f} |"
        for step in found
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each target as it comes to standard error, and tables at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=40, help="of each of four skills")
    parser.add_argument("--models", nargs="+", choices=list(_MODELS), default=list(_ORDERED))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    questions = [each for each in sight_questions(asked.questions) if each.group in _ASKED]
    rows: list[dict[str, Any]] = []
    orders: dict[str, list[Step]] = {}
    for model in asked.models:
        with tempfile.TemporaryDirectory() as folder:
            made, distances = _asked(model, questions, Path(folder), asked.threads)
        rows += made
        orders[model] = steps(distances)
    if asked.json:
        told = {model: [vars(step) | {"z": step.z} for step in found] for model, found in orders.items()}
        print(json.dumps({"rows": rows, "order": told}, indent=1))
    else:
        print("\n\n".join([table(rows), *(order_table(model, found) for model, found in orders.items())]))
    return 0 if as_expected(rows, orders) else 1


def as_expected(rows: Sequence[Mapping[str, Any]], orders: Mapping[str, Sequence[Step]]) -> bool:
    """Whether each is told for what it is, and the order is shown.

    Of two that are both shown to see less, the order is not asked for: neither is of any use.

    Args:
        rows: as `main` makes them.
        orders: by model.
    """
    verdicts = {(row["model"], row["target"]): row["verdict"] for row in rows}
    wanted = (
        step
        for model, found in orders.items()
        for step in found
        if model in _ORDERED and {verdicts[model, name] for name in (step.nearer, step.further)} != {"sees less"}
    )
    return all(row["expected"] in (None, row["verdict"]) for row in rows) and all(step.shown for step in wanted)


def _asked(
    model: str, questions: Sequence[AskedQuestion], work: Path, threads: int
) -> tuple[list[dict[str, Any]], dict[str, NDArray[np.float64]]]:
    """A row for each way to store a model, and of those in the order `_distances`."""
    wider, source = _MODELS[model], VLM_WEIGHTS
    if wider is not None:
        source = work / "model"
        inject_outliers(VLM_WEIGHTS, source, wider)
    whole, *others = _stored(model, source, work, threads)
    seeing = _Once(whole.answerer)
    reference = LocalTarget(whole.name, seeing)
    options = JudgeOptions(_TOKENS, 1, reference_answers=work / "reference.jsonl")
    answers = [_own(seeing, question) for question in questions]
    rows, distances = [], {}
    for other in others:
        answerer = _Once(other.answerer) if other.placed else other.answerer
        target = LocalTarget(other.name, answerer)
        found = judge_target(target, reference, questions, options, lambda *_: None)
        kl = None
        if other.placed:
            each = _distances(answerer, questions, answers)
            distances[other.name], kl = each, float(each.mean())
        rows.append({"model": model, "target": other.name, "expected": other.expected, "kl": kl, **_figures(found)})
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows, distances


def _stored(model: str, source: Path, work: Path, threads: int) -> Iterator[_Stored]:
    """The reference, and then the others in the order that is expected."""
    _draw(work / "photographs", _PHOTOGRAPHS, 1_000_000)
    options = VlmOptions(keep_fp32=True, threads=threads, max_new_tokens=_TOKENS)
    prepared = prepare_vlm(source, work / "photographs", work / "bundle", options=options)
    whole, narrow, edgeq, int8 = make_variants(source, prepared, work / "photographs", threads)
    yield _Stored(whole.name, whole.answerer.answerer)
    lost: Verdict | None = "sees less" if model == "outlier weights" else None
    yield _Stored("FP16 eyes, NF4 language (edgeq)", edgeq.answerer.answerer, "sees")
    yield _Stored("INT8 eyes, NF4 language", int8.answerer.answerer)
    yield _Stored("all NF4", narrow.answerer.answerer, lost)
    prompter = load_vlm(prepared.bundle, threads=threads).prompter
    reference: Any = load_reference(source, read_vlm(source), prompter)
    for bits in (3, 2):
        eyes = HfAnswerer(rounded(reference._model, bits), prompter.tokenizer, reference_prompt(prompter))
        yield _Stored(f"{bits}-bit eyes", eyes, "sees less" if bits == 2 else None)
    yield _Stored("blind: a grey picture", _Blind(reference), "sees less", placed=False)
    yield _Stored("swapped: the image before", _Swapped(reference), "sees less", placed=False)


def _own(whole: Answerer, question: AskedQuestion) -> tuple[tuple[int, ...], NDArray[np.float32]]:
    """The reference's answer, and its logits at each of its tokens."""
    picture = question.read()
    ids = whole.answer(picture, question.question, _TOKENS).token_ids
    return ids, whole.logits(picture, question.question, ids)


def _distances(
    answerer: Answerer,
    questions: Sequence[AskedQuestion],
    answers: Sequence[tuple[tuple[int, ...], NDArray[np.float32]]],
) -> NDArray[np.float64]:
    """KL divergence over the tokens of each of the reference's answers, in nats a token, float64 [questions]."""
    found = []
    for question, (ids, ours) in zip(questions, answers, strict=True):
        theirs = answerer.logits(question.read(), question.question, ids)
        found.append(float(judge_answers(ours, theirs, None).divergence.mean()))
    return np.array(found)


def _figures(found: Judgement) -> dict[str, Any]:
    headline = found.headline
    shift = found.logprob_shift
    return {
        "right": headline and headline.candidate,
        "reference": headline and headline.reference,
        "drop": headline and headline.drop,
        "standard_error": headline and headline.standard_error,
        "same": found.agreement.value,
        "logprob_shift": shift and shift.value,
        "verdict": found.verdict,
        "after": found.enough,
        "counted": headline and headline.examples,
    }


if __name__ == "__main__":
    sys.exit(main())
