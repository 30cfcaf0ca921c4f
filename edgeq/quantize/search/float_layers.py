"""Leave the few layers in floating point that cost the network's output most and multiply least.

The first convolution of a network sees few channels, and what it rounds goes through all that follows; others hardly
matter. Layers are taken in the order of the squared error that each makes alone (`edgeq.quantize.search.sensitivity`),
for each of its multiplications, up to a share of all of them; how many are worth it is told by images held back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
import onnx

from edgeq.calibrate.samples import Array, Samples
from edgeq.calibrate.scales import Scales, Trial
from edgeq.plan.precision import PrecisionPlan
from edgeq.quantize.int8.pixels import PixelInput
from edgeq.quantize.int8.qdq import many_lowerings
from edgeq.quantize.int8.registry import LOWERINGS
from edgeq.quantize.int8.verify import int8_layers
from edgeq.quantize.search.layer_search import KEPT_BECAUSE, keep_layers
from edgeq.quantize.search.multiplications import multiplication_shares
from edgeq.quantize.search.range_search import answers_one_by_one, try_graph
from edgeq.quantize.search.sensitivity import Sensitivity, measure_sensitivity

__all__ = ["FLOAT_LAYERS", "MAX_MULTIPLICATIONS", "try_float_layers", "within_budget"]

FLOAT_LAYERS: Final = "float-layers"
"""Behind a method's name in a trial, with their number before it."""

MAX_MULTIPLICATIONS: Final = 5.0
"""Percent of the multiplications of all layers with weights that may be left in floating point."""

_MOST: Final = 8
"""Layers, at most: each is a trial."""

_MARGIN: Final = 0.03
"""Each further layer must make the error smaller by this part, on the average of both backends' graphs."""


def try_float_layers(
    model: onnx.ModelProto,
    plan: PrecisionPlan,
    scales: Scales,
    samples: Samples,
    held_back: Sequence[Array],
    *,
    pixels: PixelInput | None = None,
    threads: int | None = None,
    report: Callable[[str, int, int], None] = lambda *_: None,
) -> Scales:
    """`scales` with `float_layers` where that brings INT8 nearer to FP32, and the comparison among the trials.

    Args:
        model: FP32, folded, with the node names of `plan`.
        plan, scales: for that graph.
        samples: that layers are ranked on, two at least.
        held_back: others, that `scales` has not seen, each [1, ...].
        pixels: as in `edgeq.quantize.int8.qdq.lower`.
        threads: processors.
        report: called as (stage, done, total).
    """
    shares = multiplication_shares(model)
    small = [d.layer for d in int8_layers(plan) if shares.get(d.layer, np.inf) <= MAX_MULTIPLICATIONS]
    if not small or len(int8_layers(plan)) == 1:
        return scales
    table, _ = measure_sensitivity(model, plan, scales, samples, pixels=pixels, threads=threads, report=report)
    order = within_budget(table, shares)
    with many_lowerings():
        reference = answers_one_by_one(model, held_back, threads)

        def tried(count: int) -> list[Trial]:
            kept = keep_layers(model, plan, order[:count], because=KEPT_BECAUSE)
            report("try layers", count + 1, len(order) + 1)
            usual = (each for each in LOWERINGS if each.always)
            return [try_graph(model, kept, scales, each, reference, held_back, pixels, threads) for each in usual]

        trials = [tried(count) for count in range(len(order) + 1)]
    best = 0
    for count in range(1, len(order) + 1):
        best = count if _ratio(trials[count], trials[best]) < (1.0 - _MARGIN) ** (count - best) else best
    named = [
        trial.model_copy(update={"method": f"{trial.method} {count} {FLOAT_LAYERS}"})
        for count, each in enumerate(trials)
        for trial in each
        if count
    ]
    found = {layer: shares[layer] for layer in order[:best]}
    return scales.model_copy(update={"float_layers": found, "trials": (*scales.trials, *named)})


def within_budget(table: Sensitivity, shares: Mapping[str, float]) -> tuple[str, ...]:
    """The layers of a table by the squared error that each makes alone, for each of its multiplications.

    Those that do not fit into the budget any more are passed over.

    Args:
        table: of all INT8 layers.
        shares: layer -> percent of the multiplications.
    """
    ranked = sorted(
        (line for line in table.layers if shares.get(line.layer)),
        key=lambda line: line.alone.logit_error**2 / shares[line.layer],
        reverse=True,
    )
    order: list[str] = []
    left = MAX_MULTIPLICATIONS
    for line in ranked:
        if shares[line.layer] <= left and len(order) < _MOST:
            order.append(line.layer)
            left -= shares[line.layer]
    return tuple(order)


def _ratio(trials: Sequence[Trial], others: Sequence[Trial]) -> float:
    """The error of some graphs in parts of that of others, on the average of the backends."""
    tiny = float(np.finfo(np.float64).tiny)
    pairs = zip(trials, others, strict=True)
    return float(np.mean([trial.logit_error / max(other.logit_error, tiny) for trial, other in pairs]))
