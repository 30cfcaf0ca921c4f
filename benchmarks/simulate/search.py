"""The search for the scales of a product's two sides: PTQ4ViT's objective (arXiv 2111.12293), side by side in turn.

The loss of a choice is the sum over images and output numbers of (simulated - exact)^2, each weighted by how much the
network's answer depends on that number. With all weights 1 it is the plain error of the output.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from benchmarks.simulate.products import Observed, Quantized
from benchmarks.simulate.uniform import Quantizer, Uniform

__all__ = ["Objective", "loss_by_channel", "search"]

Objective = Literal["output", "hessian"]
"""What the squared error of an output number is weighted with: 1, or its importance."""

_ROUNDS = 3


def loss_by_channel(
    observed: Observed, exact: torch.Tensor, left: torch.Tensor, right: torch.Tensor, objective: Objective
) -> torch.Tensor:
    """The loss of a product whose sides were rounded, for each of its last axis' channels: float32 [m].

    Args:
        observed: the product.
        exact: what it gives for its exact sides.
        left, right: its rounded sides.
        objective: how errors are weighted.
    """
    squares = (observed.product(left, right) - exact).square_()
    if objective == "hessian":
        squares *= observed.importance
    return squares.flatten(0, -2).sum(dim=0)


@torch.no_grad()
def search(
    observed: Observed, lefts: Sequence[Quantizer], rights: Sequence[Quantizer], objective: Objective
) -> Quantized:
    """The best candidates of both sides: the right one for the left one, then the other way round, three times.

    Where the right side is a weight with a step for each output channel, every channel takes its own best one: its
    loss depends on no other. The loss never rises, and ends at or below that of the first candidates.

    Args:
        observed: the product.
        lefts, rights: candidates, of which the first are begun with.
        objective: what is made small.
    """
    exact = observed.product(observed.left, observed.right)

    def losses(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return loss_by_channel(observed, exact, left, right, objective)

    left, right = lefts[0], rights[0]
    for _ in range(_ROUNDS):
        before = left
        rounded = left(observed.left)
        right = _best(rights, torch.stack([losses(rounded, candidate(observed.right)) for candidate in rights]))
        rounded = right(observed.right)
        left = _best(lefts, torch.stack([losses(candidate(observed.left), rounded) for candidate in lefts]))
        if left is before:
            break
    return Quantized(left, right)


def _best(candidates: Sequence[Quantizer], losses: torch.Tensor) -> Quantizer:
    """The candidate with the least loss [candidates, channels]: of all channels together, or of each channel."""
    by_channel = [candidate for candidate in candidates if isinstance(candidate, Uniform) and candidate.step.ndim == 2]
    if len(by_channel) < len(candidates):
        return candidates[int(losses.sum(dim=1).argmin())]
    steps = torch.stack([candidate.step for candidate in by_channel])
    chosen = steps[losses.argmin(dim=0), torch.arange(steps.shape[1])]
    return Uniform(chosen, by_channel[0].lowest, by_channel[0].highest)
