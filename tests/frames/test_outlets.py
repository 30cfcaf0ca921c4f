"""Lines that are whole, a hook that hangs or fails, an overlay video; a disk that is full."""

from __future__ import annotations

import errno
import http.server
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from films import av, moving_square
from PIL import Image, ImageChops

from edgeq.errors import InputError, OutputError
from edgeq.frames import hook as hooks
from edgeq.frames.hook import Hook
from edgeq.frames.lines import LineFile
from edgeq.frames.outlets import Outlets
from edgeq.frames.overlay import Overlay, caption

BEGINS = '{"version":"edgeq.'
LINE = BEGINS + 'frame-report/1"}'


def test_lines_are_added(tmp_path: Path) -> None:
    for _ in range(2):
        with LineFile(tmp_path / "a.jsonl", BEGINS) as lines:
            lines.write(LINE)
    assert (tmp_path / "a.jsonl").read_text() == f"{LINE}\n" * 2


def test_half_a_line_that_a_power_cut_left_is_cut_off(tmp_path: Path) -> None:
    for half in (LINE[:7], LINE[:25], LINE):
        (tmp_path / "a.jsonl").write_text(f"{LINE}\n{half}")
        with LineFile(tmp_path / "a.jsonl", BEGINS) as lines:
            lines.write(LINE)
        assert (tmp_path / "a.jsonl").read_text() == f"{LINE}\n" * 2
    (tmp_path / "a.jsonl").write_text(LINE[:7])
    LineFile(tmp_path / "a.jsonl", BEGINS).close()
    assert (tmp_path / "a.jsonl").read_text() == ""


@pytest.mark.parametrize("text", ["my notes", '{"version":"other"}\n', '{"x":'])
def test_a_file_that_is_another_one_is_not_touched(tmp_path: Path, text: str) -> None:
    (tmp_path / "a").write_text(text)
    with pytest.raises(OutputError, match="holds something else"):
        LineFile(tmp_path / "a", BEGINS)
    assert (tmp_path / "a").read_text() == text


def test_where_no_lines_can_be_written(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="no plain file"):
        LineFile(tmp_path / "pipe", BEGINS)
    with pytest.raises(OutputError, match="cannot be written"):
        LineFile(tmp_path / "nowhere" / "a", BEGINS)


def test_a_line_that_there_is_no_room_for_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk takes ten bytes more: simulated, as only the kernel's answer is."""
    write = os.write
    with LineFile(tmp_path / "a.jsonl", BEGINS) as lines:
        lines.write(LINE)
        monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:10]))
        with pytest.raises(OutputError, match=os.strerror(errno.ENOSPC)):
            lines.write(LINE)
        assert (tmp_path / "a.jsonl").read_text() == f"{LINE}\n"
        monkeypatch.undo()
        lines.write(LINE)
    assert (tmp_path / "a.jsonl").read_text() == f"{LINE}\n" * 2


def command(code: str) -> str:
    return f'{sys.executable} -c "{code}"'


def test_a_command_gets_each_report_on_its_stdin(tmp_path: Path) -> None:
    code = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read() + chr(10))"
    with Hook(f"{command(code)} '{tmp_path}/with space'", pytest.fail) as hook:
        for number in range(3):
            hook.send(json.dumps(number))
    assert sorted((tmp_path / "with space").read_text().split()) == ["0", "1", "2"]
    assert (hook.sent, hook.failed, hook.left_out) == (3, 0, 0)


def test_no_shell_reads_the_command(tmp_path: Path) -> None:
    with Hook(f"echo a; touch {tmp_path}/b > {tmp_path}/c && $(touch {tmp_path}/d)", pytest.fail) as hook:
        hook.send("1")
    assert hook.sent == 1
    assert not [*tmp_path.iterdir()]


def test_a_command_that_fails_is_told_of_once_and_counted() -> None:
    said: list[str] = []
    with Hook(command("import sys; sys.exit(3)"), said.append) as hook:
        for _ in range(5):
            hook.send("1")
    assert hook.failed == 5
    assert len(said) == 1
    assert "ended with status 3" in said[0]


