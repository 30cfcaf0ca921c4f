"""One graph for many choices: it must compute, to the bit, what each choice's own graph does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import networks
import numpy as np
import onnx
import pictures
import pytest
from numpy.typing import NDArray

from edgeq.calibrate.samples import ImageSamples
from edgeq.calibrate.scales import TensorRange
from edgeq.calibrate.stage import calibrate
from edgeq.calibrate.thresholds import METHODS
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.model.images.image_set import ImageSet
from edgeq.pipeline.stages import planned_tensors
from edgeq.plan.rules import plan_classifier
from edgeq.quantize.int8.pixels import pixel_input
from edgeq.quantize.int8.qdq import lower
from edgeq.quantize.int8.registry import USUAL
from edgeq.quantize.int8.trial_graphs import Choice, Tryable, UnsignedGraph
from edgeq.quantize.search.layer_search import keep_layers

CHOICES = [Choice(USUAL.name, method, shared_add=shared) for shared in (False, True) for method in METHODS]

Image = NDArray[np.float32]


def every_output(outputs: Mapping[str, Image]) -> tuple[Image, ...]:
    return tuple(outputs.values())


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tryable, Image]:
    """The tiny network, calibrated, and one of its images."""
    directory: Path = tmp_path_factory.mktemp("tried")
    images = ImageSet.open(pictures.draw_pictures(directory / "pictures"))
    graph, source = networks.export_tiny(directory, images)
    scales, _ = calibrate(graph, planned_tensors(graph), ImageSamples(images, source.preprocess))
    model = onnx.load(graph)
    made = Tryable(model, plan_classifier(model), scales, 1, every_output, pixel_input(source.preprocess))
    return made, source.preprocess(images.read(images.items[0]))[np.newaxis]


def answer(tried: Tryable, choice: Choice, image: Image) -> Image:
    """Of the choice's graph, lowered and opened by itself."""
    plan, scales = tried.of(choice)
    engine = OnnxRuntimeEngine(lower(tried.model, plan, scales, USUAL, pixels=tried.pixels).SerializeToString())
    (logits,) = engine.run({engine.inputs[0]: image}).values()
    return logits


def tried_choices(tried: Tryable, image: Image) -> frozenset[Choice]:
    """Those that need no graph of their own; all are held against one."""
    graph, answers = UnsignedGraph(tried, CHOICES), set()
    for choice in CHOICES:
        (logits,) = graph.made(choice)()(image)
        np.testing.assert_array_equal(logits, answer(tried, choice, image), strict=True)
        answers.add(logits.tobytes())
    assert len(answers) > 1  # choices differ
    return graph.together


def test_one_graph_serves_every_choice(tried: tuple[Tryable, Image]) -> None:
    assert tried_choices(*tried) == {*CHOICES}


def test_a_choice_that_changes_weights_has_its_own_graph(tried: tuple[Tryable, Image]) -> None:
    """Where activations are tiny, a bias in INT32 makes the weights' scales coarser."""
    made, image = tried
    tensors = {
        name: tensor.model_copy(update={"ranges": {**tensor.ranges, "entropy": tiny(tensor.ranges["entropy"])}})
        for name, tensor in made.scales.tensors.items()
    }
    changed = replace(made, scales=made.scales.model_copy(update={"tensors": tensors}))
    assert tried_choices(changed, image) == {choice for choice in CHOICES if choice.method != "entropy"}


def test_where_fusing_computes_a_constant_each_choice_has_its_own_graph(tried: tuple[Tryable, Image]) -> None:
    """A convolution in floating point gets its weights in ONNX Runtime's own layout: they are new."""
    made, image = tried
    plan = keep_layers(made.model, made.plan, ("pointwise",))
    assert tried_choices(replace(made, plan=plan), image) == frozenset()


def tiny(kept: TensorRange) -> TensorRange:
    return TensorRange(amax=kept.amax * 1e-12, low=kept.low * 1e-12, high=kept.high * 1e-12)
