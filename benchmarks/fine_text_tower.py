"""The demo's vision tower for `fine_text.py`: how an image is cut for it, and what it gives over a digit.

Images are cut by InternVL's image processor as transformers has it, told the tower's size and the most tiles: tiles in
rows, and behind them a small picture of the whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from transformers import AutoModelForImageTextToText, GotOcr2ImageProcessorPil

from benchmarks.fine_text_signs import SIDE, TILE, Box
from edgeq.demo.vlm.network import patch_features
from edgeq.demo.vlm.story import VLM_WEIGHTS

__all__ = ["STAGES", "Shown", "Tower", "at_digit", "cut", "demo_tower", "show"]

STAGES: Final = ("tower", "connector")
"""What features come out of: the tower itself, and the connector behind it, which the language model is given."""

_POINTS: Final = 4

Tower = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""Pictures [n, 3, TILE, TILE] to features of their patches by stage, [n, patches, width] each; all float32."""


class Shown(NamedTuple):
    """The pictures of one image that a digit is on: a rectangle of tiles.

    Attributes:
        pictures: float32 [rows x columns, 3, TILE, TILE], row after row.
        rows, columns: of the tiles.
        left, top, right, bottom: of the digit's box, as shares of the rectangle.
    """

    pictures: NDArray[np.float32]
    rows: int
    columns: int
    left: float
    top: float
    right: float
    bottom: float


def demo_tower() -> nn.Module:
    """Tower and connector of the demo's model, in float32."""
    model = AutoModelForImageTextToText.from_pretrained(VLM_WEIGHTS, dtype=torch.float32)
    return _VisionHalf(model).eval()


class _VisionHalf(nn.Module):
    """A `Tower`."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        del model.model.language_model, model.lm_head
        self.model = model

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = patch_features(self.model, pictures)
        return features, self.model.model.multi_modal_projector(features)


_PROCESSOR: Final = GotOcr2ImageProcessorPil(
    size={"height": TILE, "width": TILE}, crop_to_patches=True, image_mean=[0.5] * 3, image_std=[0.25] * 3
)
"""Normalises as the demo's own preprocessor_config.json does."""


def cut(image: Image.Image, cap: int) -> NDArray[np.float32]:
    """The tiles of an image, at most `cap`, without the small picture of the whole; [tiles, 3, TILE, TILE]."""
    made = _PROCESSOR(image, max_patches=cap, return_tensors="np")
    return np.asarray(made["pixel_values"][:cap], np.float32)


def show(image: Image.Image, box: Box, cap: int) -> Shown:
    """The tiles that the box touches. With a cap of 1 that is the picture of the whole.

    Args:
        image: SIDE x SIDE.
        box: in pixels of the image.
        cap: one of CAPS.
    """
    side = math.isqrt(cap)
    width = SIDE // side
    top, left = box.top // width, box.left // width
    rows, columns = -(-box.bottom // width) - top, -(-box.right // width) - left
    tiles = cut(image, cap).reshape(side, side, 3, TILE, TILE)[top : top + rows, left : left + columns]
    return Shown(
        tiles.reshape(-1, 3, TILE, TILE),
        rows,
        columns,
        left=(box.left / width - left) / columns,
        top=(box.top / width - top) / rows,
        right=(box.right / width - left) / columns,
        bottom=(box.bottom / width - top) / rows,
    )


def at_digit(tower: Tower, shown: Sequence[Shown]) -> tuple[torch.Tensor, torch.Tensor]:
    """Features at 4 x 4 points over the digit, interpolated between patches, by stage: [images, 16, width] each."""
    features = tower(torch.from_numpy(np.concatenate([one.pictures for one in shown])))
    counts = [one.rows * one.columns for one in shown]
    tower_features, connector_features = (
        torch.stack([_sampled(own, one) for own, one in zip(torch.split(values.float(), counts), shown, strict=True)])
        for values in features
    )
    return tower_features, connector_features


def _sampled(features: torch.Tensor, shown: Shown) -> torch.Tensor:
    """Features of an image's pictures [rows x columns, patches, width] to [16, width]."""
    side = math.isqrt(features.shape[1])
    tiles = features.reshape(shown.rows, shown.columns, side, side, -1)
    whole = tiles.permute(4, 0, 2, 1, 3).reshape(1, -1, shown.rows * side, shown.columns * side)
    share = (torch.arange(_POINTS) + 0.5) / _POINTS
    across = shown.left + share * (shown.right - shown.left)
    down = shown.top + share * (shown.bottom - shown.top)
    points = torch.stack([across.expand(_POINTS, -1), down[:, None].expand(-1, _POINTS)], dim=-1)
    # The function counts from -1 to 1.
    found = nn.functional.grid_sample(whole, 2 * points[None] - 1, padding_mode="border", align_corners=False)
    return found[0].flatten(1).T
