"""The real command, stopped from outside: signals, a full disk, a reader that goes away."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command import Edgeq
from pictures import draw_pictures
from PIL import Image

EDGEQ = Path(sys.executable).with_name("edgeq")
PATIENCE = 60  # seconds; a process that has not come so far by then hangs


@pytest.fixture(autouse=True)
def _not_deaf() -> Iterator[None]:
    """A process whose parent ignores SIGINT, as a shell's background job does, would ignore it too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def long_work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """500 names for a picture of 4 megapixels: ten seconds of decoding and more."""
    folder = tmp_path_factory.mktemp("long") / "images"
    noise = np.random.default_rng(0).integers(0, 128, (2000, 2000, 3), dtype=np.uint8)
    pixels = noise + np.linspace(0, 127, 2000, dtype=np.uint8)[None, :, None]
    for label in ("blue", "red"):
        (folder / label).mkdir(parents=True)
        Image.fromarray(pixels).save(folder / label / "000.jpg", quality=30)
        for index in range(1, 250):
            os.link(folder / label / "000.jpg", folder / label / f"{index:03d}.jpg")
    return folder


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    command = [str(argument) for argument in (EDGEQ, *arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(pattern: str, directory: Path, process: subprocess.Popen[str]) -> None:
    """Return once a file like `pattern` lies in `directory`; fail if the process ends before, or takes too long."""
    nothing = threading.Event()
    for _ in range(PATIENCE * 100):
        if any(directory.glob(pattern)):
            return
        assert process.poll() is None, process.communicate()
        nothing.wait(0.01)
    process.kill()
    pytest.fail(f"{pattern} did not appear")


@pytest.fixture(params=["calibrate", "judge"])
def at_work(
    request: pytest.FixtureRequest, long_work: Path, tiny_model: Path, tiny_pictures: Path, tmp_path: Path
) -> Iterator[subprocess.Popen[str]]:
    """`edgeq prepare` in the middle of one of its two long stages."""
    if request.param == "calibrate":
        given: tuple[str | Path, ...] = ("--images", long_work)
        sign = ".made.partial-*/export.json"  # written when the export is done
    else:
        given = ("--images", tiny_pictures, "--eval", long_work)
        sign = ".made.partial-*/plan.yaml"  # written when the graphs are quantized
    process = start("prepare", tiny_model, *given, "-o", tmp_path / "made", "--json")
    wait_for(sign, tmp_path, process)
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_nothing_behind(
    number: signal.Signals, status: int, at_work: subprocess.Popen[str], tmp_path: Path
) -> None:
    at_work.send_signal(number)
    out, err = at_work.communicate(timeout=PATIENCE)
    assert (at_work.returncode, json.loads(out)["exit_status"]) == (status, status)
    assert "Traceback" not in err
    assert "nothing was left behind" in err
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_leaves_no_bundle(
    at_work: subprocess.Popen[str], tiny_model: Path, tiny_pictures: Path, tmp_path: Path, edgeq: Edgeq
) -> None:
    at_work.kill()
    at_work.communicate(timeout=PATIENCE)
    assert at_work.returncode == -signal.SIGKILL
    assert not (tmp_path / "made").exists()
    done = edgeq("export", tiny_model, "--images", tiny_pictures, "-o", tmp_path / "made")
    assert done.status == 0, done.err


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 20 KB, which is about half a bundle of the small network."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=20k", "tmpfs", disk], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_disk_that_fills_up(small_disk: Path, tiny_model: Path, tiny_pictures: Path) -> None:
    process = start("prepare", tiny_model, "--images", tiny_pictures, "-o", small_disk / "made", "--json")
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, json.loads(out)["exit_status"]) == (2, 2)
    assert "Traceback" not in err
    assert "the disk is full" in err
    assert "next: free some space or write to another disk with -o" in err
    assert list(small_disk.iterdir()) == []


def test_a_file_that_may_not_become_so_large(tiny_model: Path, tiny_pictures: Path, tmp_path: Path) -> None:
    """The FP32 graph of 3 KB can be written, the INT8 one of 4.7 KB cannot."""
    done = subprocess.run(
        [EDGEQ, "prepare", tiny_model, "--images", tiny_pictures, "-o", tmp_path / "made", "--json"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000)),
    )
    assert (done.returncode, json.loads(done.stdout)["exit_status"]) == (2, 2)
    assert "Traceback" not in done.stderr
    assert "made" in done.stderr
    assert "ulimit -f" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [("inspect", "MODEL", "--json"), ("inspect", "MODEL"), ("--help",)])
def test_a_reader_that_goes_away(arguments: tuple[str, ...], tiny_model: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [str(tiny_model) if word == "MODEL" else word for word in arguments]
    done = subprocess.run([EDGEQ, *command], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_json_is_one_object_and_all_of_stdout(tiny_model: Path, tmp_path: Path) -> None:
    pictures = draw_pictures(tmp_path / "pictures", each=2)
    done = subprocess.run(
        [EDGEQ, "export", tiny_model, "--images", pictures, "-o", tmp_path / "made", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((tmp_path / "made" / "export.json").read_text())


def test_it_ends_without_looking_for_garbage() -> None:
    """What was imported is set aside by then: a full collection of torch's modules takes seconds, several times."""
    told = "atexit.register(lambda: print(gc.get_freeze_count() > 0))"
    program = f"import atexit, gc, edgeq.cli; {told}; edgeq.cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "--version"], capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    assert done.stdout.splitlines()[-1] == "True"
