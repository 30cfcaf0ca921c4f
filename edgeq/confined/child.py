"""The child: it answers one call after the other, each under its limits, until its parent closes the line.

What it runs may be taken over by what it reads. So it never gets more than the call's data, writes no file
(RLIMIT_FSIZE), leaves no core file, is the first that the kernel ends where memory runs out, and dies with its parent.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import mmap
import os
import resource
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final

from edgeq import errors
from edgeq.confined.frames import FrameError, receive_call, send
from edgeq.confined.limits import Made
from edgeq.confined.shared import map_whole

__all__ = ["main"]

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38
_CALL_BYTES: Final = 2**31
_SHOWN: Final = 300

Function = Callable[[Mapping[str, Any], bytearray], Made]


def main(descriptor: int, parent: int, modules: list[str]) -> None:
    """Serve a parent.

    Args:
        descriptor: of the line to it.
        parent: its process id.
        modules: loaded before the first call.
    """
    _harmless(parent)
    line = socket.socket(fileno=descriptor)
    for module in modules:
        importlib.import_module(module)
    gc.freeze()  # what was loaded is not looked at by each collection
    with suppress(FrameError):
        send(line, {"ready": True})
        kept: mmap.mmap | None = None
        while True:
            call, data, shared = receive_call(line, _CALL_BYTES)
            if shared is None and not call.get("kept"):
                given = bytearray()
                told = _answer(call, data, given.extend)
                send(line, told, given)
                continue
            memory = kept if shared is None else _mapped_once(shared)
            assert memory is not None, "the first call through it brings it"
            send(line, _answer_shared(call, memory))
            if call.get("kept"):
                kept = memory
            else:
                memory.close()


def _harmless(parent: int) -> None:
    """Die with the parent; no core file, no files written, no way to more rights; the first to go without memory."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.getppid() != parent:  # it ended before
        os._exit(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    with suppress(OSError):
        descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        try:
            os.write(descriptor, b"1000")
        finally:
            os.close(descriptor)


def _mapped_once(descriptor: int) -> mmap.mmap:
    try:
        return map_whole(descriptor, write=True)
    finally:
        os.close(descriptor)


def _answer_shared(call: Mapping[str, Any], memory: mmap.mmap) -> dict[str, Any]:
    """Answer through shared memory, which holds the call's data, and then that of the answer."""
    data = bytearray(memory[: call["data_bytes"]])
    memory.seek(0)
    told = _answer(call, data, memory.write)
    return {**told, "shared_bytes": memory.tell()}


def _answer(call: Mapping[str, Any], data: bytearray, put: Callable[[bytes], Any]) -> dict[str, Any]:
    """Run the function under its limits, and put its data; what hostile data makes of it is told in words."""
    try:
        function = _named(call["function"])
        with _limited(call["memory_bytes"], call["cpu_seconds"]):
            made = function(call["plain"], data)
            room: int = call["answer_bytes"]
            for piece in (made.data,) if isinstance(made.data, bytes) else made.data:
                room -= len(piece)
                if room < 0:
                    raise errors.LimitError(f"what it gives has more than {call['answer_bytes']:,} bytes: refused")
                put(piece)
    except Exception as error:
        return {"error": _told(error)}
    return {"plain": made.plain}


def _named(name: str) -> Function:
    """The function `module:name`; its module is loaded outside of the limits."""
    module, _, attribute = name.partition(":")
    found: Function = getattr(importlib.import_module(module), attribute)
    return found


@contextmanager
def _limited(memory_bytes: int, cpu_seconds: float) -> Iterator[None]:
    """Limits for what runs inside; beyond what is mapped and was computed before."""
    memory, cpu = resource.getrlimit(resource.RLIMIT_AS), resource.getrlimit(resource.RLIMIT_CPU)
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime + cpu_seconds) + 1
    _lower(resource.RLIMIT_AS, _mapped() + memory_bytes)
    _lower(resource.RLIMIT_CPU, seconds)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, memory)
        resource.setrlimit(resource.RLIMIT_CPU, cpu)


def _lower(kind: int, limit: int) -> None:
    """Set a soft limit; the hard one stays, so that it can be taken back."""
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _mapped() -> int:
    """Bytes of address space of this process."""
    descriptor = os.open("/proc/self/statm", os.O_RDONLY)
    try:
        return int(os.read(descriptor, 100).split()[0]) * resource.getpagesize()
    finally:
        os.close(descriptor)


def _told(error: Exception) -> dict[str, Any]:
    """An error as the parent raises it again: by the name of a class of `edgeq.errors`, or empty for a foreign one."""
    if isinstance(error, MemoryError):
        return {"kind": "memory"}
    if isinstance(error, RecursionError):
        return {"kind": "depth"}
    if isinstance(error, errors.EdgeqError):
        kind = next(each.__name__ for each in type(error).__mro__ if each.__name__ in errors.__all__)
        return {
            "kind": kind,
            "what": error.what,
            "expected": error.expected,
            "causes": error.causes,
            "next_step": error.next_step,
        }
    return {"kind": "", "what": f"{type(error).__name__}: {errors.first_line(error)}"[:_SHOWN]}
