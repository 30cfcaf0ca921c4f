"""The vision graphs of the Qwen-VL families, against transformers' encoders on grids of all shapes."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers
import vlm
from device_joins import joined_everywhere
from numpy.typing import NDArray
from traced_vision import computed, drawn_weights, in_half, traced
from transformers import vision_utils

from edgeq.families.base import FEATURES, PIXELS, Arrays, Given, VisionGraph
from edgeq.families.registry import exportable, runnable
from edgeq.model.graph.element_types import unfit_layers
from edgeq.plan.precision import Precision
from edgeq.plan.rules import plan_vision

EXPORTED = (6, 10)
GRIDS = ((2, 2), (10, 6), (14, 18), (2, 40), (16, 16), (12, 24))
"""Rows and columns of patches. A window has 6 x 6: some grids divide by it, most do not."""

_OWN: dict[str, dict[str, Any]] = {
    "qwen2_vl": {"embed_dim": 32, "hidden_size": 48},
    "qwen2_5_vl": {"window_size": 24, "fullatt_block_indexes": [1, 3]},
    "qwen3_vl": {"num_position_embeddings": 36, "deepstack_visual_indexes": [0, 2]},
    "qwen3_vl_moe": {"num_position_embeddings": 36, "deepstack_visual_indexes": [1]},
}
TYPES = tuple(_OWN)
_SIZES: dict[str, Any] = {
    "depth": 4,
    "num_heads": 2,
    "patch_size": 4,
    "hidden_size": 32,
    "intermediate_size": 64,
    "out_hidden_size": 48,
}
_ROPE = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}


@cache
def whole(model_type: str) -> Any:
    """A tiny model, and its config with all defaults."""
    experts = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
    text = {**vlm.TEXT, "head_dim": 16, "rope_parameters": _ROPE, **(experts if "moe" in model_type else {})}
    config = transformers.AutoConfig.for_model(
        model_type, vision_config={**_SIZES, **_OWN[model_type]}, text_config=text, image_token_id=vlm.IMAGE_TOKEN
    )
    model = transformers.AutoModelForImageTextToText.from_config(config, attn_implementation="eager")
    return drawn_weights(model)


def config_of(model_type: str) -> dict[str, Any]:
    found: dict[str, Any] = whole(model_type).config.to_dict()
    return found


def graph_of(model_type: str) -> VisionGraph:
    return exportable(model_type, config_of(model_type)["vision_config"])


def given(grid: tuple[int, int]) -> Given:
    """What an image processor gives for an image of that many patches of 4 x 4 pixels."""
    pixels = np.random.default_rng(grid).normal(size=(grid[0] * grid[1], 3 * 2 * 4 * 4))
    return {PIXELS: pixels.astype(np.float32), "image_grid_thw": np.array([[1, *grid]])}


def feeds(model_type: str, grid: tuple[int, int]) -> Arrays:
    return graph_of(model_type).feeds(given(grid), config_of(model_type))


def as_transformers(model_type: str, grid: tuple[int, int]) -> list[NDArray[np.float32]]:
    """Features, then those of each deepstack layer, as `visual` computes them."""
    one = given(grid)
    with torch.inference_mode():
        made = whole(model_type).model.visual(torch.from_numpy(one[PIXELS]), torch.from_numpy(one["image_grid_thw"]))
    return [value.numpy() for value in (made.pooler_output, *getattr(made, "deepstack_features", ()))]


@cache
def exported(model_type: str, grid: tuple[int, int] = EXPORTED) -> onnx.ModelProto:
    visual = whole(model_type).model.visual
    return traced(graph_of(model_type), visual, None, feeds(model_type, grid), config_of(model_type))


@pytest.mark.parametrize("model_type", TYPES)
def test_a_graph_exported_at_one_grid_computes_others(model_type: str) -> None:
    family, config = graph_of(model_type), config_of(model_type)
    layout = runnable(model_type).layout
    for grid in GRIDS:
        made = computed(exported(model_type), feeds(model_type, grid))
        assert tuple(made) == family.outputs(config)
        features = joined_everywhere(family, made, layout(given(grid), config), config)
        right = as_transformers(model_type, grid)
        assert len(features.places) == layout(given(grid), config).tokens
        assert features.cross is None
        for found, wanted in zip((features.places, *features.deepstack), right, strict=True):
            assert float(np.ptp(wanted)) > 3, "numbers that differ"
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("model_type", TYPES)
def test_a_graph_may_be_exported_at_one_window_of_one_token(model_type: str) -> None:
    """An axis of length 1 must not become a constant."""
    made = computed(exported(model_type, (2, 2)), feeds(model_type, (14, 18)))
    np.testing.assert_allclose(made[FEATURES], as_transformers(model_type, (14, 18))[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("model_type", TYPES)
def test_a_graph_has_no_attention_beyond_the_windows_and_no_weights_twice(model_type: str) -> None:
    """Layers with windows compare a patch with 36 others: of the four, two have scores of all with all."""
    graph = exported(model_type).graph
    onto_window = [
        node for node in graph.node if node.op_type == "Gather" and "windows" in _behind(graph, node.input[1])
    ]
    assert len(onto_window) == (2 * 3 if model_type == "qwen2_5_vl" else 0)
    names = [tensor.name for tensor in graph.initializer]
    assert len(names) == len(set(names))
    assert [value.name for value in graph.input] == [one.name for one in graph_of(model_type).inputs]


def _behind(graph: onnx.GraphProto, name: str) -> set[str]:
    """What a tensor is computed of."""
    maker = next((node for node in graph.node if name in node.output), None)
    return {name} if maker is None else {name}.union(*(_behind(graph, read) for read in maker.input))


@pytest.mark.parametrize("model_type", TYPES)
def test_all_but_angles_and_norms_is_fp16_and_stays_near(model_type: str) -> None:
    graph = exported(model_type)
    assert unfit_layers(graph) == {}, "masks and constants are numbers of FP16"
    plan = plan_vision(graph)
    wide = [each for each in plan.decisions if each.precision is Precision.FP32]
    norms = {each.op for each in wide if each.rule == "fp32-norm-pieces"}
    assert norms == ({"Pow", "ReduceMean", "Add", "Sqrt", "Div", "Mul"} if model_type == "qwen2_5_vl" else set()), (
        "its RMSNorms"
    )
    angles = {each.op for each in wide if each.rule != "fp32-norm-pieces"}
    assert {"Sin", "Cos", "Mul"} <= angles <= {"Sin", "Cos", "Mul", "Cast", "Unsqueeze", "Flatten", "Concat"}
    half = in_half(graph, plan)
    for grid in ((14, 18), (2, 300)):
        made = computed(half, feeds(model_type, grid))
        for found, wanted in zip(made.values(), as_transformers(model_type, grid), strict=True):
            assert np.abs(found - wanted).max() < 0.01 * np.ptp(wanted)


@pytest.mark.parametrize("grid", [EXPORTED, *GRIDS])
def test_positions_and_shares_are_those_of_transformers(grid: tuple[int, int]) -> None:
    made = feeds("qwen3_vl", grid)
    thw = torch.tensor([[1, *grid]])
    assert np.array_equal(made["positions"], vision_utils.get_vision_position_ids(thw, 2).numpy())
    taps, weights = vision_utils.get_vision_interpolation_indices_and_weights(
        thw, num_grid_per_side=6, align_corners=True, spatial_merge_size=2
    )
    assert np.array_equal(made["taps"], taps.numpy())
    np.testing.assert_allclose(made["weights"], weights.numpy(), rtol=0, atol=1e-6)
    assert [made[name].dtype for name in ("positions", "taps", "weights")] == [np.int64, np.int64, np.float32]


@pytest.mark.parametrize("grid", [EXPORTED, *GRIDS])
def test_windows_are_those_of_transformers(grid: tuple[int, int]) -> None:
    made, patches = feeds("qwen2_5_vl", grid), grid[0] * grid[1]
    order, ends = vision_utils.get_vision_window_index(torch.tensor([[1, *grid]]), 2, window_size=24, patch_size=4)
    ordered = (order[:, None] * 4 + torch.arange(4)).flatten()
    wanted = [set(ordered[low:high].tolist()) for low, high in pairwise(ends.tolist())]
    assert [set(window[window < patches].tolist()) for window in made["windows"]] == wanted
    assert made["windows"].shape[1] == 36
    assert made["windows"].max() <= patches
    assert np.array_equal(made["windows"].reshape(-1)[made["place"]], np.arange(patches))
