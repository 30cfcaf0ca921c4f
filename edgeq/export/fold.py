"""Fold BatchNorm into the layers beside it, and account for each one.

A BatchNorm left behind costs a pass over memory and keeps the layer before it from being quantized as one kernel with
its activation, so none may stay unnoticed: each is folded, or kept with a reason. What exporters make of a BatchNorm or
of a bias, a chain of Mul, Add, Sub and Div by channel, is folded too where it follows a layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import onnx

from edgeq.errors import ExportError
from edgeq.export.absorb import absorb_after, absorb_before
from edgeq.export.batchnorm import Affine, Refused, is_batchnorm, read_affine
from edgeq.export.channel_affine import read_channel_affine
from edgeq.model.graph.tensors import drop_constant_inputs
from edgeq.model.graph.wiring import Wiring, label, subgraphs

__all__ = [
    "KEPT_BY_PLAN",
    "Fold",
    "FoldReport",
    "KeptBatchNorm",
    "batchnorm_names",
    "count_batchnorm",
    "fold_batchnorm",
    "require_folded",
]

KEPT_BY_PLAN = "kept by the plan"


@dataclass(frozen=True)
class Fold:
    """One node that is gone.

    Attributes:
        batchnorm: the name of the BatchNorm, or of the Mul, Add, Sub or Div; of its output where the node has no name.
        into: the name of the node that took it in.
        rule: where it stood, e.g. "after Conv" or "before Gemm".
    """

    batchnorm: str
    into: str
    rule: str


@dataclass(frozen=True)
class KeptBatchNorm:
    """One BatchNorm that is still there, and why."""

    batchnorm: str
    reason: str


@dataclass(frozen=True)
class FoldReport:
    """What became of each BatchNorm.

    Attributes:
        before: BatchNormalization nodes in the graph given.
        after: BatchNormalization nodes in the graph made; as many as `kept`.
        folded: BatchNorm nodes, in the order of folding.
        kept: in the order of the graph.
        channel_affine: Mul, Add, Sub and Div nodes by channel that were folded.
    """

    before: int
    after: int
    folded: tuple[Fold, ...]
    kept: tuple[KeptBatchNorm, ...]
    channel_affine: tuple[Fold, ...] = ()

    @property
    def unfoldable(self) -> dict[str, str]:
        """Those of `kept` that nobody asked to keep: name -> why."""
        return {kept.batchnorm: kept.reason for kept in self.kept if kept.reason != KEPT_BY_PLAN}


def count_batchnorm(model: onnx.ModelProto) -> int:
    """BatchNormalization nodes in the graph and in its subgraphs."""
    return sum(1 for _ in _all_batchnorms(model.graph))


def batchnorm_names(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the BatchNormalization nodes, in the order of the graph."""
    return tuple(label(node) for node in _all_batchnorms(model.graph))


