"""One decode step: a token in for each occupied slot, and the logits of its next one out.

The occupied slots are always the first places of one store of keys and values, so that a step reads a prefix of it: as
many slots as are occupied, and on a GPU, whose graphs have fixed shapes, one of a few lengths. Each slot sees only its
own tokens, and a shape is used only where it gives the very bits of the full one, which is tried when the step is made:
so what one says does not depend on who else is there. Needs torch and transformers.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from torch.nn.functional import pad

from edgeq.runtime.cuda_graphs import CudaGraphs, GraphMode
from edgeq.runtime.vlm.attention import ATTENTION, Seen, attention_windows, seen_by_slots
from edgeq.runtime.vlm.cache_name import cache_name
from edgeq.runtime.vlm.kv_cache import KeptRows, SlotCache, check_served, read_kv_shape
from edgeq.runtime.vlm.piece import CrossStates, PromptPiece, by_kind, cross_inputs, model_inputs
from edgeq.runtime.vlm.step.fused_layers import FusedLayers, fuse_layers
from edgeq.runtime.vlm.step.graphs import Capture, GraphRecorder, device_capture
from edgeq.runtime.vlm.step.places import Places
from edgeq.runtime.vlm.step.shapes import StepShape, narrowest_shape, step_shapes

__all__ = ["DecodeStep", "StepOptions"]

_LOGGER: Final = logging.getLogger(__name__)

_TRIED_TOKENS: Final = 24
"""Tokens of the first slot in a trial where a slot looks at its own tokens alone."""

_TRIED_VALUES: Final = 8192
"""Rounded numbers that trials look at. Another order of a sum is mostly rounded away in 16 bits: of a small network's
numbers one in 500 told it (AVX512-FP16, one row beside four), so that one trial of these is not enough."""

_HEAD_ROWS: Final = 2
"""Of a head in floating point on a CPU: of one row a few of 32,000 logits had other bits (FP16, AVX512-FP16)."""

_ROUNDING: Final = 0.02
"""Of the largest logit: how far fused layers on a GPU may be from those of transformers."""


_Run = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class StepOptions:
    """How steps are run.

    Attributes:
        batch_invariant: only in shapes that give the bits of the full one, so that an answer never depends on the
            others. Without it every shape is used: quicker where a kernel sums in another order for fewer rows, and an
            answer may then differ with who else is there.
        masked: attention looks at a fixed number of rows through a mask, as graphs need it; None for all but CPUs.
        cuda_graphs: whether steps are captured as graphs: `auto` goes on without where that fails, `off` does not try,
            with `required` it is an error.
        capture: makes graphs of steps; None takes the device's own way.
        fused: layers run in fewer operators, where the model is of a form for which they are written.
        ahead: the next step is begun before the tokens of this one are read; None where the device works beside the
            host.
        try_shapes: with False `check_shapes` is called later, once it is known with how many threads steps are run;
            until then they are run in the full shape.
    """

    batch_invariant: bool = True
    masked: bool | None = None
    cuda_graphs: GraphMode = "auto"
    capture: Capture | None = None
    fused: bool = True
    ahead: bool | None = None
    try_shapes: bool = True


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
        shapes: in which steps are run, the full one first.
        graphs: what became of capturing them.

    Raises:
        ModelError: it cannot be served in slots.
        EngineError: steps cannot be captured, and that is required.
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
        self._places = Places(slots, cross_states, self.cache)
        self._kept = {cache_name(model): self.cache}
        self._windows = attention_windows(model.config)
        device = self.shape.device
        self._index = torch.arange(self.cache.rows, device=device)
        capture = None if options.cuda_graphs == "off" else options.capture or device_capture(device)
        self._masked = capture is not None or (device.type != "cpu" if options.masked is None else options.masked)
        self.graphs = CudaGraphs(options.cuda_graphs)
        self._batch_invariant = options.batch_invariant
        self.shapes = step_shapes(slots, self.cache.rows, by_length=self._masked)
        self._fused: FusedLayers | None = None
        with torch.inference_mode():
            self._logits = self._eager(self.shapes[0]).clone()
            if options.fused and not self.shape.cross:
                self._fused = self._tried(fuse_layers(model, self._decoder, self.cache))
            self._runs = self._made_all(capture)
        if isinstance(capture, GraphRecorder):
            _LOGGER.info("graphs of decode steps take %.0f MB", capture.bytes / 1e6)
        self.shapes = self.shapes[:1]
        if options.try_shapes:
            self.check_shapes()

    @property
    def order(self) -> list[int]:
        """The occupied slots, in the order of the rows of logits."""
        return self._places.order

    @property
    def changes(self) -> int:
        """How often a slot was occupied or left so far."""
        return self._places.changes

    @property
    def fused(self) -> bool:
        """Whether the layers run in fewer operators than those of transformers."""
        return self._fused is not None

    def check_shapes(self) -> None:
        """Find the shapes that steps may be run in; while no slot is occupied.

        A kernel may sum in another order for fewer rows, on a CPU with another number of threads too. Each shape is
        therefore tried beside the full one on numbers of chance, and is used where all logits have the same bits.
        """
        self.shapes = tuple(self._runs)
        if not self._batch_invariant or self.shape.device.type == "meta":
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
        cross, place = piece.cross, self._places.place(slot)
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
                crossed = cross is not None and self.cache.crossed[place]
                self._places.states_seen[place] = cross.seen[-1] if cross is not None and crossed else False
        return found.logits[:, -1] if piece.last else None

    def copy_out(self, slot: int, start: int, end: int, *, cross: bool = False) -> KeptRows:
        """A copy of some tokens of a slot.

        Args:
            slot: its number.
            start, end: rows.
            cross: with what its cross-attention looks at.
        """
        return self.cache.copy_out(self._places.place(slot), start, end, cross=cross)

    def copy_in(self, slot: int, start: int, kept: KeptRows) -> None:
        """Put what `copy_out` gave into a slot.

        Args:
            slot: its number.
            start: the first token's row; with row 0 another sequence begins.
            kept: the tokens.
        """
        self.cache.copy_in(self._places.place(slot), start, kept)

    def occupy(self, slot: int, token: int, length: int, position: int) -> None:
        """Let a slot go on from the next step on.

        Args:
            slot: its number.
            token: that it is given first.
            length: tokens that it holds already, before that one.
            position: of that token.
        """
        self._places.occupy(slot, token, length, position)

    def vacate(self, slot: int, *, clear: bool = False) -> None:
        """A slot says nothing from now on; one that is free stays so.

        Args:
            slot: its number.
            clear: write zeros over what it holds: after NaN, which a mask does not hide (0 x NaN is NaN).
        """
        if clear:
            self.cache.clear(self._places.place(slot))
        self._places.vacate(slot)

    def forward(self) -> torch.Tensor:
        """Logits of each occupied slot's next token; they stay until the next call.

        Returns:
            [at least occupied, vocabulary] in the model's dtype: a row for each slot of `order`, in that order; rows
            behind mean nothing.
        """
        occupied = len(self.order)
        longest = max(self._places.seen[:occupied], default=1) if self._masked else 1
        with torch.inference_mode():
            return self._runs[narrowest_shape(self.shapes, max(occupied, 1), longest)]()

    def rehearse(self) -> None:
        """A step of the full shape, in which nobody says anything."""
        with torch.inference_mode():
            self._runs[self.shapes[0]]()

    def advance(self, tokens: torch.Tensor) -> None:
        """Each occupied slot has said a token.

        Args:
            tokens: int64 [at least occupied], in the order of `order`, on the same device; one below 0 counts as 0.
        """
        self._places.advance(tokens)

    def _made_all(self, capture: Capture | None) -> dict[StepShape, _Run]:
        """A step of each shape: all as graphs, or none."""
        eager: dict[StepShape, _Run] = {shape: partial(self._eager, shape) for shape in self.shapes}
        if capture is None:
            self.graphs.without_gpu()
            return eager
        made = {
            shape: self.graphs.capture(partial(self._graph, shape, capture), run, self._works)
            for shape, run in eager.items()
        }
        return made if self.graphs.state == "captured" else eager

    def _graph(self, shape: StepShape, capture: Capture) -> _Run:
        """A step of one shape as a graph, which writes into a buffer."""

        def run() -> None:
            self._logits[: shape.slots] = self._eager(shape)

        replay = capture(run)

        def step() -> torch.Tensor:
            replay()
            return self._logits

        return step

    def _works(self) -> None:
        """Raise where the device does not work any more."""
        self._eager(self.shapes[0])
        if self.shape.device.type == "cuda":
            torch.cuda.synchronize()

    def _eager(self, shape: StepShape) -> torch.Tensor:
        """Operator by operator; [slots of the shape, vocabulary]."""
        self.cache.aim_at_first(shape.slots, shape.rows)
        if self._fused is not None:
            return self._in_few(self._fused, shape)
        places, slots = self._places, slice(shape.slots)
        found = self._model(
            input_ids=places.tokens[slots],
            position_ids=places.positions[slots],
            **(
                {"attention_mask": by_kind(self._masks(shape))} if self._masked else {"slot_tokens": places.seen[slots]}
            ),
            **self._cross_inputs(slots),
            **self._kept,
            use_cache=True,
        )
        logits: torch.Tensor = found.logits[:, -1]
        return logits

    def _in_few(self, fused: FusedLayers, shape: StepShape) -> torch.Tensor:
        """The fused layers. The head has a row for every slot on a GPU, and in floating point two at least on a CPU.

        It reads its weight once either way, and a product of one row would be summed by another kernel. On a CPU two
        rows take a third longer than one, so that without `batch_invariant` it has one, and so it has in integers,
        whose kernel gives a row the same bits whatever stands beside it.
        """
        places, slots = self._places, slice(shape.slots)
        seen = self._masks(shape) if self._masked else self._own_tokens(slots)
        rows = fused(places.tokens[slots], places.positions[slots], seen)
        most = _HEAD_ROWS if self._batch_invariant and not fused.rows_alike else 1
        least = min(most, len(places.seen)) if rows.device.type == "cpu" else len(places.seen)
        if len(rows) < least:
            rows = pad(rows, (0, 0, 0, least - len(rows)))
        return fused.head(rows)[slots]

    def _own_tokens(self, slots: slice) -> Mapping[str, Seen]:
        """What each slot sees, for each kind of layer."""
        seen = self._places.seen[slots]
        return {kind: seen_by_slots(seen, window) for kind, window in self._windows.items()}

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
        inputs = cross_inputs(CrossStates(self._places.states_seen[slots]), self._model.dtype)
        return {name: rows.transpose(0, 2) for name, rows in inputs.items()}

    def _tried(self, fused: FusedLayers | None) -> FusedLayers | None:
        """Fused layers that are those of the model, on a CPU bit for bit and else but for rounding; None for others."""
        if fused is None or self.shape.device.type == "meta":
            return fused
        full = self.shapes[0]
        with self._places.trial(min(_TRIED_TOKENS, full.rows), self._logits.shape[1], seed=0):
            theirs = self._eager(full).float()
            ours = self._in_few(fused, full).float()
        bound = 0.0 if self.shape.device.type == "cpu" else _ROUNDING * theirs.abs().max()
        return fused if bool(((ours - theirs).abs() <= bound).all()) else None

    def _equal_shapes(self) -> tuple[StepShape, ...]:
        """The full shape, and those that give the same bits in all trials."""
        full, words = next(iter(self._runs)), self._logits.shape[1]
        equal = [full]
        for rows in sorted({shape.rows for shape in self._runs}):
            left = [shape for shape in self._runs if shape.rows == rows and shape != full]
            most = min(rows if self._masked else _TRIED_TOKENS, full.rows)
            for number in range(self._trials()):
                if not left:
                    break
                with self._places.trial(most - number % max(most - full.slots, 1), words, seed=number):
                    expected = self._runs[full]().clone()
                    left = [
                        shape
                        for shape in left
                        if torch.equal(self._runs[shape]()[: shape.slots], expected[: shape.slots])
                    ]
            equal += left
        return tuple(equal)

    def _trials(self) -> int:
        """Enough to look at `_TRIED_VALUES` numbers; one where no rounding to 16 bits hides anything."""
        if self._model.dtype.itemsize > 2:
            return 1
        hidden = int(self._model.config.hidden_size)
        return math.ceil(_TRIED_VALUES / (self.shape.layers * hidden + self._logits.shape[1]))


def _decoder(model: Any) -> Any:
    """A causal language model without its head; for some, `base_model` is the model itself."""
    found = model.base_model
    return model.model if found is model else found
