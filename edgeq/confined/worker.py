"""One child, as its parent sees it: started, called, killed."""

from __future__ import annotations

import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import edgeq
from edgeq import errors
from edgeq.confined.frames import FrameError, receive, send
from edgeq.confined.limits import START_S, Answer, Limits
from edgeq.confined.shared import map_whole, shared_file
from edgeq.errors import EdgeqError, InputError, LimitError

__all__ = ["Worker", "run_confined"]

_START: Final = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from edgeq.confined.child import main; main(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])"
)
_FLAGS: Final = ("-I", "-S")
"""No variables and no site: `sys.path` is the parent's, so that the same packages are found, only quicker."""

_ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_LEAN: Final = {"USE_TORCH": "0", "USE_TF": "0", "USE_FLAX": "0"}
"""For transformers: no framework is loaded for a text."""

_HEAP: Final = {
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(32 << 20),
}
"""Of glibc: each arena takes 64 MiB of address space, which counts; some memory stays, as a page fault costs more than
many a picture's decoding."""

_THROUGH_LINE: Final = 128 << 10
"""Bytes that go through the socket at once; memory for more takes some system calls, which cost less than this."""

_KEPT_BYTES: Final = 8 << 20
"""Of shared memory that stays with a child from call to call."""

_END_S: Final = 5.0


