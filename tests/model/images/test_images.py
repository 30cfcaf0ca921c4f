"""Folders and zips of images: what is found, in which order, and how one is read."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from edgeq.errors import ImageError
from edgeq.model.images.decode import decode_image
from edgeq.model.images.image_set import ImageSet

NAMES = ("b/dog/2.png", "a/cat/1.PNG", "a/cat/10.png", "b/dog/1.png", "a/bird/x.png")


def png(colour: tuple[int, ...] = (10, 20, 30), size: tuple[int, int] = (4, 3), mode: str = "RGB") -> bytes:
    """A PNG of one colour."""
    buffer = io.BytesIO()
    Image.new(mode, size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def make_folder(root: Path, names: tuple[str, ...]) -> Path:
    """A folder with these files, each an image of its own colour if its name says so."""
    for number, name in enumerate(names):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png((number, 0, 0)))
    return root


def make_zip(path: Path, names: tuple[str, ...]) -> Path:
    """The same as a zip."""
    with zipfile.ZipFile(path, "w") as archive:
        for number, name in enumerate(names):
            archive.writestr(name, png((number, 0, 0)))
    return path


Maker = Callable[[Path, tuple[str, ...]], Path]


def one(tmp_path: Path, data: bytes, name: str = "image.png") -> Image.Image:
    """Read the only image of a folder."""
    (tmp_path / name).write_bytes(data)
    images = ImageSet.open(tmp_path)
    return images.read(images.items[0])


def test_a_folder_and_a_zip_of_it_are_the_same_set(tmp_path: Path) -> None:
    folder = ImageSet.open(make_folder(tmp_path / "folder", NAMES), labelled=True)
    archive = ImageSet.open(make_zip(tmp_path / "set.zip", NAMES), labelled=True)
    assert [item.name for item in folder.items] == sorted(NAMES)
    assert folder.items == archive.items
    assert folder.labels == archive.labels == ("bird", "cat", "dog")
    assert len(folder) == len(archive) == 5
    for item in folder.items:
        assert (
            folder.digest(item)
            == archive.digest(item)
            == hashlib.sha256(png((NAMES.index(item.name), 0, 0))).hexdigest()
        )
        np.testing.assert_array_equal(np.asarray(folder.read(item)), np.asarray(archive.read(item)))


def test_hidden_files_are_left_out_and_others_counted(tmp_path: Path) -> None:
    names = ("1.png", "notes.txt", ".hidden.png", "__MACOSX/1.png", ".cache/2.png", "sub/labels.csv")
    for images in (
        ImageSet.open(make_folder(tmp_path / "f", names)),
        ImageSet.open(make_zip(tmp_path / "z.zip", names)),
    ):
        assert [item.name for item in images.items] == ["1.png"]
        assert images.ignored == 2
        assert images.items[0].label is None


def test_no_images_is_an_error_with_causes(tmp_path: Path) -> None:
    (tmp_path / "readme.md").write_text("x")
    with pytest.raises(ImageError, match=r"no images; found: readme\.md") as caught:
        ImageSet.open(tmp_path)
    assert len(caught.value.causes) >= 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="found: nothing"):
        ImageSet.open(tmp_path / "empty")
    with pytest.raises(ImageError, match="does not exist"):
        ImageSet.open(tmp_path / "nowhere")
    with pytest.raises(ImageError, match="cannot be read: File name too long"):
        ImageSet.open(tmp_path / ("x" * 5000))


@pytest.mark.parametrize("make", [make_folder, make_zip])
@pytest.mark.parametrize("between", ["images", "JPEG", "img/photos"])
def test_a_folder_of_images_in_a_folder_of_a_class(make: Maker, between: str, tmp_path: Path) -> None:
    names = (f"cat/{between}/1.png", f"dog/{between}/1.png", "bird/2.png")
    images = ImageSet.open(make(tmp_path / "set", names), labelled=True)
    assert {item.name: item.label for item in images.items} == dict(
        zip(sorted(names), ("bird", "cat", "dog"), strict=True)
    )


def test_where_nothing_else_names_a_class_images_does(tmp_path: Path) -> None:
    images = ImageSet.open(make_folder(tmp_path / "set", ("images/1.png", "photos/1.png")), labelled=True)
    assert images.labels == ("images", "photos")


@pytest.mark.parametrize("make", [make_folder, make_zip])
def test_splits_are_not_judged_together(make: Maker, tmp_path: Path) -> None:
    names = tuple(f"set/{split}/{kind}/{n}.png" for split in ("train", "val") for kind in "ab" for n in (1, 2))
    path = make(tmp_path / "data", (*names, "set/train/a/3.png"))
    with pytest.raises(ImageError, match=r"of several splits: train/ \(5\), val/ \(4\)") as caught:
        ImageSet.open(path, labelled=True)
    wanted = f"give {path}/set/val" if path.is_dir() else "give an archive of set/val alone"
    assert caught.value.next_step == wanted
    assert len(ImageSet.open(path)) == 9  # to calibrate on, they may be
    if path.is_dir():
        assert len(ImageSet.open(path / "set/val", labelled=True)) == 4


def test_classes_may_be_called_like_splits_where_others_are_not(tmp_path: Path) -> None:
    path = make_folder(tmp_path / "set", ("a/test/1.png", "a/crack/1.png", "b/test/1.png"))
    assert ImageSet.open(path, labelled=True).labels == ("crack", "test")


def test_labels_are_demanded_when_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"1 of 2 images .* lie in no folder, the first is top\.png"):
        ImageSet.open(make_folder(tmp_path / "a", ("cat/1.png", "top.png")), labelled=True)
    with pytest.raises(ImageError, match="of one class: cat"):
        ImageSet.open(make_folder(tmp_path / "b", ("cat/1.png", "x/cat/2.png")), labelled=True)


def test_a_sample_takes_equal_shares_and_is_repeatable(tmp_path: Path) -> None:
    names = tuple(
        f"{label}/{number}.png" for label, count in (("a", 2), ("b", 20), ("c", 20)) for number in range(count)
    )
    images = ImageSet.open(make_folder(tmp_path, names))
    sample = images.sample(12, seed=3)
    counts = {label: sum(item.label == label for item in sample.items) for label in sample.labels}
    assert counts == {"a": 2, "b": 5, "c": 5}
    assert list(sample.items) == sorted(sample.items)
    assert set(sample.items) <= set(images.items)
    assert sample == images.sample(12, seed=3)
    assert sample != images.sample(12, seed=4)
    assert images.sample(1000) == images
    assert len(images.sample(1)) == 1
    with pytest.raises(ImageError, match="at least 1"):
        images.sample(0)


@pytest.mark.parametrize("count", range(1, 12))
def test_a_sample_has_the_size_asked_for(tmp_path: Path, count: int) -> None:
    images = ImageSet.open(
        make_folder(tmp_path, tuple(f"{label}/{number}.png" for label in "abc" for number in range(4)))
    )
    assert len(images.sample(count, seed=count)) == count


def test_links_to_files_are_followed_and_circles_are_not(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", ("a/1.png", "b/2.png"))
    (root / "a" / "link.png").symlink_to(root / "b" / "2.png")
    (root / "a" / "up").symlink_to(root)
    (root / "b" / "self").symlink_to(root / "b")
    assert [item.name for item in ImageSet.open(root).items] == ["a/1.png", "a/link.png", "b/2.png"]


def test_a_dead_link_is_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "1.png").symlink_to(tmp_path / "gone.png")
    images = ImageSet.open(tmp_path)
    with pytest.raises(ImageError, match=r"1\.png cannot be read"):
        images.read(images.items[0])


def test_a_pipe_named_like_an_image_does_not_hang(tmp_path: Path) -> None:
    make_folder(tmp_path, ("1.png",))
    os.mkfifo(tmp_path / "2.png")
    assert [item.name for item in ImageSet.open(tmp_path).items] == ["1.png"]


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("RGBA", (200, 100, 0, 0), (255, 255, 255)),
        ("RGBA", (200, 100, 0, 255), (200, 100, 0)),
        ("LA", (40, 255), (40, 40, 40)),
        ("I;16", 77 * 256 + 5, (77, 77, 77)),
    ],
)
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str, colour: tuple[int, ...], expected: tuple[int, ...]) -> None:
    image = one(tmp_path, png(colour, mode=mode))
    assert image.mode == "RGB"
    assert image.getpixel((1, 1)) == expected


def sixteen_bits(values: list[int], kind: str, *, bits: int | None = None, most: int | None = None) -> bytes:
    """16-bit grey in one row, as PNG or TIFF, that says its depth (sBIT) or its largest value (MaxSampleValue)."""
    image = Image.fromarray(np.array([values], np.uint16))
    buffer = io.BytesIO()
    image.save(buffer, kind, **({} if most is None else {"tiffinfo": {281: most}}))
    data = buffer.getvalue()
    if bits is None:
        return data
    chunk = b"sBIT" + bytes([bits])
    made = struct.pack(">I", 1) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return data[:33] + made + data[33:]  # behind the signature (8 bytes) and IHDR (25)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        # 12 bits as they are: 4095 is white, 2056 / 16 = 128.5
        (sixteen_bits([0, 2056, 4095], "PNG", bits=12), [0, 128, 255]),
        (sixteen_bits([0, 2056, 4095], "TIFF", most=4095), [0, 128, 255]),
        # brought to 16 bits before, as PNG asks for: 2056 << 4, its low four bits being zeros here
        (sixteen_bits([0, 2056 << 4, 4095 << 4], "PNG", bits=12), [0, 128, 255]),
        # dark, and brought to 16 bits: multiples of 16 below 4096
        (sixteen_bits([0, 1024, 4080], "PNG", bits=12), [0, 4, 15]),
        # nothing is said: 16 bits
        (sixteen_bits([0, 2056, 4095], "PNG"), [0, 8, 15]),
        (sixteen_bits([0, 2056, 4095], "TIFF"), [0, 8, 15]),
        (sixteen_bits([0, 0x8000, 0xFFFF], "TIFF", most=0xFFFF), [0, 128, 255]),
    ],
)
def test_sixteen_bits_are_scaled_by_the_depth_that_the_file_says(
    tmp_path: Path, data: bytes, expected: list[int]
) -> None:
    image = one(tmp_path, data, "image.tif" if data[:2] == b"II" else "image.png")
    assert np.asarray(image)[0, :, 0].tolist() == expected


def test_a_palette_with_transparency_becomes_rgb_without_a_warning(tmp_path: Path) -> None:
    image = Image.new("P", (4, 3), 1)
    image.putpalette([255, 0, 0, 0, 128, 0])
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=b"\x00\xff")
    assert one(tmp_path, buffer.getvalue()).getpixel((0, 0)) == (0, 128, 0)


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("CMYK", (16, 16), (0, 0, 0, 255)).save(buffer, "JPEG")
    pixel = one(tmp_path, buffer.getvalue(), "image.jpg").getpixel((8, 8))
    assert isinstance(pixel, tuple)
    assert max(pixel) <= 4, "CMYK black is not black"


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("F", (4, 3), 0.5).save(buffer, "TIFF")
    with pytest.raises(ImageError, match=r"image\.tif cannot be decoded: its pixels are of Pillow's mode F"):
        one(tmp_path, buffer.getvalue(), "image.tif")


def test_the_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20), (0, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    assert one(tmp_path, buffer.getvalue(), "image.jpg").size == (20, 40)


def test_truncated_images_are_refused_even_where_another_library_allows_them(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(buffer, "JPEG")
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    with pytest.raises(ImageError, match="cannot be decoded"):
        one(tmp_path, buffer.getvalue()[: len(buffer.getvalue()) // 2], "image.jpg")


def test_an_image_that_vanished_is_an_image_error(tmp_path: Path) -> None:
    images = ImageSet.open(make_folder(tmp_path, ("1.png", "2.png")))
    (tmp_path / "1.png").unlink()
    with pytest.raises(ImageError, match=r"1\.png cannot be read"):
        images.read(images.items[0])
    with pytest.raises(ImageError, match=r"1\.png cannot be read"):
        images.digest(images.items[0])


def test_the_real_photographs_are_read(shared_data: Path) -> None:
    images = ImageSet.open(shared_data / "imagenet-sample" / "photos.zip")
    assert len(images) == 250
    assert {images.read(item).mode for item in images.sample(5).items} == {"RGB"}


def test_the_real_test_set_has_ten_classes(shared_data: Path) -> None:
    images = ImageSet.open(shared_data / "cifar10" / "test.zip", labelled=True)
    assert (len(images), len(images.labels), images.ignored) == (5000, 10, 0)
    assert images.read(images.items[0]).size == (32, 32)


def test_a_phone_picture_with_several_images_gives_the_first(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    first, second = (Image.new("RGB", (16, 16), colour) for colour in ((255, 255, 255), (0, 0, 0)))
    first.save(buffer, "MPO", save_all=True, append_images=[second])
    assert one(tmp_path, buffer.getvalue(), "image.jpg").getpixel((3, 3)) == (255, 255, 255)


def test_a_jpeg_may_be_decoded_smaller_but_not_below_what_is_wanted() -> None:
    """Sides are halved while both stay at 100 or more: 1000 x 600 becomes 250 x 150."""
    halves = np.zeros((600, 1000, 3), np.uint8)
    halves[:, 500:] = 250
    files = {}
    for kind in ("JPEG", "PNG"):
        buffer = io.BytesIO()
        Image.fromarray(halves).save(buffer, kind)
        files[kind] = decode_image(buffer.getvalue(), kind, side=100)
    assert (files["JPEG"].size, files["PNG"].size) == ((250, 150), (1000, 600))
    pixels = np.asarray(files["JPEG"], np.float32)
    assert np.abs(pixels[:, :120]).max() < 8
    assert np.abs(pixels[:, 130:] - 250).max() < 8
