"""Trains the small CLIP from nothing and writes it as a Hugging Face directory.

    python -m edgeq.demo.clip.train --out DIR [--steps N] [--threads N]

Needs the `torch` extra; the weights that come along took six minutes of one core, and their scenes one more. Random
choices come from a seed and the number of the step, but processors add in different orders: elsewhere the weights
differ a little, and so do the figures. Beside the captions a head that is thrown away sorts the pictures, less and
less: a first training, in which the place was not read from the whole picture's features, did not learn it.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from edgeq.demo.clip.lessons import Lessons
from edgeq.demo.clip.network import Sorter, build_clip
from edgeq.demo.clip.score import RetrievalScore, score
from edgeq.demo.clip.tokens import build_processor
from edgeq.demo.scenes import EVALUATION_SEED, TRAIN_SEED
from edgeq.demo.vlm.pool import Pool, draw_pool
from edgeq.demo.vlm.training import cycle
from edgeq.errors import EdgeqError, InputError, OutputError
from edgeq.files import new_directory

__all__ = ["Settings", "begin", "main", "run", "save_model", "train"]

Report = Callable[[str], None]
"""Takes one line about how far the work is."""

_LOG_STEPS = 50
_SCORE_PAIRS = 5000
_LARGEST_SCALE = 100.0
"""What cosines are multiplied with at most, as in CLIP."""


@dataclass(frozen=True)
class Settings:
    """How the shipped weights were trained.

    Attributes:
        scenes: training scenes, drawn once and seen turned in eight ways.
        steps: optimizer steps in all.
        batch: scenes per step; each step has a caption of every finding.
        peak_rate: highest learning rate, from a linear warm-up to a cosine's end.
        warm_up: share of the steps in which the rate rises.
        sorting: weight of the sorting loss at first; it falls to 0 in a straight line.
        weight_decay: decoupled weight decay of AdamW.
        longest_gradient: gradients are scaled down to this norm.
        seed: of first weights, batches and wordings.
        threads: processor threads; their number decides the order of additions.

    Raises:
        InputError: there are no steps or no threads.
    """

    scenes: int = 16_000
    steps: int = 1_500
    batch: int = 64
    peak_rate: float = 1e-3
    warm_up: float = 0.06
    sorting: float = 1.0
    weight_decay: float = 0.05
    longest_gradient: float = 1.0
    seed: int = 7
    threads: int = 1

    def __post_init__(self) -> None:
        """Refuses numbers with which nothing can be trained."""
        if self.steps < 1 or self.threads < 1:
            raise InputError(f"{self.steps} steps on {self.threads} threads cannot be trained")


def begin(settings: Settings) -> Lessons:
    """A model that has learned nothing yet."""
    torch.set_num_threads(settings.threads)
    processor = build_processor()
    return Lessons(build_clip(processor, settings.seed), Sorter(), processor)  # the model seeds torch, for both


def train(lessons: Lessons, pool: Pool, settings: Settings, report: Report) -> None:
    """Trains to the end.

    Args:
        lessons: model and sorter, which are changed.
        pool: scenes to train on.
        settings: of the training.
        report: takes lines about how far the work is.
    """
    weights = [*lessons.model.parameters(), *lessons.sorter.parameters()]
    optimizer = torch.optim.AdamW(weights, settings.peak_rate, betas=(0.9, 0.98), weight_decay=settings.weight_decay)
    losses: list[float] = []
    started = time.monotonic()
    for step in range(settings.steps):
        rng = np.random.default_rng((settings.seed, step))
        contrastive, sorting = lessons.losses(pool.sample(settings.batch, rng), rng)
        progress = step / settings.steps
        optimizer.param_groups[0]["lr"] = settings.peak_rate * cycle(progress, settings.warm_up)
        optimizer.zero_grad()
        torch.autograd.backward(contrastive + settings.sorting * (1 - progress) * sorting)
        torch.nn.utils.clip_grad_norm_(weights, settings.longest_gradient)
        optimizer.step()
        lessons.model.logit_scale.data.clamp_(max=float(np.log(_LARGEST_SCALE)))
        losses.append(contrastive.item())
        if (step + 1) % _LOG_STEPS == 0 or step + 1 == settings.steps:
            seconds, mean = time.monotonic() - started, np.mean(losses[-_LOG_STEPS:])
            report(f"step {step + 1} ({seconds:.0f} s): contrastive loss {mean:.4f}, sorting loss {sorting.item():.4f}")
    lessons.model.eval()


def save_model(folder: Path, lessons: Lessons) -> None:
    """Model in float16 and processor; the picture's settings also in the file of their own that many programs read."""
    lessons.model.half().save_pretrained(folder)
    processor = build_processor()  # that of the lessons has filled texts up, and would be stored so
    processor.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)


def run(out: Path, settings: Settings, report: Report) -> RetrievalScore:
    """Everything: scenes, training, the directory, and how well its files do in float32, which training.json tells too.

    Args:
        out: directory of the model; must not exist.
        settings: of the training.
        report: takes lines about how far the work is.

    Raises:
        OutputError: `out` exists.
    """
    if out.exists():
        raise OutputError(f"{out} exists already", next_step="give --out another name")
    report(f"drawing {settings.scenes} scenes")
    pool = draw_pool(TRAIN_SEED, settings.scenes, settings.threads)
    lessons = begin(settings)
    started = time.monotonic()
    train(lessons, pool, settings, report)
    seconds = time.monotonic() - started
    with new_directory(out) as work:
        save_model(work, lessons)
        report(f"scoring on {_SCORE_PAIRS} scenes")
        result = score(work, _SCORE_PAIRS, EVALUATION_SEED, settings.threads)
        content = json.dumps(_record(lessons, settings, seconds, result), indent=2) + "\n"
        (work / "training.json").write_text(content, encoding="utf-8")
    return result


def _record(lessons: Lessons, settings: Settings, seconds: float, result: RetrievalScore) -> dict[str, Any]:
    """What training.json says."""
    return {
        "parameters": sum(weight.numel() for weight in lessons.model.parameters()),
        "seconds": round(seconds),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "settings": asdict(settings) | {"autocast": "bfloat16", "first_scene": TRAIN_SEED},
        "evaluation": asdict(result) | {"precision": "float32, weights stored as float16"},
    }


def main() -> int:
    """The command line."""
    summary = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m edgeq.demo.clip.train", description=summary)
    parser.add_argument("-o", "--out", type=Path, required=True, help="model directory to make; it must not exist")
    parser.add_argument("--steps", type=int, default=Settings.steps, help="optimizer steps")
    parser.add_argument("--threads", type=int, default=Settings.threads, help="processor threads")
    given = parser.parse_args()
    try:
        settings = replace(Settings(), steps=given.steps, threads=given.threads)
        run(given.out, settings, report=lambda line: print(line, flush=True))
    except EdgeqError as error:
        print(error, file=sys.stderr)
        return 2
    print((given.out / "training.json").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
