"""Trains the network that comes with edgeq from nothing and writes it as a model directory.

    python -m edgeq.demo.train [-o DIR]

Needs the `torch` and `workshop` extras. Takes some minutes on two cores. Every random choice comes from a stated seed,
but processors add in different orders: elsewhere the weights differ a little, and so does the accuracy.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from edgeq.demo.export import IMAGE_MEAN, IMAGE_STD, write_configs, write_onnx
from edgeq.demo.network import InspectionNet
from edgeq.demo.scenes import EVALUATION_SEED, KINDS, TRAIN_SEED, draw_scene
from edgeq.demo.score import ClassifierScore, score

__all__ = ["Settings", "draw_pool", "main", "train", "write_model"]

Report = Callable[[str], None]
"""Takes one line about how far the work is."""


@dataclass(frozen=True)
class Settings:
    """How the shipped weights were trained.

    Attributes:
        scenes_per_kind: training scenes of each kind, drawn once.
        epochs: how often each of them is seen, flipped at random.
        batch: scenes per step.
        peak_rate: highest learning rate of the one-cycle schedule (Smith and Topin, 2017, arXiv:1708.07120).
        weight_decay: decoupled weight decay of AdamW.
        label_smoothing: probability spread over the other classes.
        weights_seed: seed of the first weights, the order of scenes and the flips.
        threads: processor threads; their number decides the order of additions.
    """

    scenes_per_kind: int = 1600
    epochs: int = 12
    batch: int = 100
    peak_rate: float = 4e-3
    weight_decay: float = 0.02
    label_smoothing: float = 0.05
    weights_seed: int = 20
    threads: int = 2

    @property
    def steps(self) -> int:
        """Optimizer steps in all; the last incomplete batch of an epoch is left out."""
        return self.epochs * (self.scenes_per_kind * len(KINDS) // self.batch)


def draw_pool(per_kind: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scenes as uint8 [n, 3, SIZE, SIZE] and their classes [n], kind after kind, from `seed` onwards."""
    pixels = [np.asarray(draw_scene(kind, seed + index)) for kind in KINDS for index in range(per_kind)]
    classes = torch.arange(len(KINDS)).repeat_interleave(per_kind)
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2), classes


def augmented(pixels: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """uint8 pictures [n, 3, h, w] as normalized float32, half of them mirrored and half turned upside down."""
    for axis in (2, 3):
        coin = torch.rand(len(pixels), generator=random) < 0.5
        pixels = torch.where(coin[:, None, None, None], pixels.flip(axis), pixels)
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (IMAGE_MEAN, IMAGE_STD))
    return (pixels.float() / 255 - mean) / deviation


def train(settings: Settings, report: Report) -> InspectionNet:
    """The network after training, in inference mode."""
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.weights_seed)
    random = torch.Generator().manual_seed(settings.weights_seed)
    report(f"drawing {settings.scenes_per_kind * len(KINDS)} scenes")
    pool, classes = draw_pool(settings.scenes_per_kind, TRAIN_SEED)
    model = InspectionNet(len(KINDS))
    convert_conv2d_weight_memory_format(model, torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), settings.peak_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.peak_rate, settings.steps)
    loss_of = nn.CrossEntropyLoss(label_smoothing=settings.label_smoothing)
    for epoch in range(settings.epochs):
        losses = []
        order = torch.randperm(len(pool), generator=random)
        for start in range(0, len(pool) - settings.batch + 1, settings.batch):
            chosen = order[start : start + settings.batch]
            batch = augmented(pool[chosen], random).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(batch)
            loss = loss_of(logits.float(), classes[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
        report(f"epoch {epoch + 1}/{settings.epochs}: loss {torch.stack(losses).mean():.4f}")
    model.eval()
    return model


def write_model(folder: Path, settings: Settings, report: Report) -> ClassifierScore:
    """Trains and writes model.onnx, its two configs and training.json; the score is that of the file written.

    Args:
        folder: is made where it does not exist.
        settings: of the training.
        report: takes lines about how far the work is.
    """
    model = train(settings, report)
    folder.mkdir(parents=True, exist_ok=True)
    write_onnx(model, folder / "model.onnx")
    write_configs(folder)
    report("evaluating model.onnx")
    result = score(folder, per_kind=1000, seed=EVALUATION_SEED)
    record = {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "torch": torch.__version__,
        "settings": asdict(settings) | {"steps": settings.steps, "autocast": "bfloat16", "first_scene": TRAIN_SEED},
        "evaluation": asdict(result),
    }
    (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return result


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m edgeq.demo.train", description=(__doc__ or "").splitlines()[0])
    weights = Path(__file__).parent / "weights"
    parser.add_argument("-o", "--output", type=Path, default=weights, help="model directory to write")
    folder = parser.parse_args().output
    result = write_model(folder, Settings(), report=lambda line: print(line, flush=True))
    print(f"{folder}: {result.accuracy:.2%} of {result.scenes} scenes that were not trained on")


if __name__ == "__main__":
    main()
