"""What is listed and read: folders, zips and tars, hostile ones among them."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest
from small_catalogs import files, folder, picture, tarred, zipped

from edgeq.catalog.folders import FolderSource
from edgeq.catalog.items import GoneError
from edgeq.catalog.metadata import as_columns, read_texts
from edgeq.catalog.sources import Item, open_sources
from edgeq.catalog.tars import TarSource
from edgeq.catalog.zips import ZipSource
from edgeq.errors import ImageError, InputError
from edgeq.model.images.decode import MAX_ENCODED_BYTES


def names(*paths: Path) -> list[str]:
    with open_sources(paths) as sources:
        return [item.name for item in sources.items()]


def first(path: Path) -> Item:
    with open_sources([path]) as sources:
        return next(iter(sources.items()))


def test_a_folder_is_listed_by_name_and_never_left(tmp_path: Path) -> None:
    images = tmp_path / "images"
    folder(
        images, {"b.png": b"1", "a/z.JPG": b"22", "a.png": b"3", ".hidden.png": b"", "read.me": b"", "._/x.png": b""}
    )
    folder(tmp_path / "secret", {"key.png": b"private"})
    (images / "out.png").symlink_to(tmp_path / "secret/key.png")
    (images / "outside").symlink_to(tmp_path / "secret")
    (images / "circle").symlink_to(images)
    (images / "also.png").symlink_to("b.png")
    (images / "dead.png").symlink_to("nothing.png")
    os.mkfifo(images / "pipe.png")
    (images / "folder.png").mkdir()
    with open_sources([images]) as sources:
        found = {item.name: item.size for item in sources.items()}
        # `.` comes before `/`: the order is that of the whole names
        assert list(found.items()) == [("a.png", 1), ("a/z.JPG", 2), ("also.png", 1), ("b.png", 1)]
        assert sources.passed_over == {
            "no image by its name": 3,  # read.me, and the links to folders, which are not walked into
            "a link that leads out of the folder": 1,
            "no regular file": 2,
        }


def test_an_image_that_changed_or_left_is_not_the_one_that_was_listed(tmp_path: Path) -> None:
    images = folder(tmp_path / "images", {"a.png": b"one"})
    item = first(images)
    source = FolderSource(images)
    assert source.read(item) == b"one"
    (images / "a.png").write_bytes(b"three")
    with pytest.raises(GoneError, match="changed"):
        source.read(item)
    (images / "a.png").unlink()
    with pytest.raises(GoneError, match="gone"):
        source.read(item)
    (tmp_path / "a.png").write_bytes(b"one")
    (images / "a.png").symlink_to(tmp_path / "a.png")
    with pytest.raises(GoneError, match="leads out"):
        source.read(item)
    with open_sources([images]) as sources:
        images.rename(tmp_path / "elsewhere")
        with pytest.raises(GoneError, match="is gone"):
            sources.read(item)


def test_a_name_that_is_no_text_is_named(tmp_path: Path) -> None:
    images = folder(tmp_path / "images", {"a.png": b"one"})
    Path(os.fsdecode(os.fsencode(images) + b"/\xff.png")).write_bytes(b"")
    with pytest.raises(ImageError, match="not valid UTF-8"):
        names(images)


def test_sources_must_be_there_and_be_apart(tmp_path: Path) -> None:
    images = folder(tmp_path / "images", {"sub/a.png": b"one"})
    (tmp_path / "link").symlink_to(images)
    for paths, said in (
        ([], "no images were given"),
        ([images, tmp_path / "link"], "given twice"),
        ([images, images / "sub"], "lies in"),
        ([tmp_path / "none"], "does not exist"),
    ):
        with pytest.raises(InputError, match=said):
            open_sources(paths)
    assert names(tmp_path / "images/../link") == ["sub/a.png"]
    (tmp_path / "text.zip").write_text("no archive")
    with pytest.raises(ImageError, match="not a whole zip"):
        names(tmp_path / "text.zip")


def test_the_identity_is_that_of_place_name_size_and_stamp() -> None:
    item = Item("/a", "b.png", 3, "crc:00000001")
    others = [
        Item("/a/b", "b.png", 3, "crc:00000001"),
        Item("/a", "c.png", 3, "crc:00000001"),
        Item("/a", "b.png", 4, "crc:00000001"),
        Item("/a", "b.png", 3, "crc:00000002"),
    ]
    assert len({item.identity, *(other.identity for other in others)}) == 5
    assert item.identity == Item("/a", "b.png", 3, "crc:00000001").identity


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_of_every_form_are_read(tmp_path: Path, form: int) -> None:
    long = "x" * 90 + "/" + "y" * 80 + ".jpg"
    made = {"a/0.jpg": b"first", long: b"second" * 200}
    if form != tarfile.USTAR_FORMAT:
        made["ü" * 80 + ".png"] = b"third"
    path = tarred(tmp_path / "some.tar", made, form)
    with open_sources([path]) as sources:
        items = list(sources.items())
        assert {item.name: sources.read(item) for item in items} == made
        assert {item.stamp for item in items} == {"mtime:1700000000"}


def test_members_of_a_key_belong_together(tmp_path: Path) -> None:
    path = tarred(
        tmp_path / "some.tar",
        {
            "a/1.jpg": b"image",
            "a/1.mask.png": b"mask",
            "a/1.txt": b"\xef\xbb\xbfa caption \n",
            "a/1.json": b'{"caption": "another", "n": 1, "deep": {"a": [1]}, "none": null, "half": "\\ud800"}',
            "b/2.v3.jpg": b"image",
            "b/2.json": b'{"caption": " said here ", "width": 7}',
            "c/3.jpg": b"image",
            "c/3.txt": b"\xff\xfe",
            "c/3.json": b"[" * 100_000,
            "c/notes.pdf": b"",
        },
    )
    with open_sources([path]) as sources:
        items = list(sources.items())
        assert [(item.name, sources.key(item)) for item in items] == [
            ("a/1.jpg", "a/1"),
            ("b/2.v3.jpg", "b/2"),
            ("c/3.jpg", "c/3"),
        ]
        assert sources.passed_over == {"no image by its name": 2}
        texts = [read_texts(sources, item) for item in items]
    assert [text.caption for text in texts] == ["a caption", "said here", None]
    assert texts[0].fields == {"n": 1, "deep": '{"a": [1]}', "none": None, "half": "?"}
    assert (texts[1].fields, texts[2].fields) == ({}, {})
    assert [text.unreadable for text in texts] == [0, 0, 2]


def test_columns_are_numbers_where_all_values_are() -> None:
    rows: list[dict[str, str | int | float | None]] = [
        {"image_path": "a", "whole": 1, "real": 1, "mixed": 1, "none": None},
        {"image_path": "b", "whole": True, "real": 0.5, "mixed": "x", "late": "y"},
    ]
    columns = as_columns(rows)
    assert list(columns)[6:] == ["late", "mixed", "real", "whole"]
    assert columns["whole"] == ("whole", [1, 1])
    assert columns["real"] == ("real", [1.0, 0.5])
    assert columns["mixed"] == ("text", ["1", "x"])
    assert columns["late"] == ("text", [None, "y"])


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["/etc/a.png", "../a.png", "a/../../b.png", "C:a.png", "a\\b.png"])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str, form: int) -> None:
    for long in ("", "x" * 120):  # a long name is in an extended header
        said = name.replace("a.png", f"{long}a.png").replace("b.png", f"{long}b.png")
        path = tarred(tmp_path / "hostile.tar", {"fine.png": b"1", said: b"2"}, form)
        with pytest.raises(ImageError, match="refused: its name leads out"):
            names(path)
    path = zipped(tmp_path / "hostile.zip", {"fine.png": b"1"})
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("x")
        info.filename = name
        archive.writestr(info, b"2")
    with pytest.raises(ImageError, match="refused"):
        names(path)


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_what_is_no_plain_file_is_refused(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "hostile.tar"
    with tarfile.open(path, "w") as archive:
        folder_info = tarfile.TarInfo("a")
        folder_info.type = tarfile.DIRTYPE
        archive.addfile(folder_info)
        info = tarfile.TarInfo("a/b.png")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(ImageError, match=r"'a/b.png' that is refused: it is a"):
        names(path)


def test_a_tar_cut_anywhere_names_itself(tmp_path: Path) -> None:
    whole = tarred(tmp_path / "whole.tar", files(3)).read_bytes()
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512
    path = tmp_path / "cut.tar"
    for length in range(512, end + 1, 173):
        path.write_bytes(whole[:length])
        with pytest.raises(ImageError, match=f"{path} is cut short"):
            names(path)
    path.write_bytes(whole[: end + 512])  # one block of zeros is an end
    assert names(path) == ["0000.png", "0001.png", "0002.png"]


def test_a_damaged_header_and_what_is_no_tar_are_named(tmp_path: Path) -> None:
    whole = bytearray(tarred(tmp_path / "whole.tar", files(2)).read_bytes())
    path = tmp_path / "bad.tar"
    whole[0] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ImageError, match="at byte 0 there is no header"):
        names(path)
    for data, said in ((b"", "empty"), (b"\x1f\x8b" + bytes(600), "a gzip archive"), (b"PK\x03\x04" * 200, "a zip")):
        path.write_bytes(data)
        with pytest.raises(ImageError, match=f"no tar archive: it is {said}"):
            names(path)
    with tarfile.open(tmp_path / "some.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a.png"), io.BytesIO())
    with pytest.raises(ImageError, match="gzip") as caught:
        names(tmp_path / "some.tar.gz")
    assert caught.value.next_step == "unpack it"


def test_an_extended_header_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "long.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers={}) as archive:
        info = tarfile.TarInfo("a.png")
        info.pax_headers = {"comment": "x" * 70_000}
        archive.addfile(info)
    with pytest.raises(ImageError, match="an extended header of 70"):
        names(path)


def test_the_number_of_members_is_bounded_and_each_is_there_once(tmp_path: Path) -> None:
    made = {f"{number}.png": b"" for number in range(4)}
    tar, zip_file = tarred(tmp_path / "many.tar", made), zipped(tmp_path / "many.zip", made)
    with pytest.raises(ImageError, match="more than 3 members"):
        TarSource(tar, most_members=3)
    with pytest.raises(ImageError, match="has 4 members"):
        ZipSource(zip_file, most_members=3)
    TarSource(tar, most_members=4).close()
    assert len(list(ZipSource(zip_file, most_members=4).items())) == 4
    with tarfile.open(tar, "a") as archive:
        archive.addfile(tarfile.TarInfo("./2.png"), io.BytesIO())
    with pytest.raises(ImageError, match=r"two members '2.png'"):
        names(tar)


def test_a_member_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.tar"
    info = tarfile.TarInfo("a.png")
    info.size = MAX_ENCODED_BYTES + 1
    with path.open("wb") as file:
        file.write(info.tobuf())
        file.truncate(512 * (2 + info.size // 512) + 1024)
    with open_sources([path]) as sources:
        (item,) = sources.items()
        with pytest.raises(ImageError, match="too long"):
            sources.read(item)


def test_a_zip_whose_bytes_are_not_those_of_its_crc_cannot_be_read(tmp_path: Path) -> None:
    path = zipped(tmp_path / "some.zip", {"a.png": picture(0), "b.png": picture(1)})
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)
    with open_sources([path]) as sources:
        bad, good = sources.items()
        with pytest.raises(ImageError, match="cannot be read from the zip"):
            sources.read(bad)
        assert sources.read(good) == picture(1)
        with pytest.raises(GoneError):
            sources.read(Item(good.source, good.name, good.size, "crc:00000000"))


def test_archives_are_opened_as_they_are_needed(tmp_path: Path) -> None:
    paths = [tarred(tmp_path / f"{number:02d}.tar", {f"{number}.png": picture(number)}) for number in range(12)]
    with open_sources(paths) as sources:
        items = list(sources.items())
        assert [sources.read(item) for item in items] == [picture(number) for number in range(12)]
        assert len(sources._open) == 8
        paths[0].unlink()
        with pytest.raises(GoneError, match=r"00\.tar is gone"):
            sources.read(items[0])
