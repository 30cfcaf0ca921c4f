"""`edgeq judge`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeq.cli import console
from edgeq.cli.exit_statuses import DONE, GATE
from edgeq.cli.flags import PATH, json_option, threads_option
from edgeq.cli.progress import progress_bars
from edgeq.judge.bounds import DEFAULT_JUDGE_BOUNDS, DEFAULT_SEED, MOST_LOOKS, JudgeBounds
from edgeq.strict_json import read_json

if TYPE_CHECKING:
    from edgeq.judge.judgement import GroupFigures, Judgement
    from edgeq.quality.estimate import Estimate

__all__ = ["command"]

_TARGET_TOKEN, _REFERENCE_TOKEN = "EDGEQ_TARGET_TOKEN", "EDGEQ_REFERENCE_TOKEN"
_SHOWN = 5
_COLUMNS = ("", "asked", "reference", "target", "lost", "same", "by chance")


def _json_object(_context: click.Context, _parameter: click.Parameter, text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        found = read_json(text.encode())
    except ValueError as error:
        raise click.BadParameter(f"{error}") from error
    if not isinstance(found, dict):
        raise click.BadParameter('an object is expected, such as {"repeat_penalty": 1.0}')
    return found


@click.command("judge")
@click.argument("target")
@click.option("--against", required=True, help="What sees: a bundle, an address, or a Hugging Face directory.")
@click.option(
    "--eval",
    "evaluation",
    type=PATH,
    help="Your questions: a JSONL file beside its images. Of an ONNX file or an engine: labelled images.",
)
@click.option(
    "--sight", type=click.IntRange(1), metavar="N", help="Ask the sight test as well: N drawn scenes of each skill."
)
@click.option("--seed", type=click.IntRange(0), default=DEFAULT_SEED, show_default=True, help="Of the sight test.")
@click.option("--model", help="Of TARGET, where it is an address.  [default: the first that it lists]")
@click.option("--against-model", help="Likewise of --against.")
@click.option(
    "--extra-body",
    callback=_json_object,
    metavar="JSON",
    help="Fields that go with every question to the server TARGET: what your own client sends.",
)
@click.option("--against-extra-body", callback=_json_object, metavar="JSON", help="Likewise to that of --against.")
@click.option(
    "--max-drop",
    type=click.FloatRange(0, 100),
    default=DEFAULT_JUDGE_BOUNDS.max_drop,
    show_default=True,
    help="Right answers that may be lost, in points.",
)
@click.option(
    "--min-agreement",
    type=click.FloatRange(0, 100),
    default=DEFAULT_JUDGE_BOUNDS.min_agreement,
    show_default=True,
    help="Percent of the reference's answers that are demanded where nobody knows what is right.",
)
@click.option(
    "--looks",
    type=click.IntRange(1, MOST_LOOKS),
    default=DEFAULT_JUDGE_BOUNDS.looks,
    show_default=True,
    help="Look at the verdict so often, and end as soon as it is shown; each look is stricter.",
)
@click.option(
    "--max-new-tokens", type=click.IntRange(1), default=64, show_default=True, help="The longest answer, in tokens."
)
@click.option(
    "--clients", type=click.IntRange(1, 256), default=4, show_default=True, help="Questions at once, to a server."
)
@click.option("--per-minute", type=click.FloatRange(0, min_open=True), help="Requests to a server, at the most.")
@click.option("--answers", type=PATH, help="TARGET's answers, in JSON lines: what is in it is not asked again.")
@click.option("--against-answers", type=PATH, help="Likewise those of --against.")
@threads_option
@click.option("-o", "--output", type=PATH, help="A file for the judgement (JSON); it is replaced.")
@json_option
@click.pass_context
def command(
    context: click.Context,
    target: str,
    against: str,
    evaluation: Path | None,
    sight: int | None,
    seed: int,
    model: str | None,
    against_model: str | None,
    extra_body: dict[str, Any] | None,
    against_extra_body: dict[str, Any] | None,
    max_drop: float,
    min_agreement: float,
    looks: int,
    max_new_tokens: int,
    clients: int,
    per_minute: float | None,
    answers: Path | None,
    against_answers: Path | None,
    threads: int | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Does TARGET still see what --against sees? Both are asked the same questions about the same images.

    TARGET is the address of a server of OpenAI's chat completions (TensorRT Edge-LLM, vLLM, llama-server, transformers,
    edgeq), a bundle, or a Hugging Face directory. Tokens of servers are the variables EDGEQ_TARGET_TOKEN and
    EDGEQ_REFERENCE_TOKEN. The canaries of a bundle in --against are asked as well.

    An ONNX file or a TensorRT engine (.engine, .plan) is held beside the bundle that it should compute: by its canaries
    and, for networks that classify, detect or segment, by the labelled images of --eval.

    Exit status 1: it is shown that it sees less, or not shown that it sees as well.
    """
    bounds = JudgeBounds(max_drop=max_drop, min_agreement=min_agreement, looks=looks)
    from edgeq.judge.engine_file import is_engine_file

    if is_engine_file(target):
        _refuse_unused(
            sight=sight,
            looks=None if looks == 1 else looks,
            model=model,
            extra_body=extra_body,
            per_minute=per_minute,
            answers=answers,
        )
        _judge_file(context, Path(target), Path(against), evaluation, bounds, threads, output, as_json)
        return
    from edgeq.api.workshop.judge import judge_model

    with progress_bars() as progress:
        found = judge_model(
            target,
            against,
            evaluation=evaluation,
            sight=sight,
            seed=seed,
            model=model,
            against_model=against_model,
            token=os.environ.get(_TARGET_TOKEN),
            against_token=os.environ.get(_REFERENCE_TOKEN),
            extra_body=extra_body,
            against_extra_body=against_extra_body,
            bounds=bounds,
            max_new_tokens=max_new_tokens,
            clients=clients,
            per_minute=per_minute,
            answers=answers,
            against_answers=against_answers,
            threads=threads,
            progress=progress,
        )
    if output is not None:
        found.save(output)
    if as_json:
        console.print_json(found)
    else:
        _print(found)
    context.exit(DONE if found.verdict == "sees" else GATE)


