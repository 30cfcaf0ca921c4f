"""Addresses for people and logs: without user, password and query."""

from __future__ import annotations

import os
import re
from typing import Final
from urllib.parse import quote, urlsplit, urlunsplit

from edgeq.errors import InputError

__all__ = ["LOGIN", "with_login", "without_secrets"]

LOGIN: Final = "EDGEQ_CAMERA_LOGIN"
"""Variable with `USER:PASSWORD` for an address that has none: arguments of a process can be read by everybody."""

_USER = re.compile(r"(?<=://)[^/?#\s]*@")
_QUERY = re.compile(r"(://[^?\s]*)\?[^\s'\"]*")
_PROPERTY = re.compile(r"\b(user-pw|user-id|password|token)\s*=\s*(\"[^\"]*\"|'[^']*'|\S+)")


def without_secrets(text: str) -> str:
    """A text in which no address shows user, password or query; nor does a property of GStreamer."""
    text = _QUERY.sub(r"\1?…", _USER.sub("", text))
    return _PROPERTY.sub(r"\1=…", text)


def with_login(address: str) -> str:
    """An address with the user and the password of the environment, where it has none of its own.

    Raises:
        InputError: the variable is not `USER:PASSWORD`.
    """
    given = os.environ.get(LOGIN, "")
    parts = urlsplit(address)
    if not given or "@" in parts.netloc:
        return address
    user, colon, password = given.partition(":")
    if not (user and colon):
        raise InputError(f"{LOGIN} is not usable", expected="USER:PASSWORD")
    return urlunsplit(parts._replace(netloc=f"{quote(user, safe='')}:{quote(password, safe='')}@{parts.netloc}"))
