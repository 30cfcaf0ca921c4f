"""`edgeq push`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from edgeq.bundle.verify import Trust
from edgeq.cli import console
from edgeq.cli.device.verify import key_option
from edgeq.cli.flags import PATH, json_option
from edgeq.cli.progress import byte_bar
from edgeq.errors import InputError
from edgeq.hub import PushPlan, plan_push, push

__all__ = ["command"]


@click.command("push")
@click.argument("bundle", type=PATH)
@click.argument("repository", metavar="ORG/NAME")
@click.option("--public", is_flag=True, help="Everybody may read it; without this the repository is private.")
@click.option("--dry-run", is_flag=True, help="Show what would be sent; nothing is asked of the hub.")
@click.option("--yes", is_flag=True, help="Send without asking.")
@click.option("--remove-others", is_flag=True, help="Remove files there that BUNDLE does not have.")
@key_option
@json_option
def command(
    bundle: Path,
    repository: str,
    public: bool,
    dry_run: bool,
    yes: bool,
    remove_others: bool,
    keys: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Send BUNDLE to Hugging Face's hub as the model ORG/NAME: its files, manifest and signature, in one commit.

    What would be sent is listed first, and nothing is sent before that is agreed to. BUNDLE's README.md is its model
    card. The token is huggingface_hub's: HF_TOKEN, or the one of `hf auth login`.
    """
    if as_json and not (dry_run or yes):
        raise click.UsageError("--json asks nothing: add --yes or --dry-run")
    with byte_bar("checking") as report:
        plan = plan_push(bundle, repository, private=not public, trust=Trust.of(keys), report=report)
    if dry_run and as_json:
        console.print_json(plan)
    if not as_json:
        _list(plan)
    if dry_run:
        return
    if not yes:
        _ask(plan)
    done = push(plan, remove=remove_others)
    if as_json:
        console.print_json(done)
        return
    for name in done.removed:
        click.echo(f"removed there: {name}")
    click.echo(f"{done.url}\nBundle {plan.digest}.")


def _list(plan: PushPlan) -> None:
    rows = [(file.name, f"{file.size:,}", file.sha256[:12]) for file in plan.files]
    console.print_table(f"To {plan.repository}", ("file", "bytes", "SHA-256"), rows, numbers=("bytes",))
    click.echo(f"{len(plan.files)} files, {plan.total_bytes / 1e6:,.1f} MB, {_who_reads(plan)}.")
    if not plan.signed:
        click.echo("It is not signed: edgeq sign BUNDLE --key NAME.private.pem, before it is sent.")


def _who_reads(plan: PushPlan) -> str:
    return "for a private repository" if plan.private else "for everybody to read"


def _ask(plan: PushPlan) -> None:
    """Wait for a yes; where nobody can be asked, nothing is sent."""
    if sys.stdin is None or not sys.stdin.isatty():
        raise InputError("nobody can be asked whether that may be sent", next_step="add --yes, or --dry-run to see it")
    click.confirm(f"Send this to {plan.repository}, {_who_reads(plan)}?", err=True, abort=True)
