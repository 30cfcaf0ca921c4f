"""The estimates of activations are not below what a real forward holds, and not far above."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from edgeq.errors import ModelError
from edgeq.families.base import ImageCost
from edgeq.plan.activations import prefill_bytes, vision_bytes
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


def test_an_image_in_the_reference_encoder() -> None:
    """In float32, where eager attention keeps the scores twice and converts nothing; half of that is FP16."""
    config = transformers.CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=224,
        patch_size=14,
        attn_implementation="eager",
    )
    model = transformers.CLIPVisionModel(config).eval()
    with torch.no_grad(), Watch() as watch:
        model(torch.zeros(1, 3, 224, 224))
    cost = ImageCost(tokens=256, tiles=1, sequences=1, sequence=257)
    assert watch.peak / 2 <= vision_bytes(config.to_dict(), cost) <= watch.peak


def test_a_config_that_does_not_say() -> None:
    with pytest.raises(ModelError, match="the text config does not say how wide"):
        prefill_bytes({"hidden_size": 4}, 1, 0)
    with pytest.raises(ModelError, match="the vision config does not say how wide"):
        vision_bytes({"hidden_size": 4, "intermediate_size": 8}, ImageCost(1, 1, 1, 1))
