"""The vision encoders of the Qwen-VL families as graphs: an image in its own size, a row for each of its patches.

Everything that depends on the image's grid is worked out here with NumPy and goes into the graph as numbers: where the
patches stand, which of them share a window, between which learned positions each lies. So one graph takes every grid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.families.base import (
    FEATURES,
    MASKED_SCORE,
    PIXELS,
    Arrays,
    Config,
    Given,
    GraphInput,
    ImageFeatures,
    Layout,
    Made,
    VisionGraph,
)
from edgeq.families.tiles import Size

if TYPE_CHECKING:
    import torch

    Turns = tuple[torch.Tensor, torch.Tensor]
    Windows = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

__all__ = ["PLAIN_GRAPH", "STACKED_GRAPH", "WINDOWED_GRAPH", "image_grid"]

_POSITIONS: Final = GraphInput("positions", {0: "patches"}, "int64")
_WINDOWS: Final = GraphInput("windows", {0: "windows"}, "int64")
_PLACE: Final = GraphInput("place", {0: "patches"}, "int64")
_TAPS: Final = GraphInput("taps", {0: "patches"}, "int64")
_WEIGHTS: Final = GraphInput("weights", {0: "patches"})
_PIXELS: Final = GraphInput(PIXELS, {0: "patches"})


def image_grid(given: Given) -> Size:
    """Rows and columns of an image's patches; an image processor gives one frame of it."""
    _, rows, columns = (int(side) for side in np.asarray(given["image_grid_thw"]).reshape(-1))
    return rows, columns


def _feeds(given: Given, config: Config) -> Arrays:
    """Patches float32 [patches, numbers], and the row and column of each, int64 [patches, 2]."""
    merge = int(config["vision_config"]["spatial_merge_size"])
    pixels = np.ascontiguousarray(given[PIXELS], np.float32)
    return {PIXELS: pixels, _POSITIONS.name: _positions(image_grid(given), merge)}


def _windowed_feeds(given: Given, config: Config) -> Arrays:
    """Those, and the windows."""
    vision = config["vision_config"]
    merge = int(vision["spatial_merge_size"])
    side = int(vision["window_size"]) // merge // int(vision["patch_size"])
    windows, place = _windows(image_grid(given), merge, side)
    return _feeds(given, config) | {_WINDOWS.name: windows, _PLACE.name: place}


def _stacked_feeds(given: Given, config: Config) -> Arrays:
    """Those, and between which learned positions each patch lies."""
    made = _feeds(given, config)
    side = int(int(config["vision_config"]["num_position_embeddings"]) ** 0.5)
    taps, weights = _between(made[_POSITIONS.name], image_grid(given), side)
    return made | {_TAPS.name: taps, _WEIGHTS.name: weights}


