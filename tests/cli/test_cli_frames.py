"""`edgeq watch` on films and streams, and what it and `edgeq run` refuse at once; test_cli_run.py has the rest."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
from classifier_bundle import classifier_bundle
from command import Edgeq, assert_refused
from films import MjpegServer, RtspServer, av, draw_film, moving_square, served
from pictures import draw_pictures

from edgeq.frames import overlay
from edgeq.frames.ffmpeg import load_av
from edgeq.service.watch_frames import FrameReport

EDGEQ = Path(sys.executable).with_name("edgeq")
PATIENCE_S = 120.0
QUICK = ("--threads", "1", "--backend", "onnxruntime")


@pytest.fixture
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier_bundle(tmp_path_factory)


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """Twenty frames in two seconds."""
    draw_film(tmp_path / "a.mkv", 20, rate=10)
    return tmp_path / "a.mkv"


class Following:
    """Reads a process's lines in a thread, so that no pipe fills, and waits for one of them."""

    def __init__(self, file: IO[str]) -> None:
        self.lines: list[str] = []
        self._seen, self._changed, self._ended = 0, threading.Condition(), False
        self._file = file
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Of a process that has ended."""
        self._thread.join(PATIENCE_S)
        self._file.close()

    def _read(self) -> None:
        for line in self._file:
            with self._changed:
                self.lines.append(line.rstrip())
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def until(self, wanted: Callable[[str], bool]) -> None:
        """Wait for a line after those that were waited for."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._came(wanted) or self._ended, PATIENCE_S), self.lines
            assert self._came(wanted), self.lines
            self._seen = next(at for at in range(self._seen, len(self.lines)) if wanted(self.lines[at])) + 1

    def _came(self, wanted: Callable[[str], bool]) -> bool:
        return any(map(wanted, self.lines[self._seen :]))


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_film_is_reported_on(edgeq: Edgeq, bundle: Path, film: Path, tmp_path: Path) -> None:
    code = f"import sys; open('{tmp_path}/told', 'a').write(sys.stdin.read() + chr(10))"
    to = (
        "--lines",
        tmp_path / "a.jsonl",
        "--overlay",
        tmp_path / "o.mkv",
        "--on-report",
        f'{sys.executable} -c "{code}"',
    )
    done = edgeq("watch", bundle, film, *QUICK, "--fps", "2", *to, "--json")
    assert done.status == 0, done.err
    counts = json.loads(done.out)["counts"]
    assert (counts["seen"], counts["thinned"], counts["answered"], counts["dropped"]) == (20, 16, 4, 0)
    reports = [FrameReport.model_validate(line) for line in lines_of(tmp_path / "a.jsonl")]
    assert [report.frame for report in reports] == [0, 5, 10, 15]
    assert [report.seconds for report in reports] == [0.0, 0.5, 1.0, 1.5]
    assert {report.source for report in reports} == {str(film)}
    assert sorted(lines_of(tmp_path / "told"), key=lambda line: line["frame"]) == lines_of(tmp_path / "a.jsonl")
    with av.open(str(tmp_path / "o.mkv")) as made:
        assert [frame.time for frame in made.decode(video=0)] == pytest.approx([0, 0.5, 1.0, 1.5], abs=0.002)


def test_for_people_and_as_lines(edgeq: Edgeq, bundle: Path, film: Path) -> None:
    done = edgeq("watch", bundle, film, *QUICK, "--fps", "1")
    assert [line.partition(":")[0] for line in done.out.splitlines()] == ["0.0 s", "1.0 s"]
    assert "20 frames: 2 answered, 18 left out by --fps" in done.err
    done = edgeq("watch", bundle, film, *QUICK, "--frames", "3", "--lines", "-")
    assert [json.loads(line)["frame"] for line in done.out.splitlines()] == [0, 1, 2]


def test_frames_that_hardly_changed(edgeq: Edgeq, bundle: Path, tmp_path: Path) -> None:
    still, other = moving_square(0), moving_square(10)
    draw_film(tmp_path / "a.mkv", [still, still, still, other, other, still], codec="ffv1")
    done = edgeq("watch", bundle, tmp_path / "a.mkv", *QUICK, "--min-change", "5", "--lines", "-")
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert [(line["frame"], line["unchanged"]) for line in lines] == [(0, 0), (3, 2), (5, 1)]
    assert lines[0]["change"] is None
    assert lines[1]["change"] > 5
    assert "3 hardly changed" in done.err


