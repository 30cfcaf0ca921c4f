"""The benchmark of drawn text: its drawings, tiles, features over a digit, probe and arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, GotOcr2ImageProcessorPil

from benchmarks import fine_text
from benchmarks.fine_text import Counts, least_height, measure, name_digits
from benchmarks.fine_text_signs import CAPS, SIDE, TILE, Box, Sign, compressed, draw, shifted
from benchmarks.fine_text_tower import at_digit, cut, demo_tower, show
from edgeq.demo.vlm.story import VLM_WEIGHTS

SIGN = Sign(digit=8, height=24, rotation=0, contrast=1.0, seed=3)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The probe's steps are so small that threads which wait for each other cost more than all of them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pixels(sign: Sign) -> NDArray[np.int64]:
    return np.asarray(draw(sign)[0], np.int64)


def changed(one: Sign, other: Sign) -> Box:
    """The box around the pixels in which two signs differ."""
    rows, columns = np.nonzero((pixels(one) != pixels(other)).any(axis=-1))
    return Box(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def within(inner: Box, outer: Box) -> bool:
    return (
        outer.left <= inner.left
        and outer.top <= inner.top
        and inner.right <= outer.right
        and inner.bottom <= outer.bottom
    )


def test_the_same_sign_is_the_same_picture_and_another_seed_another() -> None:
    assert (pixels(SIGN) == pixels(SIGN)).all()
    assert (pixels(SIGN) != pixels(replace(SIGN, seed=4))).any()


@pytest.mark.parametrize("rotation", [0, 30, -30])
@pytest.mark.parametrize("height", [6, 17, 48])
def test_two_digits_differ_within_their_box_alone(height: int, rotation: int) -> None:
    for seed in range(10):
        four = Sign(4, height, rotation, 1.0, seed)
        assert within(changed(four, replace(four, digit=7)), draw(four)[1])


@pytest.mark.parametrize("height", [12, 48])
def test_a_digit_is_as_high_as_it_says(height: int) -> None:
    """Seen against the same surface without it; a row may be lost or won at either end by where it lies."""
    box = changed(replace(SIGN, height=height), replace(SIGN, height=height, contrast=0))
    assert abs(box.bottom - box.top - height) <= 1


def test_a_fifth_of_the_contrast_is_a_fifth_of_the_difference() -> None:
    """The surface is drawn alike, so that the digit's strongest pixel says it, but for rounding."""
    bare = pixels(replace(SIGN, contrast=0))
    full, faint = (np.abs(pixels(replace(SIGN, contrast=c)) - bare).max() for c in (1.0, 0.2))
    assert full > 80
    assert faint == pytest.approx(full / 5, abs=1.5)


def test_a_shift_moves_every_column_and_jpeg_changes_little() -> None:
    image, _ = draw(SIGN)
    before = np.asarray(image, np.int64)
    assert (np.asarray(shifted(image))[:, 1:] == before[:, :-1]).all()
    after = np.asarray(compressed(image), np.int64)
    assert 0 < np.abs(after - before).mean() < 4


@pytest.mark.parametrize("cap", CAPS)
def test_tiles_are_those_of_internvl_in_rows_before_the_picture_of_the_whole(cap: int) -> None:
    """At the full number of tiles each is a piece of the image, pixel for pixel."""
    image, _ = draw(SIGN)
    processor = GotOcr2ImageProcessorPil(size={"height": TILE, "width": TILE}, crop_to_patches=True, max_patches=cap)
    assert processor(image)["num_patches"] == [cap + (cap > 1)]
    tiles = cut(image, cap)
    assert tiles.shape == (cap, 3, TILE, TILE)
    if cap == 16:
        piece = np.asarray(image.crop((2 * TILE, TILE, 3 * TILE, 2 * TILE)), np.float32).transpose(2, 0, 1)
        assert tiles[6] == pytest.approx((piece / 255 - 0.5) / 0.25, abs=1e-5)


