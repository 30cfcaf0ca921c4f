"""Tiny language halves with random weights, prompts for them, and what transformers itself expects of both."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from itertools import pairwise
from typing import Any

import torch
import transformers
from transformers import masking_utils
from transformers.models.gemma3.modeling_gemma3 import create_masks_for_vision_model
from vlm import TEXT

from edgeq.families.causal import causal_class
from edgeq.runtime.vlm.cache_name import cache_name
from edgeq.runtime.vlm.decode_step import DecodeStep, StepOptions
from edgeq.runtime.vlm.piece import CrossStates, PromptPiece

__all__ = ["HALVES", "WINDOW", "LongPrompt", "answer_together", "expected_logits", "pieces", "tiny_half", "words"]

WINDOW = 8
_MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
_TWO_KINDS = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
_GEMMA = {**TEXT, **_TWO_KINDS, "head_dim": 16, "query_pre_attn_scalar": 16}

HALVES: Mapping[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**TEXT)),
    "mistral": lambda: transformers.MistralForCausalLM(transformers.MistralConfig(**TEXT, sliding_window=WINDOW)),
    "qwen2": lambda: transformers.Qwen2ForCausalLM(
        transformers.Qwen2Config(**TEXT, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1)
    ),
    "gemma2": lambda: transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**_GEMMA, attn_logit_softcapping=1.0)),
    "gemma3": lambda: transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**_GEMMA)),
    "qwen2_vl": lambda: causal_class("Qwen2VLTextModel")(
        transformers.Qwen2VLTextConfig(
            **TEXT, rope_parameters=_MROPE, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1
        )
    ),
    "qwen2_5_vl": lambda: causal_class("Qwen2_5_VLTextModel")(
        transformers.Qwen2_5_VLTextConfig(**TEXT, rope_parameters=_MROPE)
    ),
    "qwen3_vl": lambda: causal_class("Qwen3VLTextModel")(
        transformers.Qwen3VLTextConfig(**TEXT, head_dim=16, rope_parameters=_MROPE)
    ),
    "mllama": lambda: transformers.MllamaForCausalLM(
        transformers.MllamaTextConfig(
            **{**TEXT, "num_hidden_layers": 4},
            cross_attention_layers=[1, 2],
            rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        )
    ),
}
"""A name -> its model: with layers that slide and layers that do not, wherever the family has both."""


_MASKS_CACHE = next(
    name for name in ("cache", "past_key_values") if name in signature(masking_utils.create_causal_mask).parameters
)
"""What transformers' makers of masks call keys and values."""


def tiny_half(name: str) -> Any:
    """One in float32, whose layers say more than its embedding; gates of cross-attention are open."""
    torch.manual_seed(0)
    model = HALVES[name]().float().eval()
    for weight_name, weight in model.named_parameters():
        if weight_name.endswith("proj.weight"):
            weight.data *= 8
        if weight_name.endswith("_gate"):
            weight.data.fill_(0.7)
    return model


def words(count: int, seed: int) -> torch.Tensor:
    """Tokens of chance, int64 [count]."""
    return torch.randint(3, 90, (count,), generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class LongPrompt:
    """A prompt as a language half is given it.

    Attributes:
        ids: int64 [n].
        cut: where its second piece begins; 0 for a prompt that is read at once.
        image: the places of its image, from one up to the other.
        blocks: what an image's tokens see: `causal`, `image` or `prompt`, as a family says it.
        mrope: positions are of three axes, of chance.
        deepstack: layers that are given more of the image.
        states: of the image, that cross-attention looks at, [states, hidden].
        seen: which of them the tokens from the image on look at, bool [states].
    """

    ids: torch.Tensor
    cut: int = 0
    image: tuple[int, int] = (0, 0)
    blocks: str = "causal"
    mrope: bool = False
    deepstack: int = 0
    states: torch.Tensor | None = None
    seen: torch.Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))

    @property
    def positions(self) -> torch.Tensor:
        """int64 [n] or [3, n]."""
        count = len(self.ids)
        if not self.mrope:
            return torch.arange(count)
        return torch.randint(0, 3, (3, count), generator=torch.Generator().manual_seed(count)).cumsum(1)

    @property
    def behind(self) -> int:
        """Position of the first token that is said."""
        return int(self.positions.max()) + 1

    @property
    def levels(self) -> list[torch.Tensor]:
        """What deepstack adds, [places, hidden] for each layer."""
        size = (self.image[1] - self.image[0], TEXT["hidden_size"])
        return [torch.randn(size, generator=torch.Generator().manual_seed(level)) for level in range(self.deepstack)]

    @property
    def places(self) -> torch.Tensor:
        """Which tokens are the image's, bool [n]."""
        index = torch.arange(len(self.ids))
        return (index >= self.image[0]) & (index < self.image[1])

    @property
    def looks(self) -> torch.Tensor:
        """Which states each token looks at, bool [n, states]."""
        return (torch.arange(len(self.ids)) >= self.image[0])[:, None] & self.seen[None]


