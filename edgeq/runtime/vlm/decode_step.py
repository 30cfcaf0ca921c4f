"""One decode step over all slots, always of the same shape: [slots, 1] tokens in, [slots, vocabulary] logits out.

Slots with nobody in them are computed as well, and each slot sees only its own tokens: so what one says does not depend
on who else is there, bit for bit, and nothing is allocated, copied or decided on the host between two steps. Needs
torch and transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from edgeq.runtime.cuda_graphs import CudaGraphs
from edgeq.runtime.vlm.attention import ATTENTION, attention_windows
from edgeq.runtime.vlm.cache_name import cache_name
from edgeq.runtime.vlm.kv_cache import SlotCache, check_served, read_kv_shape
from edgeq.runtime.vlm.piece import CrossStates, PromptPiece, by_kind, cross_inputs, model_inputs

__all__ = ["DecodeStep"]


class DecodeStep:
    """A language model with its slots.

    Args:
        model: transformers' causal language model, which from now on attends with `edgeq.runtime.vlm.attention`.
        slots: sequences at once.
        context: tokens of each, at most.
        cross_states: of an image, that cross-attention looks at; 0 for models without.
        graphs: whether the step is captured on a GPU, and what became of it; None for `auto`.

    Attributes:
        shape: what it keeps of a token.
        cache: the slots.

    Raises:
        ModelError: it cannot be served in slots.
        EngineError: it cannot be captured, and that is required.
    """

    def __init__(
        self, model: Any, slots: int, context: int, cross_states: int = 0, graphs: CudaGraphs | None = None
    ) -> None:
        check_served(model)
        self.shape = read_kv_shape(model, cross_states)
        model.set_attn_implementation(ATTENTION)
        self._model, self._decoder = model, _decoder(model)
        self.cache = SlotCache(self.shape, slots, context)
        self._kept = {cache_name(model): self.cache}
        self._hidden = float("-inf")
        device = self.shape.device
        self._masked = device.type != "cpu"
        self._seen, self._moves = [1] * slots, [0] * slots  # tokens that each sees in the next step, and more each time
        self._tokens = torch.zeros(slots, 1, dtype=torch.int64, device=device)
        self._positions = torch.zeros(slots, 1, dtype=torch.int64, device=device)
        self._moving = torch.zeros(slots, 1, dtype=torch.int64, device=device)
        self._index = torch.arange(self.cache.rows, device=device)
        self._windows = attention_windows(model.config)
        size = (slots, 1, 1, self.cache.rows)
        self._masks = {kind: torch.empty(size, dtype=self.shape.dtype, device=device) for kind in self._windows}
        self._states_seen = torch.zeros(slots, cross_states, dtype=torch.bool, device=device)
        for slot in range(slots):
            self.vacate(slot)
        self._forward = self._chosen(self._eager, graphs or CudaGraphs())

    def read(self, piece: PromptPiece, slot: int) -> torch.Tensor | None:
        """Read a piece of one prompt into a slot, behind what is there already.

        Returns:
            Of the last piece, the logits of its last token, [1, vocabulary] in the model's dtype; else None.
        """
        cross = piece.cross
        self.cache.aim_at(slot, piece.start, image=cross is not None and cross.states is not None)
        model = self._model if piece.last else self._decoder
        with torch.inference_mode():
            found = model(
                **model_inputs(self._windows, piece),
                **self._kept,
                use_cache=True,
                **({"logits_to_keep": 1} if piece.last else {}),
            )
            if self.shape.cross:
                self._states_seen[slot] = cross.seen[-1] if cross is not None and self.cache.crossed[slot] else False
        return found.logits[:, -1] if piece.last else None

    def occupy(self, slot: int, token: int, length: int, position: int) -> None:
        """Let a slot go on from the next step on.

        Args:
            slot: its number.
            token: that it is given first.
            length: tokens that it holds already, before that one.
            position: of that token.
        """
        self._place(slot, token, length, position, moving=1)

    def vacate(self, slot: int) -> None:
        """A slot says nothing from now on: it computes one token over and over, in its first row."""
        self._place(slot, 0, 0, 0, moving=0)

    def forward(self) -> torch.Tensor:
        """Logits of each slot's next token, [slots, vocabulary] in the model's dtype; they stay until the next call."""
        with torch.inference_mode():
            self.cache.aim_at_all()
            return self._forward()

    def advance(self, tokens: torch.Tensor) -> None:
        """Each occupied slot has said a token, int64 [slots]; on the same device."""
        with torch.inference_mode():
            self._tokens.copy_(tokens[:, None])
            self._tokens *= self._moving
            self._positions += self._moving
            self.cache.at += self._moving[:, 0]
            self._mask()
        self._seen = [seen + moves for seen, moves in zip(self._seen, self._moves, strict=True)]

    def _eager(self) -> torch.Tensor:
        found = self._model(
            input_ids=self._tokens,
            position_ids=self._positions,
            **({"attention_mask": by_kind(self._masks)} if self._masked else {"slot_tokens": self._seen}),
            **self._cross_inputs(),
            **self._kept,
            use_cache=True,
        )
        logits: torch.Tensor = found.logits[:, -1]
        return logits

    def _chosen(self, run: Callable[[], torch.Tensor], graphs: CudaGraphs) -> Callable[[], torch.Tensor]:
        """The step as a CUDA graph on a GPU, where it can be captured; else as it is."""
        if self.shape.device.type != "cuda" or not torch.cuda.is_available():
            graphs.without_gpu()
            return run

        def works() -> None:
            with torch.inference_mode():
                self.cache.aim_at_all()
                run()
            torch.cuda.synchronize()

        return graphs.capture(lambda: self._captured(run), run, works)

    def _captured(self, run: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        """The step as one CUDA graph: launching its kernels one by one takes longer than running them.

        It reads and writes the same addresses each time, since all that it takes are buffers (docs.pytorch.org, "CUDA
        Graphs"). Not yet run on a GPU.
        """
        with torch.inference_mode():
            self.cache.aim_at_all()
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):  # kernels are chosen and workspaces taken before the capture
                for _ in range(3):
                    run()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                logits = run()

        def replay() -> torch.Tensor:
            graph.replay()
            return logits

        return replay

    def _place(self, slot: int, token: int, length: int, position: int, *, moving: int) -> None:
        with torch.inference_mode():
            self._seen[slot], self._moves[slot] = length + 1, moving
            self._tokens[slot] = token
            self._positions[slot] = position
            self._moving[slot] = moving
            self.cache.at[slot] = slot * self.cache.rows + length
            if self.shape.cross and not moving:
                self._states_seen[slot] = False
            self._mask()

    def _mask(self) -> None:
        """Show each slot its own tokens, as far back as each kind of layer sees; without a decision on the host."""
        if not self._masked:
            return
        row = (self.cache.at % self.cache.rows)[:, None]
        for kind, window in self._windows.items():
            hidden = self._index > row
            if window is not None:
                hidden |= self._index <= row - window
            self._masks[kind].zero_().masked_fill_(hidden[:, None, None], self._hidden)

    def _cross_inputs(self) -> Mapping[str, torch.Tensor]:
        """What each slot's token looks at by cross-attention; a slot without an image looks at zeros."""
        if not self.shape.cross:
            return {}
        inputs = cross_inputs(CrossStates(self._states_seen), self._model.dtype)
        return {name: rows.transpose(0, 2) for name, rows in inputs.items()}


def _decoder(model: Any) -> Any:
    """A causal language model without its head; for some, `base_model` is the model itself."""
    found = model.base_model
    return model.model if found is model else found
