"""The demo's vision tower for `fine_text.py`: what it gives for a digit's patches, and the same tower taught digits.

Images are cut by InternVL's image processor as transformers has it, told the tower's size and the most tiles: tiles in
rows, and behind them a small picture of the whole.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from transformers import AutoModelForImageTextToText, GotOcr2ImageProcessorPil

from benchmarks.fine_text_signs import CAPS, DIGITS, SIDE, TILE, Box, Sign, draw
from edgeq.demo.vlm.network import patch_features
from edgeq.demo.vlm.story import VLM_WEIGHTS

__all__ = ["STAGES", "Shown", "Tower", "at_digit", "cut", "demo_tower", "show", "taught"]

STAGES: Final = ("tower", "connector")
"""What features come out of: the tower itself, and the connector behind it, which the language model is given."""

_POINTS: Final = 4
_BATCH: Final = 48
_RATE: Final = 5e-4
_SHORTEST: Final = 5
"""Pixels of the picture: no digit below is taught."""
_TEACHING_SEED: Final = 900_000_000

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


def taught(tower: nn.Module, steps: int, tell: Callable[[str], None]) -> nn.Module:
    """A copy that was trained to name drawn digits, at every resolution, from the connector's features.

    Args:
        tower: not changed.
        steps: of 48 drawings each.
        tell: is told how it goes.
    """
    torch.manual_seed(0)
    pupil = copy.deepcopy(tower).train()
    rng = np.random.Generator(np.random.PCG64(_TEACHING_SEED))
    shown, digits = _lesson(rng)
    width = at_digit(pupil, shown[:1])[1].numel()
    head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, DIGITS))
    optimizer = torch.optim.AdamW([*pupil.parameters(), *head.parameters()], lr=_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        with torch.autocast("cpu", torch.bfloat16):
            features = at_digit(pupil, shown)[1].flatten(1)
        loss = nn.functional.cross_entropy(head(features), digits)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(pupil.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        shown, digits = _lesson(rng)
        if (step + 1) % 50 == 0:
            tell(f"step {step + 1} of {steps}: loss {loss.item():.3f}")
    return pupil.eval()


def _lesson(rng: np.random.Generator) -> tuple[list[Shown], torch.Tensor]:
    """Drawings of every size that can be read at the resolution drawn for each, and their digits."""
    shown, digits = [], []
    for _ in range(_BATCH):
        cap = int(rng.choice(CAPS))
        shortest = _SHORTEST * SIDE / TILE / math.isqrt(cap)
        sign = Sign(
            digit=int(rng.integers(DIGITS)),
            height=round(np.exp(rng.uniform(np.log(shortest), np.log(50)))),
            rotation=rng.uniform(-30, 30),
            contrast=np.exp(rng.uniform(np.log(0.15), 0)),
            seed=_TEACHING_SEED + int(rng.integers(100_000_000)),
        )
        shown.append(show(*draw(sign), cap))
        digits.append(sign.digit)
    return shown, torch.tensor(digits)
