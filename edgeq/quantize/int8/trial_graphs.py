"""The graphs that `auto` tries: for each backend one that is opened once and given each choice's scales.

TensorRT's is run in floating point, where scales can be inputs. ONNX Runtime's integer kernels take scales, zero points
and biases as inputs, too, but it makes them only of constants: so the graph is taken as ONNX Runtime has fused it, and
opened again with those constants as inputs. Where that cannot be, each choice's graph is lowered and opened by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeq.calibrate.samples import Array
from edgeq.calibrate.scales import Scales
from edgeq.engine import Engine
from edgeq.engine.heap import trim_heap
from edgeq.engine.onnxruntime import OnnxRuntimeEngine, fused_graph, side_by_side
from edgeq.plan.precision import PrecisionPlan
from edgeq.quantize.int8.pixels import PixelInput
from edgeq.quantize.int8.qdq import (
    Lowered,
    StoredWeights,
    lower,
    lowered_constants,
    placement_of,
    scales_to_give,
    take_constants,
    take_scales,
)
from edgeq.quantize.int8.registry import USUAL
from edgeq.quantize.int8.tensorrt import LOWERING as TENSORRT

__all__ = ["Choice", "Fields", "Made", "Network", "SignedGraph", "Tryable", "UnsignedGraph"]

Fields = Callable[[Mapping[str, NDArray[np.float32]]], Sequence[NDArray[np.float32]]]
"""What a network's outputs hold, by the outputs' names: a tensor for each field, the one that says most at the end."""


@dataclass(frozen=True)
class Choice:
    """What is tried.

    Attributes:
        backend: whose graph.
        method: of calibration, whose ranges it has.
        shared_add: one scale for both inputs of a residual addition.
    """

    backend: str
    method: str
    shared_add: bool


@dataclass(frozen=True)
class Network:
    """A graph that is ready to run.

    Attributes:
        engine: with the graph open; its first input is the sample.
        fields: of its outputs.
        given: what it is given beside the sample.
    """

    engine: Engine
    fields: Fields
    given: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __call__(self, sample: Array) -> tuple[NDArray[np.float32], ...]:
        """The fields of one sample."""
        return tuple(self.fields(self.engine.run({self.engine.inputs[0]: sample, **self.given})))


Made = Callable[[], Network]
"""A graph that is opened where it is called, if it is not open yet."""


@dataclass(frozen=True)
class Tryable:
    """What choices are made of.

    Attributes:
        model: FP32, with all its weights.
        plan: for that graph.
        scales: with every method's ranges.
        threads: of one operator.
        fields: of the graph's outputs.
        pixels: where its input comes from; None where that is not known.
    """

    model: onnx.ModelProto
    plan: PrecisionPlan
    scales: Scales
    threads: int | None
    fields: Fields
    pixels: PixelInput | None = None

    def of(self, choice: Choice) -> tuple[PrecisionPlan, Scales]:
        """Plan and scales of a choice."""
        plan = self.plan.model_copy(update={"shared_add": choice.shared_add})
        return plan, self.scales.model_copy(update={"method": choice.method})


class UnsignedGraph:
    """ONNX Runtime's graph, for some choices.

    Args:
        tried: what it is made of; it is held only where a choice needs a graph of its own.
        choices: that it may be made for; it is fused with the first.

    Attributes:
        together: the choices that need none.
    """

    def __init__(self, tried: Tryable, choices: Sequence[Choice]) -> None:
        self._fields, self._threads = tried.fields, tried.threads
        self._stored: StoredWeights = {}
        self._engine: OnnxRuntimeEngine | None = None
        self._given: dict[Choice, Mapping[str, NDArray[Any]]] = {}
        fused = _fused(self._lowered(tried, choices[0]))
        if fused is not None:
            self._open_for(tried, choices, fused)
        self.together = frozenset(self._given)
        self._tried = None if self.together.issuperset(choices) else tried
        if self._tried is None:
            self._stored.clear()

    def made(self, choice: Choice) -> Made:
        """The graph with a choice's constants."""
        if self._engine and choice in self._given:
            return partial(Network, self._engine, self._fields, self._given[choice])
        assert self._tried is not None
        return partial(self._opened, self._lowered(self._tried, choice).SerializeToString())

    def _open_for(self, tried: Tryable, choices: Sequence[Choice], fused: onnx.ModelProto) -> None:
        """Open the fused graph with those of its constants for inputs in which the choices differ."""
        made = {choice: self._constants(tried, choice) for choice in choices}
        base = made[choices[0]]
        changed = {choice: base.differences(each) for choice, each in made.items()}
        fit = {choice: names for choice, names in changed.items() if names is not None and names <= base.settable()}
        take_constants(fused, frozenset().union(*fit.values()))
        self._engine = _open(fused.SerializeToString(), self._threads, optimize=False)
        inputs = self._engine.inputs[1:]
        self._given = {choice: {name: made[choice].constants[name] for name in inputs} for choice in fit}

    def _lowered(self, tried: Tryable, choice: Choice) -> onnx.ModelProto:
        plan, scales = tried.of(choice)
        return lower(tried.model, plan, scales, USUAL, pixels=tried.pixels, stored=self._stored)

    def _constants(self, tried: Tryable, choice: Choice) -> Lowered:
        plan, scales = tried.of(choice)
        return lowered_constants(tried.model, plan, scales, USUAL, pixels=tried.pixels, stored=self._stored)

    def _opened(self, model: bytes) -> Network:
        return Network(_open(model, self._threads), self._fields)


class SignedGraph:
    """TensorRT's graph in floating point, for any method.

    Args:
        tried: what it is made of, and what it does not hold.
        shared_add: as in the choices.
    """

    def __init__(self, tried: Tryable, *, shared_add: bool) -> None:
        plan = tried.plan.model_copy(update={"shared_add": shared_add})
        self._scales, self._fields, self._threads = tried.scales, tried.fields, tried.threads
        self._placement = placement_of(tried.model, plan, TENSORRT)
        lowered = lower(tried.model, plan, tried.scales, TENSORRT)
        take_scales(lowered, self._placement)
        self._serialized = lowered.SerializeToString()

    def open(self) -> None:
        """Open it, before it is made for anything."""
        trim_heap()  # of the graphs before it: this one is the largest
        self._engine = _open(self._serialized, self._threads, integers=False)
        del self._serialized

    def made(self, choice: Choice) -> Made:
        """The graph with a choice's scales."""
        scales = self._scales.model_copy(update={"method": choice.method})
        return partial(Network, self._engine, self._fields, scales_to_give(self._placement, scales))


def _fused(lowered: onnx.ModelProto) -> onnx.ModelProto | None:
    """The graph as ONNX Runtime fuses it; None where it holds a number then that fusing has made of others.

    New shapes and axes are none: ranges are not in them. A constant that is not there any more is one that a kernel
    derives itself, as the scale of a bias is.
    """
    named = {tensor.name for tensor in lowered.graph.initializer}
    fused = fused_graph(lowered.SerializeToString())
    new = (tensor for tensor in fused.graph.initializer if tensor.name not in named)
    return fused if all(tensor.data_type == onnx.TensorProto.INT64 for tensor in new) else None


def _open(model: bytes, threads: int | None, *, optimize: bool = True, integers: bool = True) -> OnnxRuntimeEngine:
    _, each = side_by_side(threads)
    return OnnxRuntimeEngine(model, threads=each, optimize=optimize, integers=integers, memory_pattern=False)
