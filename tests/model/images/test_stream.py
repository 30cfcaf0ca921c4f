"""Streaming images as batches: order, bad images, and what is left behind."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeq.errors import ImageError, InputError
from edgeq.model.images.image_set import ImageItem, ImageSet
from edgeq.model.images.preprocess import Preprocess
from edgeq.model.images.stream import ImageStream

PLAIN = Preprocess(4, 4, resize=None, resample=2, center_crop=False, scale=1.0)


def make_images(root: Path, count: int, bad: tuple[int, ...] = ()) -> ImageSet:
    """Numbered 4x4 images whose pixels are their number; the bad ones are noise."""
    for number in range(count):
        file = root / f"{number:04}.png"
        if number in bad:
            file.write_bytes(b"not an image")
        else:
            Image.new("RGB", (4, 4), (number % 256,) * 3).save(file)
    return ImageSet.open(root)


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 1), (7, 2), (40, 3), (100, 5)])
def test_every_image_comes_once_and_in_order(tmp_path: Path, batch_size: int, workers: int) -> None:
    images = make_images(tmp_path, 40)
    stream = ImageStream(images, PLAIN, batch_size=batch_size, workers=workers)
    assert len(stream) == 40
    for _ in range(2):
        batches = list(stream)
        assert tuple(item for items, _ in batches for item in items) == images.items
        pixels = np.concatenate([pixels for _, pixels in batches])
        assert pixels.dtype == np.float32
        assert pixels.shape == (40, 3, 4, 4)
        np.testing.assert_array_equal(pixels[:, 0, 0, 0], np.arange(40))
        assert all(len(items) == batch_size for items, _ in batches[:-1])
    assert stream.skipped == ()


def test_bad_images_are_skipped_and_named_and_batches_stay_full(tmp_path: Path) -> None:
    images = make_images(tmp_path, 40, bad=(3, 30))
    stream = ImageStream(images, PLAIN, batch_size=19)
    sizes = [len(items) for items, _ in stream]
    assert sizes == [19, 19]
    assert [skipped.name for skipped in stream.skipped] == ["0003.png", "0030.png"]
    assert all("cannot be decoded" in skipped.reason for skipped in stream.skipped)
    list(stream)
    assert len(stream.skipped) == 2, "a second pass counts anew"


def test_more_than_a_twentieth_of_bad_images_is_an_error_naming_them(tmp_path: Path) -> None:
    stream = ImageStream(make_images(tmp_path, 40, bad=(3, 5, 9)), PLAIN, batch_size=1)
    seen: list[str] = []
    with pytest.raises(ImageError, match=r"3 of 40 images .* more than 5%") as caught:
        seen.extend(items[0].name for items, _ in stream)
    assert [cause[:8] for cause in caught.value.causes] == ["0003.png", "0005.png", "0009.png"]
    assert seen[-1] == "0008.png", "the error comes as soon as it is certain"


def test_all_bad_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot be used"):
        list(ImageStream(make_images(tmp_path, 3, bad=(0, 1, 2)), PLAIN, batch_size=2))


def test_images_of_the_wrong_size_are_refused_and_named(tmp_path: Path) -> None:
    preprocess = Preprocess(5, 5, resize=None, resample=2, center_crop=False, scale=1.0)
    with pytest.raises(ImageError) as caught:
        list(ImageStream(make_images(tmp_path, 3), preprocess, batch_size=2))
    assert "0000.png" in caught.value.causes[0]
    assert "4 x 4 pixels" in caught.value.causes[0]


def decoding_threads() -> int:
    """Worker threads which are alive."""
    return sum(thread.name.startswith("edgeq-decode") for thread in threading.enumerate())


def test_no_thread_outlives_a_stream_that_is_left_early(tmp_path: Path) -> None:
    batches = iter(ImageStream(make_images(tmp_path, 40), PLAIN, batch_size=2))
    next(batches)
    assert decoding_threads() > 0
    del batches
    assert decoding_threads() == 0


class Counted:
    """An image store that counts how many images are asked for."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images
        self.asked = 0

    def names(self) -> tuple[str, ...]:
        return tuple(item.name for item in self.images.items)

    def head(self, name: str, count: int) -> bytes:
        return self.read(name)[:count]

    def label(self, name: str) -> None:  # noqa: ARG002
        return None

    def read(self, name: str) -> bytes:
        self.asked += 1
        return (self.images.path / name).read_bytes()


def test_only_a_few_images_are_decoded_ahead(tmp_path: Path) -> None:
    images = make_images(tmp_path, 200)
    store = Counted(images)
    items = tuple(ImageItem(name, None) for name in store.names())
    batches = iter(ImageStream(ImageSet(tmp_path, items, 0, store), PLAIN, batch_size=2, workers=2))
    next(batches)
    assert store.asked <= 12
    del batches


@pytest.mark.parametrize(("batch_size", "workers"), [(0, 1), (1, 0), (-3, 2)])
def test_sizes_below_one_are_refused(tmp_path: Path, batch_size: int, workers: int) -> None:
    with pytest.raises(InputError, match="at least 1"):
        ImageStream(make_images(tmp_path, 1), PLAIN, batch_size=batch_size, workers=workers)


def test_singles_are_the_images_of_the_batches(tmp_path: Path) -> None:
    stream = ImageStream(make_images(tmp_path, 30, bad=(4,)), PLAIN, batch_size=7)
    batches = list(stream)
    singles = list(stream.singles())
    assert [item for item, _ in singles] == [item for items, _ in batches for item in items]
    assert {pixels.shape for _, pixels in singles} == {(1, 3, PLAIN.height, PLAIN.width)}
    np.testing.assert_array_equal(
        np.concatenate([pixels for _, pixels in singles]), np.concatenate([p for _, p in batches])
    )
    assert len(stream.skipped) == 1
