"""The kinds of sources, and which one a text names: another kind is a line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeq.errors import InputError
from edgeq.frames.address import without_secrets
from edgeq.frames.base import FrameSource
from edgeq.frames.film import FILM_SUFFIXES, FilmSource
from edgeq.frames.folder import FolderSource
from edgeq.frames.gstreamer import GstreamerSource
from edgeq.frames.network import SCHEMES, NetworkSource
from edgeq.frames.v4l2 import V4l2Source

__all__ = ["SOURCES", "SourceKind", "SourceOptions", "names_frames", "open_source"]


@dataclass(frozen=True)
class SourceOptions:
    """How sources are opened.

    Attributes:
        timeout: seconds in which a live one must answer, and give the next frame.
        real_time: a film is played at its own speed.
    """

    timeout: float = 10.0
    real_time: bool = False


@dataclass(frozen=True)
class SourceKind:
    """A kind of source.

    Attributes:
        name: for messages.
        takes: whether a text names one.
        open: from the text to the source, which opens nothing yet; raises InputError.
    """

    name: str
    takes: Callable[[str], bool]
    open: Callable[[str, SourceOptions], FrameSource]


SOURCES: Final = (
    SourceKind(
        "pipeline of GStreamer",
        lambda text: " ! " in text,
        lambda text, options: GstreamerSource(text, options.timeout),
    ),
    SourceKind(
        f"stream ({', '.join(SCHEMES)})",
        lambda text: text.partition("://")[0] in SCHEMES and "://" in text,
        lambda text, options: NetworkSource(text, options.timeout),
    ),
    SourceKind(
        "camera of Video4Linux",
        lambda text: text.startswith("/dev/"),
        lambda text, options: V4l2Source(text, options.timeout),
    ),
    SourceKind("folder", lambda text: Path(text).is_dir(), lambda text, _options: FolderSource(Path(text))),
    SourceKind(
        "film",
        lambda text: "://" not in text,
        lambda text, options: FilmSource(Path(text), real_time=options.real_time),
    ),
)
"""In the order in which they are asked."""


def names_frames(text: str) -> bool:
    """Whether a text names a source of frames rather than an image: a film does so by how its name ends.

    Args:
        text: a path, an address, a device or a pipeline.
    """
    kind = next((kind for kind in SOURCES if kind.takes(text)), None)
    return "://" in text if kind is None else kind.name != "film" or Path(text).suffix.lower() in FILM_SUFFIXES


def open_source(text: str, options: SourceOptions | None = None) -> FrameSource:
    """The source that a text names.

    Args:
        text: a path, an address, a device or a pipeline.
        options: how it is opened.

    Raises:
        InputError: there is no such kind, or the text is not usable.
    """
    for kind in SOURCES:
        if kind.takes(text):
            return kind.open(text, options or SourceOptions())
    raise InputError(
        f"{without_secrets(text)} is no source of frames that is known",
        expected=f"a {', a '.join(kind.name for kind in SOURCES)}",
    )
