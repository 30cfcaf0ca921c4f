"""Where a block's channels can be scaled: found in blocks of many families, refused where something would change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import nn
from vlm import TEXT

from edgeq.quantize.weight_only.points import ScalePoint, find_points
from edgeq.quantize.weight_only.stored_linear import store_linears

BASE = {"attention_bias": True}
CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**TEXT, **BASE, mlp_bias=True),
    "qwen2": lambda: transformers.Qwen2Config(**TEXT),
    "qwen3": lambda: transformers.Qwen3Config(**TEXT, head_dim=16),
    "mistral": lambda: transformers.MistralConfig(**TEXT),
    "gemma": lambda: transformers.GemmaConfig(**TEXT, head_dim=16),
    "gemma3": lambda: transformers.Gemma3TextConfig(**TEXT, head_dim=16),
    "phi3": lambda: transformers.Phi3Config(**TEXT),
}
USUAL = {
    ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    ("self_attn.v_proj", ("self_attn.o_proj",)),
    ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
    ("mlp.up_proj", ("mlp.down_proj",)),
}
FOUND = {
    "gemma3": {(source.replace("post_attention", "pre_feedforward"), readers) for source, readers in USUAL},
    "phi3": {
        ("input_layernorm", ("self_attn.qkv_proj",)),
        ("self_attn.qkv_proj", ("self_attn.o_proj",)),
        ("post_attention_layernorm", ("mlp.gate_up_proj",)),
        ("mlp.gate_up_proj", ("mlp.down_proj",)),
    },
}


class Block:
    """The first block of a tiny language model, and some hidden states."""

    def __init__(self, family: str) -> None:
        torch.manual_seed(0)
        model: Any = transformers.AutoModelForCausalLM.from_config(CONFIGS[family]()).float().eval()
        self.module: nn.Module = model.model.layers[0]
        for value in self.module.parameters():
            value.requires_grad_(False).add_(0.1 * torch.randn(value.shape))
        store_linears(self.module)
        self._hidden = torch.randn(1, 9, 64)
        places = torch.arange(9)[None]
        rotary = model.model.rotary_emb
        kinds = (self._hidden, places, "sliding_attention") if family == "gemma3" else (self._hidden, places)
        self._angles = rotary(*kinds)

    def run(self) -> torch.Tensor:
        with torch.no_grad():
            found = self.module(self._hidden.clone(), position_embeddings=self._angles, attention_mask=None)
        given: torch.Tensor = found[0] if isinstance(found, tuple) else found
        return given


def numbers(module: nn.Module) -> dict[str, torch.Tensor]:
    """All weights, those of linear layers as they compute, and biases."""
    linears = {name: linear.weight for name, linear in module.named_modules() if isinstance(linear, nn.Linear)}
    return dict(module.named_parameters()) | linears


@pytest.mark.parametrize("family", CONFIGS)
def test_places_of_a_family(family: str) -> None:
    block = Block(family)
    before = {name: value.clone() for name, value in numbers(block.module).items()}
    points = find_points(block.module, block.run)
    assert {(point.source, point.readers) for point in points} == FOUND.get(family, USUAL)
    assert all(torch.equal(value, before[name]) for name, value in numbers(block.module).items())
    assert {point.kind for point in points if "norm" in point.source} == {"one-plus" if "gemma" in family else "weight"}


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scales_change_nothing(family: str, dtype: torch.dtype) -> None:
    """A norm's new weight is rounded to bfloat16, and the layers behind it make up for that."""
    block = Block(family)
    for point in find_points(block.module, block.run):
        before = block.run()
        scales = torch.exp(torch.randn(point.width, generator=torch.Generator().manual_seed(3)))
        applied = point.apply(block.module, scales, dtype)
        assert (applied - 1).abs().max() > 0.5
        torch.testing.assert_close(block.run(), before, rtol=1e-3, atol=1e-4)
        if point.kind != "rows":
            weight = block.module.get_parameter(f"{point.source}.weight")
            assert torch.equal(weight, weight.to(dtype).float())


def test_a_norm_that_something_else_reads_is_no_place() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.layer = nn.LayerNorm(8), nn.Linear(8, 8)

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            normed = self.norm(hidden)
            return self.layer(normed) + normed  # type: ignore[no-any-return]

    module, hidden = Twice().requires_grad_(False), torch.randn(1, 5, 8)
    store_linears(module)
    assert find_points(module, lambda: module(hidden)) == []
    module.forward = lambda hidden: module.layer(module.norm(hidden))  # type: ignore[method-assign]
    (point,) = find_points(module, lambda: module(hidden))
    assert point == ScalePoint("norm", ("layer",), "weight", 8)


def test_heads_that_share_values() -> None:
    """Two heads of values with two channels, each read by two heads of queries."""
    point = ScalePoint("v", ("o",), "rows", 4, heads=2)
    assert point.spread(torch.tensor([1.0, 2, 3, 4]), 8).tolist() == [1, 2, 1, 2, 3, 4, 3, 4]
    assert point.gathered(torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8])).tolist() == [2, 3, 6, 7]
