"""A folder that fills: each image once, in order, atomically; what fails kept apart; a restart repeats nothing."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from PIL import Image
from running import picture

from edgeq.errors import EdgeqError, EngineError, InputError, OutputError
from edgeq.runtime.scheduler.errors import TooLargeError
from edgeq.service.routes.schemas import Class, ClassifyResponse
from edgeq.service.watch import ImageFailure, ImageReport, Watch
from edgeq.service.watch_inference import Seen

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


class Looker:
    """Names an image by the colour of its first pixel: simulated. What it saw is in `seen`."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []
        self.errors: dict[tuple[int, ...], EdgeqError] = {}

    def __call__(self, image: Image.Image) -> Seen:
        colour = image.getpixel((0, 0))
        assert isinstance(colour, tuple)
        self.seen.append(colour)
        if colour in self.errors:
            raise self.errors[colour]
        return ClassifyResponse(model="m", classes=(Class(index=colour[1], label=None, score=1.0),))


class Clock:
    """Seconds that stand still until they are moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def look() -> Looker:
    return Looker()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watch(tmp_path: Path, look: Looker, clock: Clock) -> Watch:
    return Watch(tmp_path, look, "m", clock, timeout=10)


def put(path: Path, data: bytes, second: int) -> Path:
    """A file with this time of change."""
    path.write_bytes(data)
    os.utime(path, (second, second))
    return path


def names(watch: Watch) -> list[str]:
    """What one look made, the failures in brackets."""
    return [f"({made.image})" if isinstance(made, ImageFailure) else made.image for made in watch.turn()]


def test_each_image_once_and_in_the_order_of_their_times(tmp_path: Path, watch: Watch, look: Looker) -> None:
    put(tmp_path / "b.png", picture(RED), 1)
    put(tmp_path / "a.png", picture(GREEN), 2)
    assert names(watch) == []  # seen for the first time
    assert watch.waiting == 2
    assert names(watch) == ["b.png", "a.png"]
    assert names(watch) == []
    assert watch.waiting == 0
    put(tmp_path / "c.PNG", picture(BLUE), 3)
    assert [names(watch), names(watch)] == [[], ["c.PNG"]]
    assert look.seen == [RED, GREEN, BLUE]


def test_a_report_names_its_image(tmp_path: Path, watch: Watch) -> None:
    image = put(tmp_path / "a.png", picture(GREEN), 5)
    names(watch)
    (made,) = watch.turn()
    report = ImageReport.load(tmp_path / "a.png.json")
    assert report == made
    assert (report.image, report.bytes, report.modified_ns) == ("a.png", image.stat().st_size, 5_000_000_000)
    assert report.sha256 == hashlib.sha256(image.read_bytes()).hexdigest()
    assert isinstance(report.seen, ClassifyResponse)
    assert report.seen.classes[0].index == 255
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.png.json"]


def test_a_restart_repeats_nothing(tmp_path: Path, watch: Watch, look: Looker, clock: Clock) -> None:
    put(tmp_path / "a.png", picture(GREEN), 1)
    names(watch)
    names(watch)
    put(tmp_path / "b.png", picture(RED), 2)
    again = Watch(tmp_path, look, "m", clock)
    assert [names(again), names(again)] == [[], ["b.png"]]
    assert look.seen == [GREEN, RED]


def test_another_image_of_the_same_name_is_looked_at(tmp_path: Path, watch: Watch, look: Looker, clock: Clock) -> None:
    for second, colour in ((1, GREEN), (2, RED)):
        put(tmp_path / "a.png", picture(colour), second)
        names(watch)
        assert names(watch) == ["a.png"]
    assert names(Watch(tmp_path, look, "m", clock)) == []
    assert look.seen == [GREEN, RED]


def test_a_report_by_somebody_else_is_replaced(tmp_path: Path, watch: Watch) -> None:
    put(tmp_path / "a.png", picture(GREEN), 1)
    (tmp_path / "a.png.json").write_text("{}")
    names(watch)
    assert names(watch) == ["a.png"]
    assert ImageReport.load(tmp_path / "a.png.json").image == "a.png"


def test_an_image_that_grows_is_waited_for_and_those_behind_it_too(tmp_path: Path, watch: Watch, look: Looker) -> None:
    whole = picture(RED, side=64)
    put(tmp_path / "a.png", whole[:50], 1)
    put(tmp_path / "b.png", picture(GREEN), 9)
    assert names(watch) == []
    put(tmp_path / "a.png", whole[:-40], 2)
    assert names(watch) == []  # it changed
    assert names(watch) == []  # it did not, and cannot be decoded yet
    put(tmp_path / "a.png", whole, 3)
    assert names(watch) == []
    assert names(watch) == ["a.png", "b.png"]
    assert look.seen == [RED, GREEN]


def test_what_stays_broken_is_kept_apart_with_the_reason(tmp_path: Path, watch: Watch, clock: Clock) -> None:
    broken = picture(RED, side=64)[:-40]
    put(tmp_path / "a.png", broken, 1)
    put(tmp_path / "b.png", picture(GREEN), 2)
    assert [names(watch), names(watch)] == [[], []]
    clock.now = 9.9
    assert names(watch) == []
    clock.now = 10
    assert names(watch) == ["(a.png)", "b.png"]
    assert (tmp_path / "failed" / "a.png").read_bytes() == broken
    assert "cannot be decoded" in ImageFailure.load(tmp_path / "failed" / "a.png.json").reason
    assert not (tmp_path / "a.png").exists()
    assert not (tmp_path / "a.png.json").exists()
    assert names(watch) == []


def test_a_second_failure_of_the_same_name_does_not_hide_the_first(tmp_path: Path, watch: Watch, clock: Clock) -> None:
    for second in (1, 2, 3):
        put(tmp_path / "a.png", bytes(second), second)
        names(watch)
        clock.now += 10
        assert names(watch) == ["(a.png)"]
    for name, size in (("a.png", 1), ("a-2.png", 2), ("a-3.png", 3)):
        assert (tmp_path / "failed" / name).stat().st_size == size
        assert ImageFailure.load(tmp_path / "failed" / f"{name}.json").bytes == size


@pytest.mark.parametrize("error", [EngineError("NaN on this image"), TooLargeError(9, 3)])
def test_an_image_that_the_model_fails_on(tmp_path: Path, watch: Watch, look: Looker, error: EdgeqError) -> None:
    look.errors[RED] = error
    put(tmp_path / "a.png", picture(RED), 1)
    put(tmp_path / "b.png", picture(GREEN), 2)
    names(watch)
    assert names(watch) == ["(a.png)", "b.png"]
    assert error.what in ImageFailure.load(tmp_path / "failed" / "a.png.json").reason


def test_a_question_that_cannot_be_asked_moves_no_image(tmp_path: Path, watch: Watch, look: Looker) -> None:
    look.errors[RED] = InputError("the question is too long")
    put(tmp_path / "a.png", picture(RED), 1)
    names(watch)
    with pytest.raises(InputError, match="too long"):
        names(watch)
    assert (tmp_path / "a.png").exists()


def test_what_is_no_image_is_left_alone(tmp_path: Path, watch: Watch) -> None:
    (tmp_path / "deeper").mkdir()
    put(tmp_path / "deeper" / "a.png", picture(), 1)
    put(tmp_path / ".a.png", picture(), 1)
    put(tmp_path / "notes.txt", b"a", 1)
    put(tmp_path / "a.png.partial", picture(), 1)
    (tmp_path / "link.png").symlink_to(tmp_path / ".a.png")
    (tmp_path / "dir.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    assert [names(watch), names(watch)] == [[], []]
    assert watch.waiting == 0


def test_an_image_that_is_taken_away(tmp_path: Path, watch: Watch) -> None:
    put(tmp_path / "a.png", picture(), 1)
    names(watch)
    (tmp_path / "a.png").unlink()
    assert names(watch) == []
    assert watch.waiting == 0


def test_a_report_that_cannot_be_written(tmp_path: Path, watch: Watch) -> None:
    put(tmp_path / "a.png", picture(), 1)
    (tmp_path / "a.png.json").mkdir()
    names(watch)
    with pytest.raises(OutputError, match=r"a\.png\.json"):
        names(watch)


def test_no_directory(tmp_path: Path, look: Looker, clock: Clock) -> None:
    with pytest.raises(InputError, match="is no directory"):
        Watch(tmp_path / "nowhere", look, "m", clock)
