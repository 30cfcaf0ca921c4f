"""Films: every frame upright and in RGB, whatever its pixels; what lies, ends early or names other files."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from films import QUICK, draw_film, moving_square, patched_matrix
from PIL import Image

from edgeq.errors import EdgeqError, ImageError, InputError
from edgeq.frames import ffmpeg
from edgeq.frames.film import FilmSource
from edgeq.frames.looking import Looked, Looking, LookingOptions
from edgeq.frames.registry import names_frames, open_source

ALL = LookingOptions(keep_all=True)
RED, WHITE = (255, 0, 0), (255, 255, 255)


def looked(film: Path, options: LookingOptions = ALL) -> list[Looked[Image.Image]]:
    """Each frame of a film, and its image as the answer."""
    source = open_source(str(film))
    source.check()
    return list(Looking(source, lambda image: image, options, pytest.fail))


def near(found: object, wanted: tuple[int, int, int], within: int = 40) -> bool:
    """Whether a colour is one, but for what a codec does to it."""
    assert isinstance(found, tuple)
    return all(abs(one - other) <= within for one, other in zip(found, wanted, strict=True))


def test_every_frame_in_order_with_its_time(tmp_path: Path) -> None:
    draw_film(tmp_path / "a.mkv", 20, rate=10)
    found = looked(tmp_path / "a.mkv")
    assert [one.number for one in found] == [*range(20)]
    assert [one.seconds for one in found] == pytest.approx([number / 10 for number in range(20)], abs=0.001)
    assert [one.dropped for one in found] == [0] * 20
    assert isinstance(found[7].answer, Image.Image)
    assert found[7].answer.mode == "RGB"
    assert near(found[7].answer.getpixel((7 * 2 + 6, 30)), WHITE)
    assert near(found[7].answer.getpixel((4, 4)), RED)


@pytest.mark.parametrize(
    ("codec", "pixels", "size"),
    [
        ("ffv1", "gray", (64, 48)),
        ("ffv1", "gray10le", (63, 47)),
        ("ffv1", "yuv444p", (63, 47)),
        ("ffv1", "yuv422p10le", (64, 48)),
        ("ffv1", "bgra", (63, 47)),
        ("mjpeg", "yuvj420p", (64, 48)),
    ],
)
def test_other_pixels(tmp_path: Path, codec: str, pixels: str, size: tuple[int, int]) -> None:
    film = tmp_path / "a.mkv"
    draw_film(film, [moving_square(0, size)] * 2, codec=codec, pixels=pixels)
    image = looked(film)[0].answer
    assert isinstance(image, Image.Image)
    assert (image.mode, image.size) == ("RGB", size)
    assert near(image.getpixel((4, 30)), WHITE)
    assert near(image.getpixel((50, 8)), (90, 90, 90), within=10)
    corner = (76, 76, 76) if pixels.startswith("gray") else RED  # ITU-R BT.601: red is 0.299 of white
    assert near(image.getpixel((4, 4)), corner)


@pytest.mark.parametrize(
    ("matrix", "place"),
    [
        ((0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30), (43, 4)),  # clockwise: left above comes right above
        ((-1 << 16, 0, 0, 0, -1 << 16, 0, 0, 0, 1 << 30), (59, 43)),
        ((0, -1 << 16, 0, 1 << 16, 0, 0, 0, 0, 1 << 30), (4, 59)),
    ],
)
def test_a_film_that_was_turned(tmp_path: Path, matrix: tuple[int, ...], place: tuple[int, int]) -> None:
    draw_film(tmp_path / "a.mp4", 3)
    patched_matrix(tmp_path / "a.mp4", matrix)
    image = looked(tmp_path / "a.mp4")[0].answer
    assert isinstance(image, Image.Image)
    assert image.size == ((64, 48) if matrix[0] else (48, 64))
    assert near(image.getpixel(place), RED)


def test_pixels_that_are_not_square(tmp_path: Path) -> None:
    draw_film(tmp_path / "a.mkv", 3, options={"aspect": "2:1"})  # of a pixel
    image = looked(tmp_path / "a.mkv")[0].answer
    assert isinstance(image, Image.Image)
    assert image.size == (64, 24)


@pytest.mark.parametrize(("fps", "numbers"), [(2, [0, 5, 10, 15]), (3, [0, 4, 7, 10, 14, 17]), (100, [*range(20)])])
def test_a_frame_rate(tmp_path: Path, fps: float, numbers: list[int]) -> None:
    draw_film(tmp_path / "a.mkv", 20, rate=10)
    assert [one.number for one in looked(tmp_path / "a.mkv", LookingOptions(fps=fps, keep_all=True))] == numbers


def test_timestamps_that_jump(tmp_path: Path) -> None:
    """A frame rate goes by them; a gap is no reason to take more, and each frame is there once."""
    times = [0, 100, 200, 90_000, 90_100, 90_200, 900_000, 900_050]
    draw_film(tmp_path / "a.mkv", 8, at=times.__getitem__)
    assert [one.number for one in looked(tmp_path / "a.mkv")] == [*range(8)]
    assert [one.number for one in looked(tmp_path / "a.mkv", LookingOptions(fps=5, keep_all=True))] == [0, 2, 3, 5, 6]


def test_an_end_after_so_many(tmp_path: Path) -> None:
    draw_film(tmp_path / "a.mkv", 20)
    assert len(looked(tmp_path / "a.mkv", LookingOptions(frames=3, keep_all=True))) == 3


def test_a_film_that_was_cut_off(tmp_path: Path) -> None:
    """What is there is looked at."""
    draw_film(tmp_path / "whole.mkv", 30, codec="mjpeg", pixels="yuvj420p")
    whole = (tmp_path / "whole.mkv").read_bytes()
    (tmp_path / "a.mkv").write_bytes(whole[: len(whole) // 2])
    assert 5 < len(looked(tmp_path / "a.mkv")) < 25


def test_pieces_that_cannot_be_decoded(tmp_path: Path) -> None:
    film = tmp_path / "a.mkv"
    draw_film(film, 10, codec="mjpeg", pixels="yuvj420p")
    data = bytearray(film.read_bytes())
    begin = data.index(b"\xff\xd8\xff", data.index(b"\xff\xd8\xff") + 1)
    size = data.index(b"\xff\xd9", begin) - begin
    data[begin : begin + size] = bytes(size)
    film.write_bytes(data)
    looking = Looking(open_source(str(film)), lambda image: image.size, ALL, pytest.fail)
    assert len(list(looking)) == 9
    assert looking.counts.damaged == 1


def larger(film: Path) -> None:
    """Each picture of motion JPEG says that it has 1.6 billion pixels."""
    draw_film(film, 3, codec="mjpeg", pixels="yuvj420p")
    film.write_bytes(film.read_bytes().replace(struct.pack(">HH", 48, 64), struct.pack(">HH", 40_000, 40_000)))


def test_frames_that_grow_beyond_the_bound_are_not_decoded(tmp_path: Path) -> None:
    larger(tmp_path / "a.mkv")
    with pytest.raises(ImageError, match="no frame that can be decoded"):
        looked(tmp_path / "a.mkv")


def test_frames_that_are_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_film(tmp_path / "a.mkv", [moving_square(0, (640, 480))] * 3)
    monkeypatch.setattr(ffmpeg, "MAX_FRAME_PIXELS", 640 * 480)
    assert len(looked(tmp_path / "a.mkv")) == 3
    monkeypatch.setattr(ffmpeg, "MAX_FRAME_PIXELS", 640 * 480 - 1)
    with pytest.raises(ImageError, match="too large: 640 x 480"):
        FilmSource(tmp_path / "a.mkv").check()


def no_moov(path: Path) -> None:
    draw_film(path, 30)
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moov")])


def no_frames(path: Path) -> None:
    path.write_bytes(b"YUV4MPEG2 W64 H48 F30:1 C420\n")


def sound(path: Path) -> None:
    import av

    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame(format="s16", layout="mono", samples=800)
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))


def playlist(path: Path) -> None:
    draw_film(path.with_name("secret.ts"), 5, format="mpegts", codec="libx264", options=QUICK)
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9,\nsecret.ts\n#EXT-X-ENDLIST\n")


def concatenation(path: Path) -> None:
    path.write_text("ffconcat version 1.0\nfile /etc/passwd\n")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (no_moov, "cannot be opened as a film"),
        (no_frames, "no frame that can be decoded"),
        (sound, "has no video"),
        (playlist, "cannot be opened as a film"),
        (concatenation, "cannot be opened as a film"),
        (lambda path: path.write_bytes(b""), "cannot be opened as a film"),
        (lambda path: path.write_bytes(os.urandom(5000)), "cannot be opened as a film"),
        (os.mkfifo, "it is a named pipe"),
    ],
)
def test_what_is_no_film(tmp_path: Path, make: object, told: str) -> None:
    assert callable(make)
    make(tmp_path / "a.mp4")
    with pytest.raises(InputError, match=told):
        looked(tmp_path / "a.mp4")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="No such file") as caught:
        open_source(str(tmp_path / "a.mp4")).check()
    assert caught.value.passing


def test_a_name_that_ffmpeg_would_take_for_a_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw_film(Path("concat:a.mkv").absolute(), 3, format="matroska")
    assert len(looked(Path("concat:a.mkv"))) == 3


def test_an_error_of_one_frame_is_its_answer(tmp_path: Path) -> None:
    draw_film(tmp_path / "a.mkv", 3)
    calls = iter((ImageError("no"), InputError("never")))

    def look(_image: Image.Image) -> str:
        raise next(calls)

    looking = iter(Looking(open_source(str(tmp_path / "a.mkv")), look, ALL, pytest.fail))
    assert isinstance(next(looking).answer, EdgeqError)
    with pytest.raises(InputError, match="never"):
        next(looking)


def test_in_real_time_the_newest_is_looked_at(tmp_path: Path) -> None:
    """Who looks waits until the film has gone on: the next frame is not the next one in the file."""
    draw_film(tmp_path / "a.mkv", 20, rate=100)
    looking: Looking[int] = Looking(
        FilmSource(tmp_path / "a.mkv", real_time=True), lambda _image: ended(looking), LookingOptions(), pytest.fail
    )

    def ended(looking: Looking[int]) -> int:
        looking._reader._thread.join(10)
        return 0

    found = list(looking)
    assert [one.number for one in found] == [0, 19]
    assert found[1].dropped == looking.counts.dropped == 18
    assert (looking.counts.seen, looking.counts.answered) == (20, 2)
    assert found[0].latency >= 0.19  # it arrived at 0, and was held until the last had come


@pytest.mark.parametrize(
    ("text", "frames"),
    [
        ("a.mp4", True),
        ("a.MOV", True),
        ("a.jpg", False),
        ("a", False),
        ("rtsp://h/a.jpg", True),
        ("gopher://h/a", True),
        ("/dev/video0", True),
        ("videotestsrc ! video/x-raw", True),
    ],
)
def test_images_are_told_from_sources(text: str, frames: bool) -> None:
    assert names_frames(text) is frames


def test_what_is_no_source() -> None:
    with pytest.raises(InputError, match="gopher://h/a is no source") as caught:
        open_source("gopher://me:secret@h/a")
    assert "secret" not in str(caught.value)
