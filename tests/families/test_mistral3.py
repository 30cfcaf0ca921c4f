"""Mistral 3: what an image costs, how its rows are written, and the graph of its encoder, against transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image
from traced_vision import computed, drawn_weights, in_half, traced
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil
from whole_vlms import WHOLE

from edgeq.errors import ExportError, InputError
from edgeq.families.base import FEATURES, PIXELS, Arrays, Config, Given, Layout, VisionGraph
from edgeq.families.modules import VlmDescription, read_vlm
from edgeq.families.registry import cap, exportable, image_cost, runnable
from edgeq.model.graph.element_types import unfit_layers
from edgeq.plan.precision import Precision
from edgeq.plan.rules import plan_vision

PUBLISHED = {"size": {"longest_edge": 1540}, "patch_size": {"height": 14, "width": 14}}
"""Of Mistral-Small-3.1-24B-Instruct-2503; a token is 28 x 28 pixels."""
SIZES = (
    *((1, 1), (28, 28), (29, 28), (42, 70), (480, 640), (1080, 1920)),
    *((1540, 1540), (1541, 1000), (2999, 2001), (30, 2500), (2500, 50)),
)
"""Heights and widths in pixels."""
PROMPT = runnable("mistral3")

GRIDS = ((1, 1), (3, 4), (6, 2), (1, 9), (5, 5))
"""Rows and columns of tokens."""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> VlmDescription:
    """A small one with the published patches and processor."""
    directory = tmp_path_factory.mktemp("mistral3")
    WHOLE["mistral3"].config().save_pretrained(directory)
    return replace(read_vlm(directory), preprocessor=PUBLISHED)


def processed(model: VlmDescription, size: tuple[int, int]) -> Given:
    """What the real image processor makes of an image of that height and width."""
    processor = PixtralImageProcessorPil.from_dict(dict(model.preprocessor))
    image = Image.new("RGB", (size[1], size[0]))
    given: Given = processor(images=image, return_tensors="np", **PROMPT.processing(model.config))
    return given


@pytest.mark.parametrize("size", SIZES)
def test_as_its_processor_counts(published: VlmDescription, size: tuple[int, int]) -> None:
    given, cost = processed(published, size), image_cost(published, size)
    height, width = given["image_sizes"][0]
    assert (height % 28, width % 28) == (0, 0), "whole tokens, and not only whole patches"
    assert (cost.tokens, cost.markers) == (height // 28 * width // 28, height // 28)
    layout = PROMPT.layout(given, published.config)
    assert layout == Layout(cost.tokens, 1, cost.sequence, (height // 28, width // 28))
    feeds = exportable("mistral3", published.vision).feeds(given, published.config)
    assert {name: (len(array), str(array.dtype)) for name, array in feeds.items()} == {
        PIXELS: (height // 14 * width // 14, "float32"),
        "positions": (height // 14 * width // 14, "int64"),
    }


def test_an_image_that_is_shrunk_to_nothing(published: VlmDescription) -> None:
    assert image_cost(published, (1, 1540)).tokens == 55
    with pytest.raises(InputError, match="an image of 1 x 1541 pixels is too narrow"):
        image_cost(published, (1, 1541))
    with pytest.raises(ValueError, match="height=0"):
        processed(published, (1, 1541))


@pytest.mark.parametrize("most", [784, 28 * 28 * 4 - 1, 28 * 28 * 4, 640 * 480, 10**9])
def test_no_more_pixels_than_that(published: VlmDescription, most: int) -> None:
    bounded = cap(published, {"pixels": most})
    for size in SIZES[:-2]:
        given = processed(bounded, size)
        assert given[PIXELS].size // 3 <= min(most, 1540**2)
        assert image_cost(bounded, size).tokens == PROMPT.layout(given, bounded.config).tokens
    square = processed(bounded, (1540, 1540))[PIXELS].size // 3
    side = min(int(most**0.5), 1540) // 28 * 28
    assert square == side * side, "and not fewer than need be"


def test_less_than_a_token_is_refused(published: VlmDescription) -> None:
    with pytest.raises(InputError, match="at most 783 pixels: one token has 784"):
        cap(published, {"pixels": 783})


def test_rows_are_written_with_breaks() -> None:
    assert PROMPT.places("*", Layout(6, 1, 24, (2, 3))) == "***[IMG_BREAK]***[IMG_END]"
    assert PROMPT.places("*", Layout(3, 1, 12, (3, 1))) == "*[IMG_BREAK]*[IMG_BREAK]*[IMG_END]"
    assert PROMPT.places("*", Layout(2, 1, 8, (1, 2))) == "**[IMG_END]"


@cache
def whole(layer: int | tuple[int, ...] = -1) -> Any:
    """A tiny model whose features are those of a layer."""
    config = WHOLE["mistral3"].config()
    config.vision_feature_layer = list(layer) if isinstance(layer, tuple) else layer
    return drawn_weights(transformers.AutoModelForImageTextToText.from_config(config, attn_implementation="eager"))


def config_of(layer: int | tuple[int, ...] = -1) -> Config:
    found: Config = whole(layer).config.to_dict()
    return found


def drawn(grid: tuple[int, int]) -> Given:
    """What the image processor gives for an image of so many tokens."""
    height, width = 28 * grid[0], 28 * grid[1]
    pixels = np.random.default_rng(grid).normal(size=(1, 3, height, width))
    return {PIXELS: pixels.astype(np.float32), "image_sizes": np.array([[height, width]])}


def feeds(grid: tuple[int, int]) -> Arrays:
    return exportable("mistral3", config_of()["vision_config"]).feeds(drawn(grid), config_of())


@cache
def exported(layer: int | tuple[int, ...] = -1, grid: tuple[int, int] = (2, 3)) -> onnx.ModelProto:
    model, graph = whole(layer).model, exportable("mistral3", config_of()["vision_config"])
    bound: VisionGraph = replace(graph, build=lambda vision, connector, _: graph.build(vision, connector, whole(layer)))
    return traced(bound, model.vision_tower, model.multi_modal_projector, feeds(grid), config_of(layer))


def as_transformers(layer: int | tuple[int, ...], grids: Sequence[tuple[int, int]]) -> list[NDArray[np.float32]]:
    """Features of images that the whole model is given at once, as the prompt gives them to it."""
    given = PROMPT.whole([drawn(grid) for grid in grids], np.zeros(0, np.int64), 0)
    with torch.inference_mode():
        made = whole(layer).get_image_features(**{name: torch.from_numpy(value) for name, value in given.items()})
    return [features.numpy() for features in made.pooler_output]


@pytest.mark.parametrize("layer", [-1, -2, 1, (-1,)])
def test_a_graph_exported_at_one_grid_computes_others(layer: int | tuple[int, ...]) -> None:
    for grid, wanted in zip(GRIDS, as_transformers(layer, GRIDS), strict=True):
        made = computed(exported(layer), feeds(grid))
        assert tuple(made) == (FEATURES,)
        assert float(np.ptp(wanted)) > 1, "numbers that differ"
        np.testing.assert_allclose(made[FEATURES], wanted, rtol=0, atol=1e-4)


def test_a_graph_may_be_exported_at_one_token() -> None:
    """An axis of length 1 must not become a constant."""
    made = computed(exported(grid=(1, 1)), feeds((3, 4)))
    np.testing.assert_allclose(made[FEATURES], as_transformers(-1, [(3, 4)])[0], rtol=0, atol=1e-4)


def test_a_graph_has_the_layers_that_are_looked_at() -> None:
    """Of three."""
    for layer, count in ((-1, 3), (-2, 2), (1, 1)):
        assert sum(node.op_type == "Softmax" for node in exported(layer).graph.node) == count


def test_all_but_angles_and_norms_is_fp16_and_stays_near() -> None:
    graph = exported()
    assert unfit_layers(graph) == {}
    plan = plan_vision(graph)
    wide = {each.layer: each.rule for each in plan.decisions if each.precision is Precision.FP32}
    norms = {layer for layer, rule in wide.items() if rule == "fp32-norm-pieces"}
    assert norms, "it has RMSNorms, for which there is no operator before opset 23"
    assert all("norm" in layer.rpartition("/")[0].rpartition("/")[2] or "ln_pre" in layer for layer in norms)
    angles = wide.keys() - norms
    assert {layer.rpartition("/")[0] for layer in angles} == {"/vision/patch_positional_embedding"}
    assert {"Mul", "Cos", "Sin"} <= {layer.rpartition("/")[2] for layer in angles}
    half = in_half(graph, plan)
    for grid in ((5, 5), (1, 55)):
        found, wanted = computed(half, feeds(grid))[FEATURES], as_transformers(-1, [grid])[0]
        assert np.abs(found - wanted).max() < 0.01 * np.ptp(wanted)


@pytest.mark.parametrize("layers", [(-2, -1), (4,), (-5,)])
def test_what_its_connector_does_not_take(layers: tuple[int, ...]) -> None:
    with pytest.raises(ExportError, match="cannot take features of the layers") as caught:
        exported(layers)
    assert caught.value.expected == "one layer of 3 as vision_feature_layer"
