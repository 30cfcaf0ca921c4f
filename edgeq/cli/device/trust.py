"""`edgeq trust`: make, sign and set a list of keys; revoke, show, log."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import click
from pydantic import BaseModel, ConfigDict

from edgeq.bundle.key_list import (
    KeyList,
    ListedKey,
    RevokedKey,
    SignedKeyList,
    load_list,
    next_list,
    sign_list,
)
from edgeq.bundle.keys import load_private, load_public, public_of
from edgeq.bundle.release import moment
from edgeq.cli import console
from edgeq.cli.device.install import root_option, short
from edgeq.cli.flags import PATH, json_option
from edgeq.cli.groups import VerbGroup
from edgeq.errors import GateError, OutputError
from edgeq.install.history import Entry, read_history
from edgeq.install.store import open_store
from edgeq.install.trust import TrustReport, read_memory, refused_now, revoke_key, show_trust, take_list

__all__ = ["command"]

_SUFFIX = ".public.pem"


class _Log(BaseModel):
    """What `edgeq trust log --json` prints."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal["edgeq.history-log/1"] = "edgeq.history-log/1"
    entries: tuple[Entry, ...]
    damage: str


@click.group("trust", cls=VerbGroup)
def command() -> None:
    """Whose bundles are installed: lists of keys that root keys sign, revoked keys, the history."""


@command.command("make")
@click.option("-o", "--output", type=PATH, required=True, help="The list to make; it must not exist.")
@click.option("--from", "before", type=PATH, help="The list that it takes the place of; it has its keys, too.")
@click.option("--key", "keys", type=PATH, multiple=True, help="A public key that signs bundles. May be repeated.")
@click.option("--root-key", "roots", type=PATH, multiple=True, help="A public key that signs lists. May be repeated.")
@click.option("--threshold", type=click.IntRange(1), help="Root keys that must sign.  [default: as before, or 1]")
@click.option("--revoke", "revoked", metavar="ID", multiple=True, help="A key, by its id, that counts no more.")
@click.option("--because", metavar="TEXT", help="Why they are revoked.")
@json_option
def make_command(
    output: Path,
    before: Path | None,
    keys: tuple[Path, ...],
    roots: tuple[Path, ...],
    threshold: int | None,
    revoked: tuple[str, ...],
    because: str | None,
    as_json: bool,
) -> None:
    """Make a list of keys, which root keys must sign before a device takes it (`edgeq trust sign`)."""
    if bool(revoked) != bool((because or "").strip()):
        raise click.UsageError("--revoke ID and --because TEXT go together")
    if os.path.lexists(output):
        raise OutputError(
            f"{output} exists already", next_step="choose another name: devices tell lists by their number"
        )
    made = next_list(
        load_list(before).keys if before else None,
        moment(datetime.now(timezone.utc)),
        roots=[_listed(path) for path in roots],
        keys=[_listed(path) for path in keys],
        revoked=[_revoked(identity, because or "") for identity in revoked],
        threshold=threshold,
    )
    SignedKeyList.of(made).save(output)
    _tell(made, as_json)


def _listed(path: Path) -> ListedKey:
    return ListedKey.of(load_public(path), path.name.removesuffix(_SUFFIX)[:100])


def _revoked(identity: str, because: str) -> RevokedKey:
    try:
        return RevokedKey(id=identity, because=because)
    except ValueError as error:
        raise click.UsageError(f"--revoke {identity:.40}: expected the id of a key, 16 hexadecimal digits") from error


def _tell(made: KeyList, as_json: bool) -> None:
    if as_json:
        console.print_json(made)
        return
    click.echo(f"List {made.number}: bundles are signed by {_names(made.keys)};")
    click.echo(f"lists by {made.threshold} of {_names(made.roots)}.")
    for key in made.revoked:
        click.echo(f"Revoked: {key.id}, {key.because}")


def _names(keys: tuple[ListedKey, ...]) -> str:
    return ", ".join(f"{key.id} ({key.name})" if key.name else key.id for key in keys) or "nobody"


