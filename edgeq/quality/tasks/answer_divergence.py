"""Where two models part: the picture, the question and what each said, for a person to look at."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from PIL import Image
from pydantic import BaseModel, ConfigDict

from edgeq.files import atomic_write

__all__ = ["MOST_SHOWN", "Divergence", "common_start", "divergence_page", "save_divergences"]

MOST_SHOWN: Final = 200
"""So many are drawn on a page; the artifact has them all."""

_THUMBNAIL: Final = 160
_PAGE: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Where the answers part</title>
<style>
body {{ font: 15px/1.4 sans-serif; margin: 2em; color: #222; }}
td, th {{ padding: .5em; text-align: left; vertical-align: top; border-bottom: 1px solid #ddd; }}
.same {{ color: #888; }}
</style>
<h1>Where the answers part</h1>
<p>{shown} of {all} answers that differ. Grey is what both say; the rest begins with the first difference.</p>
<table>
<tr><th>image<th>question<th>reference<th>candidate<th>given answer</tr>
{rows}
</table>
</html>
"""


class Divergence(BaseModel):
    """A question to which two models say something different.

    Attributes:
        item: its place among the questions, from 1.
        image: name of the picture.
        question: what was asked.
        reference, candidate: what each said.
        token: how many tokens are the same before they part.
        answer: what a right answer says; None where nobody knows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    item: int
    image: str
    question: str
    reference: str
    candidate: str
    token: int
    answer: str | None = None


def common_start(ours: Sequence[object], theirs: Sequence[object]) -> int:
    """How many tokens, or letters, two answers have in common from the start."""
    pairs = enumerate(zip(ours, theirs, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(ours), len(theirs)))


def save_divergences(divergences: Sequence[Divergence], read: Callable[[str], Image.Image], path: Path) -> None:
    """Write `divergence_page` to a file, atomically.

    Args:
        divergences: for the page.
        read: gives a picture (mode RGB) by its name.
        path: is replaced where it exists.
    """
    atomic_write(path, divergence_page(divergences, read).encode())


def divergence_page(divergences: Sequence[Divergence], read: Callable[[str], Image.Image]) -> str:
    """One HTML page that needs no other file; the first `MOST_SHOWN` are on it.

    Args:
        divergences: from `VlmQuality`.
        read: gives a picture (mode RGB) by its name, such as `Questions.read`.
    """
    shown = divergences[:MOST_SHOWN]
    return _PAGE.format(shown=len(shown), all=len(divergences), rows="\n".join(_row(one, read) for one in shown))


def _row(one: Divergence, read: Callable[[str], Image.Image]) -> str:
    name = html.escape(one.image)
    picture = f'<img src="{_thumbnail(read(one.image))}" alt="{name}"><br>{name}'
    cells = (picture, html.escape(one.question), *_answers(one), html.escape(one.answer or ""))
    return "<tr>" + "".join(f"<td>{cell}" for cell in cells) + "</tr>"


def _answers(one: Divergence) -> tuple[str, str]:
    """Both answers as HTML, what they have in common in grey."""
    same = common_start(one.reference, one.candidate)
    return _shaded(one.reference, same), _shaded(one.candidate, same)


def _shaded(text: str, same: int) -> str:
    return f'<span class="same">{html.escape(text[:same])}</span>{html.escape(text[same:])}'


def _thumbnail(image: Image.Image) -> str:
    """A small JPEG as a data URL."""
    small = image.copy()
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
