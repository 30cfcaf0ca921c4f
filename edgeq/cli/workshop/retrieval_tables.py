"""What was made and measured of CLIP or SigLIP, for a person."""

from __future__ import annotations

import click

from edgeq.cli import console
from edgeq.cli.workshop.classifier_tables import print_fold, print_search, print_trials
from edgeq.pipeline.retrieval.prepare import PreparedRetrieval
from edgeq.pipeline.retrieval.zero_shot import ZeroShotQuality
from edgeq.pipeline.text_encoder import PreparedText
from edgeq.plan.query_rate import QueryRate
from edgeq.quality.tasks.retrieval_gate import RetrievalGate

__all__ = ["print_prepared_retrieval", "print_prepared_text", "print_query_rate", "print_zero_shot"]


def print_prepared_retrieval(prepared: PreparedRetrieval) -> None:
    """What was done and measured, on stdout."""
    click.echo(
        f"Vision encoder: {prepared.vision_parameters:,} parameters in FP16; cosine of embeddings, FP32 against FP16, "
        f"on {prepared.vision_fp16.pictures} images: worst {prepared.vision_fp16.worst_cosine:.6f}."
    )
    if prepared.channels is not None:
        print_fold(prepared.channels)
    click.echo(
        f"Text encoder: {prepared.text_parameters:,} parameters; INT8: {prepared.int8_layers} layers with weights, "
        f"floating point: {prepared.float_layers}. Calibrated on {prepared.calibration_captions} captions "
        f"({prepared.method})."
    )
    print_trials(prepared.trials)
    click.echo(f"Token ids of {prepared.tokenized} texts are those of transformers' tokenizer.")
    if prepared.whole_int8 is not None:
        _print_gate(prepared.whole_int8, "INT8")
    if prepared.search is not None:
        print_search(prepared.search)
    if prepared.gate is not None:
        _print_gate(prepared.gate, "INT8" if prepared.whole_int8 is None else "mixed")
    if prepared.kept_layers:
        click.echo(f"In floating point, since INT8 alone was refused: {', '.join(prepared.kept_layers)}.")
    size = (prepared.text_bytes + prepared.vision_bytes) / 1e6
    kind = prepared.text_precision.upper()
    click.echo(f"Texts are read in {kind}, images in FP16: {size:,.1f} MB. The bundle lies in {prepared.bundle}")


def print_prepared_text(prepared: PreparedText) -> None:
    """What was done and measured of a text encoder alone, on stdout."""
    click.echo(
        f"Text encoder: {prepared.text_parameters:,} parameters in FP16; cosine of embeddings, FP32 against FP16, on "
        f"{prepared.text_fp16.pictures} texts: worst {prepared.text_fp16.worst_cosine:.6f}."
    )
    click.echo(f"Token ids of {prepared.tokenized} texts are those of transformers' tokenizer.")
    click.echo(f"{prepared.text_bytes / 1e6:,.1f} MB. The bundle lies in {prepared.bundle}")


def print_query_rate(found: QueryRate) -> None:
    """What a device's peak says of a model, and that it is a ceiling."""
    console.print_table(
        f"{found.per_second:,g} a second on {found.title}, by its peak",
        ("", "precision", "GFLOP", "of the peak", "most/s", "alone/s"),
        [
            (
                each.what,
                each.precision.upper(),
                f"{each.operations / 1e9:.2f}",
                f"{100 * each.share:.0f} %" + ("" if each.possible else ", impossible"),
                f"{each.most:,.0f}",
                f"{each.most_alone:,.0f}",
            )
            for each in found.encoders
        ],
        numbers=("GFLOP", "of the peak", "most/s", "alone/s"),
    )
    click.echo("A ceiling from the config and NVIDIA's data sheets, not a measurement: no program reaches it.")
    click.echo("Alone: one text or image a run, so that reading the weights for each bounds it as well.")


def _print_gate(gate: RetrievalGate, made: str) -> None:
    console.print_table(
        f"FP16 texts against {made} texts, images in FP16",
        ("", "FP16", made, "change"),
        list(gate.figures.rows()),
        numbers=("FP16", made, "change"),
    )
    verdict = "kept" if gate.passed else "refused" if gate.judged else "not judged"
    click.echo(f"{'INT8' if made == 'INT8' else 'With these layers, INT8'} is {verdict}: {'; '.join(gate.reasons)}.")


def print_zero_shot(found: ZeroShotQuality) -> None:
    """How many images are put into their class, on stdout."""
    figures, reference = found.figures, found.reference or ""
    if found.skipped:
        click.echo(f"Skipped {len(found.skipped)} images that cannot be read: {', '.join(found.skipped[:5])}")
    console.print_table(
        f"{figures.classes} classes, {figures.templates} templates, texts in {found.made}",
        ("", reference, found.made, "change"),
        list(figures.rows()),
        numbers=(reference, found.made, "change"),
    )
    if found.reference is None:
        click.echo("The bundle has no other text encoder to hold it against (edgeq prepare --keep-fp32 leaves one).")
