"""What was done to each part, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from edgeq.bundle_report.blocks import Block, Chart, Paragraph, Section, Table
from edgeq.bundle_report.contents import BundleContents
from edgeq.bundle_report.drawing import Bar, Drawing, Kind, bars
from edgeq.plan.precision import QUANTIZED, Decision, PrecisionPlan

__all__ = ["parts_of", "plan_section"]

_NONE = "This bundle has no plan that could be read: what was done to each part is not known."


def plan_section(contents: BundleContents) -> Section:
    """Parts and their precision, the rules with their reasons, and each layer."""
    blocks: list[Block] = []
    for file, plan in contents.plans.items():
        blocks += _plan(file, plan)
    return Section("plan", "What was done to each part, and why", tuple(blocks or [Paragraph(_NONE)]))


def parts_of(plan: PrecisionPlan) -> dict[tuple[str, str], tuple[int, int]]:
    """(component, precision) -> layers and parameters, in the model's order."""
    layers: Counter[tuple[str, str]] = Counter()
    parameters: Counter[tuple[str, str]] = Counter()
    for decision in plan.decisions:
        key = (decision.component, decision.precision.value)
        layers[key] += 1
        parameters[key] += decision.parameters
    return {key: (count, parameters[key]) for key, count in layers.items()}


def _plan(file: str, plan: PrecisionPlan) -> Iterator[Block]:
    parts = parts_of(plan)
    whole = sum(parameters for _, parameters in parts.values())
    rows = [
        (component, precision.upper(), f"{layers:,}", f"{parameters:,}", _share(parameters, whole))
        for (component, precision), (layers, parameters) in parts.items()
    ]
    header = ("part", "precision", "layers", "parameters", "share")
    table = Table.of(f"Parts, by {file}", header, rows, numbers=(2, 3, 4))
    with_weights = [(key, parameters) for key, (_, parameters) in parts.items() if parameters]
    if with_weights:
        yield Chart(_drawn(with_weights, whole), table)
    else:
        yield table
    reasons = Counter((each.rule, each.precision.value.upper(), each.reason) for each in plan.decisions)
    yield Table.of(
        "Rules that decided, and their reasons",
        ("rule", "precision", "layers", "reason"),
        ((rule, precision, str(count), reason) for (rule, precision, reason), count in reasons.items()),
        numbers=(2,),
    )
    yield Table.of("How", ("setting", "value"), _settings(plan), folded=True)
    yield Table.of(
        f"Every layer ({len(plan.decisions):,})",
        ("layer", "operator", "precision", "rule", "reason", "parameters"),
        map(_row, plan.decisions),
        numbers=(5,),
        folded=True,
    )


def _drawn(parts: list[tuple[tuple[str, str], int]], whole: int) -> Drawing:
    quantized = {precision.value for precision in QUANTIZED}
    rows = [
        Bar(
            f"{component}, {precision.upper()}",
            100.0 * parameters / whole,
            "quantized" if precision in quantized else "reference",
            _share(parameters, whole),
        )
        for (component, precision), parameters in parts
    ]
    told = "; ".join(f"{row.name} {row.text}" for row in rows)
    key: tuple[tuple[Kind, str], ...] = (("quantized", "INT8, INT4 or NF4"), ("reference", "floating point"))
    return bars("Parameters by part and precision", told, "% of the parameters", rows, key=key)


def _share(parameters: int, whole: int) -> str:
    return f"{100.0 * parameters / whole:.1f} %" if whole else ""


def _settings(plan: PrecisionPlan) -> Iterator[tuple[str, str]]:
    yield "scales of INT8 weights", plan.weights
    yield "rounding of INT8 weights", plan.weight_rounding
    yield "bias correction", "yes" if plan.bias_correction else "no"
    yield "channel equalization", plan.channel_equalization
    yield "linear layers of a transformer", plan.transformer
    yield "residual additions", "one scale for both inputs" if plan.shared_add else "a scale for each input"
    if plan.keep_batchnorm:
        yield "BatchNorm that stays in FP32", ", ".join(plan.keep_batchnorm)


def _row(decision: Decision) -> tuple[str, ...]:
    reason = decision.reason
    if decision.overruled:
        reason = f"{reason} (overruled: {', '.join(decision.overruled)})"
    return (
        decision.layer,
        decision.op,
        decision.precision.value.upper(),
        decision.rule,
        reason,
        f"{decision.parameters:,}",
    )
