"""Tell systemd how the service is: sd_notify(3) over the datagram socket that NOTIFY_SOCKET names.

The protocol is lines of `KEY=VALUE` in one datagram. A name that begins with `@` is in Linux's abstract name space.
Nothing here fails a service: where nobody listens, nothing is said.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

__all__ = ["Notifier"]

_MICRO: Final = 1e-6


class Notifier:
    """What systemd is told.

    Args:
        address: of the socket; empty where nobody listens.
        watchdog: seconds within which the service must say that it is alive; None where nobody asks.
    """

    def __init__(self, address: str = "", watchdog: float | None = None) -> None:
        self.watchdog = watchdog
        self._address = f"\0{address[1:]}" if address.startswith("@") else address

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Notifier:
        """As systemd has set NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID; the last must name this process."""
        found = os.environ if environment is None else environment
        asked = found.get("WATCHDOG_USEC", "")
        meant = found.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        period = int(asked) * _MICRO if asked.isdecimal() and int(asked) > 0 and meant else None
        return cls(found.get("NOTIFY_SOCKET", ""), period)

    def ready(self) -> None:
        """Requests are answered from now on."""
        self._send("READY=1")

    def alive(self) -> None:
        """The worker makes progress; due at least once in `watchdog` seconds."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """No new request is taken; those under way end."""
        self._send("STOPPING=1")

    def status(self, sentence: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={' '.join(sentence.split())}")

    def _send(self, line: str) -> None:
        if not self._address or not hasattr(socket, "AF_UNIX"):
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)
            sender.sendto(line.encode(), self._address)
