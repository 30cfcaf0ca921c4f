"""`edgeq prepare`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

import click
from click.core import ParameterSource

from edgeq.cli import console
from edgeq.cli.completion import files
from edgeq.cli.flags import PATH, json_option, output_option, threads_option
from edgeq.cli.progress import progress_bars
from edgeq.cli.workshop.options import (
    DEVICES,
    allowances,
    backend_option,
    calibration_options,
    cap_options,
    correction_options,
    fold_options,
    gate_bounds,
    gate_options,
    guard_options,
    outputs_option,
    plan_choices,
    plan_file_option,
    plan_options,
    search_bounds,
    search_options,
    task_option,
    track_option,
)
from edgeq.cli.workshop.preprocess_options import PREPROCESS_FLAGS, preprocess_options
from edgeq.families.two_tower import check_two_tower, is_text_tower, is_two_tower, is_vision_tower
from edgeq.model.images.preprocess_flags import PreprocessFlags
from edgeq.pipeline.retrieval.options import MAX_TEXT_FLOAT_SHARE, RetrievalOptions, UnjudgedText
from edgeq.pipeline.vlm_fit import is_vision_language
from edgeq.pipeline.vlm_options import EmbeddingChoice, LanguageChoice
from edgeq.plan.precision import ChannelEqualization, PrecisionPlan, WeightGranularity
from edgeq.plan.rule_file import load_rules
from edgeq.quality.tasks.retrieval_gate import DEFAULT_RETRIEVAL_BOUNDS, RetrievalBounds

if TYPE_CHECKING:
    from edgeq.pipeline.classifier import Prepared

__all__ = ["command", "print_prepared"]


CLASSIFIER_FLAGS: Final = (
    *(
        "calibration_images",
        "method",
        "weights",
        "add_scales",
        "fold",
        "keep_batchnorm",
        "strict",
        "backend",
    ),
    *PREPROCESS_FLAGS,
    *("max_drop", "max_float_share", "min_speedup", "transformer", "channel_equalization"),
    *("gate", "gate_speedup", "gate_drop", "gate_spread"),
    *("task", "detector_head", "outputs", "weight_rounding", "bias_correction"),
)
RETRIEVAL_FLAGS: Final = ("captions", "compare_int8_images", "unjudged")
_OF_TEXTS: Final = (
    "calibration_images",
    "method",
    "weights",
    "channel_equalization",
    *PREPROCESS_FLAGS,
    "gate_drop",
    "max_float_share",
)
"""A classifier's, that a text encoder has too."""

VLM_FLAGS: Final = (
    *("device", "context", "max_pixels", "max_tiles", "max_new_tokens", "reference_answers", "keep_fp32"),
    *("language", "embeddings"),
)

_TWO_TOWERS: Final = "a model of a text and a vision encoder"
_TEXT_TOWER: Final = "a text encoder alone, which stays FP16: there are no images that INT8 texts could be judged by"