class Worker:
    """A child that waits for calls. It belongs to the thread that starts it: where that ends, so does the child.

    Args:
        modules: that it loads before it is ready.

    Raises:
        LimitError: it does not start.
    """

    def __init__(self, modules: Sequence[str] = ()) -> None:
        self.calls = 0
        self._killed = False
        self._kept: mmap.mmap | None = None
        self._line, theirs = socket.socketpair()
        own = Path(edgeq.__file__).resolve().parents[1]
        paths = [str(own), *(str(Path(path).absolute()) for path in sys.path if path)]
        with theirs:
            command = [sys.executable, *_FLAGS, "-c", _START, json.dumps(paths)]
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno()), str(os.getpid()), *modules],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=os.sep,
                env={**os.environ, **_ONE_THREAD, **_LEAN, **_HEAP},
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # a group of its own, and no Ctrl-C from a terminal
            )
        try:
            receive(self._line, 0, time.monotonic() + START_S)
        except (TimeoutError, FrameError) as error:
            ending = self._ending()
            self.kill()
            raise LimitError(f"a process for untrusted work does not start: {ending}") from error
        except BaseException:
            self.kill()
            raise

    @property
    def usable(self) -> bool:
        """Whether it may be called."""
        return not self._killed and self._process.poll() is None

    def call(self, function: str, plain: Mapping[str, Any], data: bytes, limits: Limits, what: str) -> Answer:
        """Run a function; where it does not come to its end, the child is killed.

        Args:
            function: `module:name`; it takes `plain` and `data` and gives `Made`.
            plain: as JSON has it.
            data: bytes beside it.
            limits: of this call.
            what: what is worked on, to be named in an error.

        Raises:
            LimitError: it took more than its limits allow, or ended the child.
            EdgeqError: what the function raises, of a class of `edgeq.errors`.
        """
        self.calls += 1
        end = time.monotonic() + limits.seconds
        call = {
            "function": function,
            "plain": dict(plain),
            "memory_bytes": limits.memory_bytes,
            "cpu_seconds": limits.cpu_seconds or limits.seconds,
            "answer_bytes": limits.answer_bytes,
        }
        try:
            answer, given = self._asked(call, data, limits.answer_bytes, end)
        except TimeoutError as error:
            self.kill()
            raise _refused(what, f"took more than {limits.seconds:,.3g} s") from error
        except FrameError as error:
            found = self._died(what, limits, error)
            self.kill()
            raise found from error
        except BaseException:  # SystemExit on SIGTERM and KeyboardInterrupt too
            self.kill()
            raise
        if "error" in answer:
            raise self._raised(what, limits, answer["error"])
        return Answer(answer["plain"], given)

    def _asked(
        self, call: Mapping[str, Any], data: bytes, answer_bytes: int, end: float
    ) -> tuple[Mapping[str, Any], bytearray | memoryview]:
        """Send the call and receive the answer; what is large goes through memory that both see."""
        if max(len(data), answer_bytes) <= _THROUGH_LINE:
            send(self._line, call, data, end)
            return receive(self._line, answer_bytes, end)
        call = {**call, "data_bytes": len(data)}
        if max(len(data), answer_bytes) <= _KEPT_BYTES:
            return self._asked_in_kept(call, data, answer_bytes, end)
        descriptor = shared_file(data, max(len(data), answer_bytes))
        try:
            send(self._line, call, end=end, descriptor=descriptor)
            answer, given = self._told(answer_bytes, end)
            return answer, memoryview(map_whole(descriptor, write=False))[:given] if given else bytearray()
        finally:
            os.close(descriptor)

    def _asked_in_kept(
        self, call: Mapping[str, Any], data: bytes, answer_bytes: int, end: float
    ) -> tuple[Mapping[str, Any], memoryview]:
        """The same through memory that stays: its pages are there from the call before."""
        call = {**call, "kept": True}
        if self._kept is None:
            descriptor = shared_file(b"", _KEPT_BYTES)
            try:
                self._kept = map_whole(descriptor, write=True)
                self._kept[: len(data)] = data
                send(self._line, call, end=end, descriptor=descriptor)
            finally:
                os.close(descriptor)
        else:
            self._kept[: len(data)] = data
            send(self._line, call, end=end)
        answer, given = self._told(answer_bytes, end)
        return answer, memoryview(self._kept[:given])

    def _told(self, answer_bytes: int, end: float) -> tuple[Mapping[str, Any], int]:
        """An answer whose data lie in shared memory, and how many bytes these are."""
        answer, _ = receive(self._line, 0, end)
        given = answer.get("shared_bytes", 0)
        if not isinstance(given, int) or not 0 <= given <= answer_bytes:
            raise FrameError(f"an answer of {given} bytes, at most {answer_bytes:,} are taken")
        return answer, given

    def end(self) -> None:
        """Kill it and whatever it started, while another thread may wait for its answer, which then raises."""
        self._killed = True
        if self._process.returncode is None:  # its id is not given to another before it was waited for
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        with suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)

    def kill(self) -> None:
        """The same, and let go of it: no call may be under way."""
        self.end()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
        self._line.close()

    def _raised(self, what: str, limits: Limits, told: Mapping[str, Any]) -> EdgeqError:
        """The error that the function raised."""
        kind = told.get("kind")
        if kind == "memory":
            self.kill()  # what is left of its memory is in pieces
            return _refused(what, f"took more than {limits.memory_bytes / 1e6:,.0f} MB")
        if kind == "depth":
            return InputError(f"{what} is nested too deeply")
        found = getattr(errors, str(kind), None) if kind in errors.__all__ else None
        if isinstance(found, type) and issubclass(found, EdgeqError):
            causes = tuple(map(str, told.get("causes", ())))
            return found(
                str(told.get("what")),
                expected=str(told.get("expected", "")),
                causes=causes,
                next_step=str(told.get("next_step", "")),
            )
        return InputError(f"{what} cannot be used: {told.get('what')}")

    def _died(self, what: str, limits: Limits, error: FrameError) -> LimitError:
        if self._killed:
            return LimitError(f"{what} was given up: the process ends")
        status = self._status()
        if status is None:
            return _refused(what, f"gives {error}")
        if status == -signal.SIGXCPU:
            return _refused(what, f"took more than {limits.cpu_seconds or limits.seconds:,.3g} s of a processor")
        return _refused(what, f"ended the process that worked on it ({self._ending()}), within {limits}")

    def _status(self) -> int | None:
        try:
            return self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            return None

    def _ending(self) -> str:
        status = self._status()
        if status is None:
            return "it did not answer"
        if status >= 0:
            return f"status {status}"
        with suppress(ValueError):
            return signal.Signals(-status).name
        return f"signal {-status}"


def run_confined(
    function: str,
    plain: Mapping[str, Any],
    data: bytes = b"",
    *,
    limits: Limits,
    what: str,
    modules: Sequence[str] = (),
) -> Answer:
    """Run a function once, in a child of its own.

    Args:
        function, plain, data, limits, what: as for `Worker.call`.
        modules: loaded before the time runs.

    Raises:
        LimitError: it took more than its limits allow, or ended the child.
        EdgeqError: what the function raises, of a class of `edgeq.errors`.
    """
    worker = Worker([function.partition(":")[0], *modules])
    try:
        return worker.call(function, plain, data, limits, what)
    finally:
        worker.kill()


def _refused(what: str, why: str) -> LimitError:
    return LimitError(f"{what} {why}: refused")
