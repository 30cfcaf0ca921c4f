"""The first file system of a booted machine: Debian's modules for its disk, and a shell script that mounts it."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

__all__ = ["MODULES", "archive", "load_order", "write_initramfs"]

MODULES: Final = (
    "crc32c_generic",  # ext4 asks for it by the name of its algorithm
    "virtio_pci",
    "virtio_mmio",
    "virtio_blk",
    "virtio_net",
    "virtio_console",
    "virtio_rng",
    "ext4",
)
"""What the machine's disk, network and ports take; where the kernel has one built in, there is no file of it."""

_DIRECTORY: Final = 0o040755
_PROGRAM: Final = 0o100755
_HEAD: Final = 4
"""Bytes that every member of the archive begins at a multiple of."""

_INIT: Final = """#!/busybox sh
/busybox mount -t devtmpfs dev /dev
/busybox mount -t proc proc /proc
for module in {modules}; do /busybox insmod "/modules/$module" || echo "init: $module does not load"; done
init=/sbin/init
for word in $(/busybox cat /proc/cmdline); do
    case $word in init=*) init=${{word#init=}} ;; esac
done
/busybox mount -t ext4 -o rw,noatime /dev/vda /root || /busybox reboot -f
/busybox mount --move /dev /root/dev
/busybox umount /proc
exec /busybox switch_root /root "$init"
"""


def load_order(dependencies: str, wanted: Iterable[str]) -> tuple[str, ...]:
    """Files of modules, each after those that it needs.

    Args:
        dependencies: the text of modules.dep, as depmod writes it.
        wanted: names of modules; one that is not a file is built into the kernel.
    """
    needs = dict[str, tuple[str, ...]]()
    for line in dependencies.splitlines():
        file, _, rest = line.partition(":")
        needs[file] = tuple(rest.split())
    files = {Path(file).name.partition(".")[0].replace("-", "_"): file for file in needs}
    ordered = dict[str, None]()

    def add(file: str) -> None:
        for needed in needs[file]:
            if needed not in ordered:
                add(needed)
        ordered[file] = None

    for name in wanted:
        if name in files and files[name] not in ordered:
            add(files[name])
    return tuple(ordered)


def archive(members: Mapping[str, tuple[int, bytes]]) -> bytes:
    """A cpio archive of the form that Linux unpacks ("newc").

    Args:
        members: name -> mode (with its kind) and bytes, directories before what is in them.
    """
    made = bytearray()
    for number, (name, (mode, data)) in enumerate([*members.items(), ("TRAILER!!!", (0, b""))], start=1):
        encoded = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
        made += b"070701" + "".join(f"{field:08x}" for field in fields).encode() + encoded
        made += bytes(-len(made) % _HEAD) + data
        made += bytes(-len(made) % _HEAD)
    return bytes(made)


def write_initramfs(path: Path, busybox: Path, modules: Path) -> None:
    """Write it.

    Args:
        path: of the new file.
        busybox: a static program of the machine's processor.
        modules: /lib/modules/RELEASE of the kernel, with modules.dep.
    """
    files = load_order((modules / "modules.dep").read_text(encoding="utf-8"), MODULES)
    names = {file: f"{number:02}-{Path(file).name}" for number, file in enumerate(files)}
    init = _INIT.format(modules=" ".join(names.values()))
    members = dict.fromkeys(("dev", "proc", "root", "modules"), (_DIRECTORY, b""))
    members |= {"init": (_PROGRAM, init.encode()), "busybox": (_PROGRAM, busybox.read_bytes())}
    members |= {f"modules/{name}": (_PROGRAM, (modules / file).read_bytes()) for file, name in names.items()}
    path.write_bytes(gzip.compress(archive(members), compresslevel=6, mtime=0))
