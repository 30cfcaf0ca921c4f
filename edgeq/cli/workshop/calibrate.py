"""`edgeq calibrate`."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Literal

import click

from edgeq.calibrate.choices import AUTO, WITHOUT_TRIALS
from edgeq.calibrate.diagnose import diagnose
from edgeq.calibrate.merge import merge_scales
from edgeq.calibrate.scales import Scales
from edgeq.cli import console
from edgeq.cli.flags import PATH, cluster_options, json_option, threads_option
from edgeq.cli.progress import progress_bars
from edgeq.cli.workshop.options import calibration_options, correction_options
from edgeq.cli.workshop.trt_cache import (
    check_trt_flags,
    read_trt_cache,
    trt_cache_options,
    write_trt_cache,
)
from edgeq.files import require_new
from edgeq.plan.precision import WeightRounding
from edgeq.tensorrt.version import Version

__all__ = ["command"]


@click.command("calibrate")
@click.argument("inputs", type=PATH, nargs=-1, required=True, metavar="EXPORTED")
@click.option("--images", type=PATH, help="Calibration images: a folder, zip, .npy, .npz, parquet or tar.")
@calibration_options
@correction_options
@click.option("-o", "--output", type=PATH, required=True, help="A scales file to make; it must not exist.")
@click.option("--resume", is_flag=True, help="Save on the way to OUTPUT.partial, and go on from it where it exists.")
@click.option("--merge", is_flag=True, help="Join the scales files given instead of EXPORTED, of different images.")
@trt_cache_options
@cluster_options
@threads_option
@json_option
def command(
    inputs: tuple[Path, ...],
    images: Path | None,
    calibration_images: int,
    method: str,
    weight_rounding: WeightRounding,
    bias_correction: bool | None,
    output: Path,
    resume: bool,
    merge: bool,
    trt_cache: Path | None,
    trt_version: Version | None,
    from_trt_cache: Path | None,
    on: Literal["here", "ray"],
    threads: int | None,
    as_json: bool,
    **cluster: Any,
) -> None:
    """Run an exported graph over images and write the range of every tensor that needs a scale.

    EXPORTED is a directory made by `edgeq export`. No GPU is needed. The scales do not depend on the order of the
    images or on how they are batched, and memory does not grow with their number. With --on ray the actors of a cluster
    count the images, and the scales are the same.

    With --merge, join two or more scales files: edgeq calibrate --merge a.json b.json -o all.json
    """

    from edgeq.api.workshop.stages import calibrate_model
    from edgeq.export.stage import FP32

    if on == "ray" and (images is None or merge):
        raise click.UsageError("--on ray is for --images: a cluster counts images")
    if (weight_rounding == "adaround" or bias_correction) and (images is None or merge):
        raise click.UsageError("--weight-rounding adaround and --bias-correction are for --images: they look at some")
    require_new(output)
    skipped: tuple[str, ...] = ()
    if merge:
        scales = _merge(inputs, images, method)
        scales.save(output)
    else:
        exported = _only(inputs)
        check_trt_flags(
            images=images, output=output, trt_cache=trt_cache, trt_version=trt_version, from_trt_cache=from_trt_cache
        )
        if from_trt_cache is not None:
            scales = read_trt_cache(from_trt_cache, exported)
            scales.save(output)
        elif images is not None:
            # What Ray tells of actors that died it prints, and stdout may be read as JSON.
            with redirect_stdout(sys.stderr), progress_bars() as progress:
                found = calibrate_model(
                    exported,
                    images,
                    output,
                    calibration_images=calibration_images,
                    method=method,
                    weight_rounding=weight_rounding,
                    bias_correction=bias_correction,
                    resume=resume,
                    every_activation=trt_cache is not None,
                    threads=threads,
                    on=on,
                    progress=progress,
                    **cluster,
                )
            scales, skipped = found.scales, found.skipped
        else:
            raise click.UsageError("give calibration images with --images, or ranges with --from-trt-cache")
        if trt_cache is not None and trt_version is not None:
            write_trt_cache(trt_cache, trt_version, exported / FP32, scales)
    _tell(scales, skipped, output, inputs, as_json)


def _only(inputs: tuple[Path, ...]) -> Path:
    if len(inputs) != 1:
        raise click.UsageError("one EXPORTED directory is expected; --merge takes several scales files")
    return inputs[0]


def _merge(inputs: tuple[Path, ...], images: Path | None, method: str) -> Scales:
    if len(inputs) < 2 or images is not None:
        raise click.UsageError("--merge takes two scales files or more, and no --images")
    # `auto` would need images to try on.
    return merge_scales([(path, Scales.load(path)) for path in inputs], WITHOUT_TRIALS if method == AUTO else method)


def _tell(scales: Scales, skipped: tuple[str, ...], output: Path, inputs: tuple[Path, ...], as_json: bool) -> None:
    from edgeq.cli.workshop.classifier_tables import print_trials

    if skipped:
        console.print_warnings([f"{len(skipped)} images cannot be read: {', '.join(skipped[:5])}"])
    if scales.images:  # scales from a TensorRT cache have seen none
        console.print_warnings(tuple(diagnose(scales).warnings()))
    if as_json:
        console.print_json(scales)
        return
    print_trials(scales.trials)
    methods = ", ".join(dict.fromkeys(scales.chosen.values())) or scales.method
    click.echo(f"{len(scales.tensors)} tensors, {scales.images} images, method {methods}: {output}")
    if len(inputs) == 1:
        console.print_next("edgeq", "quantize", inputs[0], "--scales", output, "-o", "QUANTIZED")
