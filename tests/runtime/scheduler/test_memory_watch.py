"""The machine's free memory and the process's own, from files and in earnest."""

from __future__ import annotations

import mmap
import os
import resource
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from edgeq.errors import InputError
from edgeq.runtime.scheduler.memory_watch import MemorySeen, MemoryWatch, bound_gpu_memory

MIB = 1 << 20


def machine(root: Path, available: int, resident: int) -> None:
    """`/proc` with these figures, in MiB."""
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    (root / "proc/meminfo").write_text(f"MemTotal: {1 << 20} kB\nMemAvailable: {available << 10} kB\n")
    (root / "proc/self/status").write_text(f"VmRSS: 9 kB\nRssAnon:\t{resident << 10} kB\nRssFile: 7 kB\n")


def test_what_the_process_took_since_the_watch_began(tmp_path: Path) -> None:
    machine(tmp_path, 500, 100)
    watch = MemoryWatch(root=tmp_path)
    assert watch.look() == MemorySeen(free=500 * MIB, own=0)
    machine(tmp_path, 420, 160)
    assert watch.look() == MemorySeen(free=420 * MIB, own=60 * MIB)
    machine(tmp_path, 600, 90)
    assert watch.look() == MemorySeen(free=600 * MIB, own=-10 * MIB)


def test_this_process_in_earnest() -> None:
    """64 MiB that are touched are seen, and so is that they are given back."""
    watch = MemoryWatch()
    taken = mmap.mmap(-1, 64 * MIB, flags=mmap.MAP_PRIVATE)  # not from a heap, which may hold on to what is freed
    for page in range(0, 64 * MIB, mmap.PAGESIZE):
        taken[page] = 1
    seen = watch.look()
    assert seen is not None
    assert 60 * MIB < seen.own < 100 * MIB
    taken.close()
    seen = watch.look()
    assert seen is not None
    assert seen.own < 30 * MIB
    assert seen.free > 0


@pytest.mark.parametrize("text", ["", "RssAnon:\n", "RssAnon: many kB\n"])
def test_a_process_that_says_nothing(text: str, tmp_path: Path) -> None:
    machine(tmp_path, 500, 100)
    (tmp_path / "proc/self/status").write_text(text)
    with pytest.raises(InputError, match="memory is not known"):
        MemoryWatch(root=tmp_path)


def test_a_look_that_fails_is_unknown(tmp_path: Path) -> None:
    """And nothing is raised: the runtime goes on with what it knew."""
    machine(tmp_path, 500, 100)
    watch = MemoryWatch(root=tmp_path)
    for name in ("meminfo", "self/status"):
        (tmp_path / "proc" / name).write_text("nothing\n")
        assert watch.look() is None
        machine(tmp_path, 500, 100)
    assert watch.look() == MemorySeen(free=500 * MIB, own=0)


def test_it_looks_where_no_descriptor_is_left() -> None:
    """As when connections have taken all of them."""
    watch = MemoryWatch()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        with pytest.raises(OSError, match="Too many open files"):
            os.dup(0)
        assert watch.look() is not None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)


def test_what_torch_holds_on_a_shared_gpu_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU's part of a Jetson's memory is in no process's resident memory."""
    machine(tmp_path, 500, 100)
    held = iter((5 * MIB, 45 * MIB))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda: next(held))
    watch = MemoryWatch(cuda=True, root=tmp_path)
    machine(tmp_path, 450, 103)
    assert watch.look() == MemorySeen(free=450 * MIB, own=43 * MIB)


def test_torch_may_take_what_it_has_and_what_the_plan_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 16 GB, 4 GB that it has and 2 GB more; never more than there is."""
    given: list[float] = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: SimpleNamespace(total_memory=16 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 4 << 30)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", given.append)
    bound_gpu_memory(2 << 30)
    bound_gpu_memory(99 << 30)
    assert given == [6 / 16, 1.0]
