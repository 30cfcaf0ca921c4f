"""Pipelines of GStreamer in a process of their own; and its RTSP server, where Debian's packages have brought both."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from films import av
from PIL import Image

from edgeq.errors import ImageError, InputError
from edgeq.frames import gstreamer
from edgeq.frames.looking import Looking, LookingOptions
from edgeq.frames.registry import SourceOptions, open_source

assert av  # the extra is here

needs_gstreamer = pytest.mark.skipif(
    shutil.which("gst-launch-1.0") is None, reason="gst-launch-1.0 is not here: apt-get install gstreamer1.0-tools"
)
RED = "videotestsrc pattern=red ! video/x-raw,width=62,height=46"
QUICK = SourceOptions(timeout=20.0)

PYTHON = Path("/usr/bin/python3")
"""Debian's, which has Debian's bindings of GStreamer."""

SERVER = """
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
assert Gst.ElementFactory.find("x264enc")
server = GstRtspServer.RTSPServer(service="0", address="127.0.0.1")
factory = GstRtspServer.RTSPMediaFactory(shared=True)
source = "videotestsrc is-live=1 pattern=red ! video/x-raw,width=64,height=48"
encoder = "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=10"
factory.set_launch(f"( {source} ! {encoder} ! rtph264pay name=pay0 )")
server.get_mount_points().add_factory("/live", factory)
server.attach(None)
print(server.get_bound_port(), flush=True)
GLib.MainLoop().run()
"""


def red(image: Image.Image) -> bool:
    pixel = image.getpixel((9, 9))
    assert isinstance(pixel, tuple)
    return pixel[0] > 200 and max(pixel[1:]) < 60


@needs_gstreamer
@pytest.mark.parametrize("end", ["", " ! videoconvert ! video/x-raw,format=BGR ! appsink drop=1"])
def test_frames_of_a_pipeline(end: str) -> None:
    source = open_source(RED + end, QUICK)
    source.check()
    found = list(Looking(source, red, LookingOptions(frames=3), pytest.fail))
    assert [one.answer for one in found] == [True] * 3
    assert found[0].image is not None
    assert found[0].image.size == (62, 46)


@needs_gstreamer
def test_a_pipeline_that_ends_is_run_again() -> None:
    said: list[str] = []
    source = open_source(f"{RED.replace('pattern', 'num-buffers=2 pattern')}", QUICK)
    looking = Looking(source, red, LookingOptions(frames=3, reconnect_s=0.01), said.append)
    assert [one.answer for one in looking] == [True] * 3
    assert looking.counts.lost >= 1
    assert "ended; trying again" in said[0]


@needs_gstreamer
@pytest.mark.parametrize(
    ("pipeline", "told"),
    [
        ("nosuchelement ! video/x-raw", 'no element "nosuchelement"'),
        ("v4l2src device=/dev/video99 ! videoconvert", "/dev/video99"),
        ("filesrc location=/nowhere ! decodebin ! videoconvert", "/nowhere"),
        (
            "rtspsrc location=rtsp://me:secret@127.0.0.1:9/ user-pw=secret ! decodebin ! videoconvert",
            "rtsp://127.0.0.1",
        ),
    ],
)
def test_a_pipeline_that_fails(pipeline: str, told: str) -> None:
    with pytest.raises(ImageError) as caught:
        open_source(pipeline, QUICK).check()
    assert told in caught.value.what
    assert "secret" not in str(caught.value)


@needs_gstreamer
def test_a_pipeline_that_is_silent() -> None:
    """One frame, and no more for a minute."""
    source = open_source(
        "videotestsrc is-live=1 ! video/x-raw,width=64,height=48,framerate=1/60", SourceOptions(timeout=1.0)
    )
    with pytest.raises(ImageError, match="no frame in 1 s"), closing(source.frames()) as frames:
        for _frame in frames:
            pass


def test_a_quotation_without_an_end() -> None:
    with pytest.raises(InputError, match="is no pipeline"):
        open_source("videotestsrc name='a ! video/x-raw")


def test_gstreamer_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gstreamer, "_LAUNCH", "no-such-program")
    with pytest.raises(InputError, match="not installed") as caught:
        open_source(RED)
    assert "gstreamer1.0-tools" in caught.value.next_step


@pytest.fixture
def port() -> Iterator[str]:
    """Of GStreamer's RTSP server, in a process of its own."""
    if not PYTHON.exists():
        pytest.skip("Debian's Python is not here")
    with subprocess.Popen([PYTHON, "-c", SERVER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = process.stdout.readline().strip()
        if not found:
            pytest.skip("not here: apt-get install gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-ugly")
        yield found
        process.kill()


def test_another_rtsp_server(port: str) -> None:
    """H.264 in RTP (RFC 6184), by a server that is not ours."""
    source = open_source(f"rtsp://127.0.0.1:{port}/live", QUICK)
    source.check()
    assert [one.answer for one in Looking(source, red, LookingOptions(frames=3), pytest.fail)] == [True] * 3