@command.command("sign")
@click.argument("file", metavar="LIST", type=PATH)
@click.option("--key", type=PATH, required=True, help="The private root key, NAME.private.pem of edgeq keygen.")
@json_option
def sign_command(file: Path, key: Path, as_json: bool) -> None:
    """Add a root key's signature to LIST. Where root keys are replaced, those of the list before must sign, too."""
    private = load_private(key)
    signed = sign_list(load_list(file), private)
    signed.save(file)
    if as_json:
        console.print_json(signed)
        return
    made = signed.keys
    ours = len(signed.signers([root.key for root in made.roots]))
    click.echo(
        f"{file} has the signature of {public_of(private).id}: {ours} of its own root keys, {made.threshold} must."
    )


@command.command("set")
@click.argument("file", metavar="LIST", type=PATH)
@root_option
@click.option("--root-key", "roots", type=PATH, multiple=True, help="A public root key; for the first list alone.")
@json_option
def set_command(file: Path, root: Path, roots: tuple[Path, ...], as_json: bool) -> None:
    """Take LIST into the store: it says from then on whose bundles are installed, started and rolled back to.

    The first one must be signed with the root keys that are given; later ones with those of the list before.
    """
    _tell(take_list(file, root, roots), as_json)
    _warn(root)


def _warn(root: Path) -> None:
    """Say so where the service would not start again."""
    refused = refused_now(root)
    if refused:
        click.echo(f"The version in use is refused from now on: {refused}. Install another one.", err=True)


@command.command("revoke")
@click.argument("key", metavar="ID")
@root_option
@click.option("--because", metavar="TEXT", required=True, help="Why; it is told wherever the key is met.")
@json_option
def revoke_command(key: str, root: Path, because: str, as_json: bool) -> None:
    """Trust a key no more on this device, by its id, whatever the list of keys says; it cannot be undone."""
    revoke_key(root, key, because)
    _warn(root)
    if as_json:
        console.print_json(show_trust(root))
        return
    click.echo(f"{key} is revoked: nothing that it signed is installed, started or rolled back to.")


@command.command("show")
@root_option
@json_option
def show_command(root: Path, as_json: bool) -> None:
    """Show whom the store trusts today, and the highest release of each product."""
    report = show_trust(root)
    if as_json:
        console.print_json(report)
    else:
        _show(root, report)


def _show(root: Path, report: TrustReport) -> None:
    rows = [
        *(("signs bundles", key, name) for key, name in report.keys.items()),
        *((f"signs lists, {report.threshold} must", key, name) for key, name in report.roots.items()),
        *(("revoked", key, because) for key, because in report.revoked.items()),
        *((f"highest of {it.product}", str(it.sequence), f"signed by {it.key or 'nobody'}") for it in report.highest),
    ]
    if not rows:
        click.echo(f"{root} trusts everybody: no key was given yet, and no signature is looked at.")
        return
    by = "the keys that were given count" if report.list is None else f"list {report.list} says which keys count"
    click.echo(f"In {root} {by}.")
    for row in rows:
        click.echo("  ".join(filter(None, row)))


@command.command("log")
@root_option
@json_option
def log_command(root: Path, as_json: bool) -> None:
    """Show what was done to the store, when and by whom; exit status 1 if a line was changed or taken out."""
    store = open_store(root)
    entries, damage = read_history(store, read_memory(store).head)
    if as_json:
        console.print_json(_Log(entries=entries, damage=damage))
    else:
        for entry in entries:
            click.echo("  ".join(filter(None, _cells(entry))))
    if damage:
        raise GateError(
            f"the history of {root} is damaged: {damage}",
            causes=("somebody changed it", "the disk fails"),
            next_step="compare it with a copy from before",
        )


def _cells(entry: Entry) -> tuple[str, ...]:
    return (
        str(entry.number),
        entry.at,
        entry.who,
        entry.did,
        short(entry.id) if entry.did in ("install", "failed", "rollback") else entry.id,
        f"{entry.product} {entry.sequence}" if entry.product else "",
        f"signed by {entry.signed_by}" if entry.signed_by else "",
        f"because: {entry.because}" if entry.because else "",
    )