@pytest.mark.parametrize(("handler", "scheme"), [(RtspServer, "rtsp"), (MjpegServer, "http")])
def test_a_stream(edgeq: Edgeq, bundle: Path, handler: Any, scheme: str) -> None:
    with served(handler) as server:
        address = f"{scheme}://me:secret@127.0.0.1:{server.server_address[1]}/live"
        done = edgeq("watch", bundle, address, *QUICK, "--frames", "3", "--lines", "-")
    assert done.status == 0, done.err
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert len(lines) == 3
    assert lines[0]["source"] == address.replace("me:secret@", "")
    assert all(line["latency_s"] > 0 for line in lines)
    assert "from frame to answer: median" in done.err
    assert "secret" not in done.out + done.err


def test_a_folder_has_lines_and_a_hook_as_well(edgeq: Edgeq, bundle: Path, tmp_path: Path) -> None:
    folder = draw_pictures(tmp_path / "drawn", each=2) / "red"
    flags = ("--once", "--interval", "0.001", "--lines", tmp_path / "a.jsonl", "--on-report", "cat")
    done = edgeq("watch", bundle, folder, *QUICK, *flags)
    assert done.status == 0, done.err
    assert [line["image"] for line in lines_of(tmp_path / "a.jsonl")] == ["red-000.jpg", "red-001.jpg"]
    assert (folder / "red-000.jpg.json").exists()


def test_what_is_refused_before_the_bundle_is_opened(edgeq: Edgeq, film: Path, tmp_path: Path) -> None:
    """The bundle is none, which nobody finds out."""
    nobody = "rtsp://me:secret@127.0.0.1:9/live"
    for verb, words in (("watch", ()), ("run", ("what?",))):
        for given, told in (
            ((film, "--overlay", film), "exists already"),
            ((film, "--overlay", "a.gif"), ".mkv or .mp4"),
            ((film, "--on-report", "no-such-program"), "no command 'no-such-program'"),
            ((nobody, "--json"), "add --frames"),
            ((film, "--json", "--lines", "-"), "take one of them"),
            ((film, "--fps", "0"), "--fps"),
            ((tmp_path / "none.mp4",), "cannot be opened"),
            (("gopher://me:secret@h/",), "is no source"),
            ((nobody,), "Connection refused"),
        ):
            done = edgeq(verb, tmp_path / "no-bundle", given[0], *words, *given[1:])
            assert done.status in (2, 75, 78), (given, done)
            assert told in done.err.replace("\n", " "), given
            assert "secret" not in done.out + done.err
    (tmp_path / "images").mkdir()
    assert_refused(edgeq("watch", tmp_path, tmp_path / "images", "--fps", "2"), "--fps is for films and cameras")
    assert_refused(edgeq("run", tmp_path, "a.jpg", "what?", "--overlay", "b.mkv"), "--overlay is for films and cameras")
    assert_refused(edgeq("run", tmp_path, film, film, "what?"), "stands alone")
    assert_refused(edgeq("run", tmp_path, tmp_path / "images", "what?"), "has no images in it")


