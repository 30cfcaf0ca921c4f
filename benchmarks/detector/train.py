"""Trains the detector that `make bench-detector` judges by, on scenes that are drawn for it.

    python -m benchmarks.detector.train --out DIR [--minutes N] [--workers N] [--scenes N] [--resume]

A worker is a process with one thread and batches of its own; every eighth step all take the mean of their weights. On
processors that others use as well they hardly wait for each other, where threads would wait at every layer.

A checkpoint lies in OUT.work until it is done, the drawn scenes beside it; `--resume` goes on from there, with the time
already spent counted. What comes out: float16 weights, preprocessing, classes, and `training.json`: how it was made,
and its mAP on scenes that were not learned from.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import interpolate

from benchmarks.detector.export import WEIGHTS_FILE, load, write_settings
from benchmarks.detector.labelled import compare, write_scenes
from benchmarks.detector.losses import detection_loss
from benchmarks.detector.network import Detector
from benchmarks.detector.scenes import EVALUATION_SEED, SIDE, TRAIN_SEED, Boxes, Scenes, draw_scenes
from edgeq.demo.vlm.pool import TURNS, turned
from edgeq.demo.vlm.training import cycle
from edgeq.errors import OutputError
from edgeq.files import atomic_write, new_directory
from edgeq.quality.tasks.detection.task import Detection

__all__ = ["Settings", "Training", "answers", "judged", "main", "turned_boxes"]

CHECKPOINT: Final = "checkpoint.pt"
_COARSE_SIDE: Final = 96
_COARSE_PART: Final = 0.45
_SAVE_SECONDS: Final = 120.0
_LOG_STEPS: Final = 50
_MEET_STEPS: Final = 8
_JUDGED: Final = 1000


@dataclass(frozen=True)
class Settings:
    """How the network is trained.

    Attributes:
        minutes: processor time of each worker: the rate rises and falls over it, however often it was stopped.
        scenes: drawn once, seen turned in eight ways, lighter or darker, and with other colours.
        batch: scenes of a step of one worker; twice as many in the first part of the training, which sees them smaller:
            at nearly the cost of one.
        peak_rate, weight_decay: of AdamW.
        warm_up: share of the time in which the rate rises.
        averaged: share that a step leaves of the averaged weights, which are those that count.
        longest_gradient: gradients are scaled down to this norm.
        seed: of first weights and of batches.
        workers: processes, each with one thread.
    """

    minutes: float = 30.0
    scenes: int = 8000
    batch: int = 24
    peak_rate: float = 2e-3
    weight_decay: float = 0.05
    warm_up: float = 0.05
    averaged: float = 0.998
    longest_gradient: float = 10.0
    seed: int = 7
    workers: int = 2


class Training:
    """What a checkpoint holds: network, averaged weights, optimizer, steps, scenes seen, seconds of each worker."""

    def __init__(self, settings: Settings, worker: int = 0) -> None:
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.worker = worker
        network: Any = Detector()
        self.network: Detector = network.to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.network).eval()
        self.step = 0
        self.seen = 0
        self.seconds = 0.0
        kinds: dict[bool, list[torch.nn.Parameter]] = {True: [], False: []}
        for weight in self.network.parameters():
            kinds[weight.ndim > 1].append(weight)
        groups = [
            {"params": kinds[True], "weight_decay": settings.weight_decay},
            {"params": kinds[False], "weight_decay": 0.0},  # biases and normalizations are not decayed
        ]
        self.optimizer = torch.optim.AdamW(groups, settings.peak_rate, betas=(0.9, 0.98))

    @property
    def progress(self) -> float:
        """Share of the time that is spent."""
        return min(1.0, self.seconds / (60 * self.settings.minutes))

    def advance(self, scenes: Scenes) -> float:
        """One step on a batch that depends on seed, worker and step only; the loss before it."""
        before = time.process_time()
        rng = np.random.default_rng((self.settings.seed, self.worker, self.step))
        side = _COARSE_SIDE if self.progress < _COARSE_PART else SIDE
        count = self.settings.batch * (2 if side < SIDE else 1)
        images, wanted = _batch(scenes, count, rng, side)
        with torch.autocast("cpu", torch.bfloat16):
            raw = self.network.raw(images)
        loss = detection_loss(raw, wanted, side)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.peak_rate * cycle(self.progress, self.settings.warm_up)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.longest_gradient)
        self.optimizer.step()
        self.step += 1
        self.seen += count * self.settings.workers
        self.seconds += time.process_time() - before
        self._meet()
        self._average()
        return float(loss.detach())

    @torch.no_grad()
    def _meet(self) -> None:
        """The mean of all workers' weights and statistics in place of this one's, and of the time they took."""
        if self.settings.workers == 1 or self.step % _MEET_STEPS:
            return
        tensors = [value for value in self.network.state_dict().values() if value.is_floating_point()]
        flat = torch.cat([torch.tensor([self.seconds]), *(value.flatten() for value in tensors)])
        dist.all_reduce(flat)
        flat /= self.settings.workers
        self.seconds = float(flat[0])
        means = torch.split(flat[1:], [value.numel() for value in tensors])
        for value, mean in zip(tensors, means, strict=True):
            value.copy_(mean.view_as(value))

    @torch.no_grad()
    def _average(self) -> None:
        """Averaged weights follow, quickly at first; BatchNorm's statistics with them."""
        share = min(self.settings.averaged, self.step / (self.step + 10))
        ours, theirs = self.average.state_dict(), self.network.state_dict()
        floats = [name for name, value in ours.items() if value.is_floating_point()]
        torch._foreach_lerp_([ours[name] for name in floats], [theirs[name] for name in floats], 1 - share)

    def save(self, path: Path) -> None:
        """Write a checkpoint in one step."""
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seen": self.seen,
            "seconds": self.seconds,
        }
        atomic_write(path, partial(torch.save, state))

    def load(self, path: Path) -> None:
        """Go on from a checkpoint."""
        state: dict[str, Any] = torch.load(path, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seen, self.seconds = state["step"], state["seen"], state["seconds"]


def turned_boxes(boxes: Boxes, turn: int) -> Boxes:
    """Boxes [n, 5] after the picture is turned as `edgeq.demo.vlm.pool.TURNS` says."""
    label, left, top, right, bottom = boxes.T
    if turn & 1:
        left, right = SIDE - right, SIDE - left
    if turn & 2:
        top, bottom = SIDE - bottom, SIDE - top
    sides = (top, left, bottom, right) if turn & 4 else (left, top, right, bottom)
    return np.stack([label, *sides], 1)


def _batch(scenes: Scenes, count: int, rng: np.random.Generator, side: int) -> tuple[Tensor, list[Tensor]]:
    """Images float32 [count, 3, side, side], 0 to 1, and the boxes of each, turned, with light and colour changed."""
    chosen, turns = rng.integers(len(scenes.boxes), size=count), rng.integers(TURNS, size=count)
    pixels = np.stack([turned(scenes.pixels[index], turn) for index, turn in zip(chosen, turns, strict=True)])
    images = torch.from_numpy(pixels).float().div_(255)
    light = rng.uniform(0.8, 1.2, (count, 1, 1, 1)) * rng.uniform(0.93, 1.07, (count, 1, 1, 3))
    images = images.mul_(torch.from_numpy(light).float()).clamp_(0, 1).permute(0, 3, 1, 2)
    boxes = [turned_boxes(scenes.boxes[index], turn) for index, turn in zip(chosen, turns, strict=True)]
    if side < SIDE:
        images = interpolate(images, (side, side), mode="bilinear", antialias=True)
        scale = np.array([1, *[side / SIDE] * 4], np.float32)
        boxes = [each * scale for each in boxes]
    return images, [torch.from_numpy(np.ascontiguousarray(each)) for each in boxes]


def train(training: Training, scenes: Scenes, checkpoint: Path) -> None:
    """Train until the time is spent, with a checkpoint every two minutes."""
    losses: list[float] = []
    saved = training.seconds
    while training.progress < 1 or training.step % _MEET_STEPS:
        losses.append(training.advance(scenes))
        if training.worker:
            continue
        if training.step % _LOG_STEPS == 0:
            epochs = training.seen / len(scenes.boxes)
            print(
                f"step {training.step} ({training.progress:.1%}, {epochs:.1f} epochs): {np.mean(losses):.4f}",
                flush=True,
            )
            losses.clear()
        if training.seconds - saved > _SAVE_SECONDS:
            training.save(checkpoint)
            saved = training.seconds
    if not training.worker:
        training.save(checkpoint)


def write(folder: Path, training: Training) -> None:
    """The averaged network in float16, and what became of it; judged as it is read back, in float32."""
    with new_directory(folder) as work:
        state = training.average.state_dict()
        save_file({name: _stored(value) for name, value in state.items()}, work / WEIGHTS_FILE)
        write_settings(work)
        network = load(work)
        found = judged(network, EVALUATION_SEED, _JUDGED, training.settings.workers)
        record = {
            "network": "detector",
            "parameters": sum(weight.numel() for weight in network.parameters()),
            "steps": training.step,
            "epochs": round(training.seen / training.settings.scenes, 2),
            "seconds": round(training.seconds),
            "settings": {**asdict(training.settings), "autocast": "bfloat16", "coarse_part": _COARSE_PART},
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            "test": {
                "images": found.images,
                "objects": found.objects,
                "map": found.map_reference,
                "map50": found.map50_reference,
                "precision": "float32",
            },
        }
        (work / "training.json").write_text(json.dumps(record, indent=2) + "\n")


def _stored(value: Tensor) -> Tensor:
    """In float16; counters as they are."""
    return (value.half() if value.is_floating_point() else value).contiguous()


def judged(network: Detector, seed: int, count: int, workers: int = 1) -> Detection:
    """mAP on scenes that were not learned from."""
    with tempfile.TemporaryDirectory() as held:
        folder = Path(held) / "scenes"
        write_scenes(folder, seed, count, workers)
        images = [np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))]
        found = answers(network, np.stack(images))
        return compare(folder, found, found)


