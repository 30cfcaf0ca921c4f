"""The largest difference between what two networks compute, held against a bound.

The bound is relative to the range of the reference's own outputs, so that it means the same for logits of any size.
Float32 rounding through some hundred layers stays near 1e-6 of that range; a fault in a rewrite is far above 1e-4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import ParityError

__all__ = ["BOUND", "Network", "Parity", "measure_parity", "prove_parity"]

Network = Callable[[NDArray[Any]], NDArray[np.float32]]
"""A batch [images, ...] to its outputs [images, ...]; of captions it is int64."""

BOUND = 1e-4


@dataclass(frozen=True)
class Parity:
    """How far a candidate is from its reference.

    Attributes:
        images: how many were compared.
        max_abs_error: the largest absolute difference of any output.
        output_range: largest minus smallest output of the reference.
        relative: max_abs_error / output_range.
        bound: the largest `relative` that counts as the same network.
    """

    images: int
    max_abs_error: float
    output_range: float
    relative: float
    bound: float = BOUND

    @property
    def holds(self) -> bool:
        """Whether the candidate is within the bound."""
        return self.relative <= self.bound


def measure_parity(
    reference: Network, candidate: Network, batches: Iterable[NDArray[Any]], *, bound: float = BOUND
) -> Parity:
    """Run both networks on each batch and compare; one batch is held at a time.

    Args:
        reference: what is right.
        candidate: what was made from it.
        batches: arrays [images, ...]; at least one image in all.
        bound: see `Parity.bound`.

    Raises:
        ParityError: no images, outputs of different shapes, or NaN or infinity in the outputs of either.
    """
    images, error, low, high = 0, 0.0, np.inf, -np.inf
    for batch in batches:
        right, made = _outputs("reference", reference, batch), _outputs("candidate", candidate, batch)
        if right.shape != made.shape:
            raise ParityError(
                f"the candidate's outputs have shape {list(made.shape)}",
                expected=f"{list(right.shape)}, as the reference",
            )
        if right.size:
            images += len(batch)
            error = max(error, float(np.abs(right - made).max()))
            low, high = min(low, float(right.min())), max(high, float(right.max()))
    if not images:
        raise ParityError("there are no images to compare the two networks on", expected="at least one batch")
    return Parity(images, error, high - low, _relative(error, high - low), bound)


def prove_parity(
    reference: Network, candidate: Network, batches: Iterable[NDArray[Any]], *, bound: float = BOUND
) -> Parity:
    """As `measure_parity`, and insist on the bound.

    Raises:
        ParityError: as `measure_parity`, or the difference is above the bound.
    """
    parity = measure_parity(reference, candidate, batches, bound=bound)
    if not parity.holds:
        raise ParityError(
            f"the graph made differs from its source by {parity.relative:.3g} of the output range "
            f"({parity.max_abs_error:.3g} of {parity.output_range:.3g}, {parity.images} images)",
            expected=f"at most {bound:g}",
            causes=("the export or a fold changed what the network computes", "the source is not in eval mode"),
            next_step="try --no-fold: if that passes, a fold is at fault",
        )
    return parity


def _outputs(role: str, network: Network, batch: NDArray[Any]) -> NDArray[np.float64]:
    outputs = np.asarray(network(batch), dtype=np.float64)
    if not np.isfinite(outputs).all():
        kind = "NaN" if np.isnan(outputs).any() else "infinity"
        raise ParityError(f"the {role} computes {kind}", expected="finite outputs on real images")
    return outputs


def _relative(error: float, output_range: float) -> float:
    """error / range; constant outputs have no range, and then any difference is beyond every bound."""
    if output_range > 0:
        return error / output_range
    return 0.0 if error == 0 else float("inf")
