"""`edgeq plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

from edgeq.api.workshop.describe import Planned, plan_model
from edgeq.cli import console
from edgeq.cli.flags import PATH, json_option
from edgeq.cli.workshop.options import (
    eval_option,
    fold_options,
    guard_options,
    parse_size,
    plan_choices,
    plan_options,
    preprocess_flags,
    preprocess_options,
)
from edgeq.cli.workshop.vlm_tables import print_memory
from edgeq.files import require_new
from edgeq.plan.guards import GUARDS
from edgeq.plan.precision import Decision, PrecisionPlan

__all__ = ["command"]


@click.command("plan")
@click.argument("model")
@click.option("-o", "--output", type=PATH, help="A plan file to make (YAML); it must not exist.")
@click.option(
    "--check", "checked", is_flag=True, help="Ask the guards, and nothing else; exit status 1 if one says no."
)
@click.option("--diff", "other", type=PATH, help="Show what is different from this plan.")
@click.option("--images", help="With --check: calibration images. With --device: how many in a sequence.  [default: 1]")
@eval_option(required=False)
@click.option("--device", help="Vision-language: plan its memory on this device; exit status 1 if it does not fit.")
@click.option(
    "--context",
    type=click.IntRange(1),
    default=2048,
    show_default=True,
    help="With --device: tokens of images, question and answer.",
)
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="With --device: sequences at once.")
@click.option("--image-size", metavar="HxW", help="With --device: of an image.  [default: the encoder's own]")
@click.option("--waterfall", type=PATH, help="With --device: a chart to make (SVG).")
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
    images: str | None,
    labelled: Path | None,
    device: str | None,
    context: int,
    batch: int,
    image_size: str | None,
    waterfall: Path | None,
    mean: str | None,
    std: str | None,
    size: str | None,
    as_json: bool,
    **choices: Any,
) -> None:
    """Show which layer of MODEL gets which precision, by which rule, and why; and whether a device has the memory.

    MODEL is an image classifier as for `edgeq prepare`, or a vision-language model: a Hugging Face directory or id, of
    which only configs and headers are read.
    """
    if output is not None:
        require_new(output)
    _check_usage(checked, images, labelled, device)
    options = plan_choices(**choices)
    before = PrecisionPlan.load(other) if other else None
    planned = plan_model(
        model,
        device=device,
        context=context,
        images=_count(images) if device else 1,
        batch=batch,
        image_size=parse_size("--image-size", image_size) if image_size else None,
        check_guards=checked,
        calibration=images if checked else None,
        evaluation=labelled,
        preprocess=preprocess_flags(mean, std, size),
        options=options,
    )
    if before is not None:
        planned = planned.model_copy(update={"changes": before.diff(planned.plan)})
    if output is not None:
        planned.plan.save(output)
    if planned.memory is not None and waterfall is not None:
        from edgeq.plan.waterfall import save_waterfall

        save_waterfall(planned.memory, waterfall)
    console.print_warnings([finding.warning for finding in planned.guards or ()])
    if as_json:
        console.print_json(planned)
    else:
        _print(planned)
    if planned.memory is not None and not planned.memory.fits:
        click.get_current_context().exit(1)


_MEMORY_FLAGS: Final = ("context", "batch", "image_size", "waterfall")


def _check_usage(checked: bool, images: str | None, labelled: Path | None, device: str | None) -> None:
    """Raise click.UsageError for flags that have no meaning without another one."""
    if checked and device:
        raise click.UsageError("--check and --device: ask the one, then the other")
    if not checked and (labelled or (images and not device)):
        raise click.UsageError("--images and --eval are for --check")
    context = click.get_current_context()
    given = [name for name in _MEMORY_FLAGS if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if given and not device:
        raise click.UsageError(f"--{given[0].replace('_', '-')} is for --device")


def _count(images: str | None) -> int:
    if images is not None and not images.isdecimal():
        raise click.UsageError(f"--images {images}: with --device, expected how many images are in a sequence")
    return int(images) if images else 1


def _print(planned: Planned) -> None:
    if planned.changes is not None:
        click.echo("\n".join(planned.changes) or "The two plans are equal.")
    elif planned.guards is not None:
        tripped = [finding.code for finding in planned.guards]
        click.echo(
            f"No guard of {len(GUARDS)} objects" + (f", {', '.join(tripped)} being allowed." if tripped else ".")
        )
    elif planned.memory is not None:
        print_memory(planned.memory)
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