@torch.inference_mode()
def answers(network: Detector, pixels: NDArray[np.uint8], batch: int = 50) -> NDArray[np.float32]:
    """[n, 4 + classes, A] of images uint8 [n, SIDE, SIDE, 3]."""
    parts = [
        network(torch.from_numpy(pixels[start : start + batch]).permute(0, 3, 1, 2).float() / 255).numpy()
        for start in range(0, len(pixels), batch)
    ]
    return np.concatenate(parts)


def _pool(folder: Path, settings: Settings) -> Scenes:
    """The training scenes, drawn once: their pixels stay on disk."""
    pixels, boxes = folder / "pixels.npy", folder / "boxes.npz"
    if not boxes.exists():
        folder.mkdir(parents=True, exist_ok=True)
        drawn = draw_scenes(TRAIN_SEED, settings.scenes, settings.workers)
        atomic_write(pixels, partial(np.save, arr=drawn.pixels))
        flat, ends = np.concatenate(drawn.boxes), np.cumsum([len(each) for each in drawn.boxes])
        atomic_write(boxes, partial(np.savez, flat=flat, ends=ends))
    with np.load(boxes) as saved:
        parts = np.split(saved["flat"], saved["ends"][:-1])
    return Scenes(np.load(pixels, mmap_mode="r"), tuple(parts))


