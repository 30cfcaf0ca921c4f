"""Qwen-VL: what an image costs, its layout, its bounds and positions, against transformers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
import vlm
from numpy.typing import NDArray
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from vlm_costs import SIZES, golden_vlm

from edgeq.errors import InputError
from edgeq.families.base import Given, Layout
from edgeq.families.modules import VlmDescription, read_vlm
from edgeq.families.registry import family_of, image_cost, runnable
from edgeq.model.images.image_processor import load_image_processor

TYPES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
SHAPES = (
    (1, 1),
    (1, 200),
    (200, 1),
    (28, 28),
    (56, 57),
    (300, 420),
    (20, 900),
    (900, 20),
    (70, 110),
    (500, 333),
    (600, 601),
)
"""Heights and widths in pixels."""


@cache
def processor(model_type: str, directory: Path, **settings: int) -> tuple[Any, VlmDescription]:
    """What transformers loads for a model of default sizes, and edgeq's description of that."""
    transformers.AutoConfig.for_model(model_type).save_pretrained(directory)
    patch = {"patch_size": read_vlm(directory).vision["patch_size"]}
    written = {"image_processor_type": "Qwen2VLImageProcessor", **patch, **settings}
    (directory / "preprocessor_config.json").write_text(json.dumps(written))
    return load_image_processor(directory), read_vlm(directory)


def photograph(size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(np.random.default_rng(size).integers(0, 255, (*size, 3), np.uint8))


def test_as_its_processor_counts() -> None:
    qwen, theirs = golden_vlm("qwen2.5-vl-7b"), Qwen2VLImageProcessorPil()
    assert image_cost(qwen, (300, 420)).tokens == round(300 / 28) * round(420 / 28)
    for size in SIZES:
        cost = image_cost(qwen, size)
        assert cost.sequence == theirs.get_number_of_image_patches(*size), size
        assert cost.tokens == cost.sequence // 4


@pytest.mark.parametrize("model_type", TYPES)
def test_cost_and_layout_are_what_the_processor_makes(model_type: str, tmp_path: Path) -> None:
    theirs, model = processor(model_type, tmp_path)
    assert type(theirs) is Qwen2VLImageProcessorPil
    for size in SHAPES:
        given = theirs(images=photograph(size), return_tensors="np")
        cost, layout = image_cost(model, size), runnable(model_type).layout(given, model.config)
        assert cost.sequence == layout.patches == len(given["pixel_values"]), size
        assert cost.tokens == layout.tokens == layout.grid[0] * layout.grid[1] == cost.sequence // 4
        assert given["pixel_values"].shape[1] == 3 * 2 * model.vision["patch_size"] ** 2


@pytest.mark.parametrize("size", [(1, 201), (402, 2)])
def test_an_image_that_the_processor_refuses_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="aspect ratio"):
        Qwen2VLImageProcessorPil().get_number_of_image_patches(*size)
    with pytest.raises(InputError, match=f"{size[0]} x {size[1]} pixels is too narrow"):
        image_cost(golden_vlm("qwen2.5-vl-7b"), size)


def test_the_preprocessors_limits_are_heeded() -> None:
    limited = golden_vlm("qwen2.5-vl-7b", preprocessor={"min_pixels": 28 * 28 * 16, "max_pixels": 28 * 28 * 16})
    assert image_cost(limited, (2000, 2000)).tokens == 16


