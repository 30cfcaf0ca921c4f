"""A piece of a prompt as the language model is given it: what of it is read at once, and all that goes with that.

Needs torch and transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

__all__ = ["CrossStates", "ImageStates", "PromptPiece", "by_kind", "cross_inputs", "model_inputs", "reading_masks"]

_Mask = TypeVar("_Mask")


@dataclass(frozen=True)
class ImageStates:
    """What the language model is given of one image, in its dtype and on its device; see `ImageFeatures`.

    Attributes:
        places: [tokens, hidden], or [0, hidden].
        deepstack: one [tokens, hidden] for each layer that is given some.
        cross: [states, hidden]; None for models without cross-attention.
    """

    places: torch.Tensor
    deepstack: tuple[torch.Tensor, ...] = ()
    cross: torch.Tensor | None = None

    def cut(self, start: int, end: int) -> ImageStates:
        """What stands in its places from `start` to `end`."""
        return ImageStates(self.places[start:end], tuple(level[start:end] for level in self.deepstack), self.cross)

    @property
    def nbytes(self) -> int:
        """Of all of it."""
        tensors = (self.places, *self.deepstack, *(() if self.cross is None else (self.cross,)))
        return sum(tensor.nbytes for tensor in tensors)


@dataclass(frozen=True)
class CrossStates:
    """What cross-attention looks at from one image on.

    Attributes:
        seen: which states each token of the piece looks at, bool [n, states]; a row of False for a token before it.
        states: [states, hidden] in the model's dtype, where the image stands in this piece; None where keys and values
            are in the cache already.
    """

    seen: torch.Tensor
    states: torch.Tensor | None = None


@dataclass(frozen=True)
class PromptPiece:
    """Tokens that are read in one pass.

    Attributes:
        embeddings: [1, n, hidden] in the model's dtype, image features in their places.
        start: tokens that were read before.
        positions: int64 [n] or [axes, n].
        last: the piece is the prompt's last.
        blocks: of each token from the prompt's first on, int64 [start + n]: tokens of one block see each other, be they
            before or behind; 0 for those that see what is before them only. None where all are 0.
        narrow_blocks: a layer's sliding window bounds blocks as well; otherwise they are seen whole.
        places: which tokens of the piece are an image's, bool [n].
        deepstack: for those places, [places, hidden] for each layer that is given some; empty for most models.
        cross: for models with cross-attention; None before an image.
    """

    embeddings: torch.Tensor
    start: int
    positions: torch.Tensor
    last: bool
    blocks: torch.Tensor | None
    narrow_blocks: bool
    places: torch.Tensor
    deepstack: tuple[torch.Tensor, ...] = ()
    cross: CrossStates | None = None

    @property
    def tokens(self) -> int:
        """Of the piece, n."""
        return self.embeddings.shape[1]


def model_inputs(windows: Mapping[str, int | None], piece: PromptPiece) -> dict[str, Any]:
    """The arguments of transformers' forward pass, without the cache.

    Args:
        windows: of the language model, from `edgeq.runtime.vlm.attention.attention_windows`.
        piece: that is read.
    """
    dtype = piece.embeddings.dtype
    found: dict[str, Any] = {
        "inputs_embeds": piece.embeddings,
        "attention_mask": reading_masks(windows, piece),
        "position_ids": piece.positions[None] if piece.positions.ndim == 1 else piece.positions[:, None],
    }
    if piece.deepstack and bool(piece.places.any()):
        found |= {"visual_pos_masks": piece.places[None], "deepstack_visual_embeds": list(piece.deepstack)}
    if piece.cross is not None:
        found |= cross_inputs(piece.cross, dtype)
    return found


def cross_inputs(cross: CrossStates, dtype: torch.dtype) -> dict[str, Any]:
    """The arguments for cross-attention, as MllamaModel prepares them.

    A token that sees no state looks at all of them, and its feed-forward is dropped.

    Args:
        cross: of the tokens that are read.
        dtype: that the model computes in.
    """
    rows = cross.seen.any(dim=-1, keepdim=True)
    inputs = {
        "cross_attention_mask": (cross.seen | ~rows)[None, None],
        "full_text_row_masked_out_mask": rows.to(dtype)[None, None],
    }
    return inputs if cross.states is None else {**inputs, "cross_attention_states": cross.states[None]}


def reading_masks(
    windows: Mapping[str, int | None], piece: PromptPiece
) -> torch.Tensor | Mapping[str, torch.Tensor | None] | None:
    """What each token of a piece may see: bool [1, 1, n, start + n], True is seen; None for all that is before it.

    Args:
        windows: as for `model_inputs`. Where layers are of several kinds, there is a mask for each kind.
        piece: that is read.
    """
    return by_kind({kind: _mask(piece, window) for kind, window in windows.items()})


def by_kind(masks: Mapping[str, _Mask]) -> _Mask | Mapping[str, _Mask]:
    """Masks as transformers takes them: one alone where all layers are of one kind."""
    return next(iter(masks.values())) if len(masks) == 1 else masks


def _mask(piece: PromptPiece, window: int | None) -> torch.Tensor | None:
    """Before it, or in the same block; and within the window."""
    start, end, device = piece.start, piece.start + piece.tokens, piece.embeddings.device
    narrow = window is not None and window < end
    if piece.blocks is None and start == 0 and not narrow:
        return None
    query = torch.arange(start, end, device=device)[:, None]
    key = torch.arange(end, device=device)[None]
    seen, near = key <= query, key > query - window if window is not None and narrow else None
    if piece.blocks is None:
        return (seen if near is None else seen & near)[None, None]
    own = piece.blocks[start:, None]
    block = (own == piece.blocks[None]) & (own > 0)
    if near is None:
        return (seen | block)[None, None]
    return (((seen | block) & near) if piece.narrow_blocks else ((seen & near) | block))[None, None]