@click.command("prepare")
@click.argument("model", shell_complete=files)
@click.option(
    "--images",
    type=PATH,
    help="Calibration images: a folder, zip, .npy, .npz, parquet or tar. Needed but for a text encoder alone.",
)
@click.option(
    "--eval",
    "labelled",
    type=PATH,
    help="Labelled images, one folder for each class; for a vision-language model, a JSONL file of questions; for CLIP "
    "or SigLIP, pairs.jsonl.",
)
@click.option(
    "--captions",
    type=PATH,
    help="CLIP, SigLIP, their text encoder: texts to calibrate on, one in each line, or JSON lines.",
)
@click.option(
    "--compare-int8-images",
    is_flag=True,
    help="CLIP, SigLIP: also tell what INT8 texts find among INT8 images; embeds the images of --eval twice.",
)
@click.option(
    "--unjudged-text",
    "unjudged",
    type=click.Choice(get_args(UnjudgedText)),
    default="fp16",
    show_default=True,
    help="CLIP, SigLIP: how texts are read where no pairs are given to judge INT8 by.",
)
@task_option
@output_option
@calibration_options
@correction_options
@backend_option
@plan_options
@plan_file_option
@fold_options
@search_options
@gate_options
@guard_options
@outputs_option
@preprocess_options
@click.option(
    "--device", help=f"Vision-language: plan its memory on this device, and stop if the model does not fit. {DEVICES}"
)
@click.option(
    "--context", type=click.IntRange(1), default=2048, show_default=True, help="Tokens of image, question and answer."
)
@cap_options
@click.option(
    "--language",
    type=click.Choice(get_args(LanguageChoice)),
    default="nf4",
    show_default=True,
    help="Vision-language: what the language model's layers are stored in. int4-awq and int4-gptq are calibrated on "
    "--images and the questions' words; auto takes the smallest of nf4, int4-awq and int8 that loses less than 5 "
    "points on --eval.",
)
@click.option(
    "--embeddings",
    type=click.Choice(get_args(EmbeddingChoice)),
    default="fp16",
    show_default=True,
    help="Vision-language: what input embedding and output head are stored in; int8 not with nf4, and auto then leaves "
    "nf4 out.",
)
@click.option(
    "--max-new-tokens", type=click.IntRange(1), default=64, show_default=True, help="The longest answer when judging."
)
@click.option(
    "--reference-answers/--no-reference-answers",
    default=True,
    help="Load the whole model, where memory allows, to judge the bundle by its answers.",
)
@click.option("--keep-fp32", is_flag=True, help="Leave the FP32 vision graph in the bundle.")
@track_option
@threads_option
@json_option
def command(model: str, images: Path | None, output: Path, as_json: bool, **choices: Any) -> None:
    """Make a judged bundle of a classifier (INT8), a vision-language model (FP16, 4 bits), CLIP, SigLIP: the main job.

    MODEL is a directory with model.onnx (and preprocessor_config.json, config.json), a Hugging Face directory, or a
    Hugging Face id. A classifier, or an image encoder, is exported, its BatchNorm folded and the result proved equal,
    calibrated, quantized for ONNX Runtime and for TensorRT, and judged against FP32 on the labelled images. An INT8
    graph is kept only if it loses little, and of a transformer only if it is faster; else a few layers, or all, run in
    floating point.
    Of a vision-language model, vision encoder and connector become one FP16 graph, proved on the images, and the
    language model a checkpoint in NF4, INT4 or INT8; the two are judged against the whole model on the questions. Of
    CLIP and SigLIP, the text encoder becomes INT8, calibrated on the captions, and the vision encoder FP16; INT8 texts
    are kept only if they are shown to find the same images, on the pairs, if need be with some layers in floating
    point. Of a text encoder alone texts are FP16, proved on the captions.
    """

    from edgeq.pipeline.inspect import read_config

    config = read_config(model)
    if is_two_tower(config):
        check_two_tower(config)
    if is_text_tower(config):
        refuse_flags((*CLASSIFIER_FLAGS, *(set(VLM_FLAGS) - {"keep_fp32"})), model, _TEXT_TOWER)
        unused = (
            "images",
            "labelled",
            "codes",
            "reasons",
            "plan_file",
            "rules_file",
            "compare_int8_images",
            "unjudged",
        )
        refuse_flags(unused, model, _TEXT_TOWER)
        _prepare_text(model, output, as_json, **choices)
        return
    if images is None:
        raise click.UsageError(f"--images: {model} sees images, and is prepared on some: give a folder or a zip")
    if is_two_tower(config):
        refuse_flags((*(set(CLASSIFIER_FLAGS) - set(_OF_TEXTS)), *(set(VLM_FLAGS) - {"keep_fp32"})), model, _TWO_TOWERS)
        refuse_flags(("codes", "reasons", "plan_file"), model, _TWO_TOWERS)
        _prepare_retrieval(model, images, output, as_json, **choices)
    elif is_vision_language(config):
        refuse_flags((*CLASSIFIER_FLAGS, *RETRIEVAL_FLAGS), model, "a vision-language model")
        _prepare_vlm(model, images, output, as_json, **choices)
    else:
        if is_vision_tower(config):
            refuse_flags(RETRIEVAL_FLAGS, model, "a vision encoder alone, which reads no texts: give the whole model")
        refuse_flags((*VLM_FLAGS, *RETRIEVAL_FLAGS), model, "no vision-language model")
        _prepare_classifier(model, images, output, as_json, **choices)


