"""The largest difference between what two networks compute, held against a bound.

The bound is relative to the range of the reference's own outputs, so that it means the same for logits of any size. Of
several outputs each is held against its own range: boxes of hundreds of pixels say nothing of scores below 1.
Float32 rounding through some hundred layers stays near 1e-6 of that range; a fault in a rewrite is far above 1e-4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import ParityError

__all__ = [
    "BOUND",
    "AllOutputs",
    "Network",
    "Parity",
    "measure_outputs",
    "measure_parity",
    "prove_outputs",
    "prove_parity",
]

Network = Callable[[NDArray[Any]], NDArray[np.float32]]
"""A batch [images, ...] to its output [images, ...]; of captions it is int64."""

AllOutputs = Callable[[NDArray[Any]], tuple[NDArray[Any], ...]]
"""A batch [images, ...] to all of its outputs."""

BOUND = 1e-4
_IN_TEN = 10
_ROUNDINGS: Final = 4 * float(np.finfo(np.float32).eps)
"""Of the largest number: so much may two float32 networks differ by that compute the same, whatever the range."""


@dataclass(frozen=True)
class Parity:
    """How far a candidate is from its reference.

    Attributes:
        images: how many were compared.
        max_abs_error: the largest absolute difference of any output.
        output_range: largest minus smallest output of the reference.
        relative: max_abs_error / output_range; at most `bound` where the error is that of four float32 roundings.
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
    (parity,) = measure_outputs(_alone(reference), _alone(candidate), batches, bound=bound)
    return parity


def measure_outputs(
    reference: AllOutputs,
    candidate: AllOutputs,
    batches: Iterable[NDArray[Any]],
    *,
    listed: Sequence[bool] = (),
    bound: float = BOUND,
) -> tuple[Parity, ...]:
    """As `measure_parity`, for each of several outputs by itself.

    Args:
        reference: what is right.
        candidate: what was made from it, with the same outputs in the same order.
        batches: arrays [images, ...]; at least one image in all.
        listed: of each output, whether it is a list of what was found, where rounding may change what is listed, and
            how much: its figures are then those of the best nine batches in ten. Empty where none is.
        bound: see `Parity.bound`.

    Raises:
        ParityError: as `measure_parity`; lists of different lengths only count as far apart.
    """
    found: list[_Largest] = []
    for batch in batches:
        right, made = _finite("reference", reference(batch)), _finite("candidate", candidate(batch))
        found = found or [_Largest(place < len(listed) and listed[place]) for place in range(len(right))]
        for largest, ours, theirs in zip(found, right, made, strict=True):
            largest.add(ours, theirs, len(batch))
    if not any(largest.images for largest in found):
        raise ParityError("there are no images to compare the two networks on", expected="at least one batch")
    return tuple(largest.parity(bound) for largest in found)


@dataclass
class _Largest:
    """What is known of one output so far."""

    listed: bool = False
    images: int = 0
    errors: list[float] = field(default_factory=list)
    low: float = np.inf
    high: float = -np.inf

    def add(self, right: NDArray[np.float64], made: NDArray[np.float64], images: int) -> None:
        same = right.shape == made.shape
        if not same and not self.listed:
            raise ParityError(
                f"the candidate's outputs have shape {list(made.shape)}",
                expected=f"{list(right.shape)}, as the reference",
            )
        self.images += images
        self.errors.append(float(np.abs(right - made).max(initial=0.0)) if same else np.inf)
        if right.size:  # nothing is in it where a detector finds nothing
            self.low, self.high = min(self.low, float(right.min())), max(self.high, float(right.max()))

    def parity(self, bound: float) -> Parity:
        output_range = max(self.high - self.low, 0.0)  # -inf where nothing was found on any image
        passed = len(self.errors) // _IN_TEN if self.listed else 0
        error = sorted(self.errors)[-1 - passed]
        largest = max(abs(self.low), abs(self.high)) if np.isfinite(self.low) else 0.0
        if error <= largest * _ROUNDINGS:  # what is nearly constant is not told apart more finely
            return Parity(self.images, error, output_range, min(_relative(error, output_range), bound), bound)
        return Parity(self.images, error, output_range, _relative(error, output_range), bound)


def prove_parity(
    reference: Network, candidate: Network, batches: Iterable[NDArray[Any]], *, bound: float = BOUND
) -> Parity:
    """As `measure_parity`, and insist on the bound.

    Raises:
        ParityError: as `measure_parity`, or the difference is above the bound.
    """
    (parity,) = prove_outputs(_alone(reference), _alone(candidate), batches, bound=bound)
    return parity


def prove_outputs(
    reference: AllOutputs,
    candidate: AllOutputs,
    batches: Iterable[NDArray[Any]],
    *,
    names: Sequence[str] = (),
    listed: Sequence[bool] = (),
    bound: float = BOUND,
) -> tuple[Parity, ...]:
    """As `measure_outputs`, and insist on the bound for each.

    Args:
        reference, candidate, batches, listed, bound: as there.
        names: of the outputs, for the error; may be left out where there is one alone.

    Raises:
        ParityError: as `measure_outputs`, or the difference is above the bound.
    """
    parities = measure_outputs(reference, candidate, batches, listed=listed, bound=bound)
    worst = max(range(len(parities)), key=lambda place: parities[place].relative)
    parity = parities[worst]
    if not parity.holds:
        of = f" of {names[worst]}" if len(parities) > 1 and names else ""
        raise ParityError(
            f"the graph made differs from its source by {parity.relative:.3g} of the output range{of} "
            f"({parity.max_abs_error:.3g} of {parity.output_range:.3g}, {parity.images} images)",
            expected=f"at most {bound:g}",
            causes=("the export or a fold changed what the network computes", "the source is not in eval mode"),
            next_step="try --no-fold: if that passes, a fold is at fault",
        )
    return parities


def _alone(network: Network) -> AllOutputs:
    return lambda batch: (network(batch),)


def _finite(role: str, made: tuple[NDArray[Any], ...]) -> list[NDArray[np.float64]]:
    outputs = [np.asarray(values, dtype=np.float64) for values in made]
    for values in outputs:
        if not np.isfinite(values).all():
            kind = "NaN" if np.isnan(values).any() else "infinity"
            raise ParityError(f"the {role} computes {kind}", expected="finite outputs on real images")
    return outputs


def _relative(error: float, output_range: float) -> float:
    """error / range; constant outputs have no range, and then any difference is beyond every bound."""
    if output_range > 0:
        return error / output_range
    return 0.0 if error == 0 else float("inf")