@pytest.mark.parametrize(
    "written",
    [
        {},
        {"min_pixels": 3136, "max_pixels": 12845056},
        {"size": {"shortest_edge": 65536, "longest_edge": 16777216}},
    ],
)
@pytest.mark.parametrize("model_type", TYPES)
def test_bounded_pixels_reach_the_processor(model_type: str, written: dict[str, Any], tmp_path: Path) -> None:
    """A large photograph is within the bound, and so are small ones, which are enlarged to the least.

    Only an image of one row of tokens, longer than the bound, keeps its row.
    """
    _, model = processor(model_type, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    family, edge = family_of(model_type), 2 * int(model.vision["patch_size"])
    assert family is not None
    for tokens in (4, 60, 500):
        preprocessor = {"image_processor_type": "Qwen2VLImageProcessor", "patch_size": edge // 2, **written}
        family.caps["pixels"](preprocessor, config, tokens * edge**2)
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessor))
        theirs, capped = load_image_processor(tmp_path), read_vlm(tmp_path)
        for size in ((750, 1000), (60, 100), (20, 20), (30, 110), (30, 1700)):  # 750 x 1000: 732 tokens and more
            patches = len(theirs(images=photograph(size), return_tensors="np")["pixel_values"])
            assert patches == image_cost(capped, size).sequence
            assert patches <= 4 * tokens or max(size) > tokens * min(size), size
        assert image_cost(capped, (3000, 4000)).tokens >= tokens / 2, "not far below"


def test_a_bound_above_the_present_one_changes_nothing_and_one_below_a_token_is_refused() -> None:
    family = family_of("qwen3_vl")
    assert family is not None
    preprocessor: dict[str, Any] = {"max_pixels": 50_000, "patch_size": 16}
    family.caps["pixels"](preprocessor, {}, 10**9)
    assert preprocessor["size"] == {"shortest_edge": 56 * 56, "longest_edge": 50_000}
    with pytest.raises(ValueError, match="one token has 1024"):
        family.caps["pixels"](preprocessor, {}, 1000)


@cache
def tiny(model_type: str) -> Any:
    """The whole model; positions need no weights."""
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}
    config = transformers.AutoConfig.for_model(
        model_type, text_config={**vlm.TEXT, "rope_parameters": rope}, image_token_id=vlm.IMAGE_TOKEN
    )
    with torch.device("meta"):
        return transformers.AutoModelForImageTextToText.from_config(config)


def prompt(parts: Sequence[int | tuple[int, int]]) -> tuple[NDArray[np.int64], list[Given]]:
    """Text of so many tokens, and images of so many rows and columns of patches."""
    ids: list[int] = []
    images: list[Given] = []
    for part in parts:
        if isinstance(part, int):
            ids += [5] * part
        else:
            ids += [vlm.IMAGE_TOKEN] * (part[0] * part[1] // 4)
            images.append(
                {"pixel_values": np.zeros((part[0] * part[1], 6), np.float32), "image_grid_thw": [[1, *part]]}
            )
    return np.array(ids, np.int64), images


PROMPTS: tuple[tuple[int | tuple[int, int], ...], ...] = (
    (7,),
    ((4, 6),),
    ((4, 6), 5),
    (3, (8, 4), 4),
    (3, (2, 12)),
    (3, (4, 4), 1, (6, 2), 2),
    ((4, 4), 2, (2, 2)),
    (1, (2, 8), 3, (8, 2), 1, (4, 4), 6),
)
"""No image, one, two and three; at the start, in the middle and at the end."""


@pytest.mark.parametrize("parts", PROMPTS)
@pytest.mark.parametrize("model_type", TYPES)
def test_positions_are_those_of_transformers(model_type: str, parts: Sequence[int | tuple[int, int]]) -> None:
    ids, images = prompt(parts)
    how, config = runnable(model_type), tiny(model_type).config.to_dict()
    layouts: list[Layout] = [how.layout(one, config) for one in images]
    found = how.positions(ids, vlm.IMAGE_TOKEN, layouts)
    if not images:
        assert np.array_equal(found, np.broadcast_to(np.arange(len(ids)), (3, len(ids))))
        return
    given = {name: torch.from_numpy(value) for name, value in how.whole(images, ids, vlm.IMAGE_TOKEN).items()}
    assert len(given.pop("pixel_values")) == sum(layout.patches for layout in layouts)
    wanted, delta = tiny(model_type).model.get_rope_index(torch.from_numpy(ids)[None], **given)
    assert np.array_equal(found, wanted[:, 0].numpy())
    assert found.max() + 1 - len(ids) == int(delta), "what is said stands behind the largest"
