"""What a vision transformer's tensors hold: found, counted, judged and drawn."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from pictures import draw_pictures
from sketches import Node, sketch
from vits import BLOCKS, save_tiny_vit

from benchmarks.simulate.twin import TwinGelu, TwinSoftmax
from edgeq.calibrate.histogram import Histogram
from edgeq.calibrate.observe import with_outputs
from edgeq.calibrate.thresholds import asymmetric_range
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.errors import CalibrationError, ModelError
from edgeq.export.stage import FP32, export_model
from edgeq.model.checkpoint.source import ModelSource, open_model
from edgeq.model.images.image_set import ImageSet
from edgeq.pipeline.stages import parity_images
from edgeq.quantize.distributions.advice import Costs, Form, advise
from edgeq.quantize.distributions.channels import ChannelHistogram
from edgeq.quantize.distributions.chart import draw_distributions
from edgeq.quantize.distributions.measure import Distributions, measure_distributions
from edgeq.quantize.distributions.peaks import find_peaks
from edgeq.quantize.distributions.rounding import (
    folded_error,
    lost_share,
    twin_gelu_error,
    twin_softmax_error,
    uniform_error,
)
from edgeq.quantize.distributions.tensors import BlockTensor, find_tensors

ATTENTION: tuple[Node, ...] = (
    ("LayerNormalization", ("x", "w_gamma"), "before"),
    ("MatMul", ("before", "w_q"), "q"),
    ("MatMul", ("before", "w_k"), "key"),
    ("Transpose", ("key",), "k"),
    ("MatMul", ("before", "w_v"), "v"),
    ("MatMul", ("q", "k"), "scores"),
    ("Div", ("scores", "w_root"), "scaled"),
    ("Softmax", ("scaled",), "probabilities"),
    ("MatMul", ("probabilities", "v"), "mixed"),
    ("MatMul", ("mixed", "w_o"), "out"),
    ("Add", ("out", "x"), "y"),
)
FEED_FORWARD: tuple[Node, ...] = (
    ("LayerNormalization", ("y", "w_gamma"), "behind"),
    ("MatMul", ("behind", "w_1"), "first"),
    ("Erf", ("first",), "bent"),
    ("Add", ("bent", "w_one"), "raised"),
    ("Mul", ("first", "raised"), "gelu"),
    ("MatMul", ("gelu", "w_2"), "second"),
    ("Add", ("second", "y"), "z"),
    ("LayerNormalization", ("z", "w_gamma"), "last"),
    ("ReduceMean", ("last",), "pooled"),
)
IN_A_BLOCK = (
    BlockTensor("before", "LayerNorm", 0, foldable=True),
    BlockTensor("q", "query", 0),
    BlockTensor("k", "key", 0),
    BlockTensor("v", "value", 0),
    BlockTensor("probabilities", "softmax", 0),
    BlockTensor("behind", "LayerNorm", 0, foldable=True),
    BlockTensor("gelu", "GELU", 0),
    BlockTensor("last", "LayerNorm", None),
)


def test_the_tensors_of_a_block() -> None:
    assert find_tensors(sketch(*ATTENTION, *FEED_FORWARD, output="pooled")) == IN_A_BLOCK


def test_a_norm_that_a_residual_reads_cannot_be_folded() -> None:
    nodes = [("Add", ("out", "before"), "y") if node[2] == "y" else node for node in ATTENTION]
    found = find_tensors(sketch(*nodes, *FEED_FORWARD, output="pooled"))
    assert [tensor.foldable for tensor in found if tensor.role == "LayerNorm"] == [False, True, False]


def test_a_gated_product_is_no_gelu() -> None:
    gate: Node = ("MatMul", ("behind", "w_3"), "gate")
    nodes = [("Mul", ("gate", "raised"), "gelu") if node[2] == "gelu" else node for node in FEED_FORWARD]
    found = find_tensors(sketch(*ATTENTION, *nodes[:2], gate, *nodes[2:], output="pooled"))
    assert "GELU" not in {tensor.role for tensor in found}


def test_without_attention_there_is_nothing_to_show() -> None:
    head: tuple[Node, ...] = (("MatMul", ("x", "w_1"), "logits"), ("Softmax", ("logits",), "answers"))
    with pytest.raises(ModelError, match="no attention"):
        find_tensors(sketch(*head, output="answers"))


def test_ranges_of_channels() -> None:
    counted, plain = ChannelHistogram(), Histogram()
    for values in ([[1.0, -2.0], [3.0, 0.5]], [[-1.0, 0.0], [2.0, 4.0]]):
        image = np.array([values], np.float32)
        counted.add(image)
        plain.add(image)
    assert counted.lowest is not None
    assert counted.highest is not None
    assert (counted.lowest.tolist(), counted.highest.tolist()) == ([-1.0, -2.0], [3.0, 4.0])
    assert counted.digest() == plain.digest()
    with pytest.raises(CalibrationError):
        counted.add(np.array([[np.nan, 1.0]], np.float32))


def histogram_of(values: NDArray[np.float32]) -> Histogram:
    histogram = Histogram()
    for start in range(0, values.size, 10_000):  # fewer than are counted at once
        histogram.add(values[start : start + 10_000])
    return histogram


def relative(rounded: NDArray[np.float32], values: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(rounded - values) / np.linalg.norm(values))


@pytest.fixture(scope="module")
def softmax() -> NDArray[np.float32]:
    """Attention of 65 tokens, some of it certain."""
    scores = np.random.default_rng(0).normal(0.0, 5.0, (20, 65, 65))
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float32).ravel()


@pytest.fixture(scope="module")
def gelu() -> NDArray[np.float32]:
    drawn = torch.randn(60_000, generator=torch.Generator().manual_seed(0)) - 0.5
    activated: NDArray[np.float32] = torch.nn.functional.gelu(drawn).numpy()
    return activated


def test_the_cost_of_one_grid_is_that_of_rounding(softmax: NDArray[np.float32], gelu: NDArray[np.float32]) -> None:
    for values in (softmax, gelu):
        histogram = histogram_of(values)
        low, high = asymmetric_range(histogram, "mse")
        step = (high - low) / 255
        rounded = np.rint(np.clip(values, low, high) / step) * step
        assert uniform_error(histogram) == pytest.approx(relative(rounded, values), rel=0.05)


def test_the_cost_of_twins_is_that_of_rounding(softmax: NDArray[np.float32], gelu: NDArray[np.float32]) -> None:
    splits = [TwinSoftmax(2.0**-power, 8)(torch.from_numpy(softmax)).numpy() for power in range(1, 13)]
    best = min(relative(rounded, softmax) for rounded in splits)
    assert twin_softmax_error(histogram_of(softmax)) == pytest.approx(best, rel=0.05)
    low, high = asymmetric_range(histogram_of(gelu), "mse")
    rounded = TwinGelu(-low / 128, high / 127, 8)(torch.from_numpy(gelu)).numpy()
    assert twin_gelu_error(histogram_of(gelu)) == pytest.approx(relative(rounded, gelu), rel=0.05)


def test_the_cost_of_a_grid_for_each_channel() -> None:
    rng = np.random.default_rng(0)
    values = (rng.uniform(-1, 1, (4000, 3)) * (1.0, 1.0, 40.0)).astype(np.float32)
    histogram = histogram_of(values.ravel())
    steps = (values.max(axis=0) - values.min(axis=0)) / 255
    apart = relative(np.rint(values / steps) * steps, values)
    together = uniform_error(histogram)
    assert folded_error(histogram, values.min(axis=0), values.max(axis=0)) == pytest.approx(apart, rel=0.05)
    assert apart < together


def test_what_one_grid_makes_zero() -> None:
    # Half a step of 1 / 255 is 1 / 510 = 0.00196: three values of eight, and this much of the sum.
    small = 2.5 / 2048  # the middle of a bin: the range of the bins is 2 where the largest value is 1
    near_zero, lost = lost_share(histogram_of(np.array([1.0, 0.5, 0.1, 0.1, 0.1, small, small, small], np.float32)))
    assert near_zero == 3 / 8
    assert lost == pytest.approx(3 * small / (1.8 + 3 * small), rel=0.01)


def test_twin_peaks_are_found() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.exponential(0.02, 90_000).clip(max=0.9), rng.uniform(0.96, 1.0, 1000)])
    low, high = find_peaks(histogram_of(values.astype(np.float32)))
    assert low.position < 0.05
    assert high.position > 0.95
    assert high.share == pytest.approx(1 / 91, rel=0.02)
    assert low.share == pytest.approx(90 / 91, rel=0.02)


def test_the_peak_of_a_gelu_lies_where_it_turns() -> None:
    # Its derivative is zero at -0.7518, where it is -0.17: there values crowd, and at zero those far to the left.
    drawn = torch.randn(60_000, generator=torch.Generator().manual_seed(0)) * 2.5 - 2.0
    turn, zero = find_peaks(histogram_of(torch.nn.functional.gelu(drawn).numpy()))[:2]
    assert turn.position == pytest.approx(-0.17, abs=0.02)
    assert zero.position == pytest.approx(0.0, abs=0.03)


def test_noise_has_no_peaks_of_its_own() -> None:
    values = np.random.default_rng(0).normal(0.0, 1.0, 16_000).astype(np.float32)
    (only,) = find_peaks(histogram_of(values))
    assert abs(only.position) < 0.5
    assert only.share == pytest.approx(1.0)


def test_a_tensor_of_zeros_costs_nothing() -> None:
    zeros = histogram_of(np.zeros(9, np.float32))
    assert uniform_error(zeros) == twin_softmax_error(zeros) == twin_gelu_error(zeros) == 0.0
    assert folded_error(zeros, np.zeros(3, np.float32), np.zeros(3, np.float32)) == 0.0
    assert lost_share(zeros)[1] == 0.0
    assert len(find_peaks(zeros)) == 1


@pytest.mark.parametrize(
    ("tensor", "costs", "form", "figure"),
    [
        (BlockTensor("t", "value", 0), Costs(uniform=0.01), "INT8 per tensor", "uniform"),
        (BlockTensor("t", "query", 0), Costs(uniform=0.05), "float", "uniform"),
        (BlockTensor("t", "softmax", 0), Costs(uniform=0.01, twin=0.01, lost=0.001), "INT8 per tensor", "uniform"),
        (BlockTensor("t", "softmax", 0), Costs(uniform=0.01, twin=0.01, lost=0.2), "twin-uniform", "twin"),
        (BlockTensor("t", "softmax", 0), Costs(uniform=0.01, twin=0.03, lost=0.2), "float", "lost"),
        (BlockTensor("t", "GELU", 0), Costs(uniform=0.05, twin=0.01), "twin-uniform", "twin"),
        (BlockTensor("t", "GELU", 0), Costs(uniform=0.05, twin=0.03), "float", "uniform"),
        (
            BlockTensor("t", "LayerNorm", 0, foldable=True),
            Costs(uniform=0.05, folded=0.01),
            "INT8 after folding",
            "folded",
        ),
        (BlockTensor("t", "LayerNorm", 0), Costs(uniform=0.05, folded=0.01), "float", "uniform"),
        (BlockTensor("t", "LayerNorm", 0, foldable=True), Costs(uniform=0.05, folded=0.03), "float", "uniform"),
    ],
)
def test_advice(tensor: BlockTensor, costs: Costs, form: Form, figure: str) -> None:
    advice = advise(tensor, costs)
    assert (advice.form, advice.figure) == (form, figure)
    assert advice.value == getattr(costs, figure)
    assert f"{advice.value:.2%}" in advice.reason


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModelSource, ImageSet]:
    """A tiny ViT's FP32 graph, and pictures for it; not to be written to."""
    folder = tmp_path_factory.mktemp("vit")
    images = ImageSet.open(draw_pictures(folder / "pictures", each=4))
    source = open_model(save_tiny_vit(folder / "model"))
    export_model(source, folder, parity_images(images, source))
    return folder / FP32, source, images


