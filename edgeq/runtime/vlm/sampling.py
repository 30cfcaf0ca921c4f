"""Choose tokens from logits: the likeliest, or one drawn from the likeliest. All sequences at once, each by itself."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from edgeq.runtime.vlm.api import SamplingParams

if TYPE_CHECKING:
    import torch

__all__ = ["NOT_DRAWN", "NOT_FINITE", "Sampler", "choose", "held", "logarithms"]

NOT_FINITE = -1
"""Chosen where logits are NaN or infinite."""

NOT_DRAWN = (0.0, 1.0, 0.0)
"""A row of `choose` that takes the likeliest token."""


class Sampler:
    """One request's random numbers, which are its own: its answer depends on its seed alone."""

    def __init__(self, sampling: SamplingParams) -> None:
        self.greedy = sampling.temperature == 0
        self._sampling = sampling

    @cached_property
    def _source(self) -> np.random.Generator:
        return np.random.default_rng(self._sampling.seed)

    def roll(self) -> tuple[float, float, float]:
        """For the next token: temperature, `top_p`, and a number drawn from [0, 1); `NOT_DRAWN` where none is drawn."""
        if self.greedy:
            return NOT_DRAWN
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
    chosen = likeliest if rolls is None else _drawn(values, rolls, likeliest)
    finite = values.gather(1, likeliest).isfinite()
    tokens: torch.Tensor = chosen.where(finite, NOT_FINITE)[:, 0]
    return tokens


def held(logits: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    """Logits of which only some tokens may be chosen.

    Args:
        logits: [n, vocabulary].
        allowed: int32 [n, at least vocabulary / 32] on any device: a bit for each token, the lowest first.

    Returns:
        float32 [n, vocabulary]: minus infinity where a token is not allowed, NaN in a row whose largest logit is not a
        number, and else the same.
    """
    import torch

    values = logits.float()
    places = torch.arange(32, dtype=torch.int32, device=values.device)
    bits = (allowed.to(values.device)[:, :, None] >> places) & 1
    closed = bits.flatten(1)[:, : values.shape[1]] == 0
    broken = ~values.amax(-1, keepdim=True).isfinite()
    return values.masked_fill(closed, float("-inf")).masked_fill_(broken, float("nan"))


def logarithms(
    logits: torch.Tensor, tokens: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """How likely tokens were, as natural logarithms, at temperature 1.

    Args:
        logits: [n, vocabulary], those that were chosen from.
        tokens: int64 [n], chosen.
        count: of the likeliest tokens that are told beside each, at most the vocabulary.

    Returns:
        Of each token its logarithm, float32 [n], and of each row the likeliest tokens, int64 [n, count], and their
        logarithms, float32 [n, count], the likeliest first.
    """
    values = logits.float().log_softmax(-1)
    picked = values.gather(1, tokens.clamp(min=0)[:, None])[:, 0]
    highest, ids = values.topk(min(count, values.shape[1]), -1)
    return picked, ids, highest


def _drawn(values: torch.Tensor, rolls: torch.Tensor, likeliest: torch.Tensor) -> torch.Tensor:
    """Tokens drawn in the rows that draw, and the likeliest in the others, int64 [n, 1].

    How a kernel sums may depend on the number of rows. On a CPU each row is therefore drawn by itself, and no other is
    sorted; elsewhere the caller gives the same number of rows each time.
    """
    if values.device.type != "cpu":
        return _draw(values, rolls).where(rolls[:, :1] > 0, likeliest)
    chosen = likeliest.clone()
    for row in (rolls[:, 0] > 0).nonzero()[:, 0].tolist():
        chosen[row] = _draw(values[row : row + 1], rolls[row : row + 1])[0]
    return chosen


def _draw(values: torch.Tensor, rolls: torch.Tensor) -> torch.Tensor:
    """A token from the nucleus of each row, int64 [n, 1], by inverting its distribution function at the number drawn.

    Where the temperature is 0 or the logits are not finite, any token.
    """
    temperature, top_p, drawn = rolls[:, :1], rolls[:, 1:2], rolls[:, 2:]
    scaled = (values - values.amax(1, keepdim=True)) / temperature.where(temperature > 0, 1.0)
    chances, order = scaled.softmax(-1).sort(stable=True, dim=-1, descending=True)
    below = chances.cumsum(-1) - chances
    kept = (below < top_p).logical_and_(chances > 0)
    mass = (chances * kept).sum(-1, keepdim=True)
    ahead = (below <= drawn * mass).logical_and_(kept).sum(-1, keepdim=True)
    drawn_ids: torch.Tensor = order.gather(1, (ahead - 1).clamp_(min=0))
    return drawn_ids