def _work(worker: int, settings: Settings, work: Path, resume: bool) -> None:
    """What each process does."""
    torch.set_num_threads(1)
    if settings.workers > 1:
        meeting = f"file://{(work / f'meeting-{os.getppid()}').resolve()}"
        dist.init_process_group("gloo", meeting, rank=worker, world_size=settings.workers)
    training = Training(settings, worker)
    if resume:
        training.load(work / CHECKPOINT)
    train(training, _pool(work, settings), work / CHECKPOINT)
    if settings.workers > 1:
        dist.destroy_process_group()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detector.train")
    parser.add_argument("--out", type=Path, required=True, help="directory to make")
    parser.add_argument("--minutes", type=float, default=Settings.minutes)
    parser.add_argument("--workers", type=int, default=Settings.workers)
    parser.add_argument("--scenes", type=int, default=Settings.scenes)
    parser.add_argument("--resume", action="store_true")
    given = parser.parse_args(arguments)
    if given.out.exists():
        raise OutputError(f"{given.out} exists already")
    settings = Settings(minutes=given.minutes, workers=given.workers, scenes=given.scenes)
    work = given.out.with_name(given.out.name + ".work")
    _pool(work, settings)
    processes: Any = torch.multiprocessing
    processes.spawn(_work, (settings, work, given.resume), nprocs=settings.workers)
    training = Training(settings)
    training.load(work / CHECKPOINT)
    write(given.out, training)
    shutil.rmtree(work)
    print((given.out / "training.json").read_text())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