def pieces(model: Any, prompt: LongPrompt) -> list[PromptPiece]:
    """A prompt in the pieces in which a slot reads it."""
    count, (first, last) = len(prompt.ids), prompt.image
    with torch.inference_mode():
        embeddings = model.get_input_embeddings()(prompt.ids)[None]
    blocks = {"causal": None, "image": prompt.places.long(), "prompt": torch.ones(count, dtype=torch.int64)}
    made = []
    for start, end in pairwise(sorted({0, prompt.cut, count})):
        within = slice(max(start, first) - first, max(min(end, last), first) - first)
        cross = None
        if prompt.states is not None:
            cross = CrossStates(prompt.looks[start:end], prompt.states if start <= first < end else None)
        seen_blocks = blocks[prompt.blocks]
        made.append(
            PromptPiece(
                embeddings=embeddings[:, start:end],
                start=start,
                positions=prompt.positions[..., start:end],
                last=end == count,
                blocks=None if seen_blocks is None else seen_blocks[:end],
                narrow_blocks=prompt.blocks == "image",
                places=prompt.places[start:end],
                deepstack=tuple(level[within] for level in prompt.levels),
                cross=cross,
            )
        )
    return made


def expected_logits(model: Any, prompt: LongPrompt, steps: int) -> tuple[list[torch.Tensor], list[int]]:
    """Greedy, by transformers alone: its own masks, cache and attention.

    Returns:
        Logits [vocabulary] of each step, the first after the prompt; the tokens that are likeliest by them.
    """
    cache = cache_name(model)
    axes = prompt.positions if prompt.mrope else prompt.positions[None]
    with torch.inference_mode():
        words_alone = model.get_input_embeddings()(prompt.ids)[None]
        found = model(
            inputs_embeds=words_alone,
            position_ids=axes[:, None] if prompt.mrope else axes,
            attention_mask=_masks(model.config, prompt, words_alone),
            use_cache=True,
            **_image(prompt),
        )
        logits = [found.logits[0, -1]]
        tokens = [int(logits[0].argmax())]
        for step in range(steps - 1):
            found = model(
                input_ids=torch.tensor([tokens[-1:]]),
                position_ids=torch.tensor([[prompt.behind + step]]),
                **{cache: getattr(found, cache)},
                use_cache=True,
                **_looks(prompt.looks[-1:] if prompt.states is not None else None),
            )
            logits.append(found.logits[0, -1])
            tokens.append(int(logits[-1].argmax()))
    return logits, tokens


def _image(prompt: LongPrompt) -> dict[str, Any]:
    """What goes with a prompt's image, for the whole prompt at once."""
    given: dict[str, Any] = {}
    if prompt.deepstack:
        given = {"visual_pos_masks": prompt.places[None], "deepstack_visual_embeds": prompt.levels}
    if prompt.states is not None:
        given = {"cross_attention_states": prompt.states[None], **_looks(prompt.looks)}
    return given


def _looks(looks: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """Masks of cross-attention as `_prepare_cross_attention_mask` of Mllama makes them: added, and 0 all over where
    nothing is seen."""
    if looks is None:
        return {}
    lowest = torch.finfo(torch.float32).min
    added = torch.zeros(looks.shape).masked_fill(~looks, lowest)
    rows = (added != lowest).any(dim=-1, keepdim=True).float()
    return {"cross_attention_mask": (added * rows)[None, None], "full_text_row_masked_out_mask": rows[None, None]}


def _masks(config: Any, prompt: LongPrompt, embeddings: torch.Tensor) -> Any:
    """As Gemma3Model and PaliGemmaModel make them; None where the language half makes its own."""
    if prompt.blocks == "causal":
        return None
    given = {
        "config": config,
        "inputs_embeds": embeddings,
        "attention_mask": None,
        _MASKS_CACHE: None,
        "position_ids": None,
    }
    if prompt.blocks == "image":
        return create_masks_for_vision_model(**given, block_sequence_ids=prompt.places.long()[None] - 1)
    given["block_sequence_ids"] = torch.zeros(1, len(prompt.ids), dtype=torch.int64)
    return {
        "full_attention": masking_utils.create_causal_mask(**given),
        "sliding_attention": masking_utils.create_sliding_window_causal_mask(**given),
    }


def answer_together(
    model: Any, prompts: Sequence[LongPrompt], *, masked: bool, steps: int, states: int = 0
) -> tuple[list[list[torch.Tensor]], list[list[torch.Tensor]]]:
    """Logits of several answers in slots that begin one step after another, beside those that transformers expects.

    Args:
        model: a language half.
        prompts: one for each slot; the last slot begins first.
        masked: steps see through masks, as on a GPU.
        steps: tokens of each answer.
        states: of an image, that cross-attention looks at.
    """
    alone = copy.deepcopy(model)
    expected, tokens = zip(*(expected_logits(alone, prompt, steps) for prompt in prompts), strict=True)
    step = DecodeStep(model, len(prompts), 64, states, StepOptions(masked=masked))
    found: list[list[torch.Tensor]] = [[] for _ in prompts]
    for turn in range(steps + len(prompts)):
        slot = len(prompts) - 1 - turn
        if slot >= 0:
            found[slot].append(_begun(step, model, prompts[slot], slot, tokens[slot][0]))
        running = tuple(step.order)
        for slot, logits in zip(running, step.forward().clone(), strict=False):
            found[slot].append(logits)
        step.advance(torch.tensor([tokens[slot][len(found[slot]) - 1] for slot in running], dtype=torch.int64))
        for slot in running:
            if len(found[slot]) == steps:
                step.vacate(slot)
    return found, list(expected)


def _begun(step: DecodeStep, model: Any, prompt: LongPrompt, slot: int, first: int) -> torch.Tensor:
    """Read a prompt and let its slot go on; the logits of its end."""
    logits = None
    for piece in pieces(model, prompt):
        assert logits is None, "the last piece is read last"
        logits = step.read(piece, slot)
    assert logits is not None
    step.occupy(slot, first, len(prompt.ids), prompt.behind)
    return logits[0]
