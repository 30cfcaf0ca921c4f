"""A turned scene is the picture turned, and its place goes with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the torch extra is not installed")

from edgeq.demo.scenes import SIZE
from edgeq.demo.vlm.pool import Pool, draw_pool, turned, turned_place
from edgeq.demo.vlm.report import PLACES, DefectFinding
from edgeq.demo.vlm.scenes import draw_finding

CELLS = np.arange(12).reshape(3, 4)


def test_turns_are_mirrors_and_their_products() -> None:
    assert turned(CELLS, 0).tolist() == CELLS.tolist()
    assert turned(CELLS, 1).tolist() == np.fliplr(CELLS).tolist()
    assert turned(CELLS, 2).tolist() == np.flipud(CELLS).tolist()
    assert turned(CELLS, 3).tolist() == np.rot90(CELLS, 2).tolist()
    assert turned(CELLS, 4).tolist() == CELLS.T.tolist()
    assert turned(CELLS, 5).tolist() == np.rot90(CELLS).tolist()


@pytest.mark.parametrize("turn", range(8))
def test_a_place_goes_where_its_pixels_go(turn: int) -> None:
    for index, place in enumerate(PLACES):
        row, column = divmod(index, 3)
        picture = np.zeros((9, 9))
        picture[3 * row + 1, 3 * column + 1] = 1
        (then,) = np.argwhere(turned(picture, turn))
        assert turned_place(place, turn) == PLACES[3 * (then[0] // 3) + then[1] // 3]


def test_a_sample_holds_pictures_of_the_pool_with_their_places() -> None:
    """One bright pixel at the top left of a black picture tells where a turn has put it."""
    pixels = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    pixels[0, 1, 1] = 255
    views = Pool(pixels, (DefectFinding("shadow", "top left"),)).sample(40, np.random.default_rng(0))
    assert views.pixels.shape == (40, 3, SIZE, SIZE)
    for picture, finding in zip(views.pixels.numpy(), views.findings, strict=True):
        row, column = np.argwhere(picture[0] > 0)[0]
        expected = f"{'top' if row < SIZE / 2 else 'bottom'} {'left' if column < SIZE / 2 else 'right'}"
        assert finding == DefectFinding("shadow", expected)
    assert len({finding.place for finding in views.findings}) == 4


def test_the_same_seed_gives_the_same_batch() -> None:
    pool = draw_pool(0, 10, workers=1)
    one, two, other = (pool.sample(8, np.random.default_rng(seed)) for seed in ((5, 1), (5, 1), (5, 2)))
    assert one.findings == two.findings
    assert one.pixels.equal(two.pixels)
    assert not one.pixels.equal(other.pixels)


def test_classes_are_the_indices_of_the_fields_and_minus_100_where_there_is_none() -> None:
    findings = (
        DefectFinding("sound"),
        DefectFinding("shadow", "top"),
        DefectFinding("wide_crack", "bottom right", "severe"),
    )
    views = Pool(np.zeros((3, SIZE, SIZE, 3), np.uint8), findings).views(0, 3)
    assert [classes.tolist() for classes in views.classes()] == [[3, 2, 5], [-100, 1, 8], [-100, -100, 2]]


def test_a_pool_is_the_scenes_of_its_seeds_and_kept_in_its_file(tmp_path: Path) -> None:
    cache = tmp_path / "work" / "scenes.npy"
    drawn = draw_pool(7, 5, workers=1, cache=cache)
    image, finding = draw_finding(9)
    assert drawn.findings[2] == finding
    assert drawn.pixels[2].tobytes() == image.tobytes()
    np.save(cache, np.zeros_like(drawn.pixels))
    assert draw_pool(7, 5, workers=1, cache=cache).pixels.max() == 0, "the file is not drawn again"
    assert draw_pool(7, 6, workers=1, cache=cache).pixels[2].tobytes() == image.tobytes(), "one of another length is"