def _positions(grid: Size, merge: int) -> NDArray[np.int64]:
    """Row and column of each patch, int64 [patches, 2]; the patches that become one token stand together."""
    rows, columns = grid
    blocks = np.indices(grid).reshape(2, rows // merge, merge, columns // merge, merge)
    return np.ascontiguousarray(blocks.transpose(1, 3, 2, 4, 0).reshape(-1, 2), np.int64)


def _windows(grid: Size, merge: int, side: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which patches each window holds, and where in all windows each patch is.

    Args:
        grid: rows and columns of patches.
        merge: patches along one side of a token.
        side: tokens along one side of a window.

    Returns:
        int64 [windows, patches of a window], the number of all patches for an empty place; and int64 [patches].
    """
    rows, columns = grid[0] // merge, grid[1] // merge
    tokens, unit = rows * columns, merge**2
    high, wide = -(-rows // side), -(-columns // side)
    filled = np.full((high * side, wide * side), tokens)
    filled[:rows, :columns] = np.arange(tokens).reshape(rows, columns)
    held = filled.reshape(high, side, wide, side).transpose(0, 2, 1, 3).reshape(high * wide, side**2, 1)
    windows = np.minimum(held * unit + np.arange(unit), tokens * unit).reshape(high * wide, -1).astype(np.int64)
    place = np.empty(tokens * unit, np.int64)
    used = np.flatnonzero(windows < tokens * unit)
    place[windows.reshape(-1)[used]] = used
    return windows, place


def _between(positions: NDArray[np.int64], grid: Size, side: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The four learned positions around each patch, and how much of each it gets: bilinear, corners on corners.

    Args:
        positions: row and column of each patch, int64 [patches, 2].
        grid: rows and columns of patches.
        side: of the square of learned positions.

    Returns:
        Numbers of learned positions, int64 [patches, 4], and weights, float32 [patches, 4].
    """
    steps = np.maximum(np.array(grid, np.float32) - 1, 1)
    exact = positions.astype(np.float32) * np.float32(side - 1) / steps
    low = np.floor(exact).astype(np.int64)
    taps = np.minimum(low[:, :, None] + np.arange(2), side - 1)
    far = exact - low
    shares = np.stack((1 - far, far), axis=-1)
    rows, columns = taps[:, 0, :, None], taps[:, 1, None, :]
    weights = shares[:, 0, :, None] * shares[:, 1, None, :]
    return (rows * side + columns).reshape(-1, 4), weights.reshape(-1, 4).astype(np.float32)


def _outputs(config: Config) -> tuple[str, ...]:
    """The features, and those that are added behind the language model's first layers, in the order of these."""
    count = len(config["vision_config"].get("deepstack_visual_indexes", ()))
    return (FEATURES, *(f"deepstack_features_{index}" for index in range(count)))


def _join(made: Made, _layout: Layout, config: Config) -> ImageFeatures:
    places, *deepstack = (made[name] for name in _outputs(config))
    return ImageFeatures(places, tuple(deepstack))


def _turned(states: torch.Tensor, turns: Turns) -> torch.Tensor:
    """Rotary embedding of queries or keys [patches, heads, width] by cosines and sines [patches, 1, width]."""
    import torch

    left, right = torch.split(states, states.shape[-1] // 2, dim=-1)
    return states * turns[0] + torch.cat((-right, left), dim=-1) * turns[1]


def _attended(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, never: torch.Tensor | None) -> torch.Tensor:
    """Attention within each sequence, [sequences, patches, heads, width] to the same.

    Args:
        query, key, value: of all sequences; queries are scaled.
        never: added to the scores, [sequences, 1, 1, patches].
    """
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    scores = query @ key.transpose(2, 3)
    shares = (scores if never is None else scores + never).softmax(dim=-1)
    return (shares @ value).transpose(1, 2)


def _attention(own: Any) -> torch.nn.Module:
    """An attention with the layers of transformers' own, which is split by numbers that a graph would keep."""
    import torch

    class Attention(torch.nn.Module):
        """All patches attend to all, or to those of their window."""

        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.proj = own.qkv, own.proj

        def forward(
            self, states: torch.Tensor, position_embeddings: Turns, windows: Windows | None = None, **_: Any
        ) -> torch.Tensor:
            """[patches, hidden] to the same."""
            parts = self.qkv(states).split(own.dim, dim=-1)
            query, key, value = (part.reshape(-1, own.num_heads, own.head_dim) for part in parts)
            query, key = _turned(query, position_embeddings) * own.scaling, _turned(key, position_embeddings)
            if windows is None:
                attended = _attended(query[None], key[None], value[None], None).reshape(-1, own.dim)
            else:
                held, never, place = windows
                attended = _attended(query[held], key[held], value[held], never).reshape(-1, own.dim)[place]
            made: torch.Tensor = self.proj(attended)
            return made

    return Attention()


def _encoder(visual: Any, names: Sequence[str]) -> torch.nn.Module:
    """An encoder with the layers of transformers' own, given what that would work out from the grid.

    Args:
        visual: transformers' encoder; its attentions are replaced.
        names: of the graph's inputs.
    """
    import torch
    from torch.nn.functional import linear

    config, patches = visual.config, visual.patch_embed.proj
    full = getattr(config, "fullatt_block_indexes", range(config.depth))
    stacked = list(getattr(config, "deepstack_visual_indexes", ()))

    class Encoder(torch.nn.Module):
        """Patches to tokens."""

        def __init__(self) -> None:
            super().__init__()
            for block in visual.blocks:
                block.attn = _attention(block.attn)
            for name, child in visual.named_children():
                setattr(self, name, child)

        def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            """The graph's inputs to its outputs."""
            given = dict(zip(names, inputs, strict=True))
            # The convolution that embeds patches sees each of them once.
            states = linear(given[PIXELS], patches.weight.flatten(1), patches.bias)
            if _TAPS.name in given:
                learned = visual.pos_embed(given[_TAPS.name])
                states = states + (learned * given[_WEIGHTS.name][..., None]).sum(1)
            angles = (given[_POSITIONS.name].float()[..., None] * visual.rotary_pos_emb.inv_freq).flatten(1)
            turns = torch.cat((angles, angles), dim=-1)[:, None]
            known = {"position_embeddings": (turns.cos(), turns.sin()), "cu_seqlens": None}
            windows, behind = _windows_in(given), []
            for index, block in enumerate(visual.blocks):
                states = block(states, **known, windows=None if index in full else windows)
                if index in stacked:
                    behind.append(visual.deepstack_merger_list[stacked.index(index)](states))
            return (visual.merger(states), *behind)

    return Encoder()


def _windows_in(given: Mapping[str, torch.Tensor]) -> Windows | None:
    """The windows among a graph's inputs; an empty place takes some patch, which nobody looks at."""
    if _WINDOWS.name not in given:
        return None
    held = given[_WINDOWS.name]
    empty = held == given[PIXELS].shape[0]
    return held.masked_fill(empty, 0), empty[:, None, None].float() * MASKED_SCORE, given[_PLACE.name]


def _graph(*more: GraphInput, feeds: Callable[[Given, Config], Arrays]) -> VisionGraph:
    """The graph of an encoder that takes `more` than patches and positions."""
    inputs = (_PIXELS, _POSITIONS, *more)

    def build(visual: Any, _connector: Any, _whole: Any) -> torch.nn.Module:
        import torch

        class Alone(torch.nn.Module):
            """The connector is the encoder's last layer."""

            def __init__(self) -> None:
                super().__init__()
                self.vision = _encoder(visual, [one.name for one in inputs])

            def forward(self, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
                """The graph's inputs to its outputs."""
                made: tuple[torch.Tensor, ...] = self.vision(*given)
                return made

        return Alone()

    return VisionGraph(build, inputs, _outputs, feeds, _join, pictures=False)


PLAIN_GRAPH: Final = _graph(feeds=_feeds)
"""All patches attend to all."""

WINDOWED_GRAPH: Final = _graph(_WINDOWS, _PLACE, feeds=_windowed_feeds)
"""In most layers patches attend to those of their window alone."""

STACKED_GRAPH: Final = _graph(_TAPS, _WEIGHTS, feeds=_stacked_feeds)
"""With learned positions, and features of several layers (DeepStack: Meng et al. 2024, arXiv 2406.04334)."""