def test_pyav_is_not_installed(edgeq: Edgeq, film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    load_av.cache_clear()
    assert_refused(edgeq("run", "bundle", film, "what?"), "[camera]")


def test_a_camera_is_watched_until_it_is_told_to_stop(bundle: Path, tmp_path: Path) -> None:
    """The real command: lines are whole, the overlay can be played, and what became of the frames is told."""
    with served(RtspServer) as server:
        address = f"rtsp://me:secret@127.0.0.1:{server.server_address[1]}/live"
        to = ("--lines", tmp_path / "a.jsonl", "--overlay", tmp_path / "o.mkv")
        command = [*map(str, (EDGEQ, "watch", bundle, address, *QUICK, *to))]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            for _ in range(5):
                assert process.stdout.readline()
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
            process.communicate()
    assert process.returncode == 0, err
    assert "answered" in err
    assert "secret" not in err
    lines = lines_of(tmp_path / "a.jsonl")
    assert len(lines) >= 5
    with av.open(str(tmp_path / "o.mkv")) as made:
        assert len([*made.decode(video=0)]) in (len(lines), len(lines) - 1)  # drawn after it was reported


CAMERA = """
import socketserver, sys, time

class Camera(socketserver.StreamRequestHandler):
    def handle(self):
        while self.rfile.readline().strip():
            pass
        self.wfile.write(b"HTTP/1.0 200 OK\\r\\nContent-Type: multipart/x-mixed-replace; boundary=frame\\r\\n\\r\\n")
        while True:
            self.wfile.write(b"--frame\\r\\nContent-Type: image/jpeg\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(jpeg))
            self.wfile.write(jpeg + b"\\r\\n")
            time.sleep(0.02)

jpeg = sys.stdin.buffer.read()
socketserver.ThreadingTCPServer.allow_reuse_address = True
with socketserver.ThreadingTCPServer(("127.0.0.1", int(sys.argv[1])), Camera) as server:
    print(server.server_address[1], flush=True)
    server.serve_forever()
"""


@contextmanager
def camera(port: int = 0) -> Iterator[int]:
    """The port of a camera in a process of its own, which is killed at the end; nothing is imported that takes long."""
    jpeg = io.BytesIO()
    moving_square(0).save(jpeg, "JPEG")
    command = [sys.executable, "-S", "-c", CAMERA, str(port)]
    pipe, quiet = subprocess.PIPE, subprocess.DEVNULL  # it says of each connection that it ended
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=quiet) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(jpeg.getvalue())
            process.stdin.close()
            yield int(process.stdout.readline())
        finally:
            process.kill()


def test_a_cable_is_pulled_and_put_back(bundle: Path) -> None:
    """The real command beside a real camera, simulated by a process that is killed: the reports go on by themselves."""
    with ExitStack() as at_end, ExitStack() as pulled:
        port = pulled.enter_context(camera())
        flags = (*QUICK, "--reconnect-delay-max", "0.2", "--lines", "-")
        command = [*map(str, (EDGEQ, "watch", bundle, f"http://127.0.0.1:{port}/live", *flags))]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        reports = Following(process.stdout)
        assert process.stderr is not None
        told = Following(process.stderr)
        at_end.callback(told.close)
        at_end.callback(reports.close)
        at_end.callback(process.wait)
        at_end.callback(process.kill)
        reports.until(lambda _line: len(reports.lines) >= 3)
        pulled.close()
        told.until(lambda line: "trying again in" in line)
        told.until(lambda line: "Connection refused; trying again in" in line)
        with camera(port):
            told.until(lambda line: line.endswith("is back"))
            before = len(reports.lines)
            reports.until(lambda _line: len(reports.lines) >= before + 3)
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0, told.lines
    told.until(lambda line: line.startswith("the stream was lost"))
    frames = [json.loads(line)["frame"] for line in reports.lines]
    assert frames == sorted(set(frames))
    waits = [float(found) for line in told.lines for found in re.findall(r"trying again in ([\d.]+) s", line)]
    assert waits
    assert max(waits) <= 0.3  # the bound, a quarter more by chance, rounded


def test_a_disk_without_room_for_a_line(
    edgeq: Edgeq, bundle: Path, film: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """The kernel takes three bytes of each line: simulated."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:3] if b"edgeq.frame" in data else data))
    done = edgeq("watch", bundle, film, *QUICK, "--lines", tmp_path / "a.jsonl")
    assert done.status == 75
    assert "No space left" in done.err
    assert (tmp_path / "a.jsonl").read_bytes() == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_disk_without_room_for_the_overlay(
    edgeq: Edgeq, bundle: Path, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every line is there, and the status says that something is missing."""
    monkeypatch.setattr(overlay, "require_new", lambda _path: None)
    (tmp_path / "o.mkv").symlink_to("/dev/full")
    to = ("--lines", tmp_path / "a.jsonl", "--overlay", tmp_path / "o.mkv")
    done = edgeq("watch", bundle, film, *QUICK, *to)
    assert done.status == 75
    assert "the reports go on without it" in done.err
    assert len(lines_of(tmp_path / "a.jsonl")) == 20
