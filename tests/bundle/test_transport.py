"""One file for transport: whole, in order, the same each time, and never in memory as a whole."""

from __future__ import annotations

import os
import subprocess
import tarfile
import threading
import tracemalloc
from pathlib import Path

import pytest
from packed import CONTENTS, contents_of, make_bundle, member, members_of, snapshot, write_tar

from edgeq.bundle.contents import MANIFEST, SIGNATURE
from edgeq.bundle.errors import DigestError, LengthError, TransportError
from edgeq.bundle.keys import make_keys
from edgeq.bundle.limits import DEFAULT_LIMITS
from edgeq.bundle.manifest import read_manifest
from edgeq.bundle.signature import sign_bundle
from edgeq.bundle.tar import header, members
from edgeq.bundle.transport import examine_file, pack, unpack
from edgeq.bundle.verify import Trust
from edgeq.errors import OutputError

MIB = 1 << 20
LONG = "language/" + "x" * 120 + ".safetensors"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    bundle = make_bundle(tmp_path / "bundle", {**CONTENTS, LONG: b"a long name", "größe/λ.json": b"{}"})
    sign_bundle(bundle, make_keys(tmp_path / "ours").private)
    return bundle


def test_there_and_back(bundle: Path, tmp_path: Path) -> None:
    made = pack(bundle, tmp_path / "b.edgeq.tar")
    assert unpack(tmp_path / "b.edgeq.tar", tmp_path / "back", keys=[tmp_path / "ours.public.pem"]) == made
    assert snapshot(tmp_path / "back") == snapshot(bundle)
    assert read_manifest(tmp_path / "back") == made


def test_any_tar_reads_it(bundle: Path, tmp_path: Path) -> None:
    """Python's reader, and the system's: the manifest first, then its signature, then the files by name."""
    pack(bundle, tmp_path / "b.edgeq.tar")
    found = members_of((tmp_path / "b.edgeq.tar").read_bytes())
    assert list(found) == [MANIFEST, SIGNATURE, *sorted([*CONTENTS, LONG, "größe/λ.json"])]
    assert found == {name: (bundle / name).read_bytes() for name in found}
    (tmp_path / "system").mkdir()
    subprocess.run(["tar", "-xf", tmp_path / "b.edgeq.tar", "-C", tmp_path / "system"], check=True)
    assert snapshot(tmp_path / "system") == snapshot(bundle)


