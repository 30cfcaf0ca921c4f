"""`edgeq prepare`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeq.cli import console
from edgeq.cli.options import (
    calibration_options,
    eval_option,
    fold_options,
    guard_options,
    images_option,
    json_option,
    output_option,
    plan_choices,
    plan_file_option,
    plan_options,
    preprocess_flags,
    preprocess_options,
    search_bounds,
    search_options,
    threads_option,
)
from edgeq.prepare import Prepared, prepare

__all__ = ["command", "print_prepared"]


@click.command("prepare")
@click.argument("model")
@images_option
@eval_option(required=False)
@output_option
@calibration_options
@plan_options
@plan_file_option
@fold_options
@search_options
@guard_options
@preprocess_options
@threads_option
@json_option
def command(
    model: str,
    images: Path,
    labelled: Path | None,
    output: Path,
    mean: str | None,
    std: str | None,
    size: str | None,
    max_drop: float | None,
    max_float_share: float,
    min_speedup: float | None,
    as_json: bool,
    **choices: Any,
) -> None:
    """Make a judged INT8 bundle of an image classifier: the main job.

    MODEL is a directory with model.onnx (and preprocessor_config.json, config.json), a Hugging Face directory, or a
    Hugging Face id. It is exported, its BatchNorm folded and the result proved equal, calibrated, quantized for ONNX
    Runtime and for TensorRT, and judged against FP32 on the labelled images.
    """
    with console.progress_bars() as progress:
        prepared = prepare(
            model,
            images,
            output,
            labelled=labelled,
            preprocess=preprocess_flags(mean, std, size),
            options=plan_choices(search=search_bounds(max_drop, max_float_share, min_speedup), **choices),
            progress=progress,
        )
    console.print_warnings(prepared.warnings)
    if as_json:
        console.print_json(prepared)
    else:
        print_prepared(prepared)


def print_prepared(prepared: Prepared) -> None:
    """What was done and measured, for a person."""
    quality = prepared.quality
    console.print_export(prepared.export)
    fp16 = f"FP16: {prepared.fp16_layers}, " if prepared.fp16_layers else ""
    click.echo(
        f"INT8: {prepared.int8_layers} layers with weights, {fp16}FP32: {prepared.fp32_layers}. "
        f"Calibrated on {prepared.calibration_images} images ({prepared.method}), {prepared.held_back} held back."
    )
    console.print_trials(prepared.trials)
    if prepared.search is not None:
        console.print_search(prepared.search)
    for name, skipped in (("calibration", prepared.calibration_skipped), ("evaluation", quality.skipped)):
        if skipped:
            click.echo(f"Skipped {len(skipped)} {name} images that cannot be read: {', '.join(skipped[:5])}")
    console.print_quality(f"FP32 against INT8, {quality.backend}", quality)
    click.echo(f"The bundle lies in {prepared.bundle}")
