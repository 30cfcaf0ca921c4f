"""The estimates of activations are not below what a real forward holds, and not far above."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from edgeq.errors import ModelError
from edgeq.families.base import ImageCost
from edgeq.plan.activations import fused_attention, photograph_bytes, pixel_bytes, prefill_bytes, vision_bytes
from edgeq.plan.kv import kv_cache

TOKENS = 512


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The most bytes alive at once in storages that were made while it watches."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        known = {tensor.untyped_storage()._cdata for tensor in tree_leaves((args, kwargs)) if torch.is_tensor(tensor)}
        for tensor in tree_leaves(made):
            if torch.is_tensor(tensor):
                self._note(tensor.untyped_storage(), known)
        self.peak = max(self.peak, sum(self.alive.values()))
        return made

    def _note(self, storage: Any, known: set[int]) -> None:
        key = storage._cdata
        if key not in known and key not in self.alive:
            self.alive[key] = storage.nbytes()
            weakref.finalize(storage, self.alive.pop, key, None)


@pytest.mark.parametrize(("inner", "kv_heads"), [(1376, 8), (1792, 2), (256, 8)])
def test_a_prompt_in_one_piece(inner: int, kv_heads: int) -> None:
    config = transformers.LlamaConfig(
        hidden_size=512,
        intermediate_size=inner,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=kv_heads,
        vocab_size=1000,
    )
    model = transformers.LlamaForCausalLM(config).half().eval()
    tokens = torch.ones(1, TOKENS, dtype=torch.long)
    with torch.no_grad(), Watch() as watch:
        model(inputs_embeds=model.get_input_embeddings()(tokens), use_cache=True, logits_to_keep=1)
    held = watch.peak - kv_cache(config.to_dict()).bytes(TOKENS, 0)
    planned = prefill_bytes(config.to_dict(), TOKENS, 0)
    assert held <= planned <= 2 * held


def encoder(heads: int, attention: str) -> Any:
    return transformers.CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=heads,
        image_size=224,
        patch_size=14,
        attn_implementation=attention,
    )


COST = ImageCost(tokens=256, tiles=1, sequences=1, sequence=257)


@pytest.mark.parametrize(("heads", "attention"), [(4, "sdpa"), (16, "eager")])
def test_an_image_in_the_reference_encoder(heads: int, attention: str) -> None:
    """In float32, of which half is FP16; heads of 32 numbers are fused, those of 8 are not, and keep the scores twice.

    The scores of 16 heads are two thirds of all that is held.
    """
    config = encoder(heads, attention)
    assert fused_attention(config.to_dict()) == (attention == "sdpa")
    model = transformers.CLIPVisionModel(config).eval()
    pixels = torch.zeros(1, 3, 224, 224)
    with torch.no_grad(), Watch() as watch:
        model(pixels)
    assert watch.peak / 2 <= vision_bytes(config.to_dict(), COST, features=0) <= watch.peak


@pytest.mark.parametrize(
    ("hidden", "heads", "fused"),
    [(1024, 16, True), (1152, 16, True), (1280, 16, True), (1152, 4, False), (120, 10, False)],
)
def test_which_heads_tensorrt_fuses(hidden: int, heads: int, fused: bool) -> None:
    """Those of CLIP, SigLIP and Qwen-VL: 64, 72 and 80 numbers; not 288, which is too wide, nor 12."""
    vision = {"hidden_size": hidden, "num_attention_heads": heads, "intermediate_size": 8, "patch_size": 14}
    assert fused_attention(vision) == fused
    fused_too = {**vision, "num_attention_heads": hidden // 64}
    kept = vision_bytes(vision, COST, features=0) - vision_bytes(fused_too, COST, features=0)
    assert kept == (0 if fused else 2 * 2 * heads * 257**2)


SMALL = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 8, "patch_size": 14}


def test_a_mask_counts_in_float32() -> None:
    masked = vision_bytes(SMALL, replace(COST, mask=257**2), features=0)
    assert masked - vision_bytes(SMALL, COST, features=0) == 4 * 257**2


@pytest.mark.parametrize(("widens", "copies"), [(True, 1), (False, 2)])
def test_tensorrt_has_buffers_of_its_own_for_pixels_and_features(widens: bool, copies: int) -> None:
    """257 patches of 14 x 14 pixels, of three colours in float32; two frames in time are the same one twice."""
    bare, given = (vision_bytes(SMALL, COST, features=count, widens=widens) for count in (0, 1000))
    assert given - bare == copies * 4 * 1000
    frame = 257 * 14 * 14 * 3
    assert pixel_bytes(SMALL, COST, widens=widens) == copies * 4 * frame + (4 + 4 + 1) * frame
    twice = {**SMALL, "temporal_patch_size": 2}
    assert pixel_bytes(twice, COST, widens=widens) == copies * 8 * frame + (8 + 4 + 1) * frame


def test_of_large_arrays_little_is_left() -> None:
    """Nine tiles of 3,000 patches: 63 MB in float32, 16 MB in bytes."""
    frame = 9 * 3000 * 14 * 14 * 3
    cost = ImageCost(tokens=1, tiles=9, sequences=9, sequence=3000)
    assert pixel_bytes(SMALL, cost, widens=True) == 4 * frame + 2 * 2**25 + frame


def test_a_photograph_of_12_megapixels() -> None:
    assert photograph_bytes((3000, 4000)) == 12_000_000 * (4 + 3 + 4)


def test_a_config_that_does_not_say() -> None:
    with pytest.raises(ModelError, match="the text config does not say how wide"):
        prefill_bytes({"hidden_size": 4}, 1, 0)
    with pytest.raises(ModelError, match="the vision config does not say how wide"):
        vision_bytes({"hidden_size": 4, "intermediate_size": 8}, ImageCost(1, 1, 1, 1), features=0)
    with pytest.raises(ModelError, match="the vision config does not say how wide"):
        pixel_bytes({"hidden_size": 4, "intermediate_size": 8}, ImageCost(1, 1, 1, 1))
