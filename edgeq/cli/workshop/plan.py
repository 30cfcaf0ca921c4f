"""`edgeq plan`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from edgeq.cli import console
from edgeq.cli.completion import files
from edgeq.cli.flags import PATH, json_option
from edgeq.cli.workshop.options import (
    DEVICES,
    cap_options,
    eval_option,
    fold_options,
    guard_options,
    outputs_option,
    plan_choices,
    plan_options,
)
from edgeq.cli.workshop.preprocess_options import parse_size, preprocess_options
from edgeq.files import require_new
from edgeq.model.images.preprocess_flags import PreprocessFlags
from edgeq.pipeline.vlm_options import EMBEDDINGS, LANGUAGES
from edgeq.plan.guards import GUARDS
from edgeq.plan.precision import Decision, PrecisionPlan

if TYPE_CHECKING:
    from edgeq.api.workshop.describe import Planned

__all__ = ["command"]


@click.command("plan")
@click.argument("model", shell_complete=files)
@click.option("-o", "--output", type=PATH, help="A plan file to make (YAML); it must not exist.")
@click.option(
    "--check", "checked", is_flag=True, help="Ask the guards, and nothing else; exit status 1 if one says no."
)
@click.option("--diff", "other", type=PATH, help="Show what is different from this plan.")
@click.option(
    "--images",
    help="With --check: calibration images. Vision-language: a folder or zip of photographs, of which the dearest is "
    "planned for; or, with --device, how many images are in a sequence.  [default: 1]",
)
@eval_option(required=False)
@click.option(
    "--device",
    help="Vision-language: plan its memory on this device, and what its power modes allow at the most; exit status 1 "
    f"if it does not fit. {DEVICES}",
)
@click.option(
    "--context",
    type=click.IntRange(1),
    default=2048,
    show_default=True,
    help="With --device: tokens of images, question and answer.",
)
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="With --device: sequences at once.")
@click.option(
    "--image-size",
    metavar="HxW",
    help="With --device: of an image.  [default: the dearest photograph's, else the encoder's own]",
)
@cap_options
@click.option(
    "--language",
    type=click.Choice([*LANGUAGES]),
    default="nf4",
    show_default=True,
    help="Vision-language: what the language model's layers are stored in.",
)
@click.option(
    "--embeddings",
    type=click.Choice([*EMBEDDINGS]),
    default="fp16",
    show_default=True,
    help="Vision-language: what its input embedding and output head are stored in; int8 not with nf4.",
)
@click.option(
    "--queries-per-second",
    "per_second",
    type=click.FloatRange(min=0, min_open=True),
    help="CLIP, SigLIP, with --device: hold so many texts and images a second against the device's peak.",
)
@click.option("--waterfall", type=PATH, help="With --device: a chart to make (SVG).")
@plan_options
@fold_options
@guard_options
@outputs_option
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
    per_second: float | None,
    waterfall: Path | None,
    max_pixels: int | None,
    max_tiles: int | None,
    language: Any,
    embeddings: Any,
    preprocess: PreprocessFlags | None,
    as_json: bool,
    **choices: Any,
) -> None:
    """Show which layer of MODEL gets which precision, by which rule, and why; and whether a device has the memory.

    MODEL is an image classifier as for `edgeq prepare`, or a vision-language model: a Hugging Face directory or id, of
    which only configs and headers are read. Of CLIP and SigLIP, it shows with --queries-per-second what a device's peak
    allows at the most.
    """

    from edgeq.api.workshop.describe import plan_model

    if per_second is not None:
        _plan_queries(model, device, per_second, as_json)
        return
    if output is not None:
        require_new(output)
    _check_usage(checked, images, labelled, device)
    options = plan_choices(**choices)
    count, folder = (1, None) if checked else _count_or_folder(images)
    before = PrecisionPlan.load(other) if other else None
    planned = plan_model(
        model,
        device=device,
        context=context,
        images=count,
        batch=batch,
        image_size=parse_size("--image-size", image_size) if image_size else None,
        photographs=folder,
        max_pixels=max_pixels,
        max_tiles=max_tiles,
        check_guards=checked,
        calibration=images if checked else None,
        evaluation=labelled,
        preprocess=preprocess,
        language=language,
        embeddings=embeddings,
        options=options,
    )
    if before is not None:
        planned = planned.model_copy(update={"changes": before.diff(planned.plan)})
    if output is not None:
        planned.plan.save(output)
    if planned.memory is not None and waterfall is not None:
        from edgeq.plan.waterfall import save_waterfall

        save_waterfall(planned.memory, waterfall)
    console.print_warnings([*(finding.warning for finding in planned.guards or ()), *planned.notes])
    if as_json:
        console.print_json(planned)
    else:
        _print(planned)
    if planned.memory is not None and not planned.memory.fits:
        click.get_current_context().exit(1)


_QUERY_FLAGS: Final = ("model", "device", "per_second", "as_json")


def _plan_queries(model: str, device: str | None, per_second: float, as_json: bool) -> None:
    """Hold queries against a device's peak, and show it."""

    from edgeq.api.workshop.describe import plan_queries
    from edgeq.cli.workshop.retrieval_tables import print_query_rate

    context = click.get_current_context()
    for option in context.command.params:
        given = option.name is not None and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE
        if given and option.name not in _QUERY_FLAGS:
            raise click.UsageError(f"{option.opts[0]} goes not with --queries-per-second")
    if device is None:
        raise click.UsageError("--queries-per-second is for --device")
    found = plan_queries(model, device, per_second)
    if as_json:
        console.print_json(found)
    else:
        print_query_rate(found)


