"""Comparing features token by token, on vectors whose angles and lengths are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeq.errors import ParityError
from edgeq.quality.token_parity import TokenParity, measure_tokens, prove_tokens

TURNED = math.radians(60)


def features(*tokens: tuple[float, float]) -> NDArray[np.float32]:
    return np.array(tokens, np.float32)


def measure(right: NDArray[np.float32], made: NDArray[np.float32], bound: float = 1e-5) -> TokenParity:
    return measure_tokens([((0, 0), right, made)], bound=bound)


def test_the_worst_token_is_found_among_tiles() -> None:
    same, turned = features((1, 0), (0, 2)), features((1, 0), (2 * math.sin(TURNED), 2 * math.cos(TURNED)))
    places = [(0, 0), (4, 0), (4, 1), (5, 0)]
    pairs = [(place, same, turned if place == (4, 1) else same) for place in places]
    found = measure_tokens(pairs, bound=1e-5)
    assert (found.worst_photograph, found.worst_tile, found.worst_token) == (4, 1, 1)
    assert found.worst_cosine == pytest.approx(0.5, abs=1e-6)
    assert found.mean_cosine == pytest.approx((7 + 0.5) / 8, abs=1e-6)
    assert found.worst_relative == pytest.approx(1, abs=1e-6)  # an equilateral triangle
    assert (found.pictures, found.tokens, found.holds) == (4, 8, False)


def test_a_wrong_length_has_the_cosine_1_and_is_found() -> None:
    found = measure(features((3, 4)), features((3.3, 4.4)))
    assert found.worst_cosine == pytest.approx(1)
    assert found.worst_relative == pytest.approx(0.1, rel=1e-5)
    assert not found.holds


@pytest.mark.parametrize(("angle", "holds"), [(0.004, True), (0.005, False)])
def test_the_bound(angle: float, holds: bool) -> None:
    """1 - cos(a) is a²/2 for a small a: 0.8e-5 and 1.25e-5."""
    assert measure(features((1, 0)), features((math.cos(angle), math.sin(angle)))).holds is holds


@pytest.mark.parametrize(
    ("right", "made", "cosine", "relative"),
    [((0, 0), (0, 0), 1, 0), ((0, 0), (1, 0), 0, math.inf), ((1, 0), (0, 0), 0, 1)],
)
def test_tokens_that_are_zero(
    right: tuple[float, float], made: tuple[float, float], cosine: float, relative: float
) -> None:
    found = measure(features(right), features(made))
    assert (found.worst_cosine, found.worst_relative) == (cosine, relative)


def test_what_is_not_finite_is_named_with_its_place() -> None:
    right, made = features((1, 0), (1, 0), (1, 0)), features((1, 0), (math.inf, 0), (math.nan, 0))
    with pytest.raises(
        ParityError, match=r"candidate computes NaN .* in 2 of 3 tokens, the first is token 1 .*graph 7"
    ):
        measure_tokens([((7, 0), right, made)], bound=1)
    with pytest.raises(ParityError, match="reference computes"):
        measure(made, right)


def test_nothing_to_compare() -> None:
    with pytest.raises(ParityError, match="no pictures"):
        measure_tokens([], bound=1)
    with pytest.raises(ParityError, match=r"shape \[1, 2\]"):
        measure(features((1, 0), (0, 1)), features((1, 0)))


def test_the_error_names_the_token() -> None:
    with pytest.raises(ParityError, match=r"the graph sees something else: token 1 of photograph 3"):
        prove_tokens([((3, 0), features((1, 0), (1, 0)), features((1, 0), (0, 1)))], bound=1e-5, made="the graph")
