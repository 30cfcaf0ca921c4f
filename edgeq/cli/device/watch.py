"""`edgeq watch`."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from pydantic import BaseModel, ConfigDict

from edgeq.cli import console
from edgeq.cli.device.serve import bundle_options, chosen_settings, open_chosen
from edgeq.cli.flags import PATH, json_option
from edgeq.errors import InputError
from edgeq.runtime.vlm.model import MAX_NEW_TOKENS
from edgeq.service.settings import WATCH_TIMEOUT_S

if TYPE_CHECKING:
    from edgeq.service.watch import ImageFailure, ImageReport, Watch

__all__ = ["command"]


class _Summary(BaseModel):
    """What `--json` prints at the end."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal["edgeq.watched/1"] = "edgeq.watched/1"
    directory: Path
    reports: tuple[str, ...]
    failures: dict[str, str]


@click.command("watch")
@click.argument("bundle", type=PATH)
@click.argument("directory", type=PATH)
@bundle_options
@click.option("--once", is_flag=True, help="Stop when every image that is there has a report or a reason.")
@click.option(
    "--interval",
    type=click.FloatRange(0.0, min_open=True),
    default=0.5,
    show_default=True,
    help="Seconds between two looks at the directory.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0.0),
    default=WATCH_TIMEOUT_S,
    show_default=True,
    help="Seconds that an image which cannot be decoded may still be in the making.",
)
@click.option(
    "--max-new-tokens",
    type=click.IntRange(1),
    default=MAX_NEW_TOKENS,
    show_default=True,
    help="The longest answer about an image, in tokens.",
)
@json_option
def command(
    bundle: Path,
    directory: Path,
    config: Path | None,
    once: bool,
    interval: float,
    timeout: float,
    max_new_tokens: int,
    as_json: bool,
    **flags: Any,
) -> None:
    """Write a report beside each image that comes into DIRECTORY, as IMAGE.json.

    BUNDLE is a bundle's directory or a store of `edgeq install`. Images are taken in the order of their times, each
    once: started again, it goes on where it was. What cannot be looked at is moved to DIRECTORY/failed, with the reason
    beside it. Ctrl-C ends it.
    """

    from edgeq.service.watch import Watch
    from edgeq.service.watch_inference import watch_inference

    if as_json and not once:
        raise click.UsageError("--json tells all at the end, and there is none: add --once")
    if not directory.is_dir():
        raise InputError(f"{directory} is no directory", expected="the folder that images are put into", passing=True)
    settings = chosen_settings(config, **flags)
    with closing(open_chosen(bundle, settings, lambda what: click.echo(what, err=True))) as served:
        console.say(f"{served.backend}: {served.because}")
        look = watch_inference(served, settings.request_seconds, max_new_tokens)
        watch = Watch(directory, look, served.name, time.monotonic, timeout)
        found = _all(watch, once=once, interval=interval)
        if as_json:
            console.print_json(_summary(directory, list(found)))
            return
        for made in found:
            click.echo(_line(made))


def _all(watch: Watch, *, once: bool, interval: float) -> Iterator[ImageReport | ImageFailure]:
    """What comes of every image, for ever, or until nothing waits any more."""
    pause = threading.Event()
    while True:
        yield from watch.turn()
        if once and not watch.waiting:
            return
        pause.wait(interval)


def _line(made: ImageReport | ImageFailure) -> str:
    from edgeq.service.watch import ImageFailure

    if isinstance(made, ImageFailure):
        return f"{made.image}: failed: {made.reason.splitlines()[0]}"
    return f"{made.image}: {made.seen.model_dump_json()}"


def _summary(directory: Path, made: list[ImageReport | ImageFailure]) -> _Summary:
    from edgeq.service.watch import ImageFailure, ImageReport

    return _Summary(
        directory=directory,
        reports=tuple(one.image for one in made if isinstance(one, ImageReport)),
        failures={one.image: one.reason for one in made if isinstance(one, ImageFailure)},
    )