def wait_until_gone(process: int) -> None:
    """Return once a process has ended, whether somebody has taken its status or not."""
    for _ in range(3000):
        try:
            status = Path(f"/proc/{process}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return
        if status.rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.01)
    pytest.fail(f"process {process} lives")


def test_a_command_that_hangs_is_killed_with_what_it_started(tmp_path: Path) -> None:
    """It neither reads nor ends, and has a child; both have gone when the hook is closed."""
    code = f"import os, time; child = os.fork(); open('{tmp_path}/' + str(os.getpid()), 'w').close(); time.sleep(600)"
    said: list[str] = []
    begun = time.monotonic()
    with Hook(command(code), said.append, timeout=2.0) as hook:
        hook.send("x" * 200_000)  # more than a pipe holds
    assert time.monotonic() - begun < 300
    assert hook.failed == 1
    assert "was killed" in said[0]
    children = [int(path.name) for path in tmp_path.iterdir()]
    assert children
    for child in children:
        wait_until_gone(child)


def test_reports_are_left_out_where_a_hook_does_not_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    said: list[str] = []

    def send(_report: bytes, _seconds: float) -> None:
        go.wait(30)

    monkeypatch.setattr(hooks, "_to_command", lambda _target: send)
    with Hook("simulated", said.append) as hook:
        for _ in range(100):
            hook.send("1")
        assert hook.left_out >= 100 - 64 - 4
        go.set()
    assert hook.sent + hook.left_out == 100
    assert "does not follow" in said[0]


def test_a_hook_goes_on_whatever_a_library_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """More errors than there are threads, of a kind that nobody foresaw; then reports come through again."""
    said: list[str] = []
    errors = iter([RuntimeError("odd")] * 8)

    def send(_report: bytes, _seconds: float) -> None:
        for error in errors:
            raise error

    monkeypatch.setattr(hooks, "_to_command", lambda _target: send)
    with Hook("simulated", said.append) as hook:
        for _ in range(10):
            hook.send("1")
    assert (hook.failed, hook.sent) == (8, 2)
    assert "odd" in said[0]


class Receiver(http.server.BaseHTTPRequestHandler):
    """Takes posts, and answers with the status that the path names."""

    got: list[tuple[str, str | None, Any]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.got.append((self.path, self.headers["Authorization"], json.loads(body)))
        self.send_response(int(self.path[1:4]))
        self.send_header("Location", "/200/elsewhere")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def receiver() -> Iterator[tuple[str, list[tuple[str, str | None, Any]]]]:
    got: list[tuple[str, str | None, Any]] = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Receiver", (Receiver,), {"got": got})) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}", got
        server.shutdown()
        thread.join()


def test_a_url_gets_each_report_by_post() -> None:
    with receiver() as (host, got):
        with Hook(f"http://me:p%20w@{host}/200?a=b", pytest.fail) as hook:
            hook.send('{"damage": "crack"}')
        assert hook.sent == 1
    assert got == [("/200?a=b", "Basic bWU6cCB3", {"damage": "crack"})]  # RFC 7617 of "me:p w"


@pytest.mark.parametrize("status", [302, 404, 500])
def test_a_url_that_refuses(status: int) -> None:
    said: list[str] = []
    with receiver() as (host, got):
        with Hook(f"http://me:secret@{host}/{status}?token=secret", said.append) as hook:
            hook.send("1")
        assert hook.failed == 1
        assert len(got) == 1  # no redirect was followed
    assert f"status {status}" in said[0]
    assert "secret" not in said[0]


def test_a_url_that_drips_is_cut_off() -> None:
    """A header a tenth of a second, for ever: no single wait is long."""
    stop = threading.Event()
    said: list[str] = []

    def drip() -> None:
        connection, _ = listener.accept()
        with connection:
            try:
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                while not stop.wait(0.1):
                    connection.sendall(b"A: b\r\n")
            except OSError:
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip)
        thread.start()
        with Hook(f"http://127.0.0.1:{listener.getsockname()[1]}/", said.append, timeout=1.0) as hook:
            hook.send("1")
        assert hook.failed == 1
        stop.set()
        thread.join()


