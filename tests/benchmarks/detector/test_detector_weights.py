"""The detector that lies in the repository is what its record says, on scenes that nobody has looked at."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.detector.export import WEIGHTS, WEIGHTS_FILE, load
from benchmarks.detector.scenes import EVALUATION_SEED
from benchmarks.detector.train import judged

UNSEEN_SEED = EVALUATION_SEED + 500_000
IMAGES = 60
SPREAD = 8.0
"""Three standard deviations of the mAP of 60 scenes: five such sets have 75.8, 79.6, 75.6, 72.4 and 75.2."""


def record() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((WEIGHTS / "training.json").read_text())
    return content


def test_the_file_is_small_enough_to_ship() -> None:
    assert (WEIGHTS / WEIGHTS_FILE).stat().st_size < 10_000_000


def test_it_finds_what_its_record_says() -> None:
    pytest.importorskip("pycocotools")
    found = judged(load(WEIGHTS), UNSEEN_SEED, IMAGES)
    assert found.map_reference == pytest.approx(record()["test"]["map"], abs=SPREAD)