def refuse_flags(names: Sequence[str], model: str, kind: str) -> None:
    """Raise click.UsageError where one of these options was given on the command line.

    Args:
        names: of the options' parameters.
        model: for the message.
        kind: what it is.
    """
    context = click.get_current_context()
    for option in context.command.params:
        given = option.name is not None and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE
        if given and option.name in names:
            raise click.UsageError(f"{option.opts[0]}: {model} is {kind}")


def _given(name: str) -> bool:
    """Whether an option was given on the command line."""
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE


def _prepare_retrieval(
    model: str,
    images: Path,
    output: Path,
    as_json: bool,
    *,
    labelled: Path | None,
    captions: Path | None,
    calibration_images: int,
    method: str,
    weights: WeightGranularity,
    channel_equalization: ChannelEqualization,
    preprocess: PreprocessFlags | None,
    gate_drop: float,
    max_float_share: float,
    compare_int8_images: bool,
    rules_file: Path | None,
    unjudged: UnjudgedText,
    keep_fp32: bool,
    threads: int | None,
    track: tuple[str, ...],
    **_others: Any,
) -> None:
    from edgeq.api.workshop.prepare import prepare
    from edgeq.cli.workshop.retrieval_tables import print_prepared_retrieval

    if captions is None:
        raise click.UsageError(f"--captions: {model} has a text encoder, which is calibrated on texts")
    options = RetrievalOptions(
        calibration_captions=calibration_images,
        method=method,
        weights=weights,
        rules=load_rules(rules_file) if rules_file else (),
        channel_equalization=channel_equalization,
        bounds=RetrievalBounds(gate_drop) if _given("gate_drop") else DEFAULT_RETRIEVAL_BOUNDS,
        max_float_share=max_float_share if _given("max_float_share") else MAX_TEXT_FLOAT_SHARE,
        compare_int8_images=compare_int8_images,
        unjudged=unjudged,
        keep_fp32=keep_fp32,
        threads=threads,
    )
    with progress_bars() as progress:
        prepared = prepare(
            model,
            images,
            output,
            captions=captions,
            evaluation=labelled,
            preprocess=preprocess,
            options=options,
            progress=progress,
            track=track,
        )
    console.print_warnings(prepared.warnings)
    if as_json:
        console.print_json(prepared)
    else:
        print_prepared_retrieval(prepared)


def _prepare_text(
    model: str,
    output: Path,
    as_json: bool,
    *,
    captions: Path | None,
    keep_fp32: bool,
    threads: int | None,
    track: tuple[str, ...],
    **_others: Any,
) -> None:
    from edgeq.api.workshop.prepare import prepare
    from edgeq.cli.workshop.retrieval_tables import print_prepared_text

    if captions is None:
        raise click.UsageError(f"--captions: {model} is a text encoder, which is proved on texts")
    options = RetrievalOptions(keep_fp32=keep_fp32, threads=threads)
    with progress_bars() as progress:
        prepared = prepare(model, None, output, captions=captions, options=options, progress=progress, track=track)
    console.print_warnings(prepared.warnings)
    if as_json:
        console.print_json(prepared)
    else:
        print_prepared_text(prepared)


