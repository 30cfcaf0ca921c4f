"""Transport files made to climb out, to fill the disk, or to pass for another bundle.

Each is refused with an error of its own, and leaves everything as it was: nothing outside is touched, nothing stays.
"""

from __future__ import annotations

import gzip
import random
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from packed import CONTENTS, contents_of, member, rewrite, snapshot, write_tar

from edgeq.bundle.contents import MANIFEST, SIGNATURE
from edgeq.bundle.errors import (
    BundleError,
    DeviceError,
    DigestError,
    DuplicateFileError,
    IrregularFileError,
    LengthError,
    LinkError,
    ManifestError,
    MissingFileError,
    SignatureError,
    TransportError,
    TruncatedError,
    UnknownKeyError,
    UnlistedFileError,
    UnsafeNameError,
    UnsignedError,
)
from edgeq.bundle.keys import KeyPair
from edgeq.bundle.needs import DeviceFacts
from edgeq.bundle.signature import sign_bundle
from edgeq.bundle.transport import examine_file, pack, unpack
from edgeq.bundle.verify import Trust

TEN_TB = 10**13
FOUR_KIB = 4096


@pytest.fixture
def parts(orin_bundle: Path) -> dict[str, bytes]:
    """Every file of the bundle as a member, the manifest first."""
    return {name: member(name, content) for name, content in contents_of(orin_bundle).items()}