_MEMORY_FLAGS: Final = ("context", "batch", "image_size", "waterfall")


def _check_usage(checked: bool, images: str | None, labelled: Path | None, device: str | None) -> None:
    """Raise click.UsageError for flags that have no meaning without another one."""
    if checked and device:
        raise click.UsageError("--check and --device: ask the one, then the other")
    if not checked and labelled:
        raise click.UsageError("--eval is for --check")
    if not checked and not device and images is not None and images.isdecimal():
        raise click.UsageError(f"--images {images}: how many are in a sequence is for --device")
    context = click.get_current_context()
    given = [name for name in _MEMORY_FLAGS if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if given and not device:
        raise click.UsageError(f"--{given[0].replace('_', '-')} is for --device")


def _count_or_folder(images: str | None) -> tuple[int, str | None]:
    """How many images are in a sequence, and where photographs lie."""
    if images is None:
        return 1, None
    return (int(images), None) if images.isdecimal() else (1, images)


def _print(planned: Planned) -> None:
    from edgeq.cli.workshop.vlm_tables import print_ceilings, print_memory

    if planned.changes is not None:
        click.echo("\n".join(planned.changes) or "The two plans are equal.")
    elif planned.guards is not None:
        tripped = [finding.code for finding in planned.guards]
        if len(planned.outputs) > 1:
            click.echo("\n".join(planned.outputs))
        click.echo(f"All {len(GUARDS)} guards pass" + (f"; {', '.join(tripped)} by --allow." if tripped else "."))
    elif planned.memory is not None:
        print_memory(planned.memory)
        if planned.ceilings:
            print_ceilings(planned.ceilings, planned.memory.request.context)
    else:
        _print_table(planned)
        for line in planned.outputs:
            click.echo(line)
        _print_model(planned)


def _print_model(planned: Planned) -> None:
    """Of a vision-language model: its size, what the user's photographs cost, and what edgeq does not do with it."""

    from edgeq.cli.workshop.vlm_tables import print_photographs

    if planned.parameters is not None and planned.weights_bytes is not None:
        click.echo(f"{planned.parameters:,} parameters, {planned.weights_bytes / 1e9:.2f} GB of weights.")
    if planned.photographs is not None:
        print_photographs(planned.photographs)
    if planned.lacking is not None:
        click.echo(f"{planned.lacking}.")


def _print_table(planned: Planned) -> None:
    groups: dict[tuple[str, ...], list[Decision]] = {}
    for decision in planned.plan.decisions:
        what = (decision.component, decision.kind, decision.precision.value, decision.rule)
        groups.setdefault(what, []).append(decision)
    console.print_table(
        f"{planned.model}: {len(planned.plan.decisions)} layers, {len(planned.plan.rules)} rules",
        ("component", "kind", "layers", "MB", "precision", "rule"),
        [
            (component, kind, str(len(found)), f"{sum(d.bytes for d in found) / 1e6:.2f}", precision, rule)
            for (component, kind, precision, rule), found in groups.items()
        ],
        numbers=("layers", "MB"),
    )
    console.print_reasons((decision.rule, decision.reason) for decision in planned.plan.decisions)
