"""The table of devices and the probe of a machine made of files."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from edgeq.device import PROFILES, device_profile, probe
from edgeq.errors import InputError

GIB = 1 << 30


def machine(root: Path, total: int, available: int) -> Path:
    """A root directory with /proc/meminfo; sizes in GiB."""
    (root / "proc").mkdir(parents=True)
    lines = f"MemTotal: {total << 20} kB\nMemFree: 1 kB\nMemAvailable: {available << 20} kB\n"
    (root / "proc/meminfo").write_text(lines)
    return root


def limit(root: Path, files: dict[str, str]) -> None:
    """Control group files."""
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_an_orin_nx_leaves_what_people_report() -> None:
    device = device_profile("orin-nx-16gb")
    assert device.total_bytes == 15_656 * 2**20
    assert 14.1 <= device.budget_bytes / GIB <= 14.5


def test_each_jetson_leaves_less_than_its_name_says() -> None:
    for profile in PROFILES.values():
        size = int(profile.name.rpartition("-")[2].removesuffix("gb"))
        assert 0.8 * size < profile.total_bytes / GIB < size
        assert profile.memory == "unified"
        assert f"{size} GB" in profile.title


def test_memory_that_is_not_limited(tmp_path: Path) -> None:
    device = probe(machine(tmp_path, 32, 20))
    assert (device.total_bytes, device.reserve_bytes, device.budget_bytes) == (32 * GIB, 12 * GIB, 20 * GIB)


@pytest.mark.parametrize(
    "files",
    [
        {"memory.max": f"{8 * GIB}\n", "memory.current": f"{3 * GIB}\n"},
        {"memory/memory.limit_in_bytes": f"{8 * GIB}", "memory/memory.usage_in_bytes": f"{3 * GIB}"},
    ],
)
def test_a_containers_limit_counts(tmp_path: Path, files: dict[str, str]) -> None:
    limit(machine(tmp_path, 32, 20), files)
    device = probe(tmp_path)
    assert (device.total_bytes, device.budget_bytes) == (8 * GIB, 5 * GIB)


@pytest.mark.parametrize(
    "files",
    [
        {
            "memory.max": f"{8 * GIB}\n",
            "memory.current": f"{3 * GIB}\n",
            "memory.stat": f"anon 5\ninactive_file {GIB}\n",
        },
        {
            "memory/memory.limit_in_bytes": f"{8 * GIB}",
            "memory/memory.usage_in_bytes": f"{3 * GIB}",
            "memory/memory.stat": f"inactive_file 5\ntotal_inactive_file {GIB}\n",
        },
    ],
)
def test_in_a_container_the_idle_page_cache_is_free(tmp_path: Path, files: dict[str, str]) -> None:
    limit(machine(tmp_path, 32, 20), files)
    assert probe(tmp_path).budget_bytes == 6 * GIB


def test_no_limit_in_words(tmp_path: Path) -> None:
    limit(machine(tmp_path, 32, 20), {"memory.max": "max\n", "memory.current": "7\n"})
    assert probe(tmp_path).budget_bytes == 20 * GIB


def test_a_machine_without_proc(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="this machine's memory is not known"):
        probe(tmp_path)


def test_this_machine() -> None:
    device = device_profile("this-machine")
    assert device.memory == "system"
    assert 0 < device.budget_bytes <= device.total_bytes
    assert device.total_bytes > resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_an_unknown_device_names_the_known() -> None:
    with pytest.raises(InputError, match="orin-xy is not a known device") as caught:
        device_profile("orin-xy")
    assert "orin-nx-16gb" in caught.value.expected
    assert "this-machine" in caught.value.expected
