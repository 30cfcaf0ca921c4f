"""AdaRound (Nagel et al. 2020, arXiv:2004.10568): round each weight up or down, whichever the layer's answers want.

Their objective for a layer is E[(D x)^2] = D E[x x'] D' for the rounding errors D of an output channel's weights (a
quadratic unconstrained binary optimization, section 3). It needs the inputs' second moments alone and no image, so it
is descended here directly, a weight at a time, from the nearest integers on, instead of by SGD on a relaxation of it.
Each step makes the objective smaller; the weight that sets a channel's scale lies on an integer and stays there.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["adaround", "objective"]

Array = NDArray[np.float64]

_SWEEPS: Final = 6
"""Times that all weights are gone through, at the most; few change after the third."""


def adaround(weight: Array, scale: Array, moments: Array) -> NDArray[np.int8]:
    """Integers next to weight / scale that make the layer's squared error small.

    Args:
        weight: float64 [groups, outputs, inputs], of each group of a convolution; one group for any other layer.
        scale: float64 [groups, outputs], > 0.
        moments: float64 [groups, inputs, inputs], E[x x'] of the inputs, or their covariance where the bias takes the
            mean.

    Returns:
        int8 [groups, outputs, inputs], in -127..127, each the integer below or above.
    """
    exact = weight / scale[:, :, None]
    low = np.clip(np.floor(exact), -127, 127)
    high = np.clip(np.ceil(exact), -127, 127)
    chosen = np.clip(np.rint(exact), -127, 127)
    pull = (chosen - exact) @ moments  # the objective's gradient, halved, in steps of the scale
    own = np.einsum("gkk->gk", moments)
    for _ in range(_SWEEPS):
        if not _sweep(chosen, low, high, pull, moments, own):
            break
    return chosen.astype(np.int8)


def _sweep(chosen: Array, low: Array, high: Array, pull: Array, moments: Array, own: Array) -> int:
    """Go through all weights once, changing `chosen` and `pull`; how many were changed."""
    changed = 0
    for place in range(chosen.shape[2]):
        step = low[:, :, place] + high[:, :, place] - 2.0 * chosen[:, :, place]  # to the other of the two integers
        gain = 2.0 * step * pull[:, :, place] + step**2 * own[:, place, None]
        groups, outputs = np.nonzero(gain < -1e-12 * own[:, place, None])
        if len(groups):
            moved = step[groups, outputs]
            chosen[groups, outputs, place] += moved
            pull[groups, outputs] += moved[:, None] * moments[groups, place]
            changed += len(groups)
    return changed


def objective(weight: Array, scale: Array, integers: NDArray[np.int8], moments: Array) -> Array:
    """The squared error of each output that some integers make, float64 [groups, outputs].

    Args:
        weight, scale, moments: as in `adaround`.
        integers: int8 [groups, outputs, inputs].
    """
    error = integers * scale[:, :, None] - weight
    found: Array = np.einsum("gok,gkl,gol->go", error, moments, error, optimize=True)
    return found
