"""Who may ask: a bearer token, and on the loopback address without one only what was sent there by name.

A page in a browser of the same machine can send requests to 127.0.0.1 under a name of its own (DNS rebinding); such a
request has that name in its Host header.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from starlette.datastructures import Headers

from edgeq.errors import InputError
from edgeq.service.http.errors import RequestError

__all__ = ["TOKEN_VARIABLE", "Access", "is_loopback", "read_token"]

TOKEN_VARIABLE: Final = "EDGEQ_TOKEN"

_SHORTEST: Final = 16
_LONGEST: Final = 4096
_OPEN: Final = ("/health/live", "/health/ready")


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def read_token(host: str, file: Path | None, environment: Mapping[str, str] | None = None) -> str | None:
    """The token that requests must bring; None where none is asked for.

    Args:
        host: where the service will listen.
        file: its first line is the token; it goes before the variable EDGEQ_TOKEN.
        environment: another one for a test.

    Raises:
        InputError: the file cannot be read, the token is too short or has characters that a header cannot, or there is
            none and the address is not the loopback one.
    """
    variables = os.environ if environment is None else environment
    token = _first_line(file) if file is not None else variables.get(TOKEN_VARIABLE, "").strip()
    if not token and file is None:
        if is_loopback(host):
            return None
        raise InputError(
            f"to listen on {host}, other machines must bring a token, and there is none",
            expected=f"--token-file FILE, token_file in the settings, or the variable {TOKEN_VARIABLE}",
            next_step="openssl rand -hex 32 > token && edgeq serve ... --token-file token, or --host 127.0.0.1",
        )
    if not _SHORTEST <= len(token) <= _LONGEST or not token.isascii() or not token.isprintable() or " " in token:
        raise InputError(
            f"the token {'in ' + str(file) if file else 'of ' + TOKEN_VARIABLE} cannot be used",
            expected=f"at least {_SHORTEST} printable ASCII characters without spaces",
            next_step="openssl rand -hex 32",
        )
    return token


def _first_line(file: Path) -> str:
    try:
        with file.open("rb") as lines:
            line = lines.readline(_LONGEST + 2)
    except OSError as error:
        raise InputError(f"the token file {file} cannot be read: {error.strerror or error}") from error
    return line.decode("latin-1").strip()


class Access:
    """Lets requests in.

    Args:
        token: that they must bring; None for none.
        page: paths of what is no secret: the files of the page that asks for the token.
    """

    def __init__(self, token: str | None, page: Collection[str] = ()) -> None:
        self._page = frozenset(page)
        self._wanted = None if token is None else f"Bearer {token}".encode()

    def check(self, path: str, headers: Headers) -> None:
        """Let a request in; health is told to everybody, and the page is shown to everybody who may ask at all.

        Raises:
            RequestError: 401 it brings no token or another one, 400 it was sent to another name.
        """
        if path in _OPEN:
            return
        if self._wanted is None:
            _check_host(headers.get("host", ""))
            return
        if path in self._page:
            return
        given = headers.get("authorization", "").encode("latin-1", "replace")
        kind, space, token = given.partition(b" ")
        if not hmac.compare_digest(kind.lower().capitalize() + space + token.strip(), self._wanted):
            raise RequestError(401, "invalid_api_key", "this service asks for a bearer token, and this is not it")


def _check_host(host: str) -> None:
    """Refuse a name that is not this machine's own."""
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    if not is_loopback(name.lower()):
        raise RequestError(
            400,
            "bad_host",
            "without a token this service answers to localhost, 127.0.0.1 and [::1] only",
        )
