"""Correct the rounding of weights and the biases, and see on images held back whether it was worth it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeq.calibrate.corrections import LayerCorrection
from edgeq.calibrate.samples import Array, Samples
from edgeq.calibrate.scales import Scales, Trial
from edgeq.errors import QuantizeError
from edgeq.plan.precision import PrecisionPlan
from edgeq.quantize.int8.pixels import PixelInput
from edgeq.quantize.int8.qdq import lower, many_lowerings
from edgeq.quantize.int8.registry import LOWERINGS
from edgeq.quantize.rounding.bias import learn_biases
from edgeq.quantize.rounding.layers import Layer, find_layers
from edgeq.quantize.rounding.learn import learn_rounding
from edgeq.quantize.search.pieces import Cutter
from edgeq.quantize.search.range_search import answers_one_by_one, try_graph
from edgeq.quantize.search.sweep import bytes_at_cuts, together

__all__ = ["Wanted", "correct_weights", "some_to_learn_from", "steps"]

_MARGIN: Final = 0.03
"""The error must get smaller by this part, on the average of both backends' graphs: less is chance."""

_SAMPLES: Final = 256
_FEWEST_SAMPLES: Final = 16
_CUT_BYTES: Final = 256 * 1024 * 1024
"""Of all samples at a cut, in FP32 and in INT8: of larger tensors there are fewer, `_FEWEST_SAMPLES` at least."""

_BIASES_OF: Final = tuple(each for each in LOWERINGS if each.always)
"""Backends whose graphs biases are measured in; others that take one's ranges take its biases as well."""


@dataclass(frozen=True)
class Wanted:
    """What is to be corrected.

    Attributes:
        rounding: of weights, by AdaRound.
        biases: by bias correction.
        insist: it was asked for, and is in force whatever comes of it; otherwise where it is worth having.
    """

    rounding: bool
    biases: bool
    insist: bool = False

    @property
    def name(self) -> str:
        """Behind a method's name in a trial."""
        return " ".join(word for word, on in (("adaround", self.rounding), ("bias-correction", self.biases)) if on)


def some_to_learn_from(model: onnx.ModelProto, samples: Samples) -> list[Array]:
    """As many samples as fit, however many there are: 256 small ones, fewer large ones, in batches [n, ...]."""
    first = next((array for _, array in samples.sample(1).arrays([])), None)
    if first is None:
        return []
    fitting = _CUT_BYTES // (2 * bytes_at_cuts(Cutter(model), first))
    count = min(max(_FEWEST_SAMPLES, fitting), _SAMPLES, len(samples))
    return together(array for _, array in samples.sample(count).arrays([], len(samples)))


def steps(model: onnx.ModelProto, plan: PrecisionPlan, wanted: Wanted) -> int:
    """How many layers are gone through, once for the rounding and once for the biases of each backend.

    Args:
        model: FP32, every node named.
        plan: for that graph.
        wanted: what is corrected.
    """
    layers, _ = find_layers(model, plan)
    rounded = sum(not isinstance(layer.reads, str) for layer in layers) if wanted.rounding else 0
    return rounded + len(_BIASES_OF) * (sum(bool(layer.measured) for layer in layers) if wanted.biases else 0)


def correct_weights(
    model: onnx.ModelProto,
    plan: PrecisionPlan,
    scales: Scales,
    batches: Sequence[Array],
    held_back: Sequence[Array],
    wanted: Wanted,
    *,
    pixels: PixelInput | None = None,
    threads: int | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Scales:
    """`scales` with corrections of the INT8 layers' weights and biases, and the comparison among the trials.

    All backends' graphs get the same integers; the biases are measured in each backend's own. What could not be
    corrected is named in `uncorrected`.

    Args:
        model: FP32, folded, with the node names of `plan`.
        plan, scales: for that graph; weights per channel.
        batches: samples that are learned from, [n, ...] each.
        held_back: others, each [1, ...]; without any, nothing is compared.
        wanted: what is corrected; without `insist` it is in force only where the error is smaller on `held_back`.
        pixels: as in `edgeq.quantize.int8.qdq.lower`.
        threads: of one operator.
        advance: called with the number of layers done.

    Raises:
        QuantizeError: it was asked for, and there is no layer that it could be done to.
    """
    layers, left = find_layers(model, plan)
    usable = [layer for layer in layers if _usable(layer, wanted)]
    if not usable or not batches:
        if wanted.insist:
            raise _nothing(left)
        return scales
    with many_lowerings():
        rounding = (
            learn_rounding(model, layers, batches, biases=wanted.biases, threads=threads, advance=advance)
            if wanted.rounding
            else {}
        )
        rounded = _with(scales, rounding, {}, left)
        biases: dict[str, dict[str, NDArray[np.float32]]] = {}
        for lowering in _BIASES_OF if wanted.biases else ():
            int8 = lower(model, plan, rounded, lowering, pixels=pixels)
            biases[lowering.ranges_of] = learn_biases(model, int8, layers, batches, threads=threads, advance=advance)
        found = _with(scales, rounding, biases, left)
        return _accept(model, plan, scales, found, held_back, wanted, pixels, threads)


def _usable(layer: Layer, wanted: Wanted) -> bool:
    return (wanted.rounding and not isinstance(layer.reads, str)) or (wanted.biases and bool(layer.measured))


def _with(
    scales: Scales,
    rounding: dict[str, NDArray[np.int8]],
    biases: dict[str, dict[str, NDArray[np.float32]]],
    left: dict[str, str],
) -> Scales:
    names = dict.fromkeys((*rounding, *(layer for found in biases.values() for layer in found)))
    corrections = {
        name: LayerCorrection.pack(
            rounding.get(name), {backend: found[name] for backend, found in biases.items() if name in found}
        )
        for name in names
    }
    return scales.model_copy(update={"corrections": corrections, "uncorrected": left})


def _accept(
    model: onnx.ModelProto,
    plan: PrecisionPlan,
    scales: Scales,
    found: Scales,
    held_back: Sequence[Array],
    wanted: Wanted,
    pixels: PixelInput | None,
    threads: int | None,
) -> Scales:
    """The scales to take, with what both do to each backend's graph among the trials."""
    if not held_back:
        return found if wanted.insist else scales
    reference = answers_one_by_one(model, held_back, threads)
    trials: list[Trial] = []
    ratios: list[float] = []
    for lowering in _BIASES_OF:
        before, after = (
            try_graph(model, plan, each, lowering, reference, held_back, pixels, threads) for each in (scales, found)
        )
        trials += [before, after.model_copy(update={"method": f"{after.method} {wanted.name}"})]
        ratios.append(after.logit_error / max(before.logit_error, float(np.finfo(np.float64).tiny)))
    better = float(np.mean(ratios)) < 1.0 - _MARGIN and max(ratios) < 1.0 + _MARGIN
    taken = found if better or wanted.insist else scales
    return taken.model_copy(update={"trials": (*scales.trials, *trials)})


def _nothing(left: dict[str, str]) -> QuantizeError:
    return QuantizeError(
        "no INT8 layer's rounding or bias can be corrected",
        expected="a Conv, a Gemm or a MatMul with a constant weight, planned INT8",
        causes=tuple(f"{name}: {reason}" for name, reason in list(left.items())[:3]) or ("no layer is INT8",),
        next_step="--weight-rounding nearest --no-bias-correction",
    )
