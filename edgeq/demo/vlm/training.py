"""Settings and state of the small vision-language model's training: one step, its rates, and the checkpoint."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgeq.demo.vlm.lessons import Lessons
from edgeq.demo.vlm.network import Sorter, build_model
from edgeq.demo.vlm.pool import Pool
from edgeq.demo.vlm.report import QUESTIONS
from edgeq.demo.vlm.tokens import build_processor
from edgeq.errors import InputError
from edgeq.files import atomic_write

__all__ = ["Settings", "Training", "begin", "cycle"]

_WATCH_BATCH = 50


@dataclass(frozen=True)
class Settings:
    """How the shipped weights were trained.

    Attributes:
        scenes: training scenes, drawn once and seen turned in eight ways.
        steps: optimizer steps in all.
        minutes: shortens the schedule when the steps would take longer; 0 does not.
        sorting: share of the work in which only the tower learns, to sort.
        sorting_batch: scenes per step then.
        report_batch: scenes per step after that.
        peak_rate: highest learning rate of each of the two cycles, from a linear warm-up to a cosine's end.
        tower_share: the tower's share of that rate in the second cycle.
        warm_up: share of a cycle in which the rate rises.
        weight_decay: decoupled weight decay of AdamW.
        longest_gradient: gradients are scaled down to this norm.
        seed: of first weights and of batches.
        threads: processor threads; their number decides the order of additions.

    Raises:
        InputError: there are no steps, or the time is negative.
    """

    scenes: int = 32_000
    steps: int = 5_200
    minutes: float = 0.0
    sorting: float = 0.4
    sorting_batch: int = 128
    report_batch: int = 64
    peak_rate: float = 1e-3
    tower_share: float = 0.3
    warm_up: float = 0.06
    weight_decay: float = 0.05
    longest_gradient: float = 1.0
    seed: int = 5
    threads: int = 2

    def __post_init__(self) -> None:
        """Refuses numbers with which nothing can be trained."""
        if self.steps < 1 or self.minutes < 0 or self.threads < 1:
            raise InputError(
                f"{self.steps} steps in {self.minutes:g} minutes on {self.threads} threads cannot be trained"
            )


@dataclass
class Training:
    """What a checkpoint holds.

    Attributes:
        lessons: model, sorter and texts.
        settings: how it is trained.
        step: steps done.
        seconds: time they took, and looking at how well it does.
        optimizer: AdamW over tower, sorter and the rest.
    """

    lessons: Lessons
    settings: Settings
    step: int = 0
    seconds: float = 0.0
    optimizer: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        """Makes the optimizer: tower, sorter and the rest each have a rate of their own."""
        model, sorter = self.lessons.model, self.lessons.sorter
        tower = list(model.model.vision_tower.parameters())
        known = set(map(id, tower))
        rest = [weight for weight in model.parameters() if id(weight) not in known]
        groups = [{"params": tower}, {"params": list(sorter.parameters())}, {"params": rest}]
        decay = self.settings.weight_decay
        self.optimizer = torch.optim.AdamW(groups, self.settings.peak_rate, betas=(0.9, 0.98), weight_decay=decay)

    @property
    def progress(self) -> float:
        """0 at the start, 1 when the steps are done or the time is up."""
        limit = 60 * self.settings.minutes
        return min(1.0, max(self.step / self.settings.steps, self.seconds / limit if limit else 0.0))

    @property
    def sorts(self) -> bool:
        """Whether only the tower learns."""
        return self.progress < self.settings.sorting

    def advance(self, pool: Pool) -> float:
        """One step on a batch that depends on seed and step only; the loss before it."""
        rng = np.random.default_rng((self.settings.seed, self.step))
        if self.sorts:
            loss = self.lessons.sorting_loss(pool.sample(self.settings.sorting_batch, rng))
        else:
            question = QUESTIONS[rng.integers(len(QUESTIONS))]
            loss = self.lessons.report_loss(pool.sample(self.settings.report_batch, rng), question)
        self._set_rates()
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        torch.nn.utils.clip_grad_norm_(weights, self.settings.longest_gradient)
        self.optimizer.step()
        self.step += 1
        return float(loss.detach())

    def accuracy(self, watched: Pool) -> float:
        """Share of scenes that are sorted, or reported, entirely right."""
        right = 0
        for batch, start in enumerate(range(0, len(watched.findings), _WATCH_BATCH)):
            views = watched.views(start, start + _WATCH_BATCH)
            question = QUESTIONS[batch % len(QUESTIONS)]
            right += self.lessons.sorted_right(views) if self.sorts else self.lessons.reported_right(views, question)
        return right / len(watched.findings)

    def _set_rates(self) -> None:
        """Sets the rate of each group to where its cycle is."""
        start, stop = (0.0, self.settings.sorting) if self.sorts else (self.settings.sorting, 1.0)
        rate = self.settings.peak_rate * cycle((self.progress - start) / (stop - start), self.settings.warm_up)
        tower, *others = self.optimizer.param_groups
        tower["lr"] = rate * (1 if self.sorts else self.settings.tower_share)
        for group in others:
            group["lr"] = rate

    def save(self, path: Path) -> None:
        """Writes a checkpoint in one step."""
        state = {
            "model": self.lessons.model.state_dict(),
            "sorter": self.lessons.sorter.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "settings": asdict(self.settings),
            "step": self.step,
            "seconds": self.seconds,
        }
        atomic_write(path, partial(torch.save, state))

    def load(self, path: Path) -> None:
        """Goes on from a checkpoint, with the settings at hand.

        Raises:
            InputError: there is none.
        """
        if not path.exists():
            raise InputError(f"there is no checkpoint {path} to go on from", next_step="leave --resume out")
        state: dict[str, Any] = torch.load(path, weights_only=True)
        self.lessons.model.load_state_dict(state["model"])
        self.lessons.sorter.load_state_dict(state["sorter"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]


def cycle(share: float, warm_up: float) -> float:
    """The rate as a share of its peak: a linear rise, then half a cosine down to 0."""
    if share < warm_up:
        return (share + 1e-3) / (warm_up + 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (share - warm_up) / (1 - warm_up)))


def begin(settings: Settings) -> Training:
    """A training that has done nothing yet."""
    torch.set_num_threads(settings.threads)
    processor = build_processor()
    model = build_model(processor, settings.seed)  # seeds torch, for the sorter too
    return Training(Lessons(model, Sorter(), processor), settings)
