"""Read a graph against the rules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from edgeq.lint.base import WHOLE, Rule
from edgeq.lint.bodies import bodies
from edgeq.lint.graph import LintGraph
from edgeq.lint.load import load_graph
from edgeq.lint.registry import RULES
from edgeq.lint.report import FileFindings, Finding
from edgeq.lint.shares import computed_shares, written_shares
from edgeq.model.graph.onnx_checks import all_nodes
from edgeq.plan.precision import PrecisionPlan

__all__ = ["check_graph", "lint_file"]


def lint_file(path: Path, rules: Sequence[Rule] = RULES, plan: PrecisionPlan | None = None) -> FileFindings:
    """Read an ONNX file against rules.

    Args:
        path: of the file.
        rules: of `edgeq.lint.registry.choose_rules`.
        plan: that the graph should follow, where there is one.

    Raises:
        ModelError: it cannot be read, or is not whole.
        LimitError: it has too many nodes or tensors, or loops that never end.
    """
    graph = load_graph(path, plan)
    return FileFindings(
        file=str(path),
        opset=graph.opset,
        nodes=sum(1 for _ in all_nodes(graph.model.graph)),
        written=written_shares(graph),
        computed=computed_shares(graph),
        findings=check_graph(graph, rules),
    )


def check_graph(graph: LintGraph, rules: Sequence[Rule] = RULES) -> tuple[Finding, ...]:
    """What breaks the rules, in their order.

    Raises:
        ModelError: a constant does not have its whole data, or a graph inside of a node has a cycle.
    """
    inside = list(bodies(graph))
    return tuple(
        Finding(
            rule=rule.number,
            name=rule.name,
            level=rule.level,
            where=where,
            what=what,
            advice=rule.says,
            source=rule.source,
        )
        for rule in rules
        for where, what in (*rule.check(graph), *_inside(rule, inside))
    )


def _inside(rule: Rule, inside: Sequence[tuple[str, LintGraph]]) -> Iterator[tuple[str, str]]:
    """What breaks a rule in the graphs inside of nodes; what is found in the file as a whole is none of theirs."""
    for around, body in inside if rule.inside else ():
        yield from ((f"{around}/{where}", what) for where, what in rule.check(body) if where != WHOLE)
