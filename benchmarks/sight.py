"""The sight test on the demo's model stored in many ways, some of them blind: is each told for what it is?

The whole model in FP32 is the reference; FP16 eyes with an NF4 language model are edgeq's. Known to be bad: eyes of
three and of two bits, answers about a grey picture, and answers about the image before. Run it with `make bench-sight`.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from edgeq.demo.vlm.story import VLM_WEIGHTS, _draw
from edgeq.demo.vlm.variants import make_variants
from edgeq.families.modules import read_vlm
from edgeq.judge.bounds import DEFAULT_JUDGE_BOUNDS
from edgeq.judge.judgement import Judgement
from edgeq.judge.questions import AskedQuestion
from edgeq.judge.run import JudgeOptions, judge_target
from edgeq.judge.sight import sight_questions
from edgeq.judge.target import LocalTarget
from edgeq.pipeline.vlm import VlmOptions, prepare_vlm
from edgeq.pipeline.vlm_reference import load_reference, reference_prompt
from edgeq.quality.answerer import Answer, Answerer
from edgeq.quality.hf_answerer import HfAnswerer
from edgeq.runtime.vlm.model import load_vlm

__all__ = ["main"]

_PHOTOGRAPHS: Final = 64
_TOKENS: Final = 48
_ASKED: Final = ("kinds of damage", "shadow or corrosion", "hairline cracks", "left or right")
"""Skills of which the demo's model has learned something; of the others the reference itself knows nothing."""


class _Blind:
    """Answers about a grey picture, whatever it is shown."""

    def __init__(self, answerer: Answerer) -> None:
        self._answerer = answerer

    def answer(self, image: Image.Image, question: str, max_new_tokens: int) -> Answer:
        return self._answerer.answer(self.shown(image), question, max_new_tokens)

    def logits(self, image: Image.Image, question: str, answer_ids: Sequence[int]) -> NDArray[np.float32]:
        return self._answerer.logits(image, question, answer_ids)

    def features(self, image: Image.Image) -> NDArray[np.float32]:
        return self._answerer.features(self.shown(image))

    def shown(self, image: Image.Image) -> Image.Image:
        return Image.new("RGB", image.size, (128, 128, 128))


class _Swapped(_Blind):
    """Answers about the image before."""

    def __init__(self, answerer: Answerer) -> None:
        super().__init__(answerer)
        self._before = Image.new("RGB", (64, 64))

    def shown(self, image: Image.Image) -> Image.Image:
        shown, self._before = self._before, image
        return shown


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


def _targets(work: Path, threads: int) -> Iterator[tuple[str, Answerer]]:
    """The reference first."""
    _draw(work / "photographs", _PHOTOGRAPHS, 1_000_000)
    options = VlmOptions(keep_fp32=True, threads=threads, max_new_tokens=_TOKENS)
    prepared = prepare_vlm(VLM_WEIGHTS, work / "photographs", work / "bundle", options=options)
    for variant in make_variants(VLM_WEIGHTS, prepared, work / "photographs", threads):
        yield f"{variant.name}: {variant.vision} eyes, {variant.language}", variant.answerer.answerer
    prompter = load_vlm(prepared.bundle, threads=threads).prompter
    whole: Any = load_reference(VLM_WEIGHTS, read_vlm(VLM_WEIGHTS), prompter)
    for bits in (3, 2):
        eyes = rounded(whole._model, bits)
        yield f"{bits}-bit eyes, FP32", HfAnswerer(eyes, prompter.tokenizer, reference_prompt(prompter))
    yield "blind: a grey picture", _Blind(whole)
    yield "swapped: the image before", _Swapped(whole)


def _row(name: str, found: Judgement) -> dict[str, Any]:
    groups = {group.group: group.target_right.value for group in found.groups if group.target_right}
    headline = found.headline
    shift = [group.logprob_shift.value for group in found.groups if group.logprob_shift]
    return {
        "target": name,
        "right": None if headline is None else headline.candidate,
        "drop": None if headline is None else headline.drop,
        "standard_error": None if headline is None else headline.standard_error,
        "same": None if headline is None else headline.agreement,
        "logprob_shift": sum(shift) / len(shift) if shift else None,
        "verdict": found.verdict,
        "enough": found.enough,
        **groups,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each target, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=60, help="of each skill")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    questions: list[AskedQuestion] = [each for each in sight_questions(asked.questions) if each.group in _ASKED]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (name, answerer), *others = _targets(work, asked.threads)
        reference = LocalTarget(name, answerer)
        options = JudgeOptions(_TOKENS, 1, DEFAULT_JUDGE_BOUNDS, reference_answers=work / "reference.jsonl")
        for other, theirs in others:
            found = judge_target(LocalTarget(other, theirs), reference, questions, options, lambda *_: None)
            print(json.dumps(_row(other, found)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
