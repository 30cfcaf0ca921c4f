"""The few layers that a search leaves in floating point."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pictures
import pytest
from networks import export_tiny
from onnx import numpy_helper
from residuals import SIDE, residual_network

from edgeq.calibrate.samples import ImageSamples
from edgeq.calibrate.scales import Scales
from edgeq.calibrate.stage import calibrate
from edgeq.model.images.image_set import ImageSet
from edgeq.model.images.preprocess import Preprocess
from edgeq.pipeline.stages import Options, calibrate_graph, planned_tensors
from edgeq.plan.precision import Precision
from edgeq.plan.rules import float_additions, plan_classifier
from edgeq.quality.logits import LogitFigures
from edgeq.quantize.int8.pixels import pixel_input
from edgeq.quantize.int8.qdq import calibrated_tensors
from edgeq.quantize.int8.select import resolve
from edgeq.quantize.search.float_layers import FLOAT_LAYERS, MAX_MULTIPLICATIONS, try_float_layers, within_budget
from edgeq.quantize.search.sensitivity import LayerSensitivity, Sensitivity

BLOCKS = 12
PREPROCESS = Preprocess.from_flags((0.5,) * 3, (0.25,) * 3, (SIDE, SIDE))


def figures(error: float) -> LogitFigures:
    return LogitFigures(
        images=2, logit_error=error, logit_error_se=0.0, kl=0.0, kl_se=0.0, agreement=100.0, agreement_se=0.0
    )


def table(errors: dict[str, float]) -> Sensitivity:
    lines = (
        LayerSensitivity(
            layer=name,
            op="Conv",
            kind="convolution",
            parameters=1,
            bytes=4,
            alone=figures(error),
            released=figures(error),
            gain=0.0,
            gain_se=0.0,
        )
        for name, error in errors.items()
    )
    return Sensitivity(
        graph_sha256="",
        method="mse",
        weights="per-channel",
        worst_precision=0.1,
        precision=0.1,
        int8=figures(0.1),
        layers=tuple(lines),
    )


def test_layers_come_by_what_they_cost_for_each_multiplication_and_fit_the_budget() -> None:
    # squared error for each percent: 0.0016 / 4 = 0.0004, 0.0001 / 0.5 = 0.0002, 0.0009 / 1.0 = 0.0009, 0.04 / 60, ...
    shares = {"wide": 4.0, "stem": 0.5, "late": 1.0, "huge": 60.0, "next": 0.6}
    errors = {"wide": 0.04, "stem": 0.01, "late": 0.03, "huge": 0.2, "next": 0.001, "unknown": 0.9}
    order = within_budget(table(errors), shares)
    assert order == ("late", "wide")  # together all of the budget; what is left of it holds nothing else
    assert sum(shares[layer] for layer in order) == MAX_MULTIPLICATIONS
    assert within_budget(table({**errors, "wide": 0.001}), shares) == ("late", "stem", "next")


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Scales]:
    """A deep network whose first convolution has weights of very different sizes in one channel, and what is found."""
    directory = tmp_path_factory.mktemp("deep")
    model = residual_network(BLOCKS, branch=0.02)
    weight = next(value for value in model.graph.initializer if value.name == "stem.weight")
    values = numpy_helper.to_array(weight).copy()
    values[:, 0, 0, 0] *= 40.0  # the other weights of each channel are left few of its 255 steps
    weight.CopyFrom(numpy_helper.from_array(values, "stem.weight"))
    graph = directory / "graph.onnx"
    onnx.save(model, graph)
    images = ImageSet.open(pictures.draw_pictures(directory / "pictures", each=16))
    counted = images.sample(24)
    plan = float_additions(model, plan_classifier(model))
    samples = ImageSamples(counted, PREPROCESS)
    scales, _ = calibrate(graph, calibrated_tensors(model, plan), samples, threads=1)
    others = images.without(counted.items)
    held_back = [PREPROCESS(others.read(item))[np.newaxis] for item in others.items]
    found = try_float_layers(model, plan, scales, samples, held_back, pixels=pixel_input(PREPROCESS), threads=1)
    return graph, found


def test_the_layer_that_everything_goes_through_is_left_in_floating_point(searched: tuple[Path, Scales]) -> None:
    graph, found = searched
    # The stem multiplies 3 numbers where each of 24 convolutions multiplies 16: 3 in 3 + 384, but for the head's.
    assert found.float_layers == {"stem": pytest.approx(100.0 * 3 / 387, rel=0.01)}
    plan = resolve(plan_classifier(onnx.load(graph)), found, graph)
    precisions = {decision.layer: decision.precision for decision in plan.decisions}
    assert precisions["stem"] is Precision.FP16
    assert precisions["one0"] is Precision.INT8
    named = [trial for trial in found.trials if trial.method.endswith(FLOAT_LAYERS)]
    assert {trial.backend for trial in named} == {"onnxruntime", "tensorrt"}
    assert {trial.images for trial in named} == {24}
    assert Scales.model_validate_json(found.model_dump_json()) == found


def test_a_search_leaves_nothing_where_additions_were_settled(tmp_path: Path) -> None:
    images = ImageSet.open(pictures.draw_pictures(tmp_path / "pictures", each=12))
    graph, source = export_tiny(tmp_path, images)
    plan, samples = plan_classifier(onnx.load(graph)), ImageSamples(images, source.preprocess)
    told = {}
    for asked in (False, None):
        options = Options(method="search", float_adds=asked, shared_add=True, threads=1, weight_rounding="nearest")
        tensors = planned_tensors(graph, plan)
        scales, _ = calibrate_graph(graph, plan, tensors, samples, options.settled(), lambda *_: None)
        told[asked] = [trial.method for trial in scales.trials if "float" in trial.method]
        assert asked is None or not (scales.float_adds or scales.float_layers)
    assert told[False] == []
    assert told[None]
