"""The slots: keys and values of several sequences, allocated once, behind the cache interface of transformers 5.

A slot is one sequence's place. All slots are in one tensor that never moves, so that a step over them can be captured
into a CUDA graph, and what is kept of a prompt is copied in and out in one piece. Layers that slide keep all tokens,
too. What cross-attention looks at is in a tensor of its own: as many states for each slot, however long the context is;
zeros where the sequence has no image, so that such a layer adds nothing. Needs torch and transformers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from edgeq.errors import ModelError
from edgeq.runtime.vlm.attention import attention_windows
from edgeq.runtime.vlm.cache_name import cache_name

__all__ = ["KeptRows", "KvShape", "SlotCache", "check_served", "read_kv_shape"]

_ROWS: Final = 64
_DIMENSIONS: Final = 4  # batch, heads, tokens, width
_KINDS: Final = frozenset({"full_attention", "sliding_attention"})
_BATCHED_ROPE: Final = frozenset({"dynamic", "longrope"})


@dataclass(frozen=True)
class KvShape:
    """Keys and values of one token, and of what an image is looked at by.

    Attributes:
        layers: in which a token looks at tokens.
        heads: of keys.
        width: of a head.
        dtype: that they are kept in: the model's; float32 on a CPU, which has no quick attention in FP16.
        device: where they are kept.
        cross: numbers of the layers in which it looks at an image's states instead.
        states: of an image, that these look at.
    """

    layers: int
    heads: int
    width: int
    dtype: torch.dtype
    device: torch.device
    cross: tuple[int, ...] = ()
    states: int = 0

    @property
    def token_bytes(self) -> int:
        """Of keys and values of one token in all layers that look at tokens."""
        return self.layers * self._pair_bytes

    @property
    def cross_bytes(self) -> int:
        """Of what cross-attention looks at, in each slot; 0 for models without."""
        return len(self.cross) * self.states * self._pair_bytes

    @property
    def _pair_bytes(self) -> int:
        """Of a key and a value in one layer."""
        return 2 * self.heads * self.width * self.dtype.itemsize

    def rows(self, context: int) -> int:
        """Tokens that a slot has room for: one more than the context, in whole blocks of 64, as kernels like it."""
        return -(-(context + 1) // _ROWS) * _ROWS

    def slot_bytes(self, context: int) -> int:
        """Of one slot."""
        return self.rows(context) * self.token_bytes + self.cross_bytes


def read_kv_shape(model: Any, cross_states: int = 0) -> KvShape:
    """What a model keeps of a token, from one token.

    Args:
        model: transformers' causal language model.
        cross_states: of an image, that cross-attention looks at; 0 for models without.

    Raises:
        ModelError: it keeps something else than keys and values, or layers keep different shapes.
    """
    with torch.inference_mode():
        ids = torch.zeros(1, 1, dtype=torch.int64, device=model.device)
        kept = getattr(model(input_ids=ids, use_cache=True), cache_name(model), None)
    cross = tuple(getattr(model.config, "cross_attention_layers", None) or ())  # a text leaves them empty
    layers = [layer for number, layer in enumerate(getattr(kept, "layers", ())) if number not in cross]
    tensors: list[Any] = [getattr(layer, name, None) for layer in layers for name in ("keys", "values")]
    shapes = {tuple(tensor.shape) if isinstance(tensor, torch.Tensor) else () for tensor in tensors}
    if len(shapes) != 1 or len(next(iter(shapes))) != _DIMENSIONS:
        raise _refused(model, "its layers do not all keep keys and values of one shape")
    keys = tensors[0]
    dtype = torch.float32 if keys.device.type == "cpu" else keys.dtype
    return KvShape(len(layers), keys.shape[1], keys.shape[3], dtype, keys.device, cross, cross_states)


def check_served(model: Any) -> None:
    """Raise ModelError where a language model cannot be served in slots."""
    config = model.config
    others = attention_windows(config).keys() - _KINDS
    if others:
        raise _refused(model, f"it has layers of {', '.join(sorted(others))}")
    if not _BATCHED_ROPE.isdisjoint(_ropes(getattr(config, "rope_parameters", None))):
        raise _refused(model, "its positions' angles depend on the longest sequence in the batch")
    if max(getattr(config, "num_experts", 0) or 0, getattr(config, "num_local_experts", 0) or 0) > 1:
        raise _refused(model, "what its experts compute for a token depends on the rest of the batch")
    if not model._can_set_attn_implementation():
        raise _refused(model, "its attention cannot be replaced")


def _ropes(parameters: Any) -> Iterator[str]:
    """How angles of positions are made, once for all layers or for each kind of them."""
    if isinstance(parameters, dict):
        yield str(parameters.get("rope_type", ""))
        for inner in parameters.values():
            yield from _ropes(inner)


def _refused(model: Any, reason: str) -> ModelError:
    return ModelError(
        f"a {model.config.model_type} language model cannot be served with several requests at once",
        causes=(reason,),
        next_step="`edgeq run` asks it one question at a time",
    )


@dataclass
class _Aim:
    """What the next pass writes: one token in each of `rows`, or tokens from `start` on in `slot`.

    Attributes:
        rows: int64 [slots], of all slots' rows.
        slot: that a prompt is read into; None for a step.
        start: the prompt's first row.
        slots: of a step, the first so many.
        shown: rows of each slot that a step looks at, the first so many.
    """

    rows: torch.Tensor
    slot: int | None
    start: int
    slots: int
    shown: int


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
        return (self._aim.shown if self._aim.slot is None else self._aim.start + query_length), 0

    def get_seq_length(self) -> int:
        """Tokens in the slot that is read into."""
        return self._aim.start

    def get_max_length(self) -> int:
        """Rows of a slot."""
        return int(self._store.shape[2])

    def put(self, pairs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `update` in a step, for keys and values that lie one behind the other, in one operator.

        Args:
            pairs: [slots of the step, 2 * heads, width] in the cache's dtype, keys first.
        """
        aim = self._aim
        self._flat.index_copy_(1, aim.rows[: aim.slots], pairs.reshape(aim.slots, 2, -1).transpose(0, 1))
        keys, values = self._heads_first[:, : aim.slots, :, : aim.shown]
        return keys, values

    def _put(self, which: int, states: torch.Tensor) -> torch.Tensor:
        aim = self._aim
        if aim.slot is None:
            tokens = states.transpose(1, 2).reshape(len(states), -1).to(self._store.dtype)
            self._flat[which].index_copy_(0, aim.rows[: aim.slots], tokens)
            return self._heads_first[which, : aim.slots, :, : aim.shown]
        kept, end = self._store[which, aim.slot], aim.start + states.shape[2]
        kept[aim.start : end] = states[0].transpose(0, 1)
        return kept[:end].transpose(0, 1)[None]


