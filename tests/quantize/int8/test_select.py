"""`auto`: what it tries, what it keeps, and that a held-back image is never counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import networks
import numpy as np
import onnx
import pictures
import pytest
from numpy.typing import NDArray

from edgeq.calibrate.samples import ImageSamples
from edgeq.calibrate.scales import Scales, TensorRange
from edgeq.calibrate.stage import calibrate, hold_back
from edgeq.calibrate.thresholds import METHODS
from edgeq.model.checkpoint.source import ModelSource
from edgeq.model.images.image_set import ImageSet
from edgeq.model.images.preprocess import Preprocess
from edgeq.pipeline.stages import planned_tensors
from edgeq.plan.precision import PrecisionPlan
from edgeq.plan.rules import plan_classifier
from edgeq.quantize.int8.select import _Trials, resolve, select, trials
from edgeq.quantize.int8.trial_graphs import Choice, Network


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    return ImageSet.open(pictures.draw_pictures(tmp_path / "pictures", each=16))


@pytest.fixture
def exported(tmp_path: Path, images: ImageSet) -> tuple[Path, ModelSource]:
    return networks.export_tiny(tmp_path, images)


def calibrated(graph: Path, source: ModelSource, images: ImageSet) -> tuple[PrecisionPlan, Scales]:
    scales, _ = calibrate(graph, planned_tensors(graph), ImageSamples(images, source.preprocess))
    return plan_classifier(onnx.load(graph)), scales


PREPROCESS = Preprocess.from_flags((0.5,) * 3, (0.5,) * 3, (16, 16))


def test_fewer_large_images_are_held_back(tmp_path: Path) -> None:
    many = ImageSet.open(pictures.draw_pictures(tmp_path / "many", each=100))
    for side, expected in ((16, 64), (96, 64), (128, 36), (224, 12), (512, 12)):
        _, held = hold_back(ImageSamples(many, Preprocess.from_flags((0.5,) * 3, (0.5,) * 3, (side, side))), "auto")
        assert held is not None
        assert len(held) == expected, side


def test_a_quarter_is_held_back_and_not_counted(images: ImageSet) -> None:
    counted, held = hold_back(ImageSamples(images, PREPROCESS), "auto")
    assert held is not None
    assert len(held) == len(images) // 4
    assert not {*counted.names} & {*held.names}
    assert len(counted) + len(held) == len(images)


def test_other_methods_and_small_sets_hold_nothing_back(images: ImageSet) -> None:
    assert hold_back(ImageSamples(images, PREPROCESS), "mse") == (ImageSamples(images, PREPROCESS), None)
    few = ImageSamples(images.sample(31), PREPROCESS)
    assert hold_back(few, "auto") == (few, None)


def test_the_choice_is_the_least_disturbing_trial(exported: tuple[Path, ModelSource], images: ImageSet) -> None:
    graph, source = exported
    counted, held = hold_back(ImageSamples(images, PREPROCESS), "auto")
    assert held is not None
    plan, scales = calibrated(graph, source, counted.images)
    pixels = [source.preprocess(held.images.read(item))[np.newaxis] for item in held.images.items]
    told: list[int] = []
    chosen = select(graph, plan, scales, source.preprocess, pixels, advance=told.append)
    assert len(chosen.trials) == len(told) == trials(None) == 2 * len(METHODS) + 1
    for backend in ("onnxruntime", "tensorrt"):
        tried = [trial for trial in chosen.trials if trial.backend == backend]
        assert {trial.method for trial in tried} == set(METHODS)
        won = [trial for trial in tried if trial.method == chosen.method_for(trial.backend)]
        # 3 % better than the one before it is what a method must be, so the winner may be that far from the least.
        assert min(t.logit_error for t in won) <= min(t.logit_error for t in tried) / 0.97
    seen = {trial.images for trial in chosen.trials if trial.method == chosen.method_for(trial.backend)}
    assert seen <= {len(held), -(-len(held) // 4)}
    usual = [trial for trial in chosen.trials if trial.backend == "onnxruntime"]
    assert {len(held)} == {trial.images for trial in usual if trial.method == chosen.method_for(trial.backend)}
    assert chosen.held_back == len(held)
    assert resolve(plan, chosen, graph).shared_add is chosen.shared_add
    assert Scales.model_validate_json(chosen.model_dump_json()) == chosen


def test_a_method_that_does_not_lead_on_a_quarter_leaves(exported: tuple[Path, ModelSource], images: ImageSet) -> None:
    graph, source = exported
    plan, scales = calibrated(graph, source, images)
    hopeless = {
        name: tensor.model_copy(update={"ranges": {**tensor.ranges, "entropy": narrowed(tensor.ranges["entropy"])}})
        for name, tensor in scales.tensors.items()
    }
    pixels = [source.preprocess(images.read(item))[np.newaxis] for item in images.items[:8]]
    chosen = select(graph, plan, scales.model_copy(update={"tensors": hopeless}), source.preprocess, pixels)
    left = [trial for trial in chosen.trials if trial.method == "entropy"]
    assert [trial.images for trial in left] == [2, 2]
    assert "entropy" not in chosen.chosen.values()


class OffBy:
    """A network of one number that is off by a known part."""

    inputs = ("x",)

    def __init__(self, part: float) -> None:
        self.part = part

    def run(self, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"y": given["x"] * np.float32(1.0 + self.part)}


def tried_images(*, first: float, others: float, whole: bool) -> list[int]:
    """How many of eight images each method was run on, where `mse` is off by one part and all others by another one."""

    class Graph:
        def made(self, choice: Any) -> Callable[[], Network]:
            off = first if choice.method == "mse" else others
            return lambda: Network(OffBy(off), lambda outputs: tuple(outputs.values()))  # type: ignore[arg-type]

    one = np.ones((1, 1), np.float32)
    with ThreadPoolExecutor(1) as samples, ThreadPoolExecutor(1) as opening:
        trials = _Trials(([one] * 8, [(one,)] * 8), samples, opening, None)
        best = trials.best_method(Graph(), Choice("onnxruntime", "mse", shared_add=False), whole=whole)  # type: ignore[arg-type]
    assert best.choice.method == "mse"
    return [len(trial.begun) for trial in trials.tried]


@pytest.mark.parametrize(("lead", "images"), [(0.010, 2), (0.020, 8)])
def test_a_lead_of_half_the_margin_is_needed_to_go_on(lead: float, images: int) -> None:
    """1 % nearer than the leader is too little, 2 % is enough; it is less than the 3 % that it takes to win."""
    assert tried_images(first=0.04, others=0.04 * (1.0 - lead), whole=True) == [8, images, images, images]


@pytest.mark.parametrize(
    ("first", "lead", "expected"),
    [(0.04, 0.010, [2, 2, 2, 2]), (0.04, 0.020, [8, 8, 8, 8]), (0.06, 0.010, [8, 2, 2, 2])],
    ids=["nobody comes near it", "another leads", "far from FP32"],
)
def test_a_leader_is_run_on_all_images_where_that_may_change_something(
    first: float, lead: float, expected: list[int]
) -> None:
    assert tried_images(first=first, others=first * (1.0 - lead), whole=False) == expected


def narrowed(kept: TensorRange) -> TensorRange:
    """A tenth of a range: nine tenths of every tensor's reach is clipped."""
    return TensorRange(amax=kept.amax / 10, low=kept.low / 10, high=kept.high / 10)


