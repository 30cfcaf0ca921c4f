"""The slots: keys and values of several sequences, allocated once, behind the cache interface of transformers 5.

A slot is one sequence's place. All slots are in one tensor that never moves, so that a step over them can be captured
into a CUDA graph, and what is kept of a prompt is copied in and out in one piece. Needs torch and transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from edgeq.errors import ModelError
from edgeq.runtime.vlm.cache_name import cache_name

__all__ = ["KeptRows", "KvShape", "SlotCache", "check_served", "read_kv_shape"]

_ROWS: Final = 64
_DIMENSIONS: Final = 4  # batch, heads, tokens, width
_BATCHED_ROPE: Final = ("dynamic", "longrope")


@dataclass(frozen=True)
class KvShape:
    """Keys and values of one token.

    Attributes:
        layers: that attend.
        heads: of keys.
        width: of a head.
        dtype: that they are kept in: the model's; float32 on a CPU, which has no quick attention in FP16.
        device: where they are kept.
    """

    layers: int
    heads: int
    width: int
    dtype: torch.dtype
    device: torch.device

    @property
    def token_bytes(self) -> int:
        """Of keys and values in all layers."""
        return 2 * self.layers * self.heads * self.width * self.dtype.itemsize

    def rows(self, context: int) -> int:
        """Tokens that a slot has room for: one more than the context, in whole blocks of 64, as kernels like it."""
        return -(-(context + 1) // _ROWS) * _ROWS

    def slot_bytes(self, context: int) -> int:
        """Of one slot."""
        return self.rows(context) * self.token_bytes


def read_kv_shape(model: Any) -> KvShape:
    """What a model keeps of a token, from one token.

    Raises:
        ModelError: it keeps something else than keys and values, or layers keep different shapes.
    """
    with torch.inference_mode():
        ids = torch.zeros(1, 1, dtype=torch.int64, device=model.device)
        kept = getattr(model(input_ids=ids, use_cache=True), cache_name(model), None)
    layers = getattr(kept, "layers", ())
    tensors: list[Any] = [getattr(layer, name, None) for layer in layers for name in ("keys", "values")]
    shapes = {tuple(tensor.shape) if isinstance(tensor, torch.Tensor) else () for tensor in tensors}
    if len(shapes) != 1 or len(next(iter(shapes))) != _DIMENSIONS:
        raise _refused(model, "its layers do not all keep keys and values of one shape")
    keys = tensors[0]
    dtype = torch.float32 if keys.device.type == "cpu" else keys.dtype
    return KvShape(len(tensors) // 2, keys.shape[1], keys.shape[3], dtype, keys.device)


def check_served(model: Any, context: int) -> None:
    """Raise ModelError where a language model cannot be served in slots of `context` tokens."""
    config = model.config
    window = getattr(config, "sliding_window", None)
    slides = "sliding_attention" in (getattr(config, "layer_types", None) or ()) or (
        not getattr(config, "layer_types", None) and getattr(config, "use_sliding_window", True)
    )
    if window is not None and slides and window < context:
        raise _refused(model, f"its window of {window:,} tokens is shorter than the context of {context:,}")
    if getattr(config, "attn_logit_softcapping", None) is not None:
        raise _refused(model, "it caps attention scores")
    if _rope(config) in _BATCHED_ROPE:
        raise _refused(model, "its positions' angles depend on the longest sequence in the batch")
    if max(getattr(config, "num_experts", 0) or 0, getattr(config, "num_local_experts", 0) or 0) > 1:
        raise _refused(model, "what its experts compute for a token depends on the rest of the batch")
    if not model._can_set_attn_implementation():
        raise _refused(model, "its attention cannot be replaced")


def _rope(config: Any) -> str:
    found = getattr(config, "rope_parameters", None)
    return str(found.get("rope_type", "")) if isinstance(found, dict) else ""


def _refused(model: Any, reason: str) -> ModelError:
    return ModelError(
        f"a {model.config.model_type} language model cannot be served with several requests at once",
        causes=(reason,),
        next_step="`edgeq run` asks it one question at a time",
    )


@dataclass
class _Aim:
    """What the next pass writes: one token in each of `rows`, or tokens from `start` on in `slot`."""

    rows: torch.Tensor
    slot: int | None = None
    start: int = 0


class _SlotLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer: [2, slots, rows, heads, width], keys first."""

    is_compileable = True

    def __init__(self, store: torch.Tensor, aim: _Aim) -> None:
        super().__init__()
        self._store, self._aim = store, aim
        self._flat = store.view(2, -1, store.shape[3] * store.shape[4])
        self._heads_first = store.transpose(2, 3)
        self.keys, self.values = self._heads_first
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing: it is allocated."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write [batch, heads, n, width] where the aim is; returns all that may be looked at there."""
        return self._put(0, key_states), self._put(1, value_states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Tokens that may be looked at, and the first of them."""
        return (self._store.shape[2] if self._aim.slot is None else self._aim.start + query_length), 0

    def get_seq_length(self) -> int:
        """Tokens in the slot that is read into."""
        return self._aim.start

    def get_max_length(self) -> int:
        """Rows of a slot."""
        return int(self._store.shape[2])

    def _put(self, which: int, states: torch.Tensor) -> torch.Tensor:
        aim = self._aim
        if aim.slot is None:
            tokens = states.transpose(1, 2).reshape(len(states), -1).to(self._store.dtype)
            self._flat[which].index_copy_(0, aim.rows, tokens)
            return self._heads_first[which]
        kept, end = self._store[which, aim.slot], aim.start + states.shape[2]
        kept[aim.start : end] = states[0].transpose(0, 1)
        return kept[:end].transpose(0, 1)[None]


@dataclass(frozen=True)
class KeptRows:
    """Keys and values of some tokens, out of a slot.

    Attributes:
        rows: [layers, 2, tokens, heads, width] in the cache's dtype.
    """

    rows: torch.Tensor

    @property
    def nbytes(self) -> int:
        """Of all of it."""
        return self.rows.nbytes


class SlotCache(Cache):  # type: ignore[misc]
    """All layers' slots.

    Args:
        shape: of a token.
        slots: sequences.
        context: tokens of each, at most.

    Attributes:
        rows: tokens that a slot has room for.
        at: int64 [slots]: the row of all slots' rows that each slot's next token goes to.
        bytes: allocated.
    """

    def __init__(self, shape: KvShape, slots: int, context: int) -> None:
        self.rows = shape.rows(context)
        size = (shape.layers, 2, slots, self.rows, shape.heads, shape.width)
        self._store = torch.empty(size, dtype=shape.dtype, device=shape.device).zero_()  # taken now, not piece by piece
        self.at = torch.arange(slots, device=shape.device) * self.rows
        self._aim = _Aim(self.at)
        self.bytes = self._store.nbytes
        super().__init__(layers=[_SlotLayer(layer, self._aim) for layer in self._store])

    def aim_at(self, slot: int, start: int) -> None:
        """The next passes read one sequence's tokens into a slot, from row `start` on."""
        self._aim.slot, self._aim.start = slot, start

    def aim_at_all(self) -> None:
        """The next passes write one token into each slot."""
        self._aim.slot, self._aim.start = None, 0

    def copy_out(self, slot: int, start: int, end: int, *, cross: bool = False) -> KeptRows:
        """A copy of some tokens of a slot.

        Args:
            slot: its number.
            start, end: rows.
            cross: with what its cross-attention looks at.
        """
        assert not cross
        return KeptRows(self._store[:, :, slot, start:end].clone())

    def copy_in(self, slot: int, start: int, kept: KeptRows) -> None:
        """Put what `copy_out` gave into a slot, from row `start` on."""
        rows = kept.rows
        self._store[:, :, slot, start : start + rows.shape[2]] = rows

    def clear(self, slot: int) -> None:
        """Zeros: after NaN, which a mask does not hide (0 x NaN is NaN)."""
        self._store[:, :, slot] = 0