def _prepare_classifier(
    model: str,
    images: Path,
    output: Path,
    as_json: bool,
    *,
    labelled: Path | None,
    preprocess: PreprocessFlags | None,
    max_drop: float | None,
    max_float_share: float,
    min_speedup: float | None,
    gate: str,
    gate_speedup: float,
    gate_drop: float,
    gate_spread: float | None,
    track: tuple[str, ...],
    **choices: Any,
) -> None:
    from edgeq.api.workshop.prepare import prepare

    own = {name: value for name, value in choices.items() if name not in (*VLM_FLAGS, *RETRIEVAL_FLAGS)}
    with progress_bars() as progress:
        prepared = prepare(
            model,
            images,
            output,
            evaluation=labelled,
            preprocess=preprocess,
            options=plan_choices(
                search=search_bounds(max_drop, max_float_share, min_speedup),
                gate=gate_bounds(gate, gate_speedup, gate_drop, gate_spread),
                **own,
            ),
            progress=progress,
            track=track,
        )
    console.print_warnings(prepared.warnings)
    if as_json:
        console.print_json(prepared)
    else:
        print_prepared(prepared)


def _print_corrections(prepared: Prepared) -> None:
    if prepared.float_additions:
        click.echo(f"FP32: {len(prepared.float_additions)} residual additions, which have no weights.")
    if prepared.float_layers:
        share = sum(prepared.float_layers.values())
        click.echo(f"FP32: {', '.join(prepared.float_layers)}; {share:.1f} % of the multiplications.")
    done = ("weights rounded by AdaRound" if prepared.weight_rounding == "adaround" else "", "biases corrected")
    words = " and ".join(word for word in (done if prepared.bias_correction else done[:1]) if word)
    if words:
        left = f"; not in full: {', '.join(list(prepared.uncorrected)[:3])}" if prepared.uncorrected else ""
        click.echo(f"INT8: {words}{left}.")


def _prepare_vlm(
    model: str,
    images: Path,
    output: Path,
    as_json: bool,
    *,
    labelled: Path | None,
    codes: tuple[str, ...],
    reasons: tuple[str, ...],
    rules_file: Path | None,
    plan_file: Path | None,
    track: tuple[str, ...],
    **choices: Any,
) -> None:
    from edgeq.api.workshop.prepare import prepare
    from edgeq.cli.workshop.vlm_tables import print_prepared_vlm
    from edgeq.pipeline.vlm import VlmOptions

    if rules_file and plan_file:
        raise click.UsageError("--rules and --plan: the plan settles that; make another with edgeq plan")
    others = (*CLASSIFIER_FLAGS, *RETRIEVAL_FLAGS, "preprocess")
    own = {name: value for name, value in choices.items() if name not in others}
    options = VlmOptions(
        rules=load_rules(rules_file) if rules_file else (),
        plan=PrecisionPlan.load(plan_file) if plan_file else None,
        allow=allowances(codes, reasons),
        **own,
    )
    with progress_bars() as progress:
        prepared = prepare(model, images, output, evaluation=labelled, options=options, progress=progress, track=track)
    console.print_warnings(prepared.warnings)
    if as_json:
        console.print_json(prepared)
    else:
        print_prepared_vlm(prepared)


def print_prepared(prepared: Prepared) -> None:
    """What was done and measured, for a person."""

    from edgeq.cli.workshop.classifier_tables import (
        print_export,
        print_fold,
        print_gate,
        print_quality,
        print_search,
        print_trials,
    )

    quality = prepared.quality
    print_export(prepared.export)
    if prepared.channels is not None:
        print_fold(prepared.channels)
    fp16 = f"FP16: {prepared.fp16_layers}, " if prepared.fp16_layers else ""
    click.echo(
        f"INT8: {prepared.int8_layers} layers with weights, {fp16}FP32: {prepared.fp32_layers}. "
        f"Calibrated on {prepared.calibration_images} images ({prepared.method}), {prepared.held_back} held back."
    )
    print_trials(prepared.trials)
    _print_corrections(prepared)
    if prepared.search is not None:
        print_search(prepared.search)
    for name, skipped in (("calibration", prepared.calibration_skipped), ("evaluation", quality.skipped)):
        if skipped:
            click.echo(f"Skipped {len(skipped)} {name} images that cannot be read: {', '.join(skipped[:5])}")
    print_quality(f"FP32 against INT8, {quality.backend}", quality)
    if prepared.gate is not None:
        print_gate(prepared.gate)
    click.echo(f"The bundle lies in {prepared.bundle}")