class _CrossLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's keys and values of images: [2, slots, states, heads, width].

    transformers reads `keys` and `values` of it, and passes over the layer where they are empty.
    """

    is_compileable = True

    def __init__(self, store: torch.Tensor, aim: _Aim) -> None:
        super().__init__()
        self._heads_first, self._aim = store.transpose(2, 3), aim
        self.is_initialized = True
        self.show(slice(None))

    def show(self, slots: slice) -> None:
        """What the next passes look at."""
        self.keys, self.values = self._heads_first[:, slots]

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing: it is allocated."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write an image's [1, heads, states, width] into the slot that is read into; returns what is there."""
        slot = self._aim.slot
        assert slot is not None, "an image is read into a slot"
        self._heads_first[0, slot], self._heads_first[1, slot] = key_states[0], value_states[0]
        self.show(slice(slot, slot + 1))
        return self.keys, self.values

    def get_mask_sizes(self, *_args: Any) -> tuple[int, int]:
        """States that may be looked at, and the first of them."""
        return self.get_max_length(), 0

    def get_seq_length(self) -> int:
        """States that are shown."""
        return int(self.keys.shape[2]) if len(self.keys) else 0

    def get_max_length(self) -> int:
        """States of a slot."""
        return int(self._heads_first.shape[3])


