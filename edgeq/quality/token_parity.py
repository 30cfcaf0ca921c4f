"""How far the visual features of two networks are apart, token by token: one wrong token is one blind spot.

A token's cosine does not see its length, so the relative error is held against the same bound: two vectors of length 1
whose cosine is 1 - d are sqrt(2 d) apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from edgeq.errors import ParityError

__all__ = ["FP16_BOUND", "FP32_BOUND", "Place", "TokenParity", "measure_tokens", "prove_tokens"]

FP32_BOUND: Final = 1e-5
"""1 - cosine of the worst token that counts as the same network in float32."""

FP16_BOUND: Final = 1e-2
"""Likewise in FP16, whose rounding alone stays below 1e-4 in a network of 24 layers."""

Place = tuple[int, int]
"""A photograph's index, and a tile's index in it."""


class TokenParity(BaseModel):
    """Features of a candidate against those of a reference.

    Attributes:
        pictures: how many were compared: photographs, or tiles of them.
        tokens: of all pictures together.
        mean_cosine: over all tokens.
        worst_cosine: of the token that turned most.
        worst_photograph, worst_tile, worst_token: where that token is; the token is counted within its tile.
        worst_relative: largest length of a token's difference / length of the reference's token.
        bound: the largest 1 - cosine that counts as equal.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pictures: int
    tokens: int
    mean_cosine: float
    worst_cosine: float
    worst_photograph: int
    worst_tile: int
    worst_token: int
    worst_relative: float
    bound: float

    @property
    def holds(self) -> bool:
        """Whether every token is within the bound, in direction and in length."""
        return 1 - self.worst_cosine <= self.bound and self.worst_relative <= math.sqrt(2 * self.bound)


def measure_tokens(
    pairs: Iterable[tuple[Place, NDArray[np.float32], NDArray[np.float32]]], *, bound: float
) -> TokenParity:
    """Compare features picture by picture; one pair is held at a time.

    Args:
        pairs: (place, reference, candidate), features [tokens, hidden]; at least one pair.
        bound: see `TokenParity.bound`.

    Raises:
        ParityError: no pairs, different shapes, or NaN or infinity in the features of either.
    """
    cosines: list[NDArray[np.float64]] = []
    places: list[Place] = []
    relative = 0.0
    for place, reference, candidate in pairs:
        _check(place, reference, candidate)
        right, made = reference.astype(np.float64), candidate.astype(np.float64)
        cosines.append(_cosines(right, made))
        relative = max(relative, _relative(right, made))
        places.append(place)
    if not cosines:
        raise ParityError("there are no pictures to compare features on", expected="at least one photograph")
    worst = min(range(len(cosines)), key=lambda index: cosines[index].min())
    return TokenParity(
        pictures=len(places),
        tokens=sum(map(len, cosines)),
        mean_cosine=float(np.concatenate(cosines).mean()),
        worst_cosine=float(cosines[worst].min()),
        worst_photograph=places[worst][0],
        worst_tile=places[worst][1],
        worst_token=int(cosines[worst].argmin()),
        worst_relative=relative,
        bound=bound,
    )


def prove_tokens(
    pairs: Iterable[tuple[Place, NDArray[np.float32], NDArray[np.float32]]], *, bound: float, made: str
) -> TokenParity:
    """As `measure_tokens`, and insist on the bound.

    Args:
        made: what the candidate is, for the error: "the FP16 graph".

    Raises:
        ParityError: as `measure_tokens`, or a token is beyond the bound.
    """
    parity = measure_tokens(pairs, bound=bound)
    if not parity.holds:
        raise ParityError(
            f"{made} sees something else: token {parity.worst_token} of photograph {parity.worst_photograph} "
            f"(tile {parity.worst_tile}) has the cosine {parity.worst_cosine:.6f} to its reference, "
            f"and the largest relative error of a token is {parity.worst_relative:.3g}",
            expected=f"1 - cosine of at most {bound:g}, and a relative error of at most {math.sqrt(2 * bound):.3g}",
            causes=(f"mean cosine over {parity.tokens} tokens: {parity.mean_cosine:.6f}",),
        )
    return parity


def _check(place: Place, reference: NDArray[np.float32], candidate: NDArray[np.float32]) -> None:
    where = f"photograph {place[0]}, tile {place[1]}"
    if reference.shape != candidate.shape or reference.ndim != 2 or not len(reference):
        raise ParityError(
            f"the candidate's features have shape {list(candidate.shape)} ({where})",
            expected=f"[tokens, hidden] as the reference: {list(reference.shape)}",
        )
    for role, values in (("reference", reference), ("candidate", candidate)):
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(bad):
            raise ParityError(
                f"the {role} computes NaN or infinity in {len(bad)} of {len(values)} tokens, "
                f"the first is token {bad[0]} ({where})",
                expected="finite features of every photograph",
                causes=("a number of the checkpoint is not finite", "a layer overflows its number format"),
            )


def _cosines(right: NDArray[np.float64], made: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosine of each token; 1 where both are zero, 0 where one is."""
    lengths = np.linalg.norm(right, axis=1) * np.linalg.norm(made, axis=1)
    found: NDArray[np.float64] = np.zeros(len(right))
    found[~right.any(axis=1) & ~made.any(axis=1)] = 1
    np.divide(np.einsum("th,th->t", right, made), lengths, out=found, where=lengths > 0)
    return found


def _relative(right: NDArray[np.float64], made: NDArray[np.float64]) -> float:
    """The largest relative error of a token; infinite where a token should be zero and is not."""
    apart, length = np.linalg.norm(made - right, axis=1), np.linalg.norm(right, axis=1)
    found = np.where(apart > 0, np.inf, 0.0)
    np.divide(apart, length, out=found, where=length > 0)
    return float(found.max())
