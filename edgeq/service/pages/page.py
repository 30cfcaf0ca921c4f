"""Which page a bundle has, and how its files go out: the same for everybody, and allowed next to nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from edgeq.service.served_model import ServedModel

__all__ = ["PageFile", "page_of"]

_FILES: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.svg": ("page.svg", "image/svg+xml"),
}
"""By path: the file in a page's folder, and its media type."""

_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""Content Security Policy, level 3: scripts, styles and requests of this service alone; a text never becomes markup."""


def page_of(served: ServedModel) -> dict[str, PageFile]:
    """The files of a bundle's page by their path: here alone is settled which kind of bundle has which page.

    Args:
        served: the bundle.

    Returns:
        empty where there is no page for it.
    """
    searches = served.retrieval is not None and served.retrieval.catalog is not None
    return _page("search") if searches else {}


def _page(folder: str) -> dict[str, PageFile]:
    place = Path(__file__).parent / folder
    return {path: PageFile((place / name).read_bytes(), media_type) for path, (name, media_type) in _FILES.items()}


class PageFile:
    """One file of a page.

    Args:
        data: all of it.
        media_type: of it.
    """

    def __init__(self, data: bytes, media_type: str) -> None:
        self._data = data
        self._headers = {
            "Content-Type": media_type,
            "Content-Security-Policy": _POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cache-Control": "no-cache",  # kept, and asked for again
            "ETag": f'"{hashlib.sha256(data).hexdigest()[:32]}"',
        }

    async def __call__(self, request: Request) -> Response:
        """Answer with the file, or 304 where the client has it."""
        if request.headers.get("if-none-match") == self._headers["ETag"]:
            return Response(status_code=304, headers=self._headers)
        return Response(self._data, headers=self._headers)