def test_what_is_settled_is_not_tried(exported: tuple[Path, ModelSource], images: ImageSet) -> None:
    graph, source = exported
    plan, scales = calibrated(graph, source, images)
    pixels = [source.preprocess(images.read(item))[np.newaxis] for item in images.items[:4]]
    chosen = select(graph, plan, scales, source.preprocess, pixels, shared_add=False)
    assert {trial.shared_add for trial in chosen.trials} == {False}
    assert chosen.shared_add is False
    assert len(chosen.trials) == trials(False)


def test_without_trials_the_plan_stays(exported: tuple[Path, ModelSource], images: ImageSet) -> None:
    graph, source = exported
    plan, scales = calibrated(graph, source, images)
    assert resolve(plan, scales, graph) is plan
    assert scales.method_for("tensorrt") == scales.method_for("onnxruntime") == "mse"


def test_the_worst_field_counts(exported: tuple[Path, ModelSource], images: ImageSet) -> None:
    """Boxes of hundreds of pixels beside scores below 1: as one number nothing would be seen of the scores."""
    graph, source = exported
    plan, scales = calibrated(graph, source, images)
    pixels = [source.preprocess(images.read(item))[np.newaxis] for item in images.items[:8]]

    def fields(outputs: Mapping[str, NDArray[np.float32]]) -> tuple[NDArray[np.float32], ...]:
        (logits,) = outputs.values()
        return 1e6 + 0.0 * logits, logits  # the first field is right whatever the method

    alone = select(graph, plan, scales, source.preprocess, pixels)
    both = select(graph, plan, scales, source.preprocess, pixels, fields=fields)
    assert both.chosen == alone.chosen
    assert [(trial.method, trial.images) for trial in both.trials] == [
        (trial.method, trial.images) for trial in alone.trials
    ]
    assert [trial.logit_error for trial in both.trials] == pytest.approx([trial.logit_error for trial in alone.trials])
    one = select(
        graph,
        plan,
        scales,
        source.preprocess,
        pixels,
        fields=lambda outputs: (np.concatenate(fields(outputs), axis=1),),
    )
    assert max(trial.logit_error for trial in one.trials) < 1e-5
