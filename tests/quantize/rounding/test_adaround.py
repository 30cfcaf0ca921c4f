"""AdaRound by descent on a layer's own squared error."""

from __future__ import annotations

from itertools import product

import numpy as np

from edgeq.quantize.rounding.adaround import adaround, objective


def test_inputs_that_go_together_share_what_is_rounded_away() -> None:
    # 0.4 and 0.4 of the same input are 0.8 of it: nearest makes 0, which is 0.8 away; 1 is 0.2 away.
    weight, scale = np.array([[[0.4, 0.4]]]), np.array([[1.0]])
    together = adaround(weight, scale, np.ones((1, 2, 2)))
    assert together.sum() == 1
    assert adaround(weight, scale, np.eye(2)[np.newaxis]).tolist() == [[[0, 0]]]


def test_what_is_found_is_next_to_the_weight_and_no_single_change_helps() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(50, 6)) @ rng.normal(size=(6, 6))
    moments = (inputs.T @ inputs / 50)[np.newaxis]
    weight, scale = rng.normal(size=(1, 4, 6)), np.full((1, 4), 0.1)
    found = adaround(weight, scale, moments)
    assert (np.abs(found - weight / 0.1) < 1.0).all()
    error = objective(weight, scale, found, moments)[0]
    assert (error < objective(weight, scale, np.rint(weight / 0.1).astype(np.int8), moments)[0]).any()
    low, high = np.floor(weight / 0.1), np.ceil(weight / 0.1)
    for place in range(6):
        other = found.copy()
        other[:, :, place] = (low + high - found)[:, :, place]
        assert (objective(weight, scale, other, moments)[0] >= error - 1e-12).all()
    best = [
        min(
            float(objective(weight[:, [row]], scale[:, [row]], np.array([[each]], np.int8), moments)[0, 0])
            for each in product(*zip(low[0, row], high[0, row], strict=True))
        )
        for row in range(4)
    ]
    assert (error >= np.array(best) - 1e-12).all()
    assert error.sum() < 1.5 * sum(best)


def test_the_weight_that_sets_the_scale_stays_at_the_end_of_the_grid() -> None:
    weight = np.array([[[1.27, 0.504]]])
    found = adaround(weight, np.array([[0.01]]), np.array([[[1.0, -50.0], [-50.0, 2500.0]]]))
    assert found[0, 0, 0] == 127
    assert found.min() >= -127
