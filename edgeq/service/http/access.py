"""Who may ask: with one of the bearer tokens, and on the loopback address without one only what was sent there by name.

A page in a browser of the same machine can send requests to 127.0.0.1 under a name of its own (DNS rebinding); such a
request has that name in its Host header.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

from starlette.datastructures import Headers

from edgeq.errors import InputError
from edgeq.service.http.errors import RequestError

__all__ = ["TOKEN_VARIABLE", "Access", "is_loopback", "read_tokens"]

TOKEN_VARIABLE: Final = "EDGEQ_TOKEN"

_SHORTEST: Final = 16
_LONGEST: Final = 4096
_MOST_TOKENS: Final = 64
_FILE_BYTES: Final = 1 << 20
_OPEN: Final = ("/health/live", "/health/ready")


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def read_tokens(host: str, file: Path | None, environment: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The tokens, one of which a request must bring; empty where none is asked for.

    Args:
        host: where the service will listen.
        file: with a token a line; empty lines and those that begin with `# ` are left out. It goes before the variable
            EDGEQ_TOKEN, which holds one.
        environment: another one for a test.

    Raises:
        InputError: the file cannot be read, a token is too short, is there twice or has characters that a header
            cannot, or there is none and the address is not the loopback one.
    """
    variables = os.environ if environment is None else environment
    tokens = _lines(file) if file is not None else [variables.get(TOKEN_VARIABLE, "").strip()]
    if tokens == [""] and file is None:
        if is_loopback(host):
            return ()
        raise InputError(
            f"to listen on {host}, other machines must bring a token, and there is none",
            expected=f"--token-file FILE, token_file in the settings, or the variable {TOKEN_VARIABLE}",
            next_step="openssl rand -hex 32 > token && edgeq serve ... --token-file token, or --host 127.0.0.1",
        )
    if not tokens or not all(map(_is_usable, tokens)):
        raise InputError(
            f"the token {'in ' + str(file) if file else 'of ' + TOKEN_VARIABLE} cannot be used",
            expected=f"at least {_SHORTEST} printable ASCII characters without spaces",
            next_step="openssl rand -hex 32",
        )
    if len(set(tokens)) < len(tokens) or len(tokens) > _MOST_TOKENS:
        raise InputError(
            f"{file} has {len(tokens)} tokens, {len(set(tokens))} of them different",
            expected=f"at most {_MOST_TOKENS}, each once: what one of them may take is counted for it alone",
        )
    return tuple(tokens)


def _is_usable(token: str) -> bool:
    return _SHORTEST <= len(token) <= _LONGEST and token.isascii() and token.isprintable() and " " not in token


def _lines(file: Path) -> list[str]:
    try:
        with file.open("rb") as opened:
            text = opened.read(_FILE_BYTES).decode("latin-1")
    except OSError as error:
        raise InputError(f"the token file {file} cannot be read: {error.strerror or error}") from error
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("# ")]


class Access:
    """Lets requests in.

    Args:
        tokens: one of which they must bring; empty for none.
        page: paths of what is no secret: the files of the page that asks for the token.
    """

    def __init__(self, tokens: Sequence[str] = (), page: Collection[str] = ()) -> None:
        self._page = frozenset(page)
        self._wanted = _headers(tokens)

    def change(self, tokens: Sequence[str]) -> None:
        """Take other tokens from now on; requests under way go on.

        Raises:
            InputError: they are more or fewer, and what each may take was shared out at the start.
        """
        if len(tokens) != len(self._wanted):
            raise InputError(
                f"there are {len(tokens)} tokens now, and there were {len(self._wanted)}",
                expected="as many as before: what one of them may take is shared out when the service starts",
                next_step="systemctl restart edgeq",
            )
        self._wanted = _headers(tokens)

    def check(self, path: str, headers: Headers) -> int | None:
        """Let a request in; health is told to everybody, and the page is shown to everybody who may ask at all.

        Returns:
            Which token it has brought, from 0 on, where there are several; else None.

        Raises:
            RequestError: 401 it brings no token or another one, 400 it was sent to another name.
        """
        if path in _OPEN:
            return None
        if not self._wanted:
            _check_host(headers.get("host", ""))
            return None
        if path in self._page:
            return None
        given = headers.get("authorization", "").encode("latin-1", "replace")
        kind, space, token = given.partition(b" ")
        brought = kind.lower().capitalize() + space + token.strip()
        # all of them are compared, so that the time tells nothing
        same = [hmac.compare_digest(brought, wanted) for wanted in self._wanted]
        if not any(same):
            raise RequestError(401, "invalid_api_key", "this service asks for a bearer token, and this is not it")
        return same.index(True) if len(same) > 1 else None


def _headers(tokens: Sequence[str]) -> list[bytes]:
    return [f"Bearer {token}".encode() for token in tokens]


def _check_host(host: str) -> None:
    """Refuse a name that is not this machine's own."""
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    if not is_loopback(name.lower()):
        raise RequestError(
            400,
            "bad_host",
            "without a token this service answers to localhost, 127.0.0.1 and [::1] only",
        )