def _refuse_unused(**given: object) -> None:
    for name, value in given.items():
        if value is not None:
            raise click.UsageError(f"--{name.replace('_', '-')} is for servers; a file is held beside its bundle")


def _judge_file(
    context: click.Context,
    target: Path,
    bundle: Path,
    labelled: Path | None,
    bounds: JudgeBounds,
    threads: int | None,
    output: Path | None,
    as_json: bool,
) -> None:
    from edgeq.cli.device.verify_engine import print_report
    from edgeq.judge.engine_file import judge_engine_file

    with progress_bars() as progress:
        found = judge_engine_file(target, bundle, labelled=labelled, bounds=bounds, threads=threads, progress=progress)
    if output is not None:
        found.save(output)
    if as_json:
        console.print_json(found)
    else:
        print_report(found.report)
        click.echo(f"Verdict: {found.verdict}.")
        _print_reasons(found.reasons)
    context.exit(DONE if found.verdict == "sees" else GATE)


def _print_reasons(reasons: Iterable[str]) -> None:
    for reason in reasons:
        click.echo(f"{reason[0].upper()}{reason[1:]}.")


def _print(found: Judgement) -> None:
    console.print_table(
        f"{found.target}, beside {found.reference}",
        _COLUMNS,
        [_row(group) for group in found.groups],
        numbers=_COLUMNS[1:],
    )
    for each in found.differences[:_SHOWN]:
        right = "" if each.answer is None else f"; right is {each.answer!r}"
        click.echo(f"{each.image}: {each.reference!r}, and the target {each.target!r}{right}")
    if len(found.differences) > _SHOWN:
        click.echo(f"... and {len(found.differences) - _SHOWN} more answers differ.")
    spent = found.spent
    tokens = "" if spent.answer_tokens is None else f", {spent.prompt_tokens or 0:,} + {spent.answer_tokens:,} tokens"
    click.echo(f"Asked: {spent.questions} questions, {spent.seconds:.1f} s of answers{tokens}.")
    click.echo(f"Verdict after {found.enough} of {sum(g.items for g in found.groups)}: {found.verdict}.")
    _print_reasons(found.reasons)


def _row(group: GroupFigures) -> tuple[str, ...]:
    name = group.group if group.tells or group.reference_right is None else f"({group.group})"
    return (
        name,
        str(group.items),
        _percent(group.reference_right),
        _percent(group.target_right),
        "" if group.drop is None else f"{group.drop.value:.1f}",
        _percent(group.agreement),
        "" if group.by_chance is None else f"{group.by_chance:.0f} %",
    )


def _percent(estimate: Estimate | None) -> str:
    return "" if estimate is None else f"{estimate.value:.1f} %"
