"""Classes by logits, and by what is a softmax already."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeq.model.images.preprocess import Preprocess
from edgeq.runtime.vision_graph import ClassScore, VisionModel, rank_classes


class Saying:
    """An engine that gives the same for every image."""

    inputs: tuple[str, ...] = ("pixel_values",)
    outputs: tuple[str, ...] = ("answer",)

    def __init__(self, *values: float) -> None:
        self._values = np.array([values], np.float32)

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        assert (set(feeds), outputs) == ({"pixel_values"}, ("answer",))
        return {"answer": self._values}


def ranked(engine: Saying, *, shares: bool) -> tuple[ClassScore, ...]:
    model = VisionModel(
        engine, None, Preprocess(4, 4, resize=(4, 4), resample=2, center_crop=False, scale=1.0), shares=shares
    )
    return rank_classes(model.run(np.zeros((3, 4, 4), np.float32)), ("no", "yes"), 2)


def test_logits_become_shares() -> None:
    first, second = ranked(Saying(0.0, 1.0), shares=False)
    assert (first.label, second.label) == ("yes", "no")
    assert first.score == pytest.approx(math.e / (1 + math.e))
    assert first.score + second.score == pytest.approx(1.0)


@pytest.mark.parametrize("p", [0.99, 1.0])
def test_shares_stay_what_they_are(p: float) -> None:
    """A softmax over them would make 0.73 of 0.99 and 0.01."""
    first, second = ranked(Saying(1 - p, p), shares=True)
    assert (first.label, second.label) == ("yes", "no")
    assert [first.score, second.score] == pytest.approx([p, 1 - p], abs=1e-6)
