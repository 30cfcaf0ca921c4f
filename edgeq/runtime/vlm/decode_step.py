"""One decode step: a token in for each occupied slot, and the logits of its next one out.

The occupied slots are always the first places of one store of keys and values, so that a step reads a prefix of it: as
many slots as are occupied, and on a GPU, whose graphs have fixed shapes, one of a few lengths. Each slot sees only its
own tokens, and a shape is used only where it gives the very bits of the full one, which is tried when the step is made:
so what one says does not depend on who else is there. Needs torch and transformers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from torch.nn.functional import pad

from edgeq.runtime.vlm.attention import ATTENTION, attention_windows, seen_by_slots
from edgeq.runtime.vlm.cache_name import cache_name
from edgeq.runtime.vlm.kv_cache import KeptRows, SlotCache, check_served, read_kv_shape
from edgeq.runtime.vlm.piece import CrossStates, PromptPiece, by_kind, cross_inputs, model_inputs
from edgeq.runtime.vlm.step.fused_layers import FusedLayers, fuse_layers
from edgeq.runtime.vlm.step.graphs import Capture, device_capture
from edgeq.runtime.vlm.step.shapes import StepShape, narrowest_shape, step_shapes

__all__ = ["DecodeStep", "StepOptions"]

_LOGGER: Final = logging.getLogger(__name__)
_TRIED_TOKENS: Final = 24
"""Tokens of each slot in a trial where a slot looks at its own tokens alone."""

_ROUNDING: Final = 0.02
"""Of the largest logit: how far fused layers on a GPU may be from those of transformers."""


@dataclass(frozen=True)
class StepOptions:
    """How steps are run.

    Attributes:
        exact: only in shapes that give the bits of the full one, so that an answer never depends on the others. Without
            it every shape is used: quicker where a kernel sums in another order for fewer rows, and an answer may then
            differ with who else is there.
        masked: attention looks at a fixed number of rows through a mask, as graphs need it; None for all but CPUs.
        capture: makes graphs of steps; None takes the device's own way.
        fused: layers run in fewer operators, where the model is of a form for which they are written.
        ahead: the next step is begun before the tokens of this one are read; None where the device works beside the
            host.
    """

    exact: bool = True
    masked: bool | None = None
    capture: Capture | None = None
    fused: bool = True
    ahead: bool | None = None


class DecodeStep:
    """A language model with its slots.

    Args:
        model: transformers' causal language model, which from now on attends with `edgeq.runtime.vlm.attention`.
        slots: sequences at once.
        context: tokens of each, at most.
        cross_states: of an image, that cross-attention looks at; 0 for models without.
        options: how steps are run.

    Attributes:
        shape: what it keeps of a token.
        cache: keys and values, by place: the first places are those of `order`, in that order.
        order: the occupied slots.
        changes: how often a slot was occupied or left so far.
        shapes: in which steps are run, the full one first.
        captured: whether steps are graphs.

    Raises:
        ModelError: it cannot be served in slots.
    """

    def __init__(
        self, model: Any, slots: int, context: int, cross_states: int = 0, options: StepOptions | None = None
    ) -> None:
        check_served(model)
        options = options or StepOptions()
        self.shape = read_kv_shape(model, cross_states)
        model.set_attn_implementation(ATTENTION)
        self._model, self._decoder = model, _decoder(model)
        self.cache = SlotCache(self.shape, slots, context)
        self._kept = {cache_name(model): self.cache}
        self._windows = attention_windows(model.config)
        device = self.shape.device
        capture = options.capture or device_capture(device)
        self.captured = capture is not None
        self._masked = self.captured or (device.type != "cpu" if options.masked is None else options.masked)
        self.order: list[int] = []
        self.changes = 0
        self._seen = [1] * slots  # tokens that each place sees in the next step
        self._tokens = torch.zeros(slots, 1, dtype=torch.int64, device=device)
        self._positions = torch.zeros(slots, 1, dtype=torch.int64, device=device)
        self._index = torch.arange(self.cache.rows, device=device)
        self._states_seen = torch.zeros(slots, cross_states, dtype=torch.bool, device=device)
        self._exact, self.shapes = options.exact, step_shapes(slots, self.cache.rows, by_length=self._masked)
        self._fused: FusedLayers | None = None
        with torch.inference_mode():
            self._logits = self._eager(self.shapes[0]).clone()
            fused = fuse_layers(model, self._decoder, self.cache) if options.fused and not self.shape.cross else None
            if fused is not None and self._agrees(fused):
                self._fused = fused
            self._runs = {shape: self._made(shape, capture) for shape in self.shapes}
        self.check_shapes()

    @property
    def fused(self) -> bool:
        """Whether the layers run in fewer operators than those of transformers."""
        return self._fused is not None

    def check_shapes(self) -> None:
        """Find the shapes that steps may be run in; while no slot is occupied.

        A kernel may sum in another order for fewer rows, on a CPU with another number of threads too. Each shape is
        therefore tried beside the full one on numbers of chance, and is used where all logits have the same bits.
        """
        assert not self.order, "shapes are tried while all slots are free"
        self.shapes = tuple(self._runs)
        if not self._exact or self.shape.device.type == "meta":
            return
        with torch.inference_mode():
            self.shapes = self._equal_shapes()
        if len(self.shapes) < len(self._runs):
            _LOGGER.info("steps run in %d of %d shapes: the others give other bits", len(self.shapes), len(self._runs))

    def read(self, piece: PromptPiece, slot: int) -> torch.Tensor | None:
        """Read a piece of one prompt into a slot, behind what is there already.

        Returns:
            Of the last piece, the logits of its last token, [1, vocabulary] in the model's dtype; else None.
        """
        cross, place = piece.cross, self._place(slot)
        self.cache.aim_at(place, piece.start, image=cross is not None and cross.states is not None)
        model = self._model if piece.last else self._decoder
        with torch.inference_mode():
            found = model(
                **model_inputs(self._windows, piece),
                **self._kept,
                use_cache=True,
                **({"logits_to_keep": 1} if piece.last else {}),
            )
            if self.shape.cross:
                self._states_seen[place] = cross.seen[-1] if cross is not None and self.cache.crossed[place] else False
        return found.logits[:, -1] if piece.last else None

    def copy_out(self, slot: int, start: int, end: int, *, cross: bool = False) -> KeptRows:
        """A copy of some tokens of a slot.

        Args:
            slot: its number.
            start, end: rows.
            cross: with what its cross-attention looks at.
        """
        return self.cache.copy_out(self._place(slot), start, end, cross=cross)

    def copy_in(self, slot: int, start: int, kept: KeptRows) -> None:
        """Put what `copy_out` gave into a slot.

        Args:
            slot: its number.
            start: the first token's row; with row 0 another sequence begins.
            kept: the tokens.
        """
        self.cache.copy_in(self._place(slot), start, kept)

    def occupy(self, slot: int, token: int, length: int, position: int) -> None:
        """Let a slot go on from the next step on.

        Args:
            slot: its number.
            token: that it is given first.
            length: tokens that it holds already, before that one.
            position: of that token.
        """
        assert slot not in self.order, f"slot {slot} goes on already"
        self._set(len(self.order), token, length, position)
        self.order.append(slot)
        self.changes += 1

    def vacate(self, slot: int, *, clear: bool = False) -> None:
        """A slot says nothing from now on, and the last one takes its place.

        Args:
            slot: its number; one that is free stays so.
            clear: write zeros over what it holds: after NaN, which a mask does not hide.
        """
        place = self._place(slot)
        if clear:
            self.cache.clear(place)
        if slot not in self.order:
            return
        last = len(self.order) - 1
        with torch.inference_mode():
            if place != last:
                self._move(last, place)
            self._set(last, 0, 0, 0)
            if self.shape.cross:
                self._states_seen[last] = False
        self.order[place] = self.order[last]
        self.order.pop()
        self.changes += 1

    def forward(self) -> torch.Tensor:
        """Logits of each occupied slot's next token, in the model's dtype; they stay until the next call.

        Returns:
            [at least occupied, vocabulary]: a row for each slot of `order`, in that order; rows behind mean nothing.
        """
        longest = max(self._seen[: len(self.order)], default=1)
        shape = narrowest_shape(self.shapes, max(len(self.order), 1), longest if self._masked else 1)
        with torch.inference_mode():
            return self._runs[shape]()

    def rehearse(self) -> None:
        """A step of the full shape, in which nobody says anything."""
        with torch.inference_mode():
            self._runs[self.shapes[0]]()

    def advance(self, tokens: torch.Tensor) -> None:
        """Each occupied slot has said a token.

        Args:
            tokens: int64 [at least occupied], in the order of `order`, on the same device; one below 0 counts as 0.
        """
        count = len(self.order)
        with torch.inference_mode():
            self._tokens[:count] = tokens[:count, None].clamp(min=0)
            self._positions[:count] += 1
            self.cache.at[:count] += 1
        self._seen[:count] = [seen + 1 for seen in self._seen[:count]]

    def _made(self, shape: StepShape, capture: Capture | None) -> Callable[[], torch.Tensor]:
        """A step of one shape; as a graph it writes into a buffer of its own."""
        if capture is None:
            return lambda: self._eager(shape)

        def run() -> None:
            self._logits[: shape.slots] = self._eager(shape)

        replay = capture(run)

        def step() -> torch.Tensor:
            replay()
            return self._logits

        return step

    def _eager(self, shape: StepShape) -> torch.Tensor:
        """Operator by operator; [slots of the shape, vocabulary]."""
        slots = slice(shape.slots)
        self.cache.aim_at_first(shape.slots, shape.rows)
        return self._whole(shape, slots) if self._fused is None else self._in_few(self._fused, shape, slots)

    def _in_few(self, fused: FusedLayers, shape: StepShape, slots: slice) -> torch.Tensor:
        """The fused layers. On a GPU the head always has a row for every slot.

        It reads its weight once either way, and a product of one row would be summed by another kernel.
        """
        if self._masked:
            rows = fused(self._tokens[slots], self._positions[slots], self._masks(shape))
        else:
            seen = {kind: seen_by_slots(self._seen[slots], window) for kind, window in self._windows.items()}
            rows = fused(self._tokens[slots], self._positions[slots], seen)
        if rows.device.type != "cpu" and len(rows) < len(self._seen):
            rows = pad(rows, (0, 0, 0, len(self._seen) - len(rows)))
        return fused.head(rows)[slots]

    def _whole(self, shape: StepShape, slots: slice) -> torch.Tensor:
        """The pass of transformers."""
        found = self._model(
            input_ids=self._tokens[slots],
            position_ids=self._positions[slots],
            **({"attention_mask": by_kind(self._masks(shape))} if self._masked else {"slot_tokens": self._seen[slots]}),
            **self._cross_inputs(slots),
            **self._kept,
            use_cache=True,
        )
        logits: torch.Tensor = found.logits[:, -1]
        return logits

    def _masks(self, shape: StepShape) -> Mapping[str, torch.Tensor]:
        """Show each slot its own tokens, as far back as each kind of layer sees; without a decision on the host."""
        index = self._index[: shape.rows]
        row = (self.cache.at[: shape.slots] % self.cache.rows)[:, None]
        masks = {}
        for kind, window in self._windows.items():
            hidden = index > row
            if window is not None:
                hidden |= index <= row - window
            mask = torch.zeros(hidden.shape, dtype=self.shape.dtype, device=hidden.device)
            masks[kind] = mask.masked_fill_(hidden, float("-inf"))[:, None, None]
        return masks

    def _cross_inputs(self, slots: slice) -> Mapping[str, torch.Tensor]:
        """What each slot's token looks at by cross-attention; a slot without an image looks at zeros."""
        if not self.shape.cross:
            return {}
        inputs = cross_inputs(CrossStates(self._states_seen[slots]), self._model.dtype)
        return {name: rows.transpose(0, 2) for name, rows in inputs.items()}

    def _agrees(self, fused: FusedLayers) -> bool:
        """Whether the fused layers are those of the model: on a CPU bit for bit, else but for rounding."""
        if self.shape.device.type == "meta":
            return True
        full = self.shapes[0]
        slots, tokens = slice(full.slots), min(_TRIED_TOKENS, full.rows)
        found = []
        for run in (self._whole, partial(self._in_few, fused)):
            self._begin_trial(full.slots, tokens)
            self.cache.aim_at_first(full.slots, full.rows)
            found.append(run(full, slots).float())
        self._end_trial(full.slots)
        ours, theirs = found
        bound = 0.0 if self.shape.device.type == "cpu" else _ROUNDING * float(theirs.abs().max())
        return bool(((ours - theirs).abs() <= bound).all())

    def _equal_shapes(self) -> tuple[StepShape, ...]:
        """The full shape, and those that give the same bits in a trial."""
        full = next(iter(self._runs))
        equal = [full]
        for rows in sorted({shape.rows for shape in self._runs}):
            tokens = min(rows if self._masked else _TRIED_TOKENS, full.rows)
            self._begin_trial(full.slots, tokens)
            expected = self._runs[full]().clone()
            for shape, run in self._runs.items():
                if shape.rows == rows and shape != full and torch.equal(run()[: shape.slots], expected[: shape.slots]):
                    equal.append(shape)
        self._end_trial(full.slots)
        return tuple(equal)

    def _begin_trial(self, slots: int, tokens: int) -> None:
        """Keys, values and tokens of chance in every place, each a little shorter than the one before."""
        self.cache.fill(slots, tokens, seed=tokens)
        draw = torch.Generator().manual_seed(tokens)
        words = torch.randint(0, self._logits.shape[1], (slots,), generator=draw).tolist()
        for place, word in enumerate(words):
            length = max(tokens - 1 - place, 0)
            self._set(place, word, length, length)

    def _end_trial(self, slots: int) -> None:
        for place in range(slots):
            self._set(place, 0, 0, 0)
            self.cache.clear(place)

    def _place(self, slot: int) -> int:
        """Where a slot's tokens are; those of a free one go behind the occupied ones."""
        return self.order.index(slot) if slot in self.order else len(self.order)

    def _set(self, place: int, token: int, length: int, position: int) -> None:
        with torch.inference_mode():
            self._seen[place] = length + 1
            self._tokens[place] = token
            self._positions[place] = position
            self.cache.at[place] = place * self.cache.rows + length

    def _move(self, source: int, target: int) -> None:
        """Let the sequence of one place go on in another."""
        self.cache.move(source, target, self._seen[source])
        self._seen[target] = self._seen[source]
        self._tokens[target] = self._tokens[source]
        self._positions[target] = self._positions[source]
        self.cache.at[target] = self.cache.at[source] + (target - source) * self.cache.rows
        self._states_seen[target] = self._states_seen[source]


def _decoder(model: Any) -> Any:
    """A causal language model without its head; for some, `base_model` is the model itself."""
    found = model.base_model
    return model.model if found is model else found
