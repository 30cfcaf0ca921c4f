"""Work that costs more than it may, for a child to be killed over: called there by name."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgeq.confined.limits import Made
from edgeq.errors import ModelError


def echo(plain: Mapping[str, Any], data: bytearray) -> Made:
    return Made(plain, bytes(data))


def deaf(_plain: Mapping[str, Any], _data: bytearray) -> Made:
    """Compute for ever inside a library, where no signal of Python's is heard."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ctypes.PyDLL(None).sleep(1000)  # the interpreter's lock is held
    return Made({})


def compute(_plain: Mapping[str, Any], _data: bytearray) -> Made:
    while True:
        pass


def fill(plain: Mapping[str, Any], _data: bytearray) -> Made:
    return Made({"length": len(bytes(plain["bytes"]))})


def nest(plain: Mapping[str, Any], data: bytearray) -> Made:
    return nest(plain, data)


def large(plain: Mapping[str, Any], _data: bytearray) -> Made:
    return Made({}, bytes(plain["bytes"]))


def refuse(_plain: Mapping[str, Any], _data: bytearray) -> Made:
    raise ModelError("this is no model", expected="one", causes=("a reason",), next_step="another")


def foreign(_plain: Mapping[str, Any], _data: bytearray) -> Made:
    raise ZeroDivisionError("by zero")


def crash(_plain: Mapping[str, Any], _data: bytearray) -> Made:
    os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(1000)
    return Made({})


def identity(plain: Mapping[str, Any], _data: bytearray) -> Made:
    """Process id, and whether it could write a file."""
    with suppress(OSError):
        Path(plain["path"]).write_bytes(b"written")
    return Made({"pid": os.getpid(), "group": os.getpgid(0)})
