"""Choose tokens from logits: the likeliest, or one drawn from the likeliest. All sequences at once, each by itself."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from edgeq.runtime.vlm.api import SamplingParams

if TYPE_CHECKING:
    import torch

__all__ = ["NOT_FINITE", "Sampler", "choose"]

NOT_FINITE = -1
"""Chosen where logits are NaN or infinite."""


class Sampler:
    """One request's random numbers, which are its own: its answer depends on its seed alone."""

    def __init__(self, sampling: SamplingParams) -> None:
        self.greedy = sampling.temperature == 0
        self._sampling = sampling

    @cached_property
    def _source(self) -> np.random.Generator:
        return np.random.default_rng(self._sampling.seed)

    def roll(self) -> tuple[float, float, float]:
        """For the next token: temperature, `top_p`, and a number drawn from [0, 1); (0, 1, 0) where none is drawn."""
        if self.greedy:
            return 0.0, 1.0, 0.0
        return self._sampling.temperature, self._sampling.top_p, float(self._source.random())


def choose(logits: torch.Tensor, rolls: torch.Tensor | None = None) -> torch.Tensor:
    """One token for each sequence.

    Args:
        logits: [n, vocabulary].
        rolls: float32 [n, 3], each row from `Sampler.roll`; None where all sequences take the likeliest token.

    Returns:
        int64 [n], `NOT_FINITE` where the largest logit is not a number.
    """
    values = logits.float()
    likeliest = values.argmax(-1, keepdim=True)
    chosen = likeliest if rolls is None else _draw(values, rolls).where(rolls[:, :1] > 0, likeliest)
    finite = values.gather(1, likeliest).isfinite()
    tokens: torch.Tensor = chosen.where(finite, NOT_FINITE)[:, 0]
    return tokens


def _draw(values: torch.Tensor, rolls: torch.Tensor) -> torch.Tensor:
    """A token from the nucleus of each row, int64 [n, 1], by inverting its distribution function at the number drawn.

    Where the temperature is 0 or the logits are not finite, any token.
    """
    temperature, top_p, drawn = rolls[:, :1], rolls[:, 1:2], rolls[:, 2:]
    scaled = (values - values.amax(1, keepdim=True)) / temperature.where(temperature > 0, 1.0)
    chances, order = scaled.softmax(-1).sort(stable=True, dim=-1, descending=True)
    below = chances.cumsum(-1) - chances
    kept = below < top_p
    mass = (chances * kept).sum(-1, keepdim=True)
    ahead = (below <= drawn * mass).logical_and_(kept).sum(-1, keepdim=True)
    drawn_ids: torch.Tensor = order.gather(1, (ahead - 1).clamp_(min=0))
    return drawn_ids
