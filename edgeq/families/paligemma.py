"""PaliGemma: a SigLIP at one size, and a prompt whose tokens all see each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeq.families.base import (
    Arrays,
    Config,
    Family,
    Given,
    ImagePrompt,
    Layout,
    ModuleNames,
    Unsupported,
    whole_pixels,
)
from edgeq.families.pictures import equal_pictures, last_state, one_picture, patches_of, picture_graph, plain

__all__ = ["PALIGEMMA"]


def _tokens(config: Config) -> int:
    return int(config.get("image_seq_length") or patches_of(config))


def _positions(ids: NDArray[np.int64], _token: int, _layouts: Sequence[Layout]) -> NDArray[np.int64]:
    """Positions count up from 1."""
    return np.arange(1, len(ids) + 1, dtype=np.int64)


def _whole(given: Sequence[Given], ids: NDArray[np.int64], token: int) -> Arrays:
    """Token types of a prompt, all 0, as PaliGemmaProcessor gives them: without, attention would be causal."""
    return whole_pixels(given, ids, token) | {"token_type_ids": np.zeros((1, len(ids)), np.int64)}


PALIGEMMA: Final = Family(
    name="PaliGemma",
    model_types=("paligemma",),
    modules=ModuleNames("model.vision_tower", ("model.multi_modal_projector",), "model.language_model"),
    image_cost=one_picture(_tokens),
    vision=picture_graph(last_state),
    prompt=ImagePrompt(
        plain,
        layout=equal_pictures(_tokens),
        attention="prompt",
        positions=_positions,
        template=False,
        whole=_whole,
        most_images=1,
    ),
    loaded_by={"vllm": ("paligemma",)},
    llama_cpp=Unsupported("llama.cpp's mtmd has no projector of PaliGemma's"),
)
