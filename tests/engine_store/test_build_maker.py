"""What TensorRT is given to calibrate with, under the real bindings of both releases; its builder is simulated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import draw_pictures
from PIL import Image
from tensorrt_bindings import VERSIONS, run_bindings

CASES = Path(__file__).with_name("maker_cases.py")
BATCH, SIDE = 4, 4  # as in maker_cases.py and simulated.py
PICTURES = 9


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of the network's own size: preprocessing does not resize them."""
    return draw_pictures(tmp_path_factory.mktemp("drawn") / "pictures", each=PICTURES // 3, side=SIDE)


@pytest.fixture(scope="module", params=VERSIONS)
def made(request: pytest.FixtureRequest, drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run_bindings(request.param, CASES, str(tmp_path_factory.mktemp("made")), str(drawn))


def test_the_bundles_ranges_come_under_the_header_of_the_release(made: Any) -> None:
    major, minor, patch = map(int, made["release"].split(".")[:3])
    header = f"TRT-{major * 10_000 + minor * 100 + patch}-EntropyCalibration2"
    assert made["cache"]["cache"] == f"{header}\npixels: 3f000000\n"  # 0.5 as float32
    assert (made["cache"]["is_one"], made["cache"]["means"]) == (True, [])
    assert (made["cache"]["ranges"], made["images"]["ranges"]) == ({"pixels": 63.5}, None)  # 127 steps of 0.5
    assert made["cache"]["release"] == f"{major}.{minor}.{patch}"


def test_images_come_preprocessed_in_batches_of_the_usual_size(made: Any, drawn: Path) -> None:
    found = made["images"]
    assert (found["cache"], found["bytes"]) == ("", BATCH * 3 * SIDE * SIDE * 4)
    files = sorted(drawn.rglob("*.jpg"))
    expected = [_mean(files[start : start + BATCH]) for start in (0, BATCH)]  # the ninth does not fill a batch
    assert found["means"] == pytest.approx(expected, abs=1e-5)


def test_on_the_explicit_road_nothing_is_calibrated(made: Any) -> None:
    assert made["none"] == {"graph": "model.fp32.onnx", "release": made["cache"]["release"], "calibration": "none"}


def test_the_devices_memory_is_given_back(made: Any) -> None:
    assert made["left"] == 0


def _mean(files: list[Path]) -> float:
    """Of (pixel / 255 - 0.5) / 0.25, the preprocessing in simulated.py."""
    return float(np.mean([(np.asarray(Image.open(file), np.float64) / 255 - 0.5) / 0.25 for file in files]))