def fold_batchnorm(model: onnx.ModelProto, *, keep: Collection[str] = ()) -> tuple[onnx.ModelProto, FoldReport]:
    """A copy of `model` with its BatchNorm folded, and the account of it.

    A BatchNorm goes into the Conv, ConvTranspose, Gemm or MatMul (with its Add) before it, or else after it where
    that is exact; a Mul, Add, Sub or Div by channel into the layer before it. Arithmetic is in float64; the result is
    stored in the type that the weight had. Graph inputs, graph outputs and the names of the tensors that stay are kept.

    Args:
        model: not changed; weights in memory.
        keep: names of BatchNorm nodes that the plan keeps.

    Raises:
        ExportError: `keep` names a node that is not a BatchNorm here, or a BatchNorm has parameters that are NaN,
            infinite, of different lengths, or a variance of -epsilon or less.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    before = count_batchnorm(made)
    _check_names(made, keep)
    drop_constant_inputs(made)
    wiring = Wiring(made)
    folded, channel_affine, refusals = _fold_all(wiring, _opset(made), frozenset(keep))
    wiring.finish()
    kept = _kept(made.graph, refusals)
    return made, FoldReport(before, len(kept), tuple(folded), kept, tuple(channel_affine))


def require_folded(report: FoldReport) -> None:
    """Insist that each BatchNorm was folded or is kept by the plan.

    Raises:
        ExportError: listing each of the others with its reason.
    """
    if left := report.unfoldable:
        raise ExportError(
            f"{len(left)} of {report.before} BatchNorm nodes cannot be folded",
            expected="none left with --strict, except where the plan keeps it",
            causes=tuple(f"{name}: {reason}" for name, reason in left.items()),
            next_step="without --strict they stay in floating point; or name those that may: "
            f"--keep-batchnorm {next(iter(left))}",
        )


def _fold_all(wiring: Wiring, opset: int, keep: frozenset[str]) -> tuple[list[Fold], list[Fold], dict[str, str]]:
    """Fold until nothing more folds: one that is gone may be what stood between another and its layer."""
    affines, refusals = _affines(wiring, opset, keep)
    folded: list[Fold] = []
    channel_affine: list[Fold] = []
    progress = True
    while progress:
        progress = False
        for node in list(wiring.nodes):
            try:
                if is_batchnorm(node) and label(node) in affines:
                    folded.append(_fold_one(wiring, node, affines[label(node)]))
                elif (affine := read_channel_affine(wiring, node)) is not None:
                    channel_affine.append(_fold_after(wiring, node, affine))
                else:
                    continue
                progress = True
            except Refused as refusal:
                refusals[label(node)] = str(refusal)
    return folded, channel_affine, refusals


def _affines(wiring: Wiring, opset: int, keep: frozenset[str]) -> tuple[dict[str, Affine], dict[str, str]]:
    """The map of each BatchNorm that may be folded, and the reason for each that may not."""
    affines: dict[str, Affine] = {}
    refusals: dict[str, str] = dict.fromkeys(keep, KEPT_BY_PLAN)
    for node in filter(is_batchnorm, wiring.nodes):
        try:
            affine = read_affine(wiring, node, opset)
        except Refused as refusal:
            refusals.setdefault(label(node), str(refusal))
        else:
            affines[label(node)] = affine
    return {name: affine for name, affine in affines.items() if name not in keep}, refusals


def _fold_one(wiring: Wiring, node: onnx.NodeProto, affine: Affine) -> Fold:
    try:
        return _fold_after(wiring, node, affine)
    except Refused as refusal:
        reason = str(refusal)
    try:
        into = absorb_before(wiring, node, affine)
        return Fold(label(node), label(into.node), f"before {into.kind}")
    except Refused as refusal:
        raise Refused(f"{reason}; {refusal}") from None


def _fold_after(wiring: Wiring, node: onnx.NodeProto, affine: Affine) -> Fold:
    into = absorb_after(wiring, node, affine)
    return Fold(label(node), label(into.node), f"after {into.kind}")


def _opset(model: onnx.ModelProto) -> int:
    versions = [item.version for item in model.opset_import if item.domain in ("", "ai.onnx")]
    if not versions:
        raise ExportError("the graph does not say which ONNX opset it uses", expected="an opset_import entry")
    return int(max(versions))


def _all_batchnorms(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        if is_batchnorm(node):
            yield node
        for inner in subgraphs(node):
            yield from _all_batchnorms(inner)


def _check_names(model: onnx.ModelProto, keep: Collection[str]) -> None:
    names = Counter(label(node) for node in _all_batchnorms(model.graph))
    if doubled := [name for name, count in names.items() if count > 1]:
        raise ExportError(f"several BatchNorm nodes are called {doubled[0]}", expected="a name of its own for each")
    if unknown := sorted(set(keep) - names.keys()):
        raise ExportError(
            f"the plan keeps {', '.join(unknown)}, which this graph does not have as a BatchNorm",
            expected=f"names out of {', '.join(sorted(names)[:5]) or 'none'}{', ...' if len(names) > 5 else ''}",
            next_step="take the names from `edgeq inspect`",
        )


def _kept(graph: onnx.GraphProto, refusals: dict[str, str]) -> tuple[KeptBatchNorm, ...]:
    inside = "it is inside a subgraph"
    return tuple(KeptBatchNorm(label(node), refusals.get(label(node), inside)) for node in _all_batchnorms(graph))