@pytest.mark.parametrize("target", ["", "no-such-program a", "echo 'a", "http://", "https://h:port/"])
def test_a_hook_that_can_never_be_called(target: str) -> None:
    with pytest.raises(InputError, match="--on-report"):
        Hook(target, pytest.fail)


def played(path: Path) -> list[tuple[float, Image.Image]]:
    """The frames of a video with their times."""
    with av.open(str(path)) as container:
        return [(frame.time, frame.to_image()) for frame in container.decode(video=0)]


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_an_overlay_has_each_frame_at_its_time(tmp_path: Path, name: str) -> None:
    times = [100.0, 100.04, 101.0, 100.5, 107.25]
    with Overlay(tmp_path / name) as overlay:
        for number, seconds in enumerate(times):
            overlay.add(moving_square(number * 5), seconds)
        before_the_end = (tmp_path / name).read_bytes()
    found = played(tmp_path / name)
    assert [time for time, _image in found] == pytest.approx([0, 0.04, 1.0, 1.001, 7.25], abs=0.0011)
    assert found[0][1].size == (64, 48)
    corner = found[4][1].getpixel((4, 4))
    assert isinstance(corner, tuple)
    assert corner[0] > 180 > 80 > corner[1]
    (tmp_path / f"killed-{name}").write_bytes(before_the_end)  # as a process that was killed would leave it
    assert len(played(tmp_path / f"killed-{name}")) >= 4


def test_frames_of_other_sizes_are_fitted_in(tmp_path: Path) -> None:
    with Overlay(tmp_path / "a.mkv") as overlay:
        for size in ((63, 47), (320, 100), (20, 200)):
            overlay.add(Image.new("RGB", size, (0, 200, 0)), 0.0)
    assert [image.size for _time, image in played(tmp_path / "a.mkv")] == [(62, 46)] * 3


def test_what_can_be_no_overlay(tmp_path: Path) -> None:
    (tmp_path / "a.mkv").touch()
    with pytest.raises(OutputError, match="exists already"):
        Overlay(tmp_path / "a.mkv")
    with pytest.raises(OutputError, match="its folder is not there"):
        Overlay(tmp_path / "nowhere" / "a.mkv")
    with pytest.raises(InputError, match=r"\.mkv or \.mp4"):
        Overlay(tmp_path / "a.gif")


def test_an_overlay_without_a_frame_makes_no_file(tmp_path: Path) -> None:
    Overlay(tmp_path / "a.mkv").close()
    assert not [*tmp_path.iterdir()]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_reports_go_on_where_the_overlay_has_no_room(tmp_path: Path) -> None:
    said: list[str] = []
    printed: list[str] = []
    outlets = Outlets(
        lines=str(tmp_path / "a.jsonl"),
        overlay=tmp_path / "a.mkv",
        on_report=None,
        say=said.append,
        print_line=printed.append,
    )
    (tmp_path / "a.mkv").symlink_to("/dev/full")  # it came after the look whether there is one
    with outlets:
        for number in range(40):
            outlets.draw(moving_square(number), number / 10)
            outlets.report(LINE, None)
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 40
    assert isinstance(outlets.failure, OutputError)
    assert len(said) == 1
    assert os.strerror(errno.ENOSPC) in said[0]


def test_a_caption_is_drawn_at_the_lower_edge() -> None:
    image = Image.new("RGB", (320, 240), (200, 200, 200))
    drawn = caption(image, ["damage: crack", "a sentence that is much longer than what fits into one line " * 3])
    box = ImageChops.difference(image, drawn).getbbox()
    assert box is not None
    assert box[0] == 0
    assert 140 < box[1] < 220
    assert (box[2], box[3]) == (320, 240)
