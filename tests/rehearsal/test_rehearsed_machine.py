"""What of the machine that boots needs neither root nor an emulator."""

from __future__ import annotations

import io
import random
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rehearsal.machine.__main__ import main
from rehearsal.machine.cuts import what_is_wrong
from rehearsal.machine.emulator import Hardware
from rehearsal.machine.guest.agent import said
from rehearsal.machine.initramfs import archive, load_order, write_initramfs
from rehearsal.machine.needs import FREE_BYTES, lacking
from rehearsal.machine.story import shown
from rehearsal.machine.writes import keep, read_log
from rehearsal.needs import CERTIFICATES, EMULATOR_RULE

SECTOR = 512
FLUSH, FUA, DISCARD = 1, 2, 4


def test_a_command_that_is_not_there_is_answered() -> None:
    assert said(["echo", "here"]) == [0, "here\n", ""]
    assert said(["no-such-command"])[:2] == [127, ""]


def log_of(*entries: tuple[int, bytes, int]) -> bytes:
    """A log in the form of Linux's dm-log-writes: sector, data and flags of each entry."""
    made = struct.pack("<QQQI", 0x6A736677736872, 1, len(entries), SECTOR).ljust(SECTOR, b"\0")
    for sector, data, flags in entries:
        made += struct.pack("<QQQQ", sector, len(data) // SECTOR, flags, 0).ljust(SECTOR, b"\0") + data
    return made


def block(letter: bytes, sectors: int = 1) -> bytes:
    return letter * SECTOR * sectors


def kept(tmp_path: Path, log: bytes, chance: random.Random | None = None) -> tuple[bytes, tuple[int, int, int]]:
    """An image of eight empty sectors after a log's writes, and the figures."""
    image, file = tmp_path / "image", tmp_path / "log"
    image.write_bytes(bytes(8 * SECTOR))
    file.write_bytes(log)
    found = keep(image, file, chance)
    return image.read_bytes(), (found.writes, found.unflushed, found.lost)


def test_without_a_loss_every_write_is_there(tmp_path: Path) -> None:
    log = log_of((1, block(b"a"), 0), (0, b"", FLUSH), (2, block(b"b"), 0))
    assert kept(tmp_path, log) == (bytes(SECTOR) + block(b"a") + block(b"b") + bytes(5 * SECTOR), (2, 1, 0))


def test_what_was_flushed_is_never_lost(tmp_path: Path) -> None:
    log = log_of((0, block(b"a", 4), 0), (0, b"", FLUSH), (4, block(b"b", 4), FUA), (0, block(b"c", 4), 0))
    seen = set[bytes]()
    for seed in range(40):
        image, (writes, unflushed, _) = kept(tmp_path, log, random.Random(seed))
        assert (writes, unflushed) == (3, 1)
        assert image[4 * SECTOR :] == block(b"b", 4)
        first = image[: 4 * SECTOR]
        whole = first.count(b"c") // SECTOR
        assert first == block(b"c", whole) + block(b"a", 4 - whole), "torn within a sector"
        seen.add(first)
    assert {block(b"a", 4), block(b"c", 4)} < seen, "lost, kept and torn writes must all come about"


def test_an_entry_that_the_kill_cut_short_is_passed_over() -> None:
    log = log_of((1, block(b"a"), 0), (2, block(b"b"), 0))
    for end in (len(log) - 1, len(log) - SECTOR, len(log) - SECTOR - 1):
        assert [write.offset for write in read_log(io.BytesIO(log[:end]))] == [SECTOR]


def test_blocks_that_are_given_back_bring_no_data() -> None:
    entry = struct.pack("<QQQQ", 3, 2, DISCARD, 0).ljust(SECTOR, b"\0")
    (write,) = read_log(io.BytesIO(log_of() + entry))
    assert (write.offset, write.data) == (3 * SECTOR, None)


def test_what_is_no_log_is_refused() -> None:
    with pytest.raises(ValueError, match="no log"):
        list(read_log(io.BytesIO(bytes(4096))))


def test_modules_come_after_those_they_need() -> None:
    text = "fs/ext4.ko: fs/jbd2.ko lib/crc16.ko\nfs/jbd2.ko:\nlib/crc16.ko:\nnet/virtio-rng.ko: fs/jbd2.ko\n"
    assert load_order(text, ["virtio_rng", "ext4", "built_in"]) == (
        "fs/jbd2.ko",
        "net/virtio-rng.ko",
        "lib/crc16.ko",
        "fs/ext4.ko",
    )


@pytest.mark.skipif(
    shutil.which("cpio") is None and shutil.which("bsdtar") is None, reason="no program reads cpio here"
)
def test_the_archive_is_read_by_another_program(tmp_path: Path) -> None:
    (tmp_path / "made").write_bytes(archive({"d": (0o040755, b""), "d/x": (0o100755, b"abc")}))
    reader = ["bsdtar", "-xf", "-"] if shutil.which("bsdtar") else ["cpio", "-idm"]
    subprocess.run(reader, input=(tmp_path / "made").read_bytes(), cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "d/x").read_bytes() == b"abc"


def test_the_archive_has_the_form_that_the_kernel_documents() -> None:
    made = archive({"init": (0o100755, b"abcde")})
    fields = [int(made[6 + 8 * place : 14 + 8 * place], 16) for place in range(13)]
    assert made[:6] == b"070701"
    assert (fields[1], fields[6], fields[11]) == (0o100755, 5, len("init") + 1)
    assert made[110:115] == b"init\0"
    assert made[116:121] == b"abcde"  # name and data begin at multiples of four
    assert made[124:130] == b"070701"
    assert b"TRAILER!!!\0" in made[124:]


def test_the_first_file_system_holds_the_modules_by_number(tmp_path: Path) -> None:
    (tmp_path / "modules.dep").write_text("ext4.ko: jbd2.ko\njbd2.ko:\n", encoding="utf-8")
    for name in ("ext4.ko", "jbd2.ko", "busybox"):
        (tmp_path / name).write_bytes(name.encode())
    write_initramfs(tmp_path / "made", tmp_path / "busybox", tmp_path)
    import gzip

    made = gzip.decompress((tmp_path / "made").read_bytes())
    assert b"for module in 00-jbd2.ko 01-ext4.ko;" in made
    assert made.index(b"modules/00-jbd2.ko\0") < made.index(b"modules/01-ext4.ko\0")


def left(sequence: int | None, **more: Any) -> dict[str, Any]:
    return {"store": {"sequence": sequence, "wrong": ""}, "serves": "", **more}


def test_the_release_from_before_or_the_one_that_came_is_right() -> None:
    assert what_is_wrong(left(4), 4, 5) == ""
    assert what_is_wrong(left(5), 4, 5) == ""


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (left(3), "release 3"),
        (left(5), "release 5"),
        (left(None), "release None"),
        (left(4, serves="the service ended"), "the service ended"),
        (left(4, first={"sequence": 1, "wrong": "manifest"}), "manifest"),
        (left(4, first={"sequence": 2, "wrong": ""}), "another release"),
        (left(4, first={"sequence": 1, "wrong": ""}, first_serves="not ready"), "not ready"),
        (left(4, catalog="59 rows, 60 images"), "59 rows"),
    ],
)
def test_anything_else_is_wrong(found: dict[str, Any], told: str) -> None:
    assert told in what_is_wrong(found, 4, None)


