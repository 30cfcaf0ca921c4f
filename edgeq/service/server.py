"""Run a service: listen, say when it is ready, and on SIGTERM answer what is under way before it ends.

The first signal closes the door: requests that still come get 503, those under way end. The second one, or the end of
`drain_seconds`, cancels what is left. What cannot be cancelled, such as an image that is being decoded, is waited for
no longer than LAST_S: the process ends over it.

SIGHUP reads the tokens again, while requests go on.

Where the model's worker has ended, nothing can be answered any more: the service says so and ends as well, so that
systemd starts it again.
"""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final

import uvicorn
import uvloop
from anyio import to_thread

from edgeq.errors import InputError
from edgeq.service.app import Service
from edgeq.service.http.log import log
from edgeq.service.http.notify import Notifier
from edgeq.service.http.protocol import protocol_class
from edgeq.service.settings import ServiceSettings

__all__ = ["LAST_S", "Server", "reserve"]

LAST_S: Final = 10.0
"""After `drain_seconds`, or after the second signal, the process has ended within so many."""

_BACKLOG = 128
_IDLE_S = 30
_CLOSE_S = 5
_LOOK_S = 0.5
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def reserve(host: str, port: int) -> socket.socket:
    """A socket with this address, which nobody can connect to yet: a model may take minutes to load.

    Raises:
        InputError: the port is in use or not allowed, or the address is not this machine's.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise InputError(f"{host} is no address of this machine: {error.strerror}") from error
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named, or asyncio leaves TCP's delay on
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _not_bound(host, port, error) from error
    return listener


def _not_bound(host: str, port: int, error: OSError) -> InputError:
    if error.errno == errno.EADDRINUSE:
        step = f"stop what listens there (ss -ltnp 'sport = :{port}'), or choose another --port"
        return InputError(f"port {port} of {host} is in use", next_step=step)
    if error.errno == errno.EACCES:
        return InputError(f"this user may not listen on port {port}", expected="a port from 1024 on")
    return InputError(f"{host}, port {port}: {error.strerror or error}", expected="an address of this machine")


class Server:
    """One service on one socket.

    Args:
        service: what is run.
        settings: its times.
        listener: from `reserve`; it is closed at the end.
        notifier: tells systemd.
        ready: called once requests are answered, with the address.
        end: ends the process at once; called where the model's worker has ended, and where the process would not end
            in time by itself. None in a process that has something else to do.
        reload: called on SIGHUP; an InputError of it is logged, and the service goes on as before. None does nothing.
    """

    def __init__(
        self,
        service: Service,
        settings: ServiceSettings,
        listener: socket.socket,
        notifier: Notifier | None = None,
        ready: Callable[[str], None] | None = None,
        end: Callable[[], None] | None = None,
        reload: Callable[[], None] | None = None,
    ) -> None:
        self._service = service
        self._settings = settings
        self._listener = listener
        self._notifier = notifier or Notifier()
        self._ready = ready
        self._end = end
        self._reload = reload
        self._failed = False
        self._uvicorn = _Uvicorn(
            uvicorn.Config(
                service.app,
                http=protocol_class(settings.body_seconds, service.connections),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=_IDLE_S,
                timeout_graceful_shutdown=_CLOSE_S,
            )
        )
        self._stop: asyncio.Event | None = None
        self._hurry: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def address(self) -> str:
        """Where it listens, such as `http://127.0.0.1:8000`."""
        host, port = self._listener.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def run(self) -> bool:
        """Serve until a signal or `stop`; the model is closed at the end.

        Returns:
            Whether it ended because it was told to: False where the model's worker has ended.

        Raises:
            InputError: another process has come to listen on the port.
        """
        try:
            self._listener.listen(_BACKLOG)
        except OSError as error:
            host, port = self._listener.getsockname()[:2]
            raise _not_bound(host, port, error) from error
        with _signals(self.stop, self.reload):
            uvloop.run(self._serve())
        if self._failed and self._end is not None:
            self._end()  # here, where nothing is let go yet: an accelerator that is lost is not to be called again
        return not self._failed

    def stop(self) -> None:
        """Close the door and drain; the second time, hurry. From any thread."""
        first = self._stop is None or not self._stop.is_set()
        self._end_after((self._settings.drain_seconds if first else 0) + LAST_S)
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._next)

    def reload(self) -> None:
        """Read again what may change while it serves. From any thread."""
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._reloaded)

    def _reloaded(self) -> None:
        try:
            if self._reload is not None:
                self._reload()
        except InputError as error:
            log("not_reloaded", level=40, reason=error.what, next=error.next_step)
        else:
            log("reloaded")

    def _end_after(self, seconds: float) -> None:
        """End the process then, if it is still there: also where the loop is stuck, or a thread is waited for."""
        if self._end is None:
            return

        def over() -> None:
            log("not ended in time", level=40, seconds=seconds)
            assert self._end is not None
            self._end()

        timer = threading.Timer(seconds, over)
        timer.daemon = True
        timer.start()

    def _next(self) -> None:
        assert self._stop is not None
        assert self._hurry is not None
        (self._hurry if self._stop.is_set() else self._stop).set()

    async def _serve(self) -> None:
        self._stop, self._hurry, self._loop = asyncio.Event(), asyncio.Event(), asyncio.get_running_loop()
        serving = asyncio.create_task(self._uvicorn.serve([self._listener]))
        watching = asyncio.create_task(self._watch())
        looking = asyncio.create_task(self._until_worker_ends())
        log("started", address=self.address, model=self._service.served.name)
        self._notifier.ready()
        if self._ready is not None:
            self._ready(self.address)
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait((serving, stopping, looking), return_when=asyncio.FIRST_COMPLETED)
        if looking.done():
            self._failed = True
            log("worker_ended", level=40, reason="the model's worker has ended; see above")
            self._end_after(LAST_S)
        looking.cancel()
        drained = await self._drain()
        watching.cancel()
        self._uvicorn.should_exit = True
        await serving
        stopping.cancel()
        log("stopped", drained=drained)

    async def _drain(self) -> bool:
        """Let requests end; whether all did."""
        log("draining", requests=self._service.traffic.active)
        self._notifier.stopping()
        assert self._hurry is not None
        hurry = asyncio.create_task(self._hurry.wait())
        drain = asyncio.create_task(self._service.traffic.drain(self._settings.drain_seconds))
        await asyncio.wait((hurry, drain), return_when=asyncio.FIRST_COMPLETED)
        drained = drain.done() and drain.result()
        for task in (hurry, drain):
            task.cancel()
        if self._service.children is not None:  # what is still decoded is given up
            await to_thread.run_sync(self._service.children.close)
        await to_thread.run_sync(self._service.served.close, drained)
        return drained

    async def _until_worker_ends(self) -> None:
        while self._service.served.alive:
            await asyncio.sleep(_LOOK_S)

    async def _watch(self) -> None:
        """Tell the watchdog that the worker makes progress; where it does not, say nothing, and systemd acts."""
        if self._notifier.watchdog is None:
            return
        before = -1
        while True:
            busy, done = self._service.served.progress
            if self._service.served.alive and (not busy or done != before):
                self._notifier.alive()
            else:
                log("no_progress", level=30)
            before = done
            await asyncio.sleep(self._notifier.watchdog / 2)


class _Uvicorn(uvicorn.Server):
    """Signals are not its business."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextmanager
def _signals(stop: Callable[[], None], reload: Callable[[], None]) -> Iterator[None]:
    """Call `stop` on SIGINT and SIGTERM, `reload` on SIGHUP; only the main thread is told of them."""

    def handle(number: int, _frame: FrameType | None) -> None:
        (reload if number == signal.SIGHUP else stop)()

    try:
        before = [(number, signal.signal(number, handle)) for number in (*_SIGNALS, signal.SIGHUP)]
    except ValueError:  # another thread: whoever runs it there calls `stop`
        before = []
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
