"""The timing cache's file: its name, what is taken for damage, and two builds that add to it."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from edgeq.errors import OutputError
from edgeq.tensorrt.timing_cache import read_timing_cache, timing_cache_file, update_timing_cache


def file_in(directory: Path) -> Path:
    return timing_cache_file(directory, "10.3.0", "Orin (nvgpu) sm_87 L4T 36.4")


def test_a_file_for_each_release_and_device(tmp_path: Path) -> None:
    pairs = [("10.3.0", "Orin sm_87"), ("10.16.1", "Orin sm_87"), ("10.3.0", "Orin sm_86"), ("10.3.0 Orin", "sm_87")]
    files = {timing_cache_file(tmp_path, *pair) for pair in pairs}
    assert len(files) == len(pairs)
    assert all(file.parent == tmp_path for file in files)
    assert timing_cache_file(tmp_path, "10.3.0", "../../etc").parent == tmp_path
    assert file_in(tmp_path).name.startswith("timing-10.3.0-Orin-nvgpu-sm-87-L4T-36.4-")


def test_written_and_read(tmp_path: Path) -> None:
    file = file_in(tmp_path / "new")
    assert read_timing_cache(file) == (b"", "")
    update_timing_cache(file, lambda earlier: earlier + b"one\n\x00")
    update_timing_cache(file, lambda earlier: earlier + b"two")
    assert read_timing_cache(file) == (b"one\n\x00two", "")
    assert {path.name for path in file.parent.iterdir()} == {file.name, f"{file.name}.lock"}


def damages(whole: bytes) -> dict[str, bytes]:
    flipped = bytearray(whole)
    flipped[-1] ^= 1
    return {"flipped": bytes(flipped), "cut": whole[:-1], "longer": whole + b"x", "empty": b"", "no head": b"timings"}


@pytest.mark.parametrize("damage", list(damages(b"x")))
def test_a_damaged_file_is_not_given_to_tensorrt(tmp_path: Path, damage: str) -> None:
    file = file_in(tmp_path)
    update_timing_cache(file, lambda _: b"timings")
    file.write_bytes(damages(file.read_bytes())[damage])
    payload, problem = read_timing_cache(file)
    assert payload == b""
    assert problem.startswith(file.name)
    update_timing_cache(file, lambda earlier: earlier + b"new")  # and it is replaced by the next build
    assert read_timing_cache(file) == (b"new", "")


def test_a_file_under_the_name_of_another_device_is_refused(tmp_path: Path) -> None:
    update_timing_cache(file_in(tmp_path), lambda _: b"timings")
    other = timing_cache_file(tmp_path, "10.3.0", "another device")
    file_in(tmp_path).rename(other)
    assert "another device or release" in read_timing_cache(other)[1]


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    file_in(tmp_path).mkdir()
    assert "cannot be read" in read_timing_cache(file_in(tmp_path))[1]
    with pytest.raises(OutputError):
        update_timing_cache(file_in(tmp_path), lambda _: b"timings")


def add(file: Path, text: bytes) -> None:
    for _ in range(20):
        update_timing_cache(file, lambda earlier: earlier + text)


def test_two_builds_at_once_lose_nothing(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    builds = [fork.Process(target=add, args=(file_in(tmp_path), text)) for text in (b"a", b"b")]
    for build in builds:
        build.start()
    for build in builds:
        build.join()
    payload, problem = read_timing_cache(file_in(tmp_path))
    assert (payload.count(b"a"), payload.count(b"b"), problem) == (20, 20, "")
