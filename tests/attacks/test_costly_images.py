"""Pictures made to keep a decoder busy: decoded in a child, which is killed; the next picture is decoded."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator

import pytest
from PIL import Image

from benchmarks.attack_inputs import many_scans
from edgeq.confined.limits import Limits
from edgeq.confined.pool import Pool
from edgeq.errors import ImageError
from edgeq.model.images.confined_decode import DECODER, ConfinedDecoder, decode_limits
from edgeq.model.images.decode import MAX_PIXELS, decode_image
from edgeq.service.settings import ServiceSettings


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    pool = Pool(1, [DECODER])
    yield pool
    pool.close()


def picture(colour: tuple[int, int, int] = (200, 10, 10), side: int = 8, kind: str = "PNG") -> bytes:
    """An encoded picture of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(file, kind)
    return file.getvalue()


def brief(pixels: int) -> Limits:
    """A hundredth of a second, whatever the size."""
    return Limits(0.01, decode_limits(pixels).memory_bytes, answer_bytes=3 * pixels)


def scanty(pixels: int) -> Limits:
    """Less memory than the pixels take."""
    return Limits(20, pixels, answer_bytes=3 * pixels)


def test_a_picture_of_many_scans_is_killed_and_the_next_one_is_decoded(pool: Pool) -> None:
    with pytest.raises(ImageError, match=r"the image took more than 0\.01 s: refused"):
        ConfinedDecoder(pool, brief).decode(many_scans(100, (3000, 3000)), "the image")
    decoded = ConfinedDecoder(pool).decode(picture(), "the image")
    assert (decoded.mode, decoded.size, decoded.getpixel((0, 0))) == ("RGB", (8, 8), (200, 10, 10))


def test_a_picture_that_takes_more_memory_than_its_size_needs_is_refused(pool: Pool) -> None:
    with pytest.raises(ImageError, match="the image took more than 4 MB: refused"):
        ConfinedDecoder(pool, scanty).decode(picture(side=2000), "the image")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("size", [(31, 17), (640, 479)])
def test_the_pixels_are_those_of_this_process(pool: Pool, kind: str, size: tuple[int, int]) -> None:
    data = picture((1, 2, 200), side=16, kind=kind) if size == (31, 17) else noisy(size, kind)
    decoded, expected = ConfinedDecoder(pool).decode(data, "it"), decode_image(data, "it")
    assert (decoded.mode, decoded.size) == (expected.mode, expected.size)
    assert decoded.tobytes() == expected.tobytes()


def test_a_picture_with_everything_fits_in_what_its_size_allows(pool: Pool) -> None:
    """Transparent, on its side and of a size at which the least allowance does not matter."""
    file = io.BytesIO()
    Image.new("RGBA", (3000, 2000), (9, 8, 7, 255)).save(
        file, "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    )
    decoded = ConfinedDecoder(pool, lambda pixels: Limits(60, 24 * pixels, answer_bytes=3 * pixels)).decode(
        file.getvalue(), "it"
    )
    assert (decoded.size, decoded.getpixel((0, 0))) == ((2000, 3000), (9, 8, 7))


def test_the_largest_picture_ends_within_what_a_service_has_after_sigterm() -> None:
    assert decode_limits(MAX_PIXELS).seconds < ServiceSettings().drain_seconds


def test_a_busy_machine_has_longer_than_the_processor_works() -> None:
    for pixels in (1, MAX_PIXELS):
        limits = decode_limits(pixels)
        assert limits.cpu_seconds is not None
        assert limits.seconds >= limits.cpu_seconds + 8.0


def test_a_damaged_picture_keeps_its_words(pool: Pool) -> None:
    with pytest.raises(ImageError, match="the image cannot be decoded"):
        ConfinedDecoder(pool).decode(picture(side=300)[:-40], "the image")


def test_a_picture_that_is_decoded_while_the_service_ends_holds_nothing_up() -> None:
    pool, raised = Pool(1, [DECODER]), []
    decoder = ConfinedDecoder(pool, lambda pixels: Limits(600, 1 << 30, answer_bytes=3 * pixels))
    decoder.decode(picture(), "it")  # it is there
    slow = many_scans(100, (3000, 3000))

    def decode() -> None:
        try:
            decoder.decode(slow, "it")
        except ImageError as error:
            raised.append(error.what)

    thread = threading.Thread(target=decode)
    thread.start()
    pool.close()
    thread.join(20)
    assert not thread.is_alive()
    assert len(raised) == 1
    assert "the process ends" in raised[0]


def noisy(size: tuple[int, int], kind: str) -> bytes:
    """A picture with something in each of its corners."""
    file = io.BytesIO()
    Image.effect_noise(size, 80).convert("RGB").save(file, kind)
    return file.getvalue()
