"""A film played to `edgeq watch` as a camera would: frames that come, frames that are answered, latency, memory.

A film of the demo's scenes is drawn, a new one every two seconds, moved by a pixel each frame. `edgeq watch` looks at
it with `--real-time`, in a process of its own, whose memory is read from `/proc` every second from the first answer on.

    python -m benchmarks.film out/demo/vlm-bundle --seconds 60 --fps 30
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Final

import av
import numpy as np
from PIL import Image

from edgeq.demo.vlm.scenes import draw_finding

__all__ = ["Figures", "main", "write_film"]

SIZE: Final = (640, 480)
SCENE_S: Final = 2.0
_RESIDENT = re.compile(r"VmRSS:\s+(\d+) kB")


@dataclass(frozen=True)
class Figures:
    """What was seen.

    Attributes:
        counts: `edgeq.frames.looking.FrameCounts` as JSON.
        longest_gap_s: from a frame that was answered to the next one, in seconds of the film.
        memory_mb: resident, in 10^6 bytes: median of each quarter of the time, in their order.
    """

    counts: dict[str, Any]
    longest_gap_s: float
    memory_mb: tuple[float, ...]


def write_film(path: Path, seconds: float, fps: int) -> None:
    """Draw scenes of the demo into a film of H.264.

    Args:
        path: that ends in .mkv or .mp4.
        seconds: of it.
        fps: frames a second.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for number, image in enumerate(_images(round(seconds * fps), fps)):
            frame = av.VideoFrame.from_ndarray(np.asarray(image))
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _images(frames: int, fps: int) -> Iterator[Image.Image]:
    each = round(SCENE_S * fps)
    for number in range(frames):
        if number % each == 0:
            scene = draw_finding(number // each)[0].resize((SIZE[0] + each, SIZE[1]))
        left = number % each
        yield scene.crop((left, 0, left + SIZE[0], SIZE[1]))


def measure(bundle: Path, film: Path, flags: Sequence[str]) -> Figures:
    """Let `edgeq watch` look at a film.

    Args:
        bundle: that looks.
        film: to look at.
        flags: further ones.
    """
    with tempfile.TemporaryDirectory() as work:
        lines = Path(work) / "lines.jsonl"
        command = [sys.executable, "-m", "edgeq", "watch", str(bundle), str(film), "--real-time", "--json"]
        process = subprocess.Popen([*command, "--lines", str(lines), *flags], stdout=subprocess.PIPE, text=True)
        memory: list[float] = []
        over = threading.Event()
        watcher = threading.Thread(target=_sample, args=(process.pid, lines, over, memory))
        watcher.start()
        try:
            told = process.communicate()[0]
        finally:
            over.set()
            watcher.join()
        if process.returncode:
            raise SystemExit(f"edgeq watch ended with status {process.returncode}")
        reports = [json.loads(line) for line in lines.read_text().splitlines()]
    seconds = [report["seconds"] for report in reports]
    quarter = max(len(memory) // 4, 1)
    return Figures(
        counts=json.loads(told)["counts"],
        longest_gap_s=max((later - earlier for earlier, later in pairwise(seconds)), default=0.0),
        memory_mb=tuple(median(memory[at : at + quarter]) for at in range(0, quarter * 4, quarter) if memory[at:]),
    )


def _sample(process: int, lines: Path, over: threading.Event, memory: list[float]) -> None:
    """Read a process's memory every second from its first line on."""
    while not over.wait(1.0):
        try:
            text = Path(f"/proc/{process}/status").read_text()
        except OSError:
            return
        found = _RESIDENT.search(text)
        if found and lines.exists() and lines.stat().st_size:
            memory.append(int(found[1]) * 1024 / 1e6)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the figures as JSON."""
    faulthandler.enable()  # FFmpeg draws the film in this process
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--fps", type=int, default=30)
    parser.add_argument("--film", type=Path, help="a film that is there")
    given, flags = parser.parse_known_args(arguments)
    with tempfile.TemporaryDirectory() as work:
        film = given.film or Path(work) / "film.mkv"
        if given.film is None:
            write_film(film, given.seconds, given.fps)
        print(json.dumps(asdict(measure(given.bundle, film, flags)), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