def test_tiles_that_a_box_touches_are_shown_and_no_others() -> None:
    """A box over columns 60 to 70 and rows 130 to 140: tiles 8 and 9 of sixteen, tile 2 of four."""
    image, _ = draw(SIGN)
    sixteen = show(image, Box(60, 130, 70, 140), 16)
    assert (sixteen.pictures == cut(image, 16)[[8, 9]]).all()
    assert (sixteen.rows, sixteen.columns) == (1, 2)
    assert (sixteen.left, sixteen.right) == pytest.approx((60 / 128, 70 / 128))
    assert (sixteen.top, sixteen.bottom) == pytest.approx((2 / 64, 12 / 64))
    four = show(image, Box(60, 130, 70, 140), 4)
    assert (four.pictures == cut(image, 4)[[2]]).all()
    assert (four.left, four.top) == pytest.approx((60 / 128, 2 / 128))


def patch_colours(pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A tower that gives the mean colour of each patch of 8 x 8 pixels, and twice that behind its connector."""
    colours = torch.nn.functional.avg_pool2d(pictures, 8).flatten(2).transpose(1, 2)
    return colours, 2 * colours


@pytest.mark.parametrize("cap", CAPS)
def test_features_over_a_digit_are_read_where_it_is(cap: int) -> None:
    """On an image whose red grows from left to right and whose green grows downward, colours tell the place.

    So it is across the border of tiles, too, which the box is on. Away from the image's edges interpolation between
    patches is exact.
    """
    ramp = np.tile(np.arange(SIDE, dtype=np.uint8), (SIDE, 1))
    image = Image.fromarray(np.stack([ramp, ramp.T, np.zeros_like(ramp)], axis=-1))
    box = Box(100, 52, 140, 92)
    features, behind = at_digit(patch_colours, [show(image, box, cap)])
    values = (features[0] * 0.25 + 0.5) * 255
    points = [(row, column) for row in (57, 67, 77, 87) for column in (105, 115, 125, 135)]
    assert values[:, 0].tolist() == pytest.approx([column - 0.5 for _, column in points], abs=1)
    assert values[:, 1].tolist() == pytest.approx([row - 0.5 for row, _ in points], abs=1)
    assert torch.equal(behind, 2 * features)


def test_the_probe_names_what_can_be_told_and_guesses_the_rest() -> None:
    generator = torch.Generator().manual_seed(0)
    digits = torch.arange(400) % 10
    noise = torch.randn(400, 30, generator=generator)
    clear = noise.clone()
    clear[:, :10] += 6 * torch.nn.functional.one_hot(digits, 10)
    assert (name_digits(clear[:200], digits[:200], clear[200:]) == digits[200:]).float().mean() > 0.97
    assert (name_digits(noise[:200], digits[:200], noise[200:]) == digits[200:]).float().mean() < 0.25


@pytest.mark.parametrize(
    ("shares", "least"),
    [
        ({6: 0.1, 12: 0.8, 24: 0.9}, 12),
        ({6: 0.9, 12: 0.79, 24: 0.9}, 24),
        ({6: 0.9, 12: 0.9, 24: 0.79}, None),
    ],
)
def test_a_height_is_read_if_every_larger_one_is(shares: dict[int, float], least: int | None) -> None:
    assert least_height(shares, 0.8) == least


def test_a_whole_turn(capsys: pytest.CaptureFixture[str]) -> None:
    """Every rotation and contrast is there once for each cap; a large digit tells more than a pixel's shift."""
    readings, changes = measure(patch_colours, [48], Counts(train=3, test=2, pairs=1))
    cells = len(fine_text._ROTATIONS) * len(fine_text._CONTRASTS)
    assert len(readings) == cells * len(CAPS) * 2
    assert len(changes) == cells * len(CAPS)
    assert {one.signs for one in readings} == {2}
    assert all(one.digit > one.shift > 0 for one in changes if one.contrast == 1 and one.cap == 1)
    fine_text._print(readings, changes)
    assert capsys.readouterr().out.count("\n| 48 |") == 3


def test_the_tower_is_the_vision_half_of_the_demo() -> None:
    """A picture of the whole through the demo's own processor and model, and as the benchmark has it."""
    image, _ = draw(SIGN)
    model = AutoModelForImageTextToText.from_pretrained(VLM_WEIGHTS, dtype=torch.float32)
    given = AutoProcessor.from_pretrained(VLM_WEIGHTS).image_processor(image, return_tensors="pt")["pixel_values"]
    assert given.numpy() == pytest.approx(cut(image, 1), abs=1e-5)
    with torch.no_grad():
        (expected,) = model.get_image_features(given).pooler_output
        assert torch.allclose(demo_tower()(given)[1], expected.reshape(1, 64, -1), atol=1e-5)