@pytest.fixture
def refused(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Unpack a file made of these members, and expect an error and nothing else."""
    (tmp_path / "outside").write_bytes(b"not ours")

    def check(members: list[bytes] | Path, error: type[BundleError], match: str, **options: object) -> None:
        file = members if isinstance(members, Path) else write_tar(tmp_path / "hostile.tar", members)
        before = snapshot(tmp_path)
        with pytest.raises(BundleError, match=match) as caught:
            unpack(file, tmp_path / "root", **options)  # type: ignore[arg-type]
        assert type(caught.value) is error
        assert snapshot(tmp_path) == before
        if not options:
            with pytest.raises(error, match=match):
                examine_file(file, Trust())

    yield check
    assert (tmp_path / "outside").read_bytes() == b"not ours"


Refused = Callable[..., None]
Parts = dict[str, bytes]


def test_the_members_are_good_before_they_are_made_bad(tmp_path: Path, orin_bundle: Path, parts: Parts) -> None:
    unpack(write_tar(tmp_path / "good.tar", list(parts.values())), tmp_path / "root")
    assert snapshot(tmp_path / "root") == snapshot(orin_bundle)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("../outside", "leads out"),
        ("language/../../outside", "leads out"),
        ("..", "leads out"),
        ("/outside", "is absolute"),
        ("//outside", "is absolute"),
        ("./outside", "plain form"),
        ("language//outside", "plain form"),
        ("outside/", "plain form"),
        ("", "plain form"),
        (".bashrc", "is hidden"),
        ("language/.ssh/config", "is hidden"),
        ("a\nb", "cannot be shown"),
        ("a\x1b]0;title\x07", "cannot be shown"),
        ("x" * 256, "too long"),
        ("d/" * 512 + "x", "too long"),
    ],
)
def test_names(refused: Refused, parts: Parts, orin_bundle: Path, name: str, fault: str) -> None:
    """In the archive alone, and listed by the manifest with the right length and digest as well."""
    hostile = member(name, b"", form=tarfile.PAX_FORMAT)
    refused([*parts.values(), hostile], UnsafeNameError, fault)
    rewrite(orin_bundle, lambda content: content["files"][0].update(name=name))
    refused([member(MANIFEST, (orin_bundle / MANIFEST).read_bytes()), hostile], UnsafeNameError, fault)


@pytest.mark.parametrize("first", [MANIFEST, "model.onnx"])
@pytest.mark.parametrize(
    ("kind", "error", "called"),
    [
        (tarfile.SYMTYPE, LinkError, "a symbolic link"),
        (tarfile.LNKTYPE, LinkError, "a hard link"),
        (tarfile.CHRTYPE, IrregularFileError, "a character device"),
        (tarfile.BLKTYPE, IrregularFileError, "a block device"),
        (tarfile.FIFOTYPE, IrregularFileError, "a named pipe"),
        (tarfile.DIRTYPE, IrregularFileError, "a directory"),
        (tarfile.CONTTYPE, IrregularFileError, "a contiguous file"),
        (tarfile.GNUTYPE_LONGNAME, IrregularFileError, "a long name"),
        (tarfile.GNUTYPE_LONGLINK, IrregularFileError, "a long link"),
        (tarfile.GNUTYPE_SPARSE, IrregularFileError, "a sparse file"),
        (tarfile.XGLTYPE, IrregularFileError, "a global header"),
        (b"Z", IrregularFileError, "an unknown kind"),
    ],
)
def test_what_is_no_plain_file(
    refused: Refused, parts: Parts, first: str, kind: bytes, error: type[BundleError], called: str
) -> None:
    """In the place of the manifest, and in that of a listed file."""
    parts[first] = member(first, kind=kind, link="../outside")
    refused(list(parts.values()), error, called)


def test_a_link_and_a_file_behind_it(refused: Refused, parts: Parts) -> None:
    """The classic: a link that leads out, and then a file through it."""
    link = member("language", kind=tarfile.SYMTYPE, link="..")
    refused([parts[MANIFEST], link, *list(parts.values())[1:]], LinkError, "a symbolic link, 'language'")


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("name", [MANIFEST, "model.onnx", "further"])
def test_ten_terabytes_in_a_header(refused: Refused, parts: Parts, name: str, form: int) -> None:
    parts[name] = member(name, size=TEN_TB, form=form)
    refused(list(parts.values()), LengthError, "10,000,000,000,000 bytes")


def test_a_length_below_every_bound_that_is_not_the_one_listed(refused: Refused, parts: Parts) -> None:
    parts["model.onnx"] = member("model.onnx", size=8**11 - 1)
    refused(list(parts.values()), LengthError, "not the file that the manifest lists: its length differs")


def test_ten_terabytes_in_the_manifest(refused: Refused, parts: Parts, orin_bundle: Path) -> None:
    rewrite(orin_bundle, lambda content: content["files"][0].update(size=TEN_TB))
    parts[MANIFEST] = member(MANIFEST, (orin_bundle / MANIFEST).read_bytes())
    refused(list(parts.values()), LengthError, "lists 10,000,000,000,000 bytes for empty")


def test_ten_terabytes_in_many_files(refused: Refused, orin_bundle: Path) -> None:
    many = [{"name": f"f{number}", "size": 10**11, "sha256": "0" * 64} for number in range(100)]
    rewrite(orin_bundle, lambda content: content.update(files=many))
    refused(
        [member(MANIFEST, (orin_bundle / MANIFEST).read_bytes())], LengthError, "lists 10,000,000,000,000 bytes in all"
    )


def test_more_files_than_any_bundle_has(refused: Refused, orin_bundle: Path) -> None:
    many = [{"name": f"f{number}", "size": 0, "sha256": "0" * 64} for number in range(10_001)]
    rewrite(orin_bundle, lambda content: content.update(files=many))
    refused([member(MANIFEST, (orin_bundle / MANIFEST).read_bytes())], LengthError, "lists 10,001 files")


@pytest.mark.parametrize("size", [TEN_TB, 8193])
def test_an_extended_header_without_end(refused: Refused, parts: Parts, size: int) -> None:
    header = member("pax", kind=tarfile.XHDTYPE, size=size, form=tarfile.GNU_FORMAT)
    refused([parts[MANIFEST], header], LengthError, f"an extended header of {size:,} bytes")


@pytest.mark.parametrize(
    "records",
    [
        *(b"x", b"5 a=\n", b"99 path=a\n", b"0 path=a\n", b"-9 path=a\n", b"10 path=a ", b"9 path=a\n9 path=b"),
        *(b"9 size=-1\n"[:9] + b"\n", b"10 size=1e\n", b"13 size=0x10\n", b"20 linkpath=outside\n"),
        *(b"25 GNU.sparse.realsize=1\n", b"12 hdrchars=\n"),
    ],
)
def test_an_extended_header_that_is_none(refused: Refused, parts: Parts, records: bytes) -> None:
    header = member("pax", records, kind=tarfile.XHDTYPE)
    refused([parts[MANIFEST], header, parts["empty"]], TransportError, "is not the transport file")


@pytest.mark.parametrize("name", [MANIFEST, "model.onnx", "empty"])
def test_the_same_name_twice(refused: Refused, parts: Parts, name: str) -> None:
    refused([*parts.values(), parts[name]], DuplicateFileError, f"holds {name} twice")


def test_a_signature_twice(refused: Refused, orin_bundle: Path, parts: Parts, ours: KeyPair) -> None:
    seal = member(SIGNATURE, sign_bundle(orin_bundle, ours.private).read_bytes())
    first, *rest = parts.values()
    refused([first, seal, seal, *rest], DuplicateFileError, r"holds manifest\.sig twice", keys=[ours.public])


def test_a_signature_out_of_its_place(refused: Refused, orin_bundle: Path, parts: Parts, ours: KeyPair) -> None:
    seal = member(SIGNATURE, sign_bundle(orin_bundle, ours.private).read_bytes())
    refused([*parts.values(), seal], UnlistedFileError, r"manifest\.sig is not listed", keys=[ours.public])


def test_a_manifest_that_lists_a_name_twice(refused: Refused, orin_bundle: Path) -> None:
    rewrite(orin_bundle, lambda content: content["files"].append(content["files"][0]))
    refused([member(MANIFEST, (orin_bundle / MANIFEST).read_bytes())], ManifestError, "is not a bundle")


def test_a_manifest_that_lists_a_file_below_a_file(refused: Refused, orin_bundle: Path) -> None:
    rewrite(orin_bundle, lambda content: content["files"][0].update(name="model.onnx/weights"))
    refused([member(MANIFEST, (orin_bundle / MANIFEST).read_bytes())], ManifestError, "is not a bundle")


def test_a_member_that_is_not_listed(refused: Refused, parts: Parts) -> None:
    parts["engine.plan"] = member("engine.plan", b"smuggled in")
    refused(list(parts.values()), UnlistedFileError, r"engine\.plan is not listed")


@pytest.mark.parametrize("name", CONTENTS)
def test_a_member_that_is_missing(refused: Refused, parts: Parts, name: str) -> None:
    del parts[name]
    refused(list(parts.values()), MissingFileError, f"lacks its file '{name}'")


def test_no_manifest_or_not_first(refused: Refused, parts: Parts) -> None:
    first, *rest = parts.values()
    refused(rest, TransportError, "is not the transport file of a bundle")
    refused([*rest, first], TransportError, "is not the transport file of a bundle")
    refused([], TransportError, "is not the transport file of a bundle")


@pytest.mark.parametrize("change", [-1, 1])
def test_a_manifest_that_lies_about_a_size(refused: Refused, parts: Parts, orin_bundle: Path, change: int) -> None:
    size = len(CONTENTS["model.onnx"])
    rewrite(orin_bundle, lambda content: content["files"][2].update(size=size + change))
    parts[MANIFEST] = member(MANIFEST, (orin_bundle / MANIFEST).read_bytes())
    refused(list(parts.values()), LengthError, r"model\.onnx is not the file .* its length differs")


def test_a_manifest_that_lies_about_a_digest(refused: Refused, parts: Parts, orin_bundle: Path) -> None:
    rewrite(orin_bundle, lambda content: content["files"][2].update(sha256="0" * 64))
    parts[MANIFEST] = member(MANIFEST, (orin_bundle / MANIFEST).read_bytes())
    refused(list(parts.values()), DigestError, r"model\.onnx is not the file .* its bytes differ")


def test_a_manifest_that_lies_about_the_device(
    refused: Refused, parts: Parts, orin_bundle: Path, ours: KeyPair
) -> None:
    """Changed to suit the device, a signed bundle is no longer signed; unchanged, it does not suit."""
    seal = member(SIGNATURE, sign_bundle(orin_bundle, ours.private).read_bytes())
    first, *rest = parts.values()
    xavier = DeviceFacts(compute_capability="7.2")
    refused([first, seal, *rest], DeviceError, "is not for this device", keys=[ours.public], device=xavier)
    rewrite(orin_bundle, lambda content: content["needs"].update(compute_capability=["7.2"]))
    lie = member(MANIFEST, (orin_bundle / MANIFEST).read_bytes())
    refused([lie, seal, *rest], SignatureError, "not that of its manifest", keys=[ours.public], device=xavier)


def test_a_signature_by_another_key(
    refused: Refused, orin_bundle: Path, tmp_path: Path, ours: KeyPair, theirs: KeyPair
) -> None:
    sign_bundle(orin_bundle, theirs.private)
    pack(orin_bundle, tmp_path / "b.tar")
    refused(tmp_path / "b.tar", UnknownKeyError, f"signed with the key {theirs.id}", keys=[ours.public])
    (orin_bundle / SIGNATURE).write_text((orin_bundle / SIGNATURE).read_text().replace(theirs.id, ours.id))
    pack(orin_bundle, tmp_path / "b.tar")
    refused(tmp_path / "b.tar", SignatureError, "not that of its manifest", keys=[ours.public])


def test_no_signature_where_one_is_required(refused: Refused, parts: Parts, ours: KeyPair) -> None:
    refused(list(parts.values()), UnsignedError, "is not signed", keys=[ours.public])
    refused(list(parts.values()), UnsignedError, "is not signed", require_signature=True)


def test_a_swapped_graph(refused: Refused, orin_bundle: Path, parts: Parts, ours: KeyPair) -> None:
    """A signed bundle with another graph of the same length; and two of its files in each other's place."""
    seal = member(SIGNATURE, sign_bundle(orin_bundle, ours.private).read_bytes())
    other = bytes(len(CONTENTS["model.onnx"]))
    swapped = {**parts, MANIFEST: parts[MANIFEST] + seal, "model.onnx": member("model.onnx", other)}
    refused(list(swapped.values()), DigestError, r"model\.onnx is not the file", keys=[ours.public])
    crossed = {**parts, "model.onnx": member("model.onnx", CONTENTS["plan.yaml"])}
    refused(list(crossed.values()), LengthError, r"model\.onnx is not the file")


def test_cut_off_at_every_4_kib(refused: Refused, tmp_path: Path, orin_bundle: Path, ours: KeyPair) -> None:
    """And around the end: at every block of the last 4 KiB, the last of which is the end itself."""
    sign_bundle(orin_bundle, ours.private)
    pack(orin_bundle, tmp_path / "b.tar")
    whole = (tmp_path / "b.tar").read_bytes()
    cuts = {*range(0, len(whole), FOUR_KIB), *range(len(whole) - FOUR_KIB, len(whole), 512), len(whole) - 1, 1}
    assert len(cuts) > 15
    for cut in sorted(cuts):
        (tmp_path / "hostile.tar").write_bytes(whole[:cut])
        refused(tmp_path / "hostile.tar", TruncatedError, "ends too early")
    unpack(tmp_path / "b.tar", tmp_path / "root", keys=[ours.public])


@pytest.mark.parametrize(
    "content",
    [
        *(b"\0" * 1024, b"PK\x03\x04" + bytes(2000), gzip.compress(bytes(9000)) + bytes(600), b"<html>" * 200),
        random.Random(0).randbytes(5000),
    ],
    ids=["zeros", "zip", "gzip", "HTML", "noise"],
)
def test_other_files(refused: Refused, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other.tar").write_bytes(content)
    refused(tmp_path / "other.tar", TransportError, "is not the transport file of a bundle")


@pytest.mark.parametrize("tail", [b"x", bytes(5000) + b"x", bytes(1 << 21)], ids=["byte", "late byte", "zeros"])
def test_something_behind_the_end(refused: Refused, tmp_path: Path, orin_bundle: Path, tail: bytes) -> None:
    pack(orin_bundle, tmp_path / "b.tar")
    with (tmp_path / "b.tar").open("ab") as file:
        file.write(tail)
    refused(tmp_path / "b.tar", TransportError, "is not the transport file of a bundle")


def test_a_single_block_of_zeros_between_members(refused: Refused, parts: Parts) -> None:
    """Some readers stop there, others go on: what both see must be the same."""
    first, *rest = parts.values()
    refused([first, bytes(512), *rest], TransportError, "is not the transport file of a bundle")


def test_one_bit_anywhere(tmp_path: Path, orin_bundle: Path, ours: KeyPair) -> None:
    """A flipped bit is refused, or lies where nothing is read: then what comes out is the bundle itself."""
    sign_bundle(orin_bundle, ours.private)
    pack(orin_bundle, tmp_path / "b.tar")
    whole = (tmp_path / "b.tar").read_bytes()
    expected = snapshot(orin_bundle)
    places, refusals = random.Random(1), 0
    for turn in range(150):
        place = places.randrange(4096) if turn % 2 else places.randrange(len(whole))
        changed = bytearray(whole)
        changed[place] ^= 1 << places.randrange(8)
        (tmp_path / "hostile.tar").write_bytes(changed)
        try:
            unpack(tmp_path / "hostile.tar", tmp_path / f"root{turn}", keys=[ours.public])
        except BundleError:
            refusals += 1
            assert not (tmp_path / f"root{turn}").exists()
        else:
            assert snapshot(tmp_path / f"root{turn}") == expected
    assert refusals > 75
