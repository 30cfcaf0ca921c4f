"""`edgeq plan`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Literal

import click
from pydantic import BaseModel, ConfigDict

from edgeq.calibrate.stage import CALIBRATION_IMAGES
from edgeq.cli import console
from edgeq.cli.options import (
    PATH,
    eval_option,
    fold_options,
    guard_options,
    json_option,
    plan_choices,
    plan_options,
    preprocess_flags,
    preprocess_options,
)
from edgeq.errors import OutputError
from edgeq.inspect import plan_model, read_config
from edgeq.model.images import ImageSet
from edgeq.model.preprocess import Preprocess
from edgeq.plan.facts import Facts, image_facts
from edgeq.plan.guards import GUARDS, Finding, check
from edgeq.plan.precision import Decision, PrecisionPlan
from edgeq.stages import Options

__all__ = ["Planned", "command"]


class Planned(BaseModel):
    """What the verb found.

    Attributes:
        guards: those that were tripped and allowed; None where they were not asked (--check).
        changes: from the other plan to this one; None where there is no other (--diff).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal["edgeq.planned/1"] = "edgeq.planned/1"
    model: str
    plan: PrecisionPlan
    guards: tuple[Finding, ...] | None = None
    changes: tuple[str, ...] | None = None


@click.command("plan")
@click.argument("model")
@click.option("-o", "--output", type=PATH, help="A plan file to make (YAML); it must not exist.")
@click.option(
    "--check", "checked", is_flag=True, help="Ask the guards, and nothing else; exit status 1 if one says no."
)
@click.option("--diff", "other", type=PATH, help="Show what is different from this plan.")
@click.option("--images", type=PATH, help="With --check: calibration images.")
@eval_option(required=False)
@plan_options
@fold_options
@guard_options
@preprocess_options
@json_option
def command(
    model: str,
    output: Path | None,
    checked: bool,
    other: Path | None,
    images: Path | None,
    labelled: Path | None,
    mean: str | None,
    std: str | None,
    size: str | None,
    as_json: bool,
    **choices: Any,
) -> None:
    """Show which layer of MODEL gets which precision, by which rule, and why.

    MODEL is an image classifier as for `edgeq prepare`, or a vision-language model: a Hugging Face directory or id, of
    which only configs and headers are read.
    """
    if output is not None and output.exists():
        raise OutputError(f"{output} exists already", next_step="choose another name, or remove it")
    if (images or labelled) and not checked:
        raise click.UsageError("--images and --eval are for --check")
    options = plan_choices(**choices).settled()
    before = PrecisionPlan.load(other) if other else None
    facts = _facts(model, images, labelled) if checked else Facts()
    guards = check(facts, options.allow)
    plan = _plan(model, options, preprocess_flags(mean, std, size))
    planned = Planned(
        model=model,
        plan=plan,
        guards=(*guards, *check(Facts(plan=plan), options.allow)) if checked else None,
        changes=before.diff(plan) if before else None,
    )
    if output is not None:
        plan.save(output)
    console.print_warnings([finding.warning for finding in planned.guards or ()])
    if as_json:
        console.print_json(planned)
    else:
        _print(planned)


def _facts(model: str, images: Path | None, labelled: Path | None) -> Facts:
    calibration = ImageSet.open(images).sample(CALIBRATION_IMAGES) if images else None
    return image_facts(calibration, ImageSet.open(labelled) if labelled else None, read_config(model))


def _plan(model: str, options: Options, preprocess: Preprocess | None) -> PrecisionPlan:
    with tempfile.TemporaryDirectory() as scratch:
        return plan_model(model, read_config(model), Path(scratch), preprocess=preprocess, options=options)


def _print(planned: Planned) -> None:
    if planned.changes is not None:
        click.echo("\n".join(planned.changes) or "The two plans are equal.")
    elif planned.guards is not None:
        tripped = [finding.code for finding in planned.guards]
        click.echo(
            f"No guard of {len(GUARDS)} objects" + (f", {', '.join(tripped)} being allowed." if tripped else ".")
        )
    else:
        _print_table(planned)


def _print_table(planned: Planned) -> None:
    groups: dict[tuple[str, ...], list[Decision]] = {}
    for decision in planned.plan.decisions:
        what = (decision.component, decision.kind, decision.precision.value, decision.rule, decision.reason)
        groups.setdefault(what, []).append(decision)
    console.print_table(
        f"{planned.model}: {len(planned.plan.decisions)} layers, {len(planned.plan.rules)} rules",
        ("component", "kind", "layers", "MB", "precision", "rule", "reason"),
        [
            (component, kind, str(len(found)), f"{sum(d.bytes for d in found) / 1e6:.2f}", precision, rule, reason)
            for (component, kind, precision, rule, reason), found in groups.items()
        ],
        numbers=("layers", "MB"),
    )
