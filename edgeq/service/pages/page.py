"""The pages' files and how they go out: the same for every bundle and everybody, and allowed next to nothing.

They hold nothing of the bundle: a page asks the service what it serves, with the token where there is one.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

__all__ = ["PageFile", "page_files"]

_STATIC: Final = Path(__file__).parent / "static"

_DOCUMENTS: Final = {"/": "index.html", "/docs": "docs.html"}
"""By path. Every other file lies below `/page/`."""

_MEDIA_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

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

_PERMISSIONS: Final = "camera=(self), microphone=(), geolocation=(), display-capture=()"
"""Permissions Policy: of what a browser asks its user for, the camera alone."""


def page_files() -> dict[str, PageFile]:
    """Every file of the pages by its path."""
    documents = {path: PageFile(_STATIC / name) for path, name in _DOCUMENTS.items()}
    others = (file for file in sorted(_STATIC.iterdir()) if file.name not in _DOCUMENTS.values())
    return documents | {f"/page/{file.name}": PageFile(file) for file in others}


class PageFile:
    """One file of a page.

    Args:
        file: in the package.
    """

    def __init__(self, file: Path) -> None:
        self._data = file.read_bytes()
        self._headers = {
            "Content-Type": _MEDIA_TYPES[file.suffix],
            "Content-Security-Policy": _POLICY,
            "Permissions-Policy": _PERMISSIONS,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cache-Control": "no-cache",  # kept, and asked for again
            "ETag": f'"{hashlib.sha256(self._data).hexdigest()[:32]}"',
        }

    async def __call__(self, request: Request) -> Response:
        """Answer with the file, or 304 where the client has it."""
        if request.headers.get("if-none-match") == self._headers["ETag"]:
            return Response(status_code=304, headers=self._headers)
        return Response(self._data, headers=self._headers)
