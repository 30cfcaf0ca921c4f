"""`edgeq run`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from PIL import Image
from pydantic import BaseModel, ConfigDict

from edgeq.api.device.images import open_image
from edgeq.api.device.opened import open_bundle
from edgeq.cli import console
from edgeq.cli.device.frame_options import (
    frame_options,
    looking_options,
    open_outlets,
    refuse_frame_options,
    require_end,
    say_counts,
)
from edgeq.cli.flags import PATH, json_option, running_backend_option, threads_option
from edgeq.errors import EdgeqError, ImageError, InputError
from edgeq.frames.looking import FrameCounts, Looked, Looking
from edgeq.frames.overlay import caption
from edgeq.frames.registry import SourceOptions, names_frames, open_source
from edgeq.frames.report import FrameFailure, FramePlace, place_of
from edgeq.runtime.vlm.model import MAX_NEW_TOKENS, Reply

if TYPE_CHECKING:
    from edgeq.frames.base import FrameSource
    from edgeq.frames.outlets import Outlets

__all__ = ["command"]


class _FrameAnswer(FramePlace):
    """What the model answers about a frame."""

    version: Literal["edgeq.frame-answer/1"] = "edgeq.frame-answer/1"
    text: str
    ended: str
    tokens: int


class _FrameAnswers(BaseModel):
    """What `--json` prints at the end of a film or a folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal["edgeq.frame-answers/1"] = "edgeq.frame-answers/1"
    source: str
    backend: str
    because: str
    answers: tuple[_FrameAnswer | FrameFailure, ...]
    counts: FrameCounts


@click.command("run")
@click.argument("bundle", type=PATH)
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.argument("question")
@click.option(
    "--max-new-tokens",
    type=click.IntRange(1),
    default=MAX_NEW_TOKENS,
    show_default=True,
    help="The longest answer, in tokens.",
)
@running_backend_option
@threads_option
@click.option(
    "--timeout",
    type=click.FloatRange(0.0, min_open=True),
    default=10.0,
    show_default=True,
    help="Seconds that a stream may be silent.",
)
@frame_options
@json_option
def command(
    bundle: Path,
    images: tuple[str, ...],
    question: str,
    max_new_tokens: int,
    backend: str,
    threads: int | None,
    timeout: float,
    as_json: bool,
    **given: Any,
) -> None:
    """Ask QUESTION about one IMAGE or several, and print what the vision-language model in BUNDLE answers.

    The images stand before the question, in their order. Every file of the bundle is checked first. The images'
    features come from the vision engine, the language model is loaded alone. What ran the vision graph, and why, is
    told on stderr, and with --json beside the answer.

    In the place of images there may be one folder, film (a file), camera (/dev/video0), address (rtsp://…) or pipeline
    of GStreamer: it is asked about each of its frames, of a camera about the newest. `edgeq watch` does so for reports.
    """
    if any(map(names_frames, images)):
        if len(images) > 1:
            raise InputError("a film, a camera or a folder stands alone", expected="one of these, or images only")
        source = open_source(images[0], SourceOptions(timeout, given["real_time"]))
        require_end(source, as_json=as_json, frames=given["frames"], lines=given["lines"])
        with open_outlets(given) as outlets:
            source.check()
            with open_bundle(bundle, kind="vision-language", backend=backend, threads=threads) as opened:

                def ask(image: Image.Image) -> Reply:
                    return opened.ask(image, question, max_new_tokens)

                _ask_about_frames(source, ask, given, outlets, as_json=as_json)
        return
    refuse_frame_options(given, "images")
    pictures = [open_image(image) for image in images]
    with open_bundle(bundle, kind="vision-language", backend=backend, threads=threads) as opened:
        reply = opened.ask(pictures, question, max_new_tokens)
    if as_json:
        console.print_json(reply)
    else:
        console.say(f"{reply.backend}: {reply.because}")
        click.echo(reply.text)


def _ask_about_frames(
    source: FrameSource, ask: Callable[[Image.Image], Reply], given: dict[str, Any], outlets: Outlets, *, as_json: bool
) -> None:
    """Ask about frame after frame, and hand each answer on."""
    options = looking_options(given, source)
    looking = Looking(source, ask, options, console.say)
    answers: list[_FrameAnswer | FrameFailure] = []
    backend = because = failure = ""
    try:
        with closing(iter(looking)) as found:
            for looked in found:
                answer = _answer(source.name, looked)
                if isinstance(looked.answer, Reply) and not backend:
                    backend, because = looked.answer.backend, looked.answer.because
                    console.say(f"{backend}: {because}")
                failure = answer.reason.splitlines()[0] if isinstance(answer, FrameFailure) else failure
                outlets.report(answer.model_dump_json(), None if as_json else _line(answer))
                if outlets.draws and looked.image is not None:
                    outlets.draw(caption(looked.image, [_text(answer)]), looked.shown_at)
                if as_json:
                    answers.append(answer)
    finally:
        say_counts(looking.counts, latency=not options.keep_all)
    counts = looking.counts
    if counts.failed and not counts.answered:
        raise ImageError(f"{source.name}: none of {counts.failed:,} frames could be answered about", causes=(failure,))
    if as_json:
        console.print_json(
            _FrameAnswers(
                source=source.name,
                backend=backend,
                because=because,
                answers=tuple(answers),
                counts=counts,
            )
        )


def _answer(source: str, looked: Looked[Reply]) -> _FrameAnswer | FrameFailure:
    place = place_of(source, looked)
    if isinstance(looked.answer, EdgeqError):
        return FrameFailure(**place, reason=str(looked.answer))
    reply = looked.answer
    return _FrameAnswer(**place, text=reply.text, ended=reply.ended, tokens=len(reply.token_ids))


def _text(answer: _FrameAnswer | FrameFailure) -> str:
    return answer.text if isinstance(answer, _FrameAnswer) else f"failed: {answer.reason.splitlines()[0]}"


def _line(answer: _FrameAnswer | FrameFailure) -> str:
    return f"{answer.where}: {_text(answer)}"