@pytest.fixture(scope="module")
def measured(exported: tuple[Path, ModelSource, ImageSet]) -> Distributions:
    graph, source, images = exported
    return measure_distributions(graph, images, source.preprocess)[0]


def test_every_block_is_measured(measured: Distributions) -> None:
    assert (measured.blocks, measured.images) == (BLOCKS, 12)
    roles = ["LayerNorm", "query", "value", "key", "softmax", "LayerNorm", "GELU"]
    for block in range(BLOCKS):
        assert sorted(tensor.role for tensor in measured.of_block(block)) == sorted(roles)
    assert [tensor.role for tensor in measured.tensors if tensor.block is None] == ["LayerNorm"]


def test_figures_are_those_of_the_tensors(
    exported: tuple[Path, ModelSource, ImageSet], measured: Distributions
) -> None:
    graph, source, images = exported
    names = [tensor.tensor for tensor in measured.of_block(0)]
    engine = OnnxRuntimeEngine(with_outputs(onnx.load(graph), names).SerializeToString())
    pixels = parity_images(images, source)
    values = [engine.run({engine.inputs[0]: image[None]}, names) for image in pixels]
    for tensor in measured.of_block(0):
        seen = np.concatenate([value[tensor.tensor] for value in values])
        assert (tensor.minimum, tensor.maximum) == (float(seen.min()), float(seen.max()))
        assert tensor.negative == pytest.approx(float((seen < 0.0).mean()))
        if tensor.role == "softmax":
            assert tensor.near_one == pytest.approx(float((seen >= 0.9).mean()), abs=0.005)
            assert tensor.near_zero == pytest.approx(float((seen < seen.max() / 510).mean()), abs=0.05)
        if tensor.channels is not None:
            assert tensor.channels.lowest == tuple(seen.min(axis=(0, 1)).tolist())
            assert tensor.channels.highest == tuple(seen.max(axis=(0, 1)).tolist())
            ranges = seen.max(axis=(0, 1)) - seen.min(axis=(0, 1))
            assert tensor.channels.spread == pytest.approx(ranges.max() / np.median(ranges))


def test_the_artifact_is_read_back(measured: Distributions, tmp_path: Path) -> None:
    measured.save(tmp_path / "distributions.json")
    assert Distributions.load(tmp_path / "distributions.json") == measured


def test_the_same_distributions_give_the_same_chart(measured: Distributions, tmp_path: Path) -> None:
    for name in ("a", "b"):
        draw_distributions(measured, tmp_path / f"{name}.svg")
    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text()
    titles = re.findall(r"(softmax|GELU|LayerNorm|query|key|value): (?:INT8|twin|float)", text)
    assert len(titles) == 7 * BLOCKS
    assert f"block {BLOCKS - 1}" in text
    assert "spread" in text