def test_the_bytes_depend_on_names_and_contents_alone(bundle: Path, tmp_path: Path) -> None:
    """Neither on the order in which files were made, nor on times, modes, or where the bundle lies."""
    pack(bundle, tmp_path / "a.tar")
    copy = tmp_path / "elsewhere" / "copy"
    for name, content in reversed(contents_of(bundle).items()):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(content)
        (copy / name).chmod(0o600)
        os.utime(copy / name, (1, 1))
    (copy / ".DS_Store").touch()
    pack(copy, tmp_path / "b.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    unpack(tmp_path / "a.tar", tmp_path / "back")
    pack(tmp_path / "back", tmp_path / "c.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "c.tar").read_bytes()


def test_the_header_of_a_file_byte_by_byte() -> None:
    """The fields of POSIX's ustar in their order, with octal numbers and the sum of all bytes."""
    fields = [
        *(b"plan.yaml".ljust(100, b"\0"), b"0000644\0", b"0000000\0", b"0000000\0", b"00000000013\0"),
        *(b"00000000000\0", b"        ", b"0", bytes(100), b"ustar\0", b"00", bytes(32), bytes(32)),
        *(b"0000000\0", b"0000000\0", bytes(155), bytes(12)),
    ]
    fields[6] = f"{sum(b''.join(fields)):06o}\0 ".encode()
    assert header("plan.yaml", 11) == b"".join(fields)


@pytest.mark.parametrize("size", [0, 1, 8**11 - 1, 8**11, 10**13])
@pytest.mark.parametrize("name", ["a", "n" * 100, "d/" + "n" * 99, "λ", "d/" * 60 + "λ"])
def test_a_header_is_read_by_others(tmp_path: Path, name: str, size: int) -> None:
    """Sizes of 8 GiB and more do not fit the octal field; such a file is not made here, only its header."""
    path = tmp_path / "headers.tar"
    path.write_bytes(header(name, size))
    with tarfile.open(path) as archive:
        found = archive.next()
    assert found is not None
    assert (found.name, found.size, found.type) == (name, size, tarfile.REGTYPE)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("size", [0, 12, 8**11 - 1])
def test_a_header_of_others_is_read(tmp_path: Path, form: int, size: int) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(member("a", size=size, form=form))
    with path.open("rb") as source:
        found = next(members(source, "a.tar", DEFAULT_LIMITS))
    assert (found.name, found.size) == ("a", size)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_nine_gibibytes_of_others(tmp_path: Path, form: int) -> None:
    """An extended header in one form, a binary number in the other."""
    path = tmp_path / "a.tar"
    path.write_bytes(member("a", size=9 << 30, form=form))
    with path.open("rb") as source:
        assert next(members(source, "a.tar", DEFAULT_LIMITS)).size == 9 << 30


def test_a_tar_made_by_hand(tmp_path: Path) -> None:
    """By GNU tar, with times, owners and more zeros at the end; the manifest must still come first."""
    long = f"{'x' * 70}/{'y' * 70}"
    bundle = make_bundle(tmp_path / "bundle", {**CONTENTS, long: b"a long name in two parts"})
    names = contents_of(bundle)
    for form in ("ustar", "pax"):
        made = tmp_path / f"{form}.tar"
        subprocess.run(["tar", f"--format={form}", "-cf", made, "-C", bundle, *names], check=True)
        assert made.stat().st_size % 10240 == 0
        unpack(made, tmp_path / form)
        assert snapshot(tmp_path / form) == snapshot(bundle)


def test_through_a_pipe(bundle: Path, tmp_path: Path) -> None:
    """Nothing is read twice, and nothing is looked for behind: a pipe could not."""
    pack(bundle, tmp_path / "b.tar")
    os.mkfifo(tmp_path / "pipe")
    data = (tmp_path / "b.tar").read_bytes()
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(data), daemon=True)
    writer.start()
    unpack(tmp_path / "pipe", tmp_path / "back")
    writer.join()
    assert snapshot(tmp_path / "back") == snapshot(bundle)


def test_memory_does_not_grow_with_the_files(tmp_path: Path) -> None:
    """48 MiB go through packing, checking and unpacking in a few."""
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    with (bundle / "weights").open("wb") as file:
        file.truncate(48 * MIB)
    tracemalloc.start()
    try:
        make_bundle(bundle)
        pack(bundle, tmp_path / "b.tar")
        examine_file(tmp_path / "b.tar", Trust())
        unpack(tmp_path / "b.tar", tmp_path / "back")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 * MIB
    assert (tmp_path / "b.tar").stat().st_size > 48 * MIB


@pytest.mark.parametrize(("content", "error"), [(b"layers: {}\n", DigestError), (b"layers", LengthError)])
def test_a_damaged_bundle_is_not_packed(tmp_path: Path, content: bytes, error: type[Exception]) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    (bundle / "plan.yaml").write_bytes(content)
    before = snapshot(tmp_path)
    with pytest.raises(error, match=r"plan\.yaml is not the file that the manifest lists"):
        pack(bundle, tmp_path / "b.tar")
    assert snapshot(tmp_path) == before


def test_packing_replaces_a_file_whole_or_not_at_all(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    (tmp_path / "b.tar").write_bytes(b"before")
    pack(bundle, tmp_path / "b.tar")
    assert read_manifest(bundle).files == unpack(tmp_path / "b.tar", tmp_path / "back").files
    (bundle / "plan.yaml").write_bytes(b"layers: {}\n")
    before = snapshot(tmp_path)
    with pytest.raises(DigestError):
        pack(bundle, tmp_path / "b.tar")
    assert snapshot(tmp_path) == before


def test_the_transport_file_does_not_go_into_its_bundle(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    with pytest.raises(OutputError, match="lies in the bundle"):
        pack(bundle, bundle / "language" / "b.edgeq.tar")
    read_manifest(bundle)


def test_unpacking_writes_over_nothing(tmp_path: Path) -> None:
    pack(make_bundle(tmp_path / "bundle"), tmp_path / "b.tar")
    (tmp_path / "there").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        unpack(tmp_path / "b.tar", tmp_path / "there")


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(TransportError, match="cannot be read"):
            unpack(path, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_members_in_another_order(tmp_path: Path) -> None:
    """Behind the manifest they may come as they like."""
    bundle = make_bundle(tmp_path / "bundle")
    contents = contents_of(bundle)
    manifest = contents.pop(MANIFEST)
    parts = [member(name, content) for name, content in reversed(contents.items())]
    unpack(write_tar(tmp_path / "b.tar", [member(MANIFEST, manifest), *parts]), tmp_path / "back")
    assert snapshot(tmp_path / "back") == snapshot(bundle)
