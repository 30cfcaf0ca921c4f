"""Gemma 3: a SigLIP at one size, whose patches the connector averages into fewer tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeq.families.base import Arrays, Config, Family, Given, ImagePrompt, Layout, ModuleNames, whole_pixels
from edgeq.families.pictures import equal_pictures, last_state, one_picture, patches_of, picture_graph

__all__ = ["GEMMA3"]


def _tokens(config: Config) -> int:
    return int(config.get("mm_tokens_per_image") or patches_of(config))


def _places(token: str, layout: Layout) -> str:
    """The image's tokens in their frame, with an empty line before and behind."""
    return f"\n\n<start_of_image>{token * layout.tokens}<end_of_image>\n\n"


def _whole(given: Sequence[Given], ids: NDArray[np.int64], token: int) -> Arrays:
    """Token types as Gemma3Processor gives them: without, the tokens of an image would not see each other."""
    return whole_pixels(given, ids, token) | {"token_type_ids": (ids == token).astype(np.int64)[None]}


GEMMA3: Final = Family(
    name="Gemma 3",
    model_types=("gemma3",),
    modules=ModuleNames("model.vision_tower", ("model.multi_modal_projector",), "model.language_model"),
    image_cost=one_picture(_tokens, markers=4),
    vision=picture_graph(last_state),
    prompt=ImagePrompt(_places, layout=equal_pictures(_tokens), attention="image", marker="boi_token", whole=_whole),
    loaded_by={"vllm": ("gemma3",)},
)
