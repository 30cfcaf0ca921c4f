"""A stream from the network: RTSP, or MPEG-TS, Matroska and motion JPEG over HTTP, TCP and UDP."""

from __future__ import annotations

from collections.abc import Generator
from typing import Final
from urllib.parse import urlsplit

from edgeq.errors import InputError
from edgeq.frames.address import with_login, without_secrets
from edgeq.frames.base import Frame, LiveSource
from edgeq.frames.ffmpeg import Input, decoded

__all__ = ["SCHEMES", "NetworkSource"]

_RTSP: Final = "rtsp,rtsps,rtp,srtp,udp,tcp,tls,crypto"
_HTTP: Final = "http,https,httpproxy,tcp,tls"

SCHEMES: Final = {"rtsp": _RTSP, "rtsps": _RTSP, "http": _HTTP, "https": _HTTP, "tcp": "tcp", "udp": "udp"}
"""Scheme of an address -> the protocols that FFmpeg may speak for it."""

_LIVE_OPTIONS: Final = {"fflags": "nobuffer", "flags": "low_delay", "analyzeduration": "2000000"}


class NetworkSource(LiveSource):
    """A stream by its address. RTSP goes over TCP: datagrams that are lost would be damaged frames.

    Args:
        address: with or without `USER:PASSWORD@`; where it is without, those of `EDGEQ_CAMERA_LOGIN` are used.
        timeout: seconds in which it must answer, and then give the next frame.

    Raises:
        InputError: it names no host, or the variable is not usable.
    """

    def __init__(self, address: str, timeout: float) -> None:
        try:
            parts = urlsplit(address)
            host, _port = parts.hostname, parts.port
        except ValueError:
            host = None
        super().__init__(without_secrets(address))
        if not host:
            raise InputError(f"{self._name} names no host", expected="an address such as rtsp://camera:554/stream")
        options = dict(_LIVE_OPTIONS)
        if parts.scheme.startswith("rtsp"):
            options["rtsp_transport"] = "tcp"
        self._input = Input(
            with_login(address),
            self._name,
            SCHEMES[parts.scheme],
            format="rtsp" if parts.scheme.startswith("rtsp") else None,
            options=options,
            live=True,
            open_s=timeout,
            read_s=timeout,
        )

    @property
    def damaged(self) -> int:
        """As for `FrameSource.damaged`."""
        return self._input.damaged

    def frames(self) -> Generator[Frame, None, None]:
        """As for `FrameSource.frames`, of one connection."""
        return decoded(self._input)
