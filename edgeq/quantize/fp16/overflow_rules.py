"""Rules that keep in FP32 what would overflow in FP16."""

from __future__ import annotations

import glob
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

import onnx

from edgeq.model.graph.element_types import LARGEST, unfit_layers
from edgeq.plan.precision import Precision, PrecisionPlan, Rule
from edgeq.quantize.fp16.overflow import Feeds, layers_beyond, peaks

__all__ = ["MARGIN", "overflow_reasons", "overflow_rules"]

MARGIN: Final = 2.0
"""A photograph that was not looked at may go so many times as far as those that were."""


def overflow_reasons(
    graph: onnx.ModelProto,
    runs: Iterable[Feeds],
    *,
    known: Mapping[str, float] | None = None,
    layers: Collection[str] | None = None,
    threads: int | None = None,
) -> dict[str, str]:
    """Each layer that FP16 would break, and why: what it holds, or what it reaches in a run.

    Args:
        graph: float32, nodes uniquely named.
        runs: what the graph is given, one image or text at a time.
        known, layers: as for `edgeq.quantize.fp16.overflow.peaks`.
        threads: of one operator.

    Raises:
        EngineError: the graph does not take these runs.
    """
    unfit = unfit_layers(graph)
    reached = peaks(graph, runs, known=known, layers=layers, threads=threads)
    beyond = layers_beyond(graph, reached, LARGEST / MARGIN)
    nodes = {node.name: node for node in graph.graph.node}
    return unfit | {name: _reason(nodes[name], reached) for name in beyond if name not in unfit}


def overflow_rules(
    graph: onnx.ModelProto, runs: Sequence[Feeds], plan: PrecisionPlan, *, threads: int | None = None
) -> tuple[Rule, ...]:
    """A rule for each layer planned FP16 that FP16 would break.

    Args:
        graph, runs, threads: as for `overflow_reasons`.
        plan: for that graph, before these rules.

    Raises:
        EngineError: the graph does not take these runs.
    """
    half = plan.layers(Precision.FP16)
    return tuple(
        Rule(name=f"fp32-range:{name}", precision=Precision.FP32, reason=reason, layer=glob.escape(name))
        for name, reason in overflow_reasons(graph, runs, threads=threads).items()
        if name in half
    )


def _reason(node: onnx.NodeProto, reached: Mapping[str, float]) -> str:
    """Why a layer that was found is kept in FP32."""
    peak = max(reached.get(name, 0.0) for name in (*node.input, *node.output))
    squares = peak <= LARGEST / MARGIN
    what = f"it squares values that reach {peak:.3g}" if squares else f"its values reach {peak:.3g}"
    near = peak * peak if squares else peak
    doubt = "" if near > LARGEST else f", and another photograph may go {MARGIN:g} times as far"
    return f"{what} on a photograph, FP16 ends at {LARGEST:.0f}{doubt}"
