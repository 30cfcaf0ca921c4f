"""What a text encoder may cost a search without anybody having said what is right."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from edgeq.errors import EngineError
from edgeq.quality.tasks.first_images import FirstImages, compare_first_images
from edgeq.quantize.search.layer_search import Search, SearchStep

IMAGES = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
TEXTS = np.array([[0.8, 0.6], [0.6, 0.8]], np.float32)
MOVED = np.array([[0.6, 0.8], [0.0, 3.0]], np.float32)
"""The first text finds the other image, the second the same one as before."""

LOST = 100.0 * (1.0 - math.exp(-5.0 * (0.8 - 0.6)))


def test_another_first_image_costs_what_the_reference_thinks_of_it() -> None:
    found = compare_first_images(TEXTS, MOVED, IMAGES, 5.0)
    assert (found.captions, found.images, found.same_first) == (2, 2, 50.0)
    assert found.expected_drop == pytest.approx(LOST / 2, rel=1e-5)
    assert found.standard_error == pytest.approx(LOST / 2, rel=1e-5)  # deviation LOST / sqrt(2), of two captions
    assert found.cosine_mean == pytest.approx((0.96 + 0.8) / 2, rel=1e-5)
    assert found.cosine_worst == pytest.approx(0.8, rel=1e-5)
    headline = found.headline()
    assert (headline.drop, headline.agreement, headline.labelled) == (found.expected_drop, 50.0, False)


def test_images_that_the_reference_cannot_tell_apart_cost_nothing() -> None:
    between = np.array([[1.0, 1.0]], np.float32)
    found = compare_first_images(between, np.array([[0.0, 1.0]], np.float32), IMAGES, 100.0)
    assert (found.same_first, found.standard_error) == (0.0, None)
    assert found.expected_drop == pytest.approx(0.0, abs=1e-6)


def test_equal_texts_lose_nothing_whatever_their_length() -> None:
    found = compare_first_images(TEXTS, 7 * TEXTS, IMAGES, 100.0)
    assert (found.same_first, found.expected_drop, found.standard_error) == (100.0, 0.0, 0.0)


def test_no_number_is_no_embedding() -> None:
    with pytest.raises(EngineError, match="NaN"):
        compare_first_images(TEXTS, np.full_like(TEXTS, np.nan), IMAGES, 5.0)


def test_a_search_by_them_is_read_back(tmp_path: Path) -> None:
    step = SearchStep(kept=(), share=1.0, figures=compare_first_images(TEXTS, MOVED, IMAGES, 5.0), speedup=None)
    made = Search(max_drop=0.1, max_unseen_drop=0.3, max_share=50.0, min_speedup=None, steps=(step,), chosen=None)
    made.save(tmp_path / "search.json")
    read = Search.load(tmp_path / "search.json")
    assert read == made
    assert isinstance(read.steps[0].figures, FirstImages)
