"""SmoothQuant (Xiao et al. 2022, arXiv:2211.10438, equation 4): the same strain on activations and weights.

Channel j of the activations is divided by s_j = max|x_j|^a / max|w_j|^(1 - a), where w_j are the weights that read it;
a = 1 makes all channels of the activations alike, a = 0 all input channels of the weights. What AWQ (arXiv:2306.00978)
folds before the output projection and behind a ReLU is the same map at other points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeq.quantize.equalize.channel_ranges import Range
from edgeq.quantize.equalize.points import EqualizationPoint
from edgeq.quantize.equalize.rescale import Rescale, consumer_weights

__all__ = ["STRENGTHS", "smooth", "smooth_scale"]

STRENGTHS: Final = (0.3, 0.5, 0.7, 0.85)
"""The values of a that are tried."""


def smooth(
    model: onnx.ModelProto,
    points: Sequence[EqualizationPoint],
    ranges: Mapping[str, Range],
    layers: frozenset[str],
    strength: float,
) -> tuple[Rescale, ...]:
    """What SmoothQuant does at each point.

    Args:
        model: whose weights are looked at.
        points: of that graph.
        ranges: of their channels.
        layers: names of the layers that will be quantized; the weights of others do not matter.
        strength: a, from 0 to 1.
    """
    return tuple(
        Rescale.at(
            point,
            smooth_scale(
                ranges[point.name].largest, consumer_weights(model, point, layers), point.scalable, strength=strength
            ),
        )
        for point in points
    )


def smooth_scale(
    activations: NDArray[np.float64],
    weights: NDArray[np.float64],
    scalable: NDArray[np.bool_],
    *,
    strength: float,
) -> NDArray[np.float64]:
    """The scale of each channel, float64 [channels].

    Args:
        activations: largest magnitude of each channel.
        weights: largest magnitude of the weights that read it.
        scalable: the channels that may have another scale than 1.
        strength: a, from 0 to 1.

    Returns:
        1 for a channel that is always zero, or that is read with zeros. The others are brought to a geometric mean of
        1 where all of them may be scaled, which changes no rounding and keeps the numbers' size.
    """
    used = scalable & (activations > 0.0) & (weights > 0.0)
    scale = np.ones(len(activations))
    scale[used] = activations[used] ** strength / weights[used] ** (1.0 - strength)
    if used.any() and scalable.all():
        scale[used] /= np.exp(np.log(scale[used]).mean())
    return scale
