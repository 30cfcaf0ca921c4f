"""Scenes are the same for the same seed, different for others, and arrive as a whole ZIP or not at all."""

from __future__ import annotations

import io
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgeq.demo import scenes
from edgeq.demo.scenes import (
    CALIBRATION_SEED,
    EVALUATION_SEED,
    KINDS,
    SEED_RANGE,
    SIZE,
    TRAIN_SEED,
    draw_scene,
    write_scenes,
)
from edgeq.errors import InputError, OutputError


def pixels(kind: str, seed: int) -> NDArray[np.float64]:
    return np.asarray(draw_scene(kind, seed), np.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_an_rgb_photograph_of_the_stated_size(kind: str) -> None:
    scene = draw_scene(kind, 7)
    assert (scene.mode, scene.size) == ("RGB", (SIZE, SIZE))
    assert np.asarray(scene).std() > 2, "a photograph is not one flat colour"


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_draws_the_same_bytes(kind: str) -> None:
    assert draw_scene(kind, 11).tobytes() == draw_scene(kind, 11).tobytes()


def test_every_kind_and_seed_draws_another_picture() -> None:
    drawn = {draw_scene(kind, start + index).tobytes() for kind in KINDS for start in STARTS for index in range(5)}
    assert len(drawn) == len(KINDS) * len(STARTS) * 5


STARTS = (TRAIN_SEED, CALIBRATION_SEED, EVALUATION_SEED)


def test_the_seed_ranges_of_training_calibration_and_evaluation_do_not_meet() -> None:
    ranges = [range(start, start + SEED_RANGE) for start in sorted(STARTS)]
    assert all(before.stop <= after.start for before, after in pairwise(ranges))


def test_kinds_are_in_the_order_of_a_sorted_listing() -> None:
    assert list(KINDS) == sorted(KINDS)


def test_corrosion_is_redder_than_sound_and_a_wide_crack_darker_than_a_hairline() -> None:
    def redness(kind: str) -> float:
        return float(np.mean([(scene[..., 0] - scene[..., 2]).max() for scene in (pixels(kind, n) for n in range(30))]))

    def darkest(kind: str) -> float:
        return float(np.mean([np.percentile(pixels(kind, n), 1) / pixels(kind, n).mean() for n in range(30)]))

    assert redness("corrosion") > redness("sound") + 20
    assert darkest("wide_crack") < darkest("hairline_crack") - 0.1


def test_an_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(InputError, match="'graffiti'") as caught:
        draw_scene("graffiti", 0)
    assert all(kind in str(caught.value) for kind in KINDS)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(InputError, match="-1"):
        draw_scene("sound", -1)


def test_the_zip_holds_every_kind_in_its_own_folder(tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes.zip", per_kind=2, seed=CALIBRATION_SEED)
    with zipfile.ZipFile(tmp_path / "scenes.zip") as archive:
        assert archive.namelist() == [f"{kind}/{index:05d}.png" for kind in KINDS for index in range(2)]
        assert archive.testzip() is None
        stored = Image.open(io.BytesIO(archive.read("shadow/00001.png")))
        assert stored.tobytes() == draw_scene("shadow", CALIBRATION_SEED + 1).tobytes()


def test_the_same_scenes_make_the_same_zip(tmp_path: Path) -> None:
    for name in ("one.zip", "two.zip"):
        write_scenes(tmp_path / name, per_kind=1, seed=3)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


def test_an_interrupted_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "scenes.zip"
    target.write_bytes(b"earlier")

    def interrupted(kind: str, seed: int) -> Image.Image:
        if kind == KINDS[3]:
            raise KeyboardInterrupt
        return draw_scene(kind, seed)

    monkeypatch.setattr(scenes, "draw_scene", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_scenes(target, per_kind=1, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["scenes.zip"]
    assert target.read_bytes() == b"earlier"


def test_a_missing_folder_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"nowhere.scenes\.zip cannot be written"):
        write_scenes(tmp_path / "nowhere" / "scenes.zip", per_kind=1, seed=0)


def test_a_folder_in_place_of_the_zip_is_an_output_error_and_leaves_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "scenes.zip").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        write_scenes(tmp_path / "scenes.zip", per_kind=1, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["scenes.zip"]


@pytest.mark.parametrize("per_kind", [0, -3, SEED_RANGE + 1])
def test_a_number_of_scenes_out_of_range_is_refused(tmp_path: Path, per_kind: int) -> None:
    with pytest.raises(InputError, match=str(per_kind)):
        write_scenes(tmp_path / "scenes.zip", per_kind=per_kind, seed=0)
    assert not list(tmp_path.iterdir())
