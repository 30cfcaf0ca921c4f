"""Trains the small vision-language model from nothing and writes it as a Hugging Face directory.

    python -m edgeq.demo.vlm.train --out DIR [--minutes N] [--steps N] [--threads N] [--resume]

Needs the `torch` and `workshop` extras; the weights that come along took 112 minutes of one core. The scenes and a
checkpoint are in DIR.work until it is done; `--resume` goes on from there. At first the tower learns to sort scenes
with a head that is thrown away, then the whole model learns to report. Random choices come from a seed and the number
of the step, but processors add in different orders: elsewhere the weights differ a little, and so do the figures.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import LlavaProcessor

from edgeq.demo.scenes import EVALUATION_SEED, SEED_RANGE, TRAIN_SEED
from edgeq.demo.vlm.lessons import Lessons
from edgeq.demo.vlm.pool import Pool, draw_pool
from edgeq.demo.vlm.score import ReportScore, score
from edgeq.demo.vlm.training import Settings, Training, begin
from edgeq.errors import EdgeqError, OutputError
from edgeq.files import new_directory

__all__ = ["main", "run", "save_model", "train", "write_model"]

Report = Callable[[str], None]
"""Takes one line about how far the work is."""

WATCH_SEED = EVALUATION_SEED + SEED_RANGE // 2
"""Scenes looked at during training; the final score is on others."""

_LOG_STEPS, _WATCH_STEPS, _WATCH_SCENES = 50, 300, 300
_SAVE_SECONDS = 120.0
_SCORE_SCENES = 1500


class _Diary:
    """Reports loss and pace of the steps since the line before."""

    def __init__(self, training: Training, report: Report) -> None:
        self._training, self._report = training, report
        self._losses: list[float] = []
        self._seconds = 0.0

    def note(self, loss: float, seconds: float) -> None:
        """Adds a step; writes a line every fifty of them and at the end."""
        self._losses.append(loss)
        self._seconds += seconds
        training, count = self._training, len(self._losses)
        if training.step % _LOG_STEPS and training.progress < 1:
            return
        self._report(
            f"step {training.step} ({training.progress:.1%}, {training.seconds:.0f} s): "
            f"{'sorting' if training.sorts else 'report'} loss {sum(self._losses) / count:.4f}, "
            f"{self._seconds / count:.3f} s per step"
        )
        self._losses, self._seconds = [], 0.0


def train(training: Training, pool: Pool, watched: Pool, checkpoint: Path, report: Report) -> None:
    """Trains to the end; a checkpoint every two minutes, and a look at unseen scenes every 300 steps.

    Args:
        training: goes on from the step it has, and is changed.
        pool: scenes to train on.
        watched: unseen scenes to look at.
        checkpoint: file that is written, again and again.
        report: takes lines about how far the work is.
    """
    diary, saved = _Diary(training, report), training.seconds
    started = time.monotonic() - training.seconds
    while training.progress < 1:
        before = time.monotonic()
        loss = training.advance(pool)
        training.seconds = time.monotonic() - started
        diary.note(loss, time.monotonic() - before)
        if training.step % _WATCH_STEPS == 0 or training.progress == 1:
            report(f"step {training.step}: {training.accuracy(watched):.1%} right of {len(watched.findings)} unseen")
        if training.seconds - saved > _SAVE_SECONDS or training.progress == 1:
            training.save(checkpoint)
            saved = training.seconds


def write_model(folder: Path, training: Training) -> None:
    """Writes the trained model in float16, its processor, and training.json with how well the files do in float32.

    Raises:
        OutputError: the folder exists already.
    """
    with new_directory(folder) as work:
        save_model(work, training.lessons)
        result = score(work, _SCORE_SCENES, EVALUATION_SEED)
        content = json.dumps(_record(training, result), indent=2) + "\n"
        (work / "training.json").write_text(content, encoding="utf-8")


def save_model(folder: Path, lessons: Lessons) -> None:
    """Model and processor; the picture's settings also in the file of their own that many programs read."""
    processor: LlavaProcessor = lessons.processor
    lessons.model.half().save_pretrained(folder)
    processor.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)


def _record(training: Training, result: ReportScore) -> dict[str, Any]:
    """What training.json says."""
    return {
        "parameters": sum(weight.numel() for weight in training.lessons.model.parameters()),
        "steps": training.step,
        "seconds": round(training.seconds),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "settings": asdict(training.settings) | {"autocast": "bfloat16", "first_scene": TRAIN_SEED},
        "evaluation": asdict(result) | {"precision": "float32, weights stored as float16"},
    }


def run(out: Path, settings: Settings, resume: bool, report: Report) -> None:
    """Everything: scenes, training, the directory.

    Args:
        out: directory of the model; must not exist.
        settings: of the training.
        resume: whether to go on from the checkpoint beside `out`.
        report: takes lines about how far the work is.

    Raises:
        OutputError: `out` exists.
    """
    if out.exists():
        raise OutputError(f"{out} exists already", next_step="give --out another name")
    work = out.with_name(out.name + ".work")
    training = begin(settings)
    if resume:
        training.load(work / "checkpoint.pt")
        report(f"going on from step {training.step}")
    report(f"drawing {settings.scenes} scenes")
    pool = draw_pool(TRAIN_SEED, settings.scenes, settings.threads, work / "scenes.npy")
    watched = draw_pool(WATCH_SEED, _WATCH_SCENES, workers=1)
    train(training, pool, watched, work / "checkpoint.pt", report)
    report(f"scoring on {_SCORE_SCENES} scenes")
    write_model(out, training)
    shutil.rmtree(work)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m edgeq.demo.vlm.train", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="model directory to make; it must not exist")
    parser.add_argument("--minutes", type=float, default=Settings.minutes, help="end after this time at the latest")
    parser.add_argument("--steps", type=int, default=Settings.steps, help="end after so many steps at the latest")
    parser.add_argument("--threads", type=int, default=Settings.threads, help="processor threads")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in OUT.work")
    given = parser.parse_args()
    try:
        settings = replace(Settings(), steps=given.steps, minutes=given.minutes, threads=given.threads)
        run(given.out, settings, given.resume, report=lambda line: print(line, flush=True))
    except EdgeqError as error:
        print(error, file=sys.stderr)
        return 2
    print((given.out / "training.json").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
