"""Tokens chosen from logits, against distribution functions written down by hand or inverted in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeq.errors import InputError
from edgeq.runtime.vlm.api import GREEDY, SamplingParams
from edgeq.runtime.vlm.sampling import NOT_FINITE, Sampler, choose

CHANCES = [0.1, 0.5, 0.15, 0.25]
LOGITS = torch.tensor(CHANCES).log() + 3.0


def drawn(temperature: float, top_p: float, number: float) -> int:
    return int(choose(LOGITS[None], torch.tensor([[temperature, top_p, number]]))[0])


def test_the_likeliest() -> None:
    assert choose(torch.tensor([[0.0, 2.0, 1.0], [5.0, -1.0, 4.0]])).tolist() == [1, 0]
    assert drawn(0.0, 0.1, 0.99) == 1


@pytest.mark.parametrize(
    ("number", "token"), [(0.0, 1), (0.49, 1), (0.51, 3), (0.74, 3), (0.76, 2), (0.89, 2), (0.91, 0), (0.9999, 0)]
)
def test_all_tokens_are_drawn_by_their_chances(number: float, token: int) -> None:
    """From the likeliest down, the chances add up to 0.5, 0.75, 0.9 and 1."""
    assert drawn(1.0, 1.0, number) == token


@pytest.mark.parametrize(
    ("top_p", "number", "token"),
    [(0.4, 0.99, 1), (0.5, 0.99, 1), (0.6, 0.66, 1), (0.6, 0.67, 3), (0.75, 0.99, 3), (0.8, 0.82, 3), (0.8, 0.84, 2)],
)
def test_as_few_tokens_as_reach_top_p(top_p: float, number: float, token: int) -> None:
    """With 0.6 those of 0.5 and 0.25, and so 2/3 and 1/3; with 0.8 three, of 5/9, 5/18 and 1/6."""
    assert drawn(1.0, top_p, number) == token


def test_temperature_against_numpy() -> None:
    draw = np.random.default_rng(0)
    logits = draw.normal(0, 3, (50, 40))
    rolls = np.stack([draw.uniform(0.3, 3, 50), np.ones(50), draw.random(50)], 1)
    found = choose(torch.from_numpy(logits).float(), torch.from_numpy(rolls).float()).tolist()
    for row, (temperature, _, number), token in zip(logits, rolls, found, strict=True):
        order = np.argsort(-row)
        powers = np.exp((row[order] - row.max()) / temperature)
        assert token == order[np.searchsorted(np.cumsum(powers) / powers.sum(), number, side="right")]


def test_a_row_does_not_depend_on_the_others() -> None:
    draw = torch.Generator().manual_seed(0)
    logits, rolls = torch.randn(4, 1000, generator=draw).half(), torch.rand(4, 3, generator=draw)
    rolls[2, 0] = 0
    together = choose(logits, rolls)
    assert together.tolist() == [int(choose(logits[row][None], rolls[row][None])[0]) for row in range(4)]


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_what_is_not_a_number_is_no_token(broken: float) -> None:
    logits = torch.tensor([[1.0, 2.0], [1.0, broken]])
    assert choose(logits).tolist() == [1, NOT_FINITE]
    assert choose(logits, torch.tensor([[1.0, 1.0, 0.99], [1.0, 1.0, 0.5]])).tolist() == [0, NOT_FINITE]


def test_a_seed_is_an_answer() -> None:
    rolls = [
        [sampler.roll() for _ in range(5)]
        for sampler in (Sampler(SamplingParams(0.5, 0.9, seed)) for seed in (7, 7, 8))
    ]
    assert rolls[0] == rolls[1] != rolls[2]
    assert {roll[:2] for roll in rolls[0]} == {(0.5, 0.9)}
    assert all(0 <= roll[2] < 1 for roll in rolls[0])
    unseeded = [Sampler(SamplingParams(1.0)).roll()[2] for _ in range(3)]
    assert len(set(unseeded)) == 3
    assert Sampler(GREEDY).greedy
    assert Sampler(GREEDY).roll()[0] == 0


@pytest.mark.parametrize(
    "wrong", [{"temperature": -0.1}, {"temperature": float("nan")}, {"top_p": 0.0}, {"top_p": 1.1}, {"seed": -1}]
)
def test_numbers_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError):
        SamplingParams(**wrong)  # type: ignore[arg-type]


def test_a_row_is_drawn_by_itself() -> None:
    """Of many words, whose sum torch splits between threads where there is one row: each among others as alone."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(5, 70_000, generator=generator)
    rolls = torch.tensor([[1.5, 0.9, 0.3], [0.0, 1.0, 0.0], [1.0, 1.0, 0.999], [2.0, 0.5, 0.7], [0.0, 1.0, 0.0]])
    together = choose(logits, rolls)
    alone = [choose(logits[row : row + 1], rolls[row : row + 1]) for row in range(5)]
    assert torch.equal(together, torch.cat(alone))
    likeliest = logits.argmax(-1)
    assert (together == likeliest).tolist() == [False, True, False, False, True]
