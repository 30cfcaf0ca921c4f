"""What an exit status means: one thing each, so that a supervisor can act on it. docs/exit-statuses.md is the table.

Verbs that a person or a script calls keep to 1 (a gate said no) and 2 (it cannot be done with what was given). A
service does not end by itself with 1, which is what other programs end with when they break: the C code of bitsandbytes
calls exit(1), as does Python after a traceback. From 64 on the numbers are those of sysexits.h, where that has one.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, NoReturn

from edgeq.errors import (
    DeviceLostError,
    EdgeqError,
    GateError,
    InputError,
    OutOfMemoryError,
    OutputError,
)
from edgeq.faults import known_fault

__all__ = [
    "BAD_INPUT",
    "CANARY",
    "DONE",
    "FAILED",
    "GATE",
    "MISCONFIGURED",
    "NOT_NOW",
    "NO_RESTART",
    "SERVICES",
    "exit_status",
    "leave",
]

DONE: Final = 0
GATE: Final = 1
"""A gate, a guard or a check said no."""
BAD_INPUT: Final = 2
"""It cannot be done with what was given, or a command line is wrong."""
FAILED: Final = 70
"""EX_SOFTWARE: edgeq itself failed, the accelerator was lost, or the service's worker ended. A new process may do."""
NOT_NOW: Final = 75
"""EX_TEMPFAIL: memory ran out, or a port, an address, a disk or a file is not there. The same may work later."""
MISCONFIGURED: Final = 78
"""EX_CONFIG: settings or bundle were read and are wrong, or a package is missing. The same will fail again."""
CANARY: Final = 79
"""The engine does not compute what the workshop saw. The same will fail again."""

NO_RESTART: Final = frozenset([MISCONFIGURED, CANARY])
"""RestartPreventExitStatus of jetson/edgeq.service: what a restart cannot mend."""

SERVICES: Final = frozenset(["serve", "watch"])
"""Verbs that run until they are told to stop, under a supervisor."""

_DEEPEST: Final = 20

_LATER: Final = frozenset(
    [
        *(errno.ENOENT, errno.EIO, errno.ENXIO, errno.ENODEV, errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ENOMEM),
        *(errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ESTALE, errno.ETIMEDOUT),
        *(errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.ENETDOWN, errno.ENETUNREACH, errno.ENOTCONN, errno.ENOBUFS),
        *(errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTUNREACH),
    ]
)
"""What the system says of something that may be there later."""

_WRONG: Final = frozenset(
    [errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL]
)
"""What it says of something that somebody has to put right."""


def exit_status(error: Exception, *, service: bool) -> int:
    """The status that a process leaves with over an error.

    Args:
        error: of edgeq or of any library.
        service: the verb is one of `SERVICES`.
    """
    fault = known_fault(error)
    if isinstance(fault, OutOfMemoryError):
        return NOT_NOW
    if isinstance(fault, DeviceLostError):
        return FAILED
    return _of_service(error) if service else _of_verb(error)


def leave(status: int) -> NoReturn:
    """End this process at once: at an ordinary end, what lies on an accelerator that is lost would be let go there."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed
            stream.flush()
    os._exit(status)


def _of_verb(error: Exception) -> int:
    if isinstance(error, GateError):
        return GATE
    return BAD_INPUT if isinstance(error, EdgeqError | ImportError | OSError) else FAILED


def _of_service(error: Exception) -> int:
    """What a service ends with; where it is not sure that the same would fail again, it is tried again."""
    if _may_pass(error):
        return NOT_NOW
    if isinstance(error, GateError):
        return CANARY
    if isinstance(error, OSError):
        return MISCONFIGURED if error.errno in _WRONG else FAILED
    return MISCONFIGURED if isinstance(error, InputError | ModuleNotFoundError) else FAILED


def _may_pass(error: Exception) -> bool:
    return any(
        (isinstance(one, EdgeqError) and one.passing)
        or isinstance(one, OutputError | socket.gaierror | TimeoutError)
        or (isinstance(one, OSError) and one.errno in _LATER)
        for one in _causes(error)
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what it was raised from."""
    one: BaseException | None = error
    for _ in range(_DEEPEST):
        if one is None:
            return
        yield one
        one = one.__cause__
