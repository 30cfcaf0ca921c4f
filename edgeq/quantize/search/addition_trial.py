"""Try residual additions in floating point, by what that does to the network's output.

Behind every block of a residual network the sum is rounded to eight bits, on top of what was rounded before: of a deep
one these are most of the error. Additions multiply nothing, so leaving them out of INT8 leaves every layer with weights
in INT8; what it costs is time, as four bytes are moved in the place of one. So a search tries it, and `auto` does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import onnx

from edgeq.calibrate.samples import Array
from edgeq.calibrate.scales import Scales
from edgeq.plan.precision import PrecisionPlan
from edgeq.plan.rules import float_additions
from edgeq.quantize.int8.pixels import PixelInput
from edgeq.quantize.int8.qdq import many_lowerings
from edgeq.quantize.int8.registry import LOWERINGS
from edgeq.quantize.search.range_search import answers_one_by_one, try_graph

__all__ = ["try_float_additions"]

_MARGIN: Final = 0.1
"""The error must get smaller by this part, on the average of both backends' graphs: less is not worth the time."""


def try_float_additions(
    model: onnx.ModelProto,
    plan: PrecisionPlan,
    scales: Scales,
    samples: Sequence[Array],
    *,
    pixels: PixelInput | None = None,
    threads: int | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Scales:
    """`scales` with `float_adds` where that brings INT8 nearer to FP32, and the comparison among the trials.

    Args:
        model: FP32, folded, with the node names of `plan`.
        plan, scales: for that graph; without an INT8 addition there is nothing to try.
        samples: that `scales` has not seen, each [1, ...].
        pixels: as in `edgeq.quantize.int8.qdq.lower`.
        threads: of one operator.
        advance: called with 1 after each graph that was tried.
    """
    floating = float_additions(model, plan)
    if floating is plan:
        return scales
    with many_lowerings():
        reference = answers_one_by_one(model, samples, threads)
        trials, ratios = [], []
        for lowering in (each for each in LOWERINGS if each.always):
            tried = []
            for each in (plan, floating):
                tried.append(try_graph(model, each, scales, lowering, reference, samples, pixels, threads))
                advance(1)
            before, after = tried
            trials.append(after)
            ratios.append(after.logit_error / max(before.logit_error, float(np.finfo(np.float64).tiny)))
    better = float(np.mean(ratios)) < 1.0 - _MARGIN and max(ratios) < 1.0
    return scales.model_copy(update={"float_adds": better, "trials": (*scales.trials, *trials)})
