"""Llama 3.2 Vision: cost, layout, what cross-attention sees and the vision graph, against transformers."""

from __future__ import annotations

from functools import cache
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
from transformers.models.mllama import processing_mllama
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil
from transformers.models.mllama.modeling_mllama import _prepare_cross_attention_mask
from vlm_costs import golden_vlm

from edgeq.families.base import FEATURES, PIXELS, Arrays, Given, Layout, VisionGraph
from edgeq.families.registry import exportable, image_cost, runnable
from edgeq.model.graph.element_types import unfit_layers
from edgeq.plan.precision import Precision
from edgeq.plan.rules import plan_vision

SIDE, TILES = 28, 4
RATIOS = {(28, 28): 1, (20, 100): 4, (100, 20): 4, (60, 60): 4, (28, 56): 2, (56, 28): 2, (84, 28): 3}
"""Height and width of an image -> the tiles that it takes."""
SHAPES = (*RATIOS, (1, 1), (1, 900), (900, 1), (333, 500))

_VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "attention_heads": 2,
    "num_hidden_layers": 3,
    "num_global_layers": 2,
    "image_size": SIDE,
    "patch_size": 14,
    "max_num_tiles": TILES,
    "intermediate_layers_indices": [0, 2],
    "vision_output_dim": 96,
}


@cache
def whole() -> Any:
    """A tiny model whose gates are open."""
    rope = {"rope_type": "default", "rope_theta": 1e4}
    text = {**vlm.TEXT, "num_hidden_layers": 3, "cross_attention_layers": [1], "rope_parameters": rope}
    config = transformers.MllamaConfig(vision_config=_VISION, text_config=text, image_token_index=vlm.IMAGE_TOKEN)
    return drawn_weights(transformers.AutoModelForImageTextToText.from_config(config, attn_implementation="eager"))


def config_of() -> dict[str, Any]:
    found: dict[str, Any] = whole().config.to_dict()
    return found


def graph_of() -> VisionGraph:
    return exportable("mllama", config_of()["vision_config"])


def given(size: tuple[int, int]) -> Given:
    pixels = np.random.default_rng(size).integers(0, 255, (*size, 3), np.uint8)
    processor = MllamaImageProcessorPil(size={"height": SIDE, "width": SIDE}, max_image_tiles=TILES)
    found: Given = processor(images=pixels, return_tensors="np")
    return found


def feeds(size: tuple[int, int]) -> Arrays:
    return graph_of().feeds(given(size), config_of())


def as_transformers(size: tuple[int, int]) -> NDArray[np.float32]:
    """What the whole model's cross-attention is given, [tiles * patches, hidden]."""
    one, model = given(size), whole().model
    names = (PIXELS, "aspect_ratio_ids", "aspect_ratio_mask")
    with torch.inference_mode():
        states = model.vision_model(**{name: torch.from_numpy(one[name]) for name in names}).last_hidden_state
        made: NDArray[np.float32] = model.multi_modal_projector(states).flatten(0, 3).numpy()
    return made


@cache
def exported() -> onnx.ModelProto:
    model = whole().model
    two = {name: np.concatenate((array, array)) for name, array in feeds((60, 60)).items()}
    return traced(graph_of(), model.vision_model, model.multi_modal_projector, two, config_of())


def test_four_tiles_are_always_paid_for() -> None:
    """(560 / 14)² + 1 = 1601 patches a tile, padded to 1608 in the encoder."""
    for size in ((10, 10), (2000, 2000)):
        cost = image_cost(golden_vlm("llama-3.2-11b-vision"), size)
        assert (cost.cross_tokens, cost.tokens, cost.sequence) == (4 * 1601, 1, 4 * 1608)


@pytest.mark.parametrize("size", SHAPES)
def test_cost_and_layout_are_what_the_processor_makes(size: tuple[int, int]) -> None:
    one = given(size)
    model = golden_vlm("llama-3.2-11b-vision", config=config_of(), vision=config_of()["vision_config"])
    cost, layout = image_cost(model, size), runnable("mllama").layout(one, config_of())
    assert one[PIXELS].shape[:3] == (1, 1, cost.tiles)
    assert layout == Layout(cost.tokens, 1, cost.sequence, (1, one["num_tiles"][0][0]))
    assert layout.grid[1] == RATIOS.get(size, layout.grid[1])
    assert len(as_transformers(size)) == cost.cross_tokens


@pytest.mark.parametrize("size", RATIOS)
def test_the_graph_computes_what_transformers_does(size: tuple[int, int]) -> None:
    made = computed(exported(), feeds(size))
    features = joined_everywhere(graph_of(), made, runnable("mllama").layout(given(size), config_of()), config_of())
    right = as_transformers(size)
    assert features.places.shape == (0, right.shape[1])
    assert features.places.dtype == np.float32
    assert features.cross is not None
    np.testing.assert_allclose(features.cross, right, rtol=0, atol=1e-4)


def test_images_of_a_batch_know_nothing_of_each_other() -> None:
    sizes = ((28, 28), (56, 28), (20, 100))
    runs = [feeds(size) for size in sizes]
    together = computed(exported(), {name: np.concatenate([run[name] for run in runs]) for name in runs[0]})[FEATURES]
    for made, size in zip(together, sizes, strict=True):
        np.testing.assert_allclose(made, as_transformers(size), rtol=0, atol=1e-4)


def test_all_of_it_is_fp16_and_stays_near() -> None:
    """Its mask too: transformers adds -3.4e38, which FP16 does not hold."""
    plan = plan_vision(exported())
    assert unfit_layers(exported()) == {}
    assert not plan.layers(Precision.FP32)
    assert {decision.component for decision in plan.decisions} == {"vision", "connector"}
    half = in_half(exported(), plan)
    for size in RATIOS:
        right = as_transformers(size)
        assert np.abs(computed(half, feeds(size))[FEATURES][0] - right).max() < 0.01 * np.ptp(right)


@pytest.mark.parametrize("ids", [(3, 90, 4, 5), (90, 4), (3, 4, 90), (1, 2, 3)])
@pytest.mark.parametrize("size", [(28, 28), (56, 28), (60, 60)])
def test_cross_attention_sees_what_transformers_lets_it(ids: tuple[int, ...], size: tuple[int, int]) -> None:
    """Tokens before the image see nothing; without an image nothing is seen at all."""
    prompt, one, how = np.array(ids, np.int64), given(size), runnable("mllama")
    images = [one] if vlm.IMAGE_TOKEN in ids else []
    assert how.cross is not None
    layouts = [how.layout(image, config_of()) for image in images]
    found = how.cross(prompt, vlm.IMAGE_TOKEN, layouts, config_of())
    patches = (SIDE // 14) ** 2 + 1
    assert found.shape == (len(ids), TILES * patches)
    if not images:
        assert not found.any()
        return
    token_mask = processing_mllama.get_cross_attention_token_mask(list(ids), vlm.IMAGE_TOKEN)
    tiles = [image["num_tiles"][0] for image in images]
    dense = processing_mllama.convert_sparse_cross_attention_mask_to_dense([token_mask], tiles, TILES, len(ids))
    given_whole = how.whole(images, prompt, vlm.IMAGE_TOKEN)
    assert np.array_equal(given_whole["cross_attention_mask"], dense)
    assert all(np.array_equal(given_whole[name], one[name]) for name in (PIXELS, "aspect_ratio_ids"))
    added, kept = _prepare_cross_attention_mask(torch.from_numpy(dense), patches, torch.float32)
    assert np.array_equal(found, ((added == 0) & (kept > 0))[0, 0].numpy())
