"""A probe of the machine that edgeq runs on: how much memory a process may still take."""

from __future__ import annotations

import difflib
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edgeq.device.profiles import PROFILES, THIS_MACHINE, DeviceProfile
from edgeq.errors import InputError

__all__ = ["MemoryFiles", "OpenText", "device_profile", "probe"]

_CPU_RUNTIME: Final = 455_000_000
_UNLIMITED: Final = 1 << 60
_MOST_TEXT: Final = 1 << 16


def device_profile(name: str) -> DeviceProfile:
    """The profile of a known device, or of this machine.

    Raises:
        InputError: the name is not known, or this machine's memory cannot be read.
    """
    if name == THIS_MACHINE:
        return probe()
    if name not in PROFILES:
        known = [*PROFILES, THIS_MACHINE]
        near = difflib.get_close_matches(name, known, n=1)
        raise InputError(
            f"{name} is not a known device",
            expected=f"one of {', '.join(known)}",
            next_step=f"--device {near[0]}" if near else "",
        )
    return PROFILES[name]


def probe(root: Path = Path("/")) -> DeviceProfile:
    """This machine's memory for a process without a GPU: `/proc/meminfo`, or a container's limit if that is less.

    `MemAvailable` counts what the kernel can reclaim; `MemFree` would call the page cache used. The runtime's 455 MB
    are what `edgeq run` takes on x86-64 beside weights, with torch 2.13 (CPU), transformers 5.23, ONNX Runtime 1.31 and
    bitsandbytes 0.50 (resident set on Linux: 409 MB with a model of 1.1 billion parameters, 449 MB with the demo's).

    Args:
        root: where `proc` and `sys` are; another one for a test.

    Raises:
        InputError: there is no `/proc/meminfo`, or it lacks a figure.
    """
    total, available = MemoryFiles(root).read()
    return DeviceProfile(
        name=THIS_MACHINE,
        title="this machine",
        memory="system",
        total_bytes=total,
        reserve_bytes=total - available,
        runtime_bytes=_CPU_RUNTIME,
        widens_fp16=True,
        source="/proc/meminfo and the control group's limit, at the time of planning",
    )


class MemoryFiles:
    """The files that tell of this machine's memory, open: so they can be read when no descriptor is left.

    Args:
        root: where `proc` and `sys` are; another one for a test.

    Raises:
        InputError: there is no `/proc/meminfo`.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._path = root / "proc/meminfo"
        try:
            self._meminfo = OpenText(self._path)
        except OSError as error:
            raise _unknown(self._path) from error
        self._cgroups = list(_open_cgroups(root / "sys/fs/cgroup"))

    def read(self) -> tuple[int, int]:
        """Bytes in all and bytes that a process could still take: the machine's, or a container's if that is less.

        Raises:
            InputError: `/proc/meminfo` lacks a figure.
        """
        try:
            lines = self._meminfo.read().splitlines()
            fields = {line.partition(":")[0]: line.partition(":")[2].split() for line in lines}
            total, available = (int(fields[name][0]) * 1024 for name in ("MemTotal", "MemAvailable"))
        except (OSError, KeyError, IndexError, ValueError) as error:
            raise _unknown(self._path) from error
        limit, used = self._cgroup()
        return (limit, min(available, max(limit - used, 0))) if limit < total else (total, available)

    def _cgroup(self) -> tuple[int, int]:
        """A control group's memory limit and use in bytes, version 2 or 1; no limit where there is none.

        Files that nobody reads at present count as used there, and the kernel takes their memory back before anything
        else.
        """
        for limit, used, idle in self._cgroups:
            try:
                total, taken = int(limit.read()), int(used.read())
            except (OSError, ValueError):  # "max"
                continue
            return total, max(taken - (_idle_files(idle) if idle is not None else 0), 0)
        return _UNLIMITED, 0


class OpenText:
    """A file of the kernel, whose text is another one each time; open until nobody has it any more.

    Args:
        path: of it.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)

    def read(self) -> str:
        """What is in it now; raises OSError where it cannot be read."""
        return os.pread(self._descriptor, _MOST_TEXT, 0).decode("ascii", "replace")


def _unknown(path: Path) -> InputError:
    return InputError(
        f"this machine's memory is not known: {path} cannot be read",
        expected="Linux",
        next_step=f"name a device: --device {next(iter(PROFILES))}",
    )


def _open_cgroups(directory: Path) -> Iterator[tuple[OpenText, OpenText, OpenText | None]]:
    """Limit, use, and what the use consists of, of each version that there is."""
    for limit, used, idle in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        try:
            files = OpenText(directory / limit), OpenText(directory / used)
        except OSError:  # not there
            continue
        try:
            yield *files, OpenText(directory / idle)
        except OSError:
            yield *files, None


def _idle_files(file: OpenText) -> int:
    """Bytes of the page cache that were not used lately; 0 where it is not said."""
    try:
        fields = dict(line.split() for line in file.read().splitlines())
        return int(fields.get("total_inactive_file", fields.get("inactive_file", 0)))
    except (OSError, ValueError):
        return 0
