"""The search for each tensor's own range."""

from __future__ import annotations

from pathlib import Path

import blocks
import numpy as np
import onnx
import pictures
import pytest
from numpy.typing import NDArray

from edgeq.calibrate.samples import ImageSamples
from edgeq.calibrate.scales import Scales
from edgeq.calibrate.stage import calibrate
from edgeq.model.images.image_set import ImageSet
from edgeq.model.images.preprocess import Preprocess
from edgeq.plan.precision import PrecisionPlan
from edgeq.plan.rules import plan_classifier
from edgeq.quality.logits import judge_answers
from edgeq.quantize.int8.qdq import calibrated_tensors, lower
from edgeq.quantize.int8.registry import USUAL
from edgeq.quantize.search.range_search import PARTS, SEARCHED, clipped, search_ranges
from edgeq.quantize.search.sweep import together

PREPROCESS = Preprocess.from_flags((0.5,) * 3, (0.25,) * 3, (blocks.SIDE, blocks.SIDE))


def test_a_part_of_the_largest_magnitude_clips_both_sides() -> None:
    kept = clipped(-1.0, 4.0, 0.5)
    assert (kept.low, kept.high, kept.amax) == (-1.0, 2.0, 2.0)
    kept = clipped(-0.17, 8.0, 0.01)
    assert (kept.low, kept.high) == (-0.08, 0.08)
    assert clipped(1.0, 2.0, 1.0).low == 0.0  # zero is always in the range


def calibrated(directory: Path, model: onnx.ModelProto) -> tuple[PrecisionPlan, Scales, list[NDArray[np.float32]]]:
    """Plan, min-max scales, and 48 images, of which the first 16 were counted."""
    graph = directory / "graph.onnx"
    onnx.save(model, graph)
    images = ImageSet.open(pictures.draw_pictures(directory / "pictures", each=16))
    counted = images.sample(16)
    plan = plan_classifier(model)
    scales, _ = calibrate(
        graph, calibrated_tensors(model, plan), ImageSamples(counted, PREPROCESS), method="minmax", threads=1
    )
    others = images.without(counted.items)
    pixels = [PREPROCESS(each.read(item))[np.newaxis] for each in (counted, others) for item in each.items]
    return plan, scales, pixels


def widened(scales: Scales, by: float) -> Scales:
    """Ranges that many times too wide."""
    tensors = {}
    for name, scale in scales.tensors.items():
        kept = scale.ranges["minmax"]
        wide = kept.model_copy(update={"amax": kept.amax * by, "low": kept.low * by, "high": kept.high * by})
        tensors[name] = scale.model_copy(update={"ranges": {"minmax": wide}})
    return scales.model_copy(update={"tensors": tensors})


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return blocks.transformer(layers=1)


def error(model: onnx.ModelProto, plan: PrecisionPlan, scales: Scales, images: NDArray[np.float32]) -> float:
    int8 = lower(model, plan, scales, USUAL)
    return judge_answers(blocks.run(model, images), blocks.run(int8, images), None).figures().logit_error


def test_ranges_that_are_too_wide_are_brought_back(tmp_path: Path, model: onnx.ModelProto) -> None:
    plan, scales, images = calibrated(tmp_path, model)
    wide = widened(scales, 12.0)
    told: list[int] = []
    found = search_ranges(model, plan, wide, images[:24], images[24:], threads=1, advance=told.append)
    assert found.chosen["onnxruntime"] == SEARCHED
    before, after = found.trials[-2:]
    assert (before.method, after.method, after.images) == ("minmax", SEARCHED, 24)
    assert before.logit_error == pytest.approx(error(model, plan, wide, np.concatenate(images[24:])), rel=1e-3)
    assert after.logit_error == pytest.approx(error(model, plan, found, np.concatenate(images[24:])), rel=1e-3)
    assert after.logit_error < 0.5 * before.logit_error
    changed = {name for name, scale in found.tensors.items() if scale.ranges[SEARCHED] != scale.ranges["minmax"]}
    assert changed
    for name in changed:
        scale = found.tensors[name]
        assert scale.ranges[SEARCHED] in [clipped(scale.minimum, scale.maximum, part) for part in PARTS]
    assert len(told) % (1 + len(PARTS)) == 0
    assert set(told) == {24}


def test_what_does_not_help_the_whole_network_is_not_in_force(
    tmp_path: Path, model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, scales, images = calibrated(tmp_path, model)
    monkeypatch.setattr("edgeq.quantize.search.range_search._is_better", lambda *_: True)
    monkeypatch.setattr("edgeq.quantize.search.range_search.PARTS", (0.02,))
    found = search_ranges(model, plan, scales, images[:8], images[8:16], threads=1)
    before, after = found.trials[-2:]
    assert after.logit_error > before.logit_error  # a fiftieth of every range is a bad choice
    assert found.method_for("onnxruntime") == "minmax"
    assert found.range_of("0.before", "onnxruntime") == scales.range_of("0.before", "onnxruntime")


def test_less_than_chance_is_no_reason(tmp_path: Path, model: onnx.ModelProto) -> None:
    plan, scales, images = calibrated(tmp_path, model)
    found = search_ranges(model, plan, scales, images[:1] * 2, images[8:16], threads=1)
    # Two images alike differ by nothing, so their gains are sure: this is what makes the two tests differ.
    one_sided = search_ranges(model, plan, scales, images[:2], images[8:16], threads=1)

    def changes(scales: Scales) -> int:
        return sum(scale.ranges[SEARCHED] != scale.ranges["minmax"] for scale in scales.tensors.values())

    assert changes(one_sided) < changes(found)


def test_samples_of_one_shape_are_batched_together() -> None:
    lengths = [5, 3, *[5] * 16, 3]
    samples = [np.full((1, length), place) for place, length in enumerate(lengths)]
    batches = together(samples)
    assert [batch.shape for batch in batches] == [(2, 3), (16, 5), (1, 5)]
    assert batches[0][:, 0].tolist() == [1, 18]
    alike = [np.full((1, 2), place) for place in range(20)]
    np.testing.assert_array_equal(np.concatenate(together(alike)), np.concatenate(alike))
