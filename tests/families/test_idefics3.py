"""Idefics3 and SmolVLM: what an image costs, against transformers' image processor, and how its tiles are written."""

from __future__ import annotations

import numpy as np
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from vlm_costs import SIZES, golden_vlm

from edgeq.families.base import Layout
from edgeq.families.registry import image_cost, runnable


def test_as_its_processor_counts() -> None:
    """384 / 14 = 27 patches a side; 27² / 3² = 81 tokens a tile."""
    smol = golden_vlm("smolvlm2-2.2b")
    processor = Idefics3ImageProcessorPil(size={"longest_edge": 4 * 384}, max_image_size={"longest_edge": 384})
    for size in SIZES:
        tiles, rows, columns = processor.get_number_of_image_patches(*size)
        cost = image_cost(smol, size)
        assert (cost.tiles, cost.tokens) == (max(tiles, 1), 81 * max(tiles, 1)), size
        assert cost.markers == 3 + rows * (2 * columns + 1), "as Idefics3Processor puts them around the tiles"


def test_each_tile_is_written_with_its_place() -> None:
    tile = "<fake_token_around_image>"
    whole = f"{tile}<global-img>**{tile}"
    prompt = runnable("idefics3")
    assert prompt.places("*", Layout(2, 1, 4)) == whole
    assert prompt.places("*", Layout(6, 3, 4, (1, 2))) == f"{tile}<row_1_col_1>**{tile}<row_1_col_2>**\n\n{whole}"


def test_the_grid_is_what_the_image_processor_says() -> None:
    layout, config = runnable("smolvlm").layout, golden_vlm("smolvlm2-2.2b").config
    pixels = np.zeros((1, 7, 3, 2, 2))
    for rows, columns in (([[2]], [[3]]), (np.array([[2]]), np.array([[3]]))):
        found = layout({"pixel_values": pixels, "rows": rows, "cols": columns}, config)
        assert (found.grid, found.pictures, found.tokens) == ((2, 3), 7, 7 * 81)
    assert layout({"pixel_values": pixels[:, :1]}, config).grid == (0, 0)
