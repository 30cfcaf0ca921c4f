"""Which slot is where: the occupied ones are always the first places of the store of keys and values.

So a step over the first n places computes nobody else. Where one leaves, the last one takes its place. Needs torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from edgeq.runtime.vlm.kv_cache import SlotCache

__all__ = ["Places"]


class Places:
    """What each place says next.

    Args:
        slots: places that there are.
        cross_states: of an image, that cross-attention looks at; 0 for models without.
        cache: keys and values, by place.

    Attributes:
        order: the occupied slots, by place.
        changes: how often a slot was occupied or left so far.
        seen: tokens that each place sees in the next step.
        tokens: int64 [slots, 1], that each place is given in the next step.
        positions: int64 [slots, 1], of those tokens.
        states_seen: bool [slots, states], what cross-attention looks at.
    """

    def __init__(self, slots: int, cross_states: int, cache: SlotCache) -> None:
        self.order: list[int] = []
        self.changes = 0
        self.seen = [1] * slots
        device = cache.at.device
        self.tokens = torch.zeros(slots, 1, dtype=torch.int64, device=device)
        self.positions = torch.zeros(slots, 1, dtype=torch.int64, device=device)
        self.states_seen = torch.zeros(slots, cross_states, dtype=torch.bool, device=device)
        self._cache = cache

    def place(self, slot: int) -> int:
        """Where a slot's tokens are; those of a free one go behind the occupied ones."""
        return self.order.index(slot) if slot in self.order else len(self.order)

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

    def vacate(self, slot: int) -> None:
        """The last place goes on where this slot was; one that is free stays so."""
        if slot not in self.order:
            return
        place, last = self.place(slot), len(self.order) - 1
        with torch.inference_mode():
            if place != last:
                self._move(last, place)
            self.states_seen[last] = False
        self._set(last, 0, 0, 0)
        self.order[place] = self.order[last]
        self.order.pop()
        self.changes += 1

    def advance(self, tokens: torch.Tensor) -> None:
        """Each occupied slot has said a token.

        Args:
            tokens: int64 [at least occupied], by place; one below 0 counts as 0.
        """
        count = len(self.order)
        with torch.inference_mode():
            self.tokens[:count] = tokens[:count, None].clamp(min=0)
            self.positions[:count] += 1
            self._cache.at[:count] += 1
        self.seen[:count] = [seen + 1 for seen in self.seen[:count]]

    @contextmanager
    def trial(self, tokens: int, words: int, seed: int) -> Iterator[None]:
        """Keys, values and tokens of chance in every place, for a while in which no slot is occupied.

        Args:
            tokens: that the first place sees; each sees one less than the place before.
            words: of the vocabulary.
            seed: of the numbers.
        """
        assert not self.order, "a trial needs all slots"
        places = len(self.seen)
        self._cache.fill(places, tokens, seed=seed)
        draw = torch.Generator().manual_seed(seed)
        for place, word in enumerate(torch.randint(0, words, (places,), generator=draw).tolist()):
            # As far behind as a sequence can be: what a model does to far positions alone shows too.
            self._set(place, word, max(tokens - 1 - place, 0), max(self._cache.rows - 1 - place, 0))
        yield
        for place in range(places):
            self._set(place, 0, 0, 0)
            self._cache.clear(place, tokens)

    def _set(self, place: int, token: int, length: int, position: int) -> None:
        with torch.inference_mode():
            self.seen[place] = length + 1
            self.tokens[place] = token
            self.positions[place] = position
            self._cache.at[place] = place * self._cache.rows + length

    def _move(self, source: int, target: int) -> None:
        """Let the sequence of one place go on in another."""
        self._cache.move(source, target, self.seen[source])
        self.seen[target] = self.seen[source]
        self.tokens[target] = self.tokens[source]
        self.positions[target] = self.positions[source]
        self._cache.at[target] = self._cache.at[source] + (target - source) * self._cache.rows
        self.states_seen[target] = self.states_seen[source]
