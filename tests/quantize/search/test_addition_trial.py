"""Residual additions in floating point: what the graphs are then, and when a search takes that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pictures
import pytest
from numpy.typing import NDArray
from residuals import SIDE, residual_network

from edgeq.calibrate.samples import ImageSamples
from edgeq.calibrate.scales import Scales
from edgeq.calibrate.stage import calibrate
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.model.images.image_set import ImageSet
from edgeq.model.images.preprocess import Preprocess
from edgeq.plan.precision import PrecisionPlan
from edgeq.plan.rules import added_in_float, float_additions, left_in_float, plan_classifier
from edgeq.quantize.int8.base import Lowering
from edgeq.quantize.int8.qdq import calibrated_tensors, lower
from edgeq.quantize.int8.registry import USUAL
from edgeq.quantize.int8.select import resolve
from edgeq.quantize.int8.tensorrt import LOWERING as TENSORRT
from edgeq.quantize.search.addition_trial import try_float_additions
from edgeq.quantize.search.layer_search import keep_layers
from edgeq.quantize.search.range_search import FLOAT_ADDITIONS

BLOCKS = 12
PREPROCESS = Preprocess.from_flags((0.5,) * 3, (0.25,) * 3, (SIDE, SIDE))


class Network:
    """A graph's file, its plan, its scales, and pictures that these have not seen, float32 [1, 3, SIDE, SIDE] each."""

    def __init__(self, directory: Path, model: onnx.ModelProto) -> None:
        self.model, self.graph = model, directory / "graph.onnx"
        onnx.save(model, self.graph)
        images = ImageSet.open(pictures.draw_pictures(directory / "pictures", each=16))
        counted = images.sample(24)
        self.plan = plan_classifier(model, shared_add=False)
        tensors = calibrated_tensors(model, self.plan)
        self.scales, _ = calibrate(self.graph, tensors, ImageSamples(counted, PREPROCESS), threads=1)
        others = images.without(counted.items)
        self.held_back = [PREPROCESS(others.read(item))[np.newaxis] for item in others.items]

    def tried(self) -> Scales:
        return try_float_additions(self.model, self.plan, self.scales, self.held_back, threads=1)

    def error(self, plan: PrecisionPlan, lowering: Lowering) -> float:
        """||INT8 - FP32|| / ||FP32|| on what was held back."""
        int8 = lower(self.model, plan, self.scales, lowering)
        wanted = answers(self.model, self.held_back, integers=False)
        given = answers(int8, self.held_back, integers=lowering.integer_bias)
        return float(np.linalg.norm(given - wanted) / np.linalg.norm(wanted))


def answers(model: onnx.ModelProto, samples: list[NDArray[np.float32]], *, integers: bool) -> NDArray[np.float64]:
    engine = OnnxRuntimeEngine(model.SerializeToString(), threads=1, integers=integers)
    return np.concatenate([engine.run({"pixel_values": each})["logits"] for each in samples]).astype(np.float64)


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Network:
    return Network(tmp_path_factory.mktemp("deep"), residual_network(BLOCKS, branch=0.02))


def readers(model: onnx.ModelProto, tensor: str) -> set[str]:
    return {node.op_type for node in model.graph.node if tensor in node.input}


@pytest.mark.parametrize("lowering", [USUAL, TENSORRT], ids=lambda each: each.name)
def test_what_is_added_is_not_rounded(deep: Network, lowering: Lowering) -> None:
    floating = float_additions(deep.model, deep.plan)
    before, after = (lower(deep.model, plan, deep.scales, lowering) for plan in (deep.plan, floating))
    for block in range(BLOCKS - 1):  # the next block adds to it, and its convolution reads it in INT8
        assert readers(before, f"sum{block}") == {"QuantizeLinear"}
        assert readers(after, f"sum{block}") == {"QuantizeLinear", "Add"}
    weights = {node.name for node in after.graph.node if node.op_type == "Conv"}
    assert weights == {"stem", *(f"{name}{block}" for name in ("one", "two") for block in range(BLOCKS))}
    for node in after.graph.node:
        if node.name in weights:
            assert all(name.endswith(".dq") for name in node.input[:2])


def test_additions_behind_a_layer_in_floating_point_are_told_too(deep: Network) -> None:
    """What the first convolution writes is one side of each sum: none of them can be stored then."""
    every = tuple(f"add{block}" for block in range(BLOCKS))
    assert left_in_float(deep.plan, deep.plan) == ()
    assert left_in_float(deep.plan, keep_layers(deep.model, deep.plan, ["stem"])) == every
    both = keep_layers(deep.model, float_additions(deep.model, deep.plan), ["stem"])
    assert left_in_float(deep.plan, both) == added_in_float(both) == every


def test_every_convolution_has_an_integer_kernel(deep: Network, tmp_path: Path) -> None:
    floating = float_additions(deep.model, deep.plan)
    onnx.save(lower(deep.model, floating, deep.scales, USUAL), tmp_path / USUAL.file)
    USUAL.check(tmp_path / USUAL.file, floating)  # it raises where one runs in floating point


def test_a_search_takes_it_where_sums_are_most_of_the_error(deep: Network) -> None:
    found = deep.tried()
    floating = resolve(deep.plan, found, deep.graph)
    for lowering, trial in zip((USUAL, TENSORRT), found.trials[-2:], strict=True):
        assert trial.method == f"mse {FLOAT_ADDITIONS}"
        assert trial.backend == lowering.name
        assert trial.images == len(deep.held_back)
        assert trial.logit_error == pytest.approx(deep.error(floating, lowering), rel=1e-3)
        assert trial.logit_error < 0.9 * deep.error(deep.plan, lowering)
    assert found.float_adds
    assert {d.layer for d in floating.decisions if d.rule == "fp16-residual"} == {f"add{i}" for i in range(BLOCKS)}
    assert Scales.model_validate_json(found.model_dump_json()) == found


def test_a_search_leaves_it_where_sums_are_little_of_the_error(tmp_path: Path) -> None:
    """One block whose weights are far larger than what comes in: the error is that of the branch."""
    shallow = Network(tmp_path, residual_network(1, branch=30.0))
    found = shallow.tried()
    assert not found.float_adds
    assert len(found.trials) == 2
    assert resolve(shallow.plan, found, shallow.graph) is shallow.plan
    assert "float_adds" not in found.model_dump()


def test_without_an_addition_nothing_is_tried(tmp_path: Path) -> None:
    plain = Network(tmp_path, residual_network(0))
    assert plain.tried() is plain.scales
