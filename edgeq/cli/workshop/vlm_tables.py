"""What was planned, made and measured of a vision-language model, for a person."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import click

from edgeq.cli import console
from edgeq.pipeline.vlm import PreparedVlm
from edgeq.pipeline.vlm_language import ChosenLanguage
from edgeq.plan.ceilings import Bound, Ceiling
from edgeq.plan.memory import MemoryPlan
from edgeq.plan.photographs import PhotographCount
from edgeq.quality.tasks.answers import VlmQuality

__all__ = ["print_answers", "print_ceilings", "print_memory", "print_photographs", "print_prepared_vlm"]


_BOUNDS: Final[dict[Bound, str]] = {"bandwidth": "memory", "instructions": "issue", "operations": "TFLOPS"}


def print_memory(plan: MemoryPlan) -> None:
    """Weights, the moment that needs most, and whether the device has that much, on stdout."""
    click.echo(f"{plan.model}: {plan.parameters:,} parameters, {_gigabytes(plan.weights_bytes)} of weights.")
    console.print_table(
        "Weights",
        ("component", "parameters", "GB", "precision"),
        [
            (part.name, f"{part.parameters:,}", f"{part.bytes / 1e9:.3f}", ", ".join(kind for kind in part.precisions))
            for part in plan.components
        ],
        numbers=("parameters", "GB"),
    )
    console.print_table(
        f"While {plan.tightest.name}, when it needs most",
        ("what", "GB", "how"),
        [(item.name, f"{item.bytes / 1e9:.3f}", item.how) for item in plan.tightest.items],
        numbers=("GB",),
    )
    if plan.photographs is not None:
        print_photographs(plan.photographs)
    for line in _lines(plan):
        click.echo(line)


def print_ceilings(ceilings: Sequence[Ceiling], context: int) -> None:
    """What each power mode allows at the most, on stdout.

    Args:
        ceilings: the fastest mode first.
        context: tokens of the sequence that they are for.
    """
    console.print_table(
        "At the most, by power mode",
        ("mode", "SM x MHz", "GB/s", "TFLOPS", "token/s", "by", "read/s", "ms"),
        [
            (
                one.mode.name,
                f"{one.mode.multiprocessors} x {one.mode.gpu_mhz:,}",
                f"{one.mode.bytes_per_second / 1e9:.1f}",
                f"{one.mode.fp16_per_second / 1e12:.1f}",
                f"{one.decode_tokens_per_second:.1f}",
                _BOUNDS[one.decode_bound],
                f"{one.prefill_tokens_per_second:,.0f}",
                f"{one.image_ms:,.0f}",
            )
            for one in ceilings
        ],
        numbers=("SM x MHz", "GB/s", "TFLOPS", "token/s", "read/s", "ms"),
    )
    fastest = ceilings[0]
    click.echo(
        "Derived from clocks and bandwidth, not measured: nothing reaches it. "
        f"token/s: of an answer at {context:,} tokens of context, by memory or by the issue of NF4's instructions. "
        f"read/s: tokens of a prompt; {fastest.prefill_unpacked_tokens_per_second:,.0f} in {fastest.mode.name} where "
        "each matrix in NF4 or INT8 is unpacked first. ms: of an image in the vision encoder."
    )


def print_photographs(count: PhotographCount) -> None:
    """Which photograph costs most, and how that is known, on stdout."""
    looked = f"{count.photographs:,} photographs"
    if count.looked_at != count.photographs:
        looked = f"{count.looked_at:,} of {looked}"
    how = f"{count.processed} of them through the model's image processor, which counts as edgeq does"
    if not count.processed:
        how = "by the family's rule alone: the model has no image processor's config, or none of them could be decoded"
    click.echo(
        f"Of {looked} in {count.sizes:,} sizes, {count.name} ({count.size[0]} x {count.size[1]}) takes most, "
        f"{count.tokens:,} tokens; {how}."
    )


def _lines(plan: MemoryPlan) -> Iterator[str]:
    others = [phase for phase in plan.phases if phase is not plan.tightest]
    yield "Less is needed while " + ", ".join(f"{phase.name} ({_gigabytes(phase.bytes)})" for phase in others) + "."
    image, cross = plan.image, plan.image.cross_tokens
    seen = f" and {cross:,} that cross-attention looks at" if cross else ""
    if plan.caps:
        yield "Bounded to " + " and ".join(f"{most:,} {what} an image" for what, most in plan.caps.items()) + "."
    yield (
        f"An image of {plan.request.image_size[0]} x {plan.request.image_size[1]} takes {image.tokens:,} tokens{seen}; "
        f"a token takes {plan.kv.bytes_per_token:,} bytes of KV cache."
    )
    if not plan.processor_known and plan.request.images:
        yield "There is no image processor's config beside the model: its class's defaults count, which may be others."
    if plan.photographs is None and plan.request.images:
        yield "Your own photographs decide how many tokens an image takes: give them with --images FOLDER."
    if plan.request.images:
        yield f"{max(plan.room, 0):,} of {plan.request.context:,} tokens are left for template, question and answer."
    spare = _gigabytes(abs(plan.spare_bytes))
    if plan.fits:
        yield f"It fits {plan.device.title} with {spare} to spare: {plan.reason}."
        return
    missing = f" by {spare}" if plan.spare_bytes < 0 else ""
    yield f"It does not fit {plan.device.title}{missing}: {plan.reason}."
    for change in plan.changes:
        flag = f" ({change.flag})" if change.flag else ""
        yield f"It would fit with {change.what} {change.value}{flag}: {_gigabytes(change.needed_bytes)}."
    if not plan.changes:
        yield "No single change would make it fit."


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"


def print_prepared_vlm(prepared: PreparedVlm) -> None:
    """What was done and measured, for a person."""
    vision, half = prepared.vision, prepared.vision.fp16
    assert half is not None, "prepare makes both graphs"
    before, after = prepared.fp16_bytes / 1e6, (prepared.vision_bytes + prepared.language_bytes) / 1e6
    click.echo(
        f"Vision and connector: {vision.parameters:,} parameters in FP16, {half.fp16_layers} layers; "
        f"{len(half.fp32_layers)} stay FP32."
    )
    click.echo(
        f"Feature cosine on {prepared.photographs} photographs, FP32 against FP16: mean {half.parity.mean_cosine:.6f}, "
        f"worst {half.parity.worst_cosine:.6f}."
    )
    share = prepared.quantized_parameters / prepared.parameters
    kind = prepared.language.upper() + (", embeddings INT8" if prepared.embeddings == "int8" else "")
    click.echo(
        f"{kind}: {prepared.quantized_parameters:,} of {prepared.parameters:,} parameters ({100 * share:.1f} %)."
    )
    click.echo(f"{before:,.1f} MB in FP16, {after:,.1f} MB in the bundle ({after / before:.2f} x the size).")
    if prepared.skipped:
        click.echo(f"Skipped {len(prepared.skipped)} images that cannot be read: {', '.join(prepared.skipped[:5])}")
    if prepared.chosen is not None:
        print_languages(prepared.chosen)
    if prepared.quality is not None:
        print_answers(prepared.quality)
    print_photographs(prepared.dearest)
    if prepared.memory is not None:
        click.echo(f"On {prepared.memory.device.title} {prepared.memory.reason}.")
    click.echo(f"The bundle lies in {prepared.bundle}")
    console.print_next("edgeq", "run", prepared.bundle, "IMAGE", "QUESTION")


def print_languages(chosen: ChosenLanguage) -> None:
    """The language halves that were tried, the smallest first."""
    console.print_table(
        f"Language halves beside the whole model; at most {chosen.max_drop:g} points may be lost",
        ("", "MB", "lost, points", "same answer, %", "KL, nats", ""),
        [
            (
                figures.language,
                f"{figures.bytes / 1e6:,.1f}",
                f"{figures.drop:.1f}" + ("" if figures.standard_error is None else f" ({figures.standard_error:.1f})"),
                f"{figures.agreement:.1f}",
                f"{figures.kl:.4f}",
                "chosen" if figures.language == chosen.language else "" if figures.within else "not shown",
            )
            for figures in chosen.tried
        ],
        numbers=("MB", "lost, points", "same answer, %", "KL, nats"),
    )


def print_answers(quality: VlmQuality) -> None:
    """The whole model beside the bundle on the user's questions."""
    console.print_table(
        f"The whole model against the bundle, {quality.items} questions",
        ("", "whole", "bundle", "bundle against whole"),
        quality.rows(),
        numbers=("whole", "bundle"),
    )
