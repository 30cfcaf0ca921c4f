"""Images and zips made to climb out, to exhaust the memory, or to be read as something else."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from PIL import Image

from edgeq.errors import ImageError
from edgeq.model.images.image_set import MAX_ENCODED_BYTES, MAX_PIXELS, ImageSet


def png(size: tuple[int, int] = (4, 3)) -> bytes:
    """A small PNG."""
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, "PNG")
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """One PNG chunk."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def huge_png(width: int, height: int) -> bytes:
    """A whole, valid PNG of many white pixels in few bytes: one bit each, compressed."""
    packer = zlib.compressobj(9)
    row = b"\0" + b"\xff" * ((width + 7) // 8)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def read_first(path: Path) -> Image.Image:
    """Read the first image of a folder or zip."""
    images = ImageSet.open(path)
    return images.read(images.items[0])


@pytest.mark.parametrize("edge", [8001, 9500, 30000])
def test_a_huge_image_in_a_small_file_is_refused(tmp_path: Path, edge: int) -> None:
    assert edge * edge > MAX_PIXELS
    (tmp_path / "a.png").write_bytes(huge_png(edge, edge))
    assert (tmp_path / "a.png").stat().st_size < 200_000
    with pytest.raises(ImageError, match=r"a\.png is too large"):
        read_first(tmp_path)


@pytest.mark.parametrize(("width", "height"), [(2**31 - 1, 2**31 - 1), (0, 5), (70_000, 1000)])
def test_a_header_that_lies_about_the_size_is_refused(tmp_path: Path, width: int, height: int) -> None:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 10)) + chunk(b"IEND", b"")
    )
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ImageError, match=r"a\.png"):
        read_first(tmp_path)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.bmp", "a.webp", "a.tif"])
def test_an_image_cut_anywhere_is_refused_or_whole(tmp_path: Path, name: str, shared_data: Path) -> None:
    photos = ImageSet.open(shared_data / "imagenet-sample" / "photos.zip")
    photo = photos.read(photos.items[0]).resize((97, 61))
    photo.save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    refused = 0
    for part in range(40):
        (tmp_path / name).write_bytes(whole[: len(whole) * part // 40])
        try:
            assert read_first(tmp_path).size == photo.size
        except ImageError:
            refused += 1
    assert refused >= 36


@pytest.mark.parametrize(
    "data", [b"", b"GIF89a" + bytes(50), b"%!PS-Adobe-3.0 EPSF-3.0\n", b"<html></html>", bytes(1000)]
)
def test_other_files_named_like_images_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(ImageError, match=r"a\.jpg cannot be decoded"):
        read_first(tmp_path)


def test_a_file_longer_than_the_limit_is_refused_without_being_read_whole(tmp_path: Path) -> None:
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(MAX_ENCODED_BYTES + 1)
    with pytest.raises(ImageError, match=r"a\.jpg is too long"):
        read_first(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["../a.png", "x/../../a.png", "/a.png", "C:/a.png", "c:a.png", "..\\a.png", "x\\..\\a.png", "\\\\host\\a.png"],
)
def test_a_member_that_climbs_out_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good.png", png())
        archive.writestr(name, png())
    with pytest.raises(ImageError, match="leads out of the archive"):
        ImageSet.open(path)
    assert [file.name for file in tmp_path.rglob("*")] == ["set.zip"]


def test_a_name_cut_by_a_zero_byte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png_.txt", png())
    path.write_bytes(path.read_bytes().replace(b"a.png_.txt", b"a.png\0.txt"))
    with pytest.raises(ImageError, match="leads out of the archive"):
        ImageSet.open(path)


def test_a_symbolic_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        member = zipfile.ZipInfo("a.png")
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(member, "/etc/passwd")
    with pytest.raises(ImageError, match="symbolic link"):
        ImageSet.open(path)


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", png())
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(ImageError, match="encrypted"):
        ImageSet.open(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("names", [("a.png", "a.png"), ("a/b.png", "a//b.png"), ("./a.png", "a.png")])
def test_a_name_that_occurs_twice_is_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, png())
    with pytest.raises(ImageError, match="occurs twice"):
        ImageSet.open(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unusual_compression_is_refused(tmp_path: Path, method: int) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a.png", png())
    with pytest.raises(ImageError, match="compressed with method"):
        ImageSet.open(path)


def test_a_zip_bomb_is_refused_by_its_own_declaration(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.png", "w") as member:
        for _ in range(MAX_ENCODED_BYTES // 2**20 + 1):
            member.write(bytes(2**20))
    assert path.stat().st_size < 1_000_000
    with pytest.raises(ImageError, match=r"a\.png is too long"):
        read_first(path)


@pytest.mark.parametrize("declared", [10, 2**31, 2**32 - 2])
def test_a_member_that_lies_about_its_length_is_refused(tmp_path: Path, declared: int) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", png((300, 300)))
    data = bytearray(path.read_bytes())
    central = data.index(b"PK\x01\x02")
    data[central + 24 : central + 28] = struct.pack("<I", declared)
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"a\.png"):
        read_first(path)


def test_a_damaged_member_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", png())
    data = bytearray(path.read_bytes())
    data[50] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"a\.png cannot be read from the zip"):
        read_first(path)


def test_a_zip_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(5):
            archive.writestr(f"{number}.png", png())
    whole = path.read_bytes()
    for part in range(1, 40):
        path.write_bytes(whole[: len(whole) * part // 40])
        with pytest.raises(ImageError, match="not a whole zip archive"):
            ImageSet.open(path)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "git-LFS"),
        (b"<!DOCTYPE html>", "HTML"),
        (b"\xff\xd8\xff", "JPEG"),
    ],
)
def test_a_file_that_is_no_zip_is_called_by_its_name(tmp_path: Path, data: bytes, named: str) -> None:
    (tmp_path / "set.zip").write_bytes(data)
    with pytest.raises(ImageError, match=rf"set\.zip is not a whole zip archive: it is .*{named}"):
        ImageSet.open(tmp_path / "set.zip")


def test_a_file_name_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "caf\udce9.png").write_bytes(png())
    with pytest.raises(ImageError, match="not valid UTF-8"):
        ImageSet.open(tmp_path)
