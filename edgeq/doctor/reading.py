"""Read the small files by which Linux and a Jetson tell what they are, below a root that a test can make."""

from __future__ import annotations

from pathlib import Path

__all__ = ["number_in", "text_in"]

_MOST_BYTES = 16 * 1024 * 1024


def text_in(path: Path) -> str | None:
    """A file's text without the NUL at the end that a device tree has; None where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES).decode("utf-8", errors="replace").strip("\0 \t\r\n")
    except OSError:
        return None


def number_in(path: Path) -> int | None:
    """The whole number that a file holds; None where it holds none."""
    try:
        return int(text_in(path) or "")
    except ValueError:
        return None