def test_properties_of_systemd() -> None:
    assert shown("MainPID=7\nExecStart={ path=/x ; argv[]=a=b }\n\n") == {
        "MainPID": "7",
        "ExecStart": "{ path=/x ; argv[]=a=b }",
    }


def test_the_machine_has_no_way_out_but_one_port() -> None:
    words = Hardware(Path("k"), Path("i"), ("driver=file,node-name=disk",)).command(port=4321, agent=Path("a"))
    net = words[words.index("-netdev") + 1]
    assert "restrict=on" in net
    assert net.endswith("hostfwd=tcp:127.0.0.1:4321-:8000")


@pytest.fixture
def able(tmp_path: Path) -> Path:
    texts = {
        "proc/filesystems": "nodev\tbinfmt_misc\n",
        "proc/meminfo": "MemTotal: 9000000 kB\nMemAvailable: 8000000 kB\n",
        str(EMULATOR_RULE): "rule",
        CERTIFICATES: "pem",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_a_machine_that_can_lacks_nothing(able: Path) -> None:
    assert lacking(able, 0, lambda name: name, FREE_BYTES) == ((), ())


def test_all_that_is_missing_is_told_at_once(able: Path) -> None:
    (able / "proc/meminfo").write_text("MemAvailable: 1000000 kB\n", encoding="utf-8")
    none = {"qemu-system-aarch64", "qemu-img"}
    sentences, packages = lacking(able, 1000, lambda name: None if name in none else name, FREE_BYTES - 1)
    assert packages == ("qemu-system-arm", "qemu-utils")
    words = ("root", "qemu-system-aarch64", "qemu-img", "disk", "memory")
    assert [word in sentence for word, sentence in zip(words, sentences, strict=True)] == [True] * 5


def test_the_command_refuses_before_it_makes_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--demo", str(tmp_path), "--cache", str(tmp_path / "cache")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "cache").exists()