@dataclass(frozen=True)
class KeptRows:
    """Keys and values of some tokens, out of a slot.

    Attributes:
        rows: [layers, 2, tokens, heads, width] in the cache's dtype.
        cross: of the image that cross-attention looks at, [cross layers, 2, states, heads, width]; None without.
    """

    rows: torch.Tensor
    cross: torch.Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Of all of it."""
        return self.rows.nbytes + (0 if self.cross is None else self.cross.nbytes)


class SlotCache(Cache):  # type: ignore[misc]
    """All layers' slots.

    Args:
        shape: of a token.
        slots: sequences.
        context: tokens of each, at most.

    Attributes:
        rows: tokens that a slot has room for.
        dtype: of keys and values.
        at: int64 [slots]: the row of all slots' rows that each slot's next token goes to.
        crossed: of each slot, whether there is an image that cross-attention looks at.
        bytes: allocated.
    """

    def __init__(self, shape: KvShape, slots: int, context: int) -> None:
        self.rows, self.dtype = shape.rows(context), shape.dtype
        each = (shape.heads, shape.width)
        self._store = _taken((shape.layers, 2, slots, self.rows, *each), shape)
        self._cross = _taken((len(shape.cross), 2, slots, shape.states, *each), shape)
        self.at = torch.arange(slots, device=shape.device) * self.rows
        self.crossed = [False] * slots
        self._aim = _Aim(self.at, None, 0, slots, self.rows)
        self.bytes = self._store.nbytes + self._cross.nbytes
        self._cross_layers = [_CrossLayer(layer, self._aim) for layer in self._cross]
        self._slot_layers = [_SlotLayer(layer, self._aim) for layer in self._store]
        layers: list[CacheLayerMixin] = list(self._slot_layers)
        for number, layer in sorted(zip(shape.cross, self._cross_layers, strict=True), key=lambda pair: pair[0]):
            layers.insert(number, layer)
        super().__init__(layers=layers)

    def aim_at(self, slot: int, start: int, *, image: bool = False) -> None:
        """The next pass reads one sequence's tokens into a slot.

        Args:
            slot: its number.
            start: the first token's row; with row 0 another sequence begins.
            image: cross-attention is given an image's states.
        """
        if start == 0:
            self._forget(slot)
        self.crossed[slot] |= image
        self._aim.slot, self._aim.start = slot, start
        self._show(slice(slot, slot + 1) if self.crossed[slot] else slice(0))

    def aim_at_first(self, slots: int, rows: int) -> None:
        """The next passes write one token into each of the first slots.

        Args:
            slots: how many.
            rows: of each slot that they look at, the first so many.
        """
        aim = self._aim
        aim.slot, aim.start, aim.slots, aim.shown = None, 0, slots, rows
        self._show(slice(slots))

    def put(self, layer: int, pairs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one token into each slot of a step, as `update` does, but in one operator.

        Args:
            layer: its number among those that look at tokens.
            pairs: [slots of the step, 2 * heads, width] in the cache's dtype, keys first.

        Returns:
            Keys and values, [slots, heads, rows, width] each, in the cache's dtype.
        """
        return self._slot_layers[layer].put(pairs)

    def move(self, source: int, target: int, tokens: int) -> None:
        """Take a sequence into another slot, and leave zeros: one whose numbers are NaN leaves none behind.

        Args:
            source: its slot.
            target: the other.
            tokens: that it has, with that of a step which may be under way.
        """
        self._store[:, :, target, :tokens] = self._store[:, :, source, :tokens]
        self._store[:, :, source, :tokens] = 0
        if self._cross_layers:
            self._cross[:, :, target] = self._cross[:, :, source]
        self.crossed[target] = self.crossed[source]

    def fill(self, slots: int, tokens: int, seed: int) -> None:
        """Numbers of chance in the first tokens of the first slots, for a trial; `clear` takes them out.

        Args:
            slots, tokens: how many.
            seed: of the numbers.
        """
        draw = torch.Generator(self._store.device).manual_seed(seed)
        for layer in self._store:
            layer[:, :slots, :tokens].normal_(generator=draw)

    def copy_out(self, slot: int, start: int, end: int, *, cross: bool = False) -> KeptRows:
        """A copy of some tokens of a slot.

        Args:
            slot: its number.
            start, end: rows.
            cross: with what its cross-attention looks at.
        """
        image = self._cross[:, :, slot].clone() if cross else None
        return KeptRows(self._store[:, :, slot, start:end].clone(), image)

    def copy_in(self, slot: int, start: int, kept: KeptRows) -> None:
        """Put what `copy_out` gave into a slot.

        Args:
            slot: its number.
            start: the first token's row; with row 0 another sequence begins.
            kept: the tokens.
        """
        if start == 0:
            self._forget(slot)
        self._store[:, :, slot, start : start + kept.rows.shape[2]] = kept.rows
        if kept.cross is not None:
            self._cross[:, :, slot] = kept.cross
            self.crossed[slot] = True

    def clear(self, slot: int, tokens: int | None = None) -> None:
        """Zeros: after NaN, which a mask does not hide (0 x NaN is NaN).

        Args:
            slot: its number.
            tokens: the first so many; None for all.
        """
        self._store[:, :, slot, :tokens] = 0
        self._forget(slot)

    def _forget(self, slot: int) -> None:
        """Zeros where cross-attention looks: a text without an image, beside others that have one, gets nothing of it.

        A softmax adds up to 1 over whatever it sees, so that the values must be zeros.
        """
        if self._cross_layers:
            self._cross[:, :, slot] = 0
        self.crossed[slot] = False

    def _show(self, slots: slice) -> None:
        for layer in self._cross_layers:
            layer.show(slots)


def _taken(size: tuple[int, ...], shape: KvShape) -> torch.Tensor:
    """Zeros whose memory is taken now, not piece by piece."""
    return torch.empty(size, dtype=shape.dtype, device=shape.device).zero_()
