"""The machine's disk: an arm64 Debian with the real installer run in it, and Debian's kernel, as an ext4 image."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rehearsal.machine.initramfs import write_initramfs
from rehearsal.report import UnexpectedError
from rehearsal.root import Done, Machine, emulated_machine, fresh_root, mounted
from rehearsal.stand_ins import place_stand_ins

__all__ = ["GUEST", "TOKEN", "Disk", "make_disk"]

GUEST: Final = "/usr/local/lib/edgeq-rehearsal"
"""In the machine: what the rehearsal itself puts there."""

TOKEN: Final = "rehearsal-" + "0" * 32
"""Of the service in the machine, which must listen on an address that is not its own to be reached from here."""

_HERE: Final = Path(__file__).resolve().parent / "guest"
_PACKAGES: Final = ("systemd-sysv", "dbus", "kmod", "python3-venv")
_SOURCE: Final = "/root/edgeq"
_INSTALL: Final = (f"{_SOURCE}/jetson/install.sh", "--no-language", "--headless", "--no-doctor")
_SIZE: Final = "3G"
_ENABLED: Final = ("edgeq-rehearsal.service", "systemd-networkd.service")


@dataclass(frozen=True)
class Disk:
    """What a machine is switched on with.

    Attributes:
        kernel, initramfs: files.
        image: a raw ext4 file system, the root; it is copied and never written to.
    """

    kernel: Path
    initramfs: Path
    image: Path


def make_disk(cache: Path, checkout: Path, material: Callable[[Path, Path], None], say: Callable[[str], None]) -> Disk:
    """Make it, or take the one that was made of the same checkout.

    Args:
        cache: with the arm64 Debian of `rehearsal.root.base_root`; the disk is kept in it.
        checkout: of edgeq.
        material: writes what else comes onto the disk: below a directory, and keys into another.
        say: told what is being done.
    """
    place, names = cache / "machine", checkout_files(checkout)
    disk = Disk(place / "vmlinuz", place / "initramfs", place / "root.ext4")
    digest, kept = _digest(checkout, names), place / "made-of"
    if kept.is_file() and kept.read_text(encoding="utf-8") == digest:
        say("a disk of the same checkout, from the cache")
        return disk
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    root = fresh_root(cache)
    with mounted(root, cache / "pip"):
        machine = emulated_machine(root)
        say("Debian's packages")
        release = _debian(machine)
        place_stand_ins(root)
        say("install.sh")
        for name in names:
            target = root / _SOURCE[1:] / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(checkout / name, target)
        done = machine.run(*_INSTALL)
        (place / "install.log").write_text(done.out + done.err, encoding="utf-8")
        _good(done)
        say("faiss and pyarrow, for search")
        python = "/opt/edgeq/venv/bin/python"
        _good(machine.run(python, "-m", "pip", "--no-input", "install", f"{_SOURCE}[device,service,retrieval]"))
        _furnish(machine)
    material(root / GUEST[1:], root / "etc/edgeq/keys")
    write_initramfs(disk.initramfs, root / "bin/busybox", root / f"lib/modules/{release}")
    shutil.copy(root / f"boot/vmlinuz-{release}", disk.kernel)
    say("an ext4 image")
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-L", "root", "-d", root, disk.image, _SIZE], check=True)
    kept.write_text(digest, encoding="utf-8")
    return disk


def checkout_files(checkout: Path) -> list[str]:
    """Names of all files of a checkout, new ones included, without those that git ignores."""
    command = ["git", "-C", str(checkout), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0")
    return [name for name in names if name and (checkout / name).is_file()]


def _digest(checkout: Path, names: list[str]) -> str:
    """Of the files that the disk is made of."""
    found = hashlib.sha256()
    for name in names:
        if name.startswith(("edgeq/", "jetson/", "rehearsal/", "pyproject")):
            found.update(f"{name}\0".encode() + hashlib.sha256((checkout / name).read_bytes()).digest())
    return found.hexdigest()


def _good(done: Done) -> Done:
    if done.status:
        raise UnexpectedError(f"status {done.status}: {done.said}")
    return done


def _debian(machine: Machine) -> str:
    """Install systemd as init, and unpack Debian's kernel, whose own scripts would make an initramfs; its release."""
    root = machine.root
    _good(machine.run("apt-get", "update"))
    _good(machine.run("apt-get", "install", "--yes", "--no-install-recommends", *_PACKAGES))
    named = _good(machine.run("apt-cache", "depends", "linux-image-arm64")).out
    package = next(line.split()[-1] for line in named.splitlines() if "Depends: linux-image" in line)
    _good(machine.run("sh", "-c", f"cd /tmp && apt-get download busybox-static {package}"))
    for file in sorted((root / "tmp").glob("*.deb")):
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", file], stdout=subprocess.PIPE) as unpacked:
            extract = ["tar", "--extract", "--keep-directory-symlink", "--directory", str(root)]
            subprocess.run(extract, stdin=unpacked.stdout, check=True)
        file.unlink()
    release = package.removeprefix("linux-image-")
    _good(machine.run("depmod", release))
    _good(machine.run("apt-get", "clean"))
    return release


def _furnish(machine: Machine) -> None:
    """What a machine of its own has, and the rehearsal's way into it."""
    root = machine.root
    shutil.copytree(_HERE, root / GUEST[1:], dirs_exist_ok=True)
    shutil.copy(_HERE / "edgeq-rehearsal.service", root / "etc/systemd/system")
    shutil.copy(_HERE / "network.network", root / "etc/systemd/network")
    (root / "etc/fstab").write_text("/dev/vda / ext4 noatime,errors=remount-ro 0 1\n", encoding="utf-8")
    (root / "etc/hostname").write_text("device\n", encoding="utf-8")
    (root / "etc/edgeq/token").write_text(f"{TOKEN}\n", encoding="utf-8")
    _good(machine.run("chown", "root:edgeq", "/etc/edgeq/token"))
    _good(machine.run("chmod", "0640", "/etc/edgeq/token"))
    settings = root / "etc/edgeq/edgeq.conf"
    text = settings.read_text(encoding="utf-8")
    for before, after in (("host: 127.0.0.1", "host: 0.0.0.0"), ("token_file: null", "token_file: /etc/edgeq/token")):
        if f"\n{before}\n" not in text:
            raise UnexpectedError(f"edgeq.conf has no line {before!r}")
        text = text.replace(f"\n{before}\n", f"\n{after}\n")
    settings.write_text(text, encoding="utf-8")
    _good(machine.run("systemctl", "enable", *_ENABLED))
