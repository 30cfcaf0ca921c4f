"""A report as one HTML page. Everything in a bundle may be somebody else's: each expression is bounded and escaped.

The page needs no other file and runs no script: its Content-Security-Policy allows the one style in it, by its digest,
and pictures that stand in it as data; nothing else, whatever a bundle holds.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from edgeq.bundle_report.blocks import Document
from edgeq.bundle_report.words import shown

__all__ = ["as_html"]

_LONG_WORD: Final = 24
_PICTURE: Final = re.compile(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+")


def as_html(document: Document) -> str:
    """One page that needs nothing else."""
    style = str(_environment().get_template("report.css").render())
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    return _environment().get_template("report.html").render(document=document, style=Markup(style), digest=digest)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("edgeq.bundle_report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_bounded,
    )
    environment.filters["picture"] = _picture
    environment.tests["unbroken"] = _unbroken
    return environment


def _bounded(value: Any) -> Any:
    """A text as it may stand in a page; what the template made itself stays as it is."""
    return shown(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _unbroken(text: str) -> bool:
    """Whether a word in it is too long for a column, such as a digest or a layer's name."""
    return any(len(word) > _LONG_WORD for word in text.split())


def _picture(source: str) -> Markup:
    """A data URI that was made here: longer than a text may be, and of letters that need no escape."""
    if _PICTURE.fullmatch(source) is None:
        raise ValueError("a picture is a JPEG in base64")
    return Markup(source)
