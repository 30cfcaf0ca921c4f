"""Tiny text towers of CLIP and SigLIP with drawn weights, as ONNX graphs, and captions for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import transformers
from numpy.typing import NDArray

from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.export.simplify import simplify
from edgeq.export.tracing import quiet, trace
from edgeq.families.base import GraphInput
from edgeq.model.graph.tensors import name_nodes

__all__ = ["CONTEXT", "answers", "captions", "clip_tower", "siglip_tower"]

VOCABULARY, CONTEXT = 200, 16
_BEGIN, _END = VOCABULARY - 2, VOCABULARY - 1
_LAYERS = 2
_TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": _BEGIN,
    "eos_token_id": _END,
    "pad_token_id": 1,
}
_VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
_PICTURE = {"image_size": 16, "patch_size": 8}


class _Clip(torch.nn.Module):
    def __init__(self, whole: Any) -> None:
        super().__init__()
        self.text_model, self.text_projection = whole.text_model, whole.text_projection

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.text_projection(self.text_model(input_ids=ids).pooler_output)
        return made


class _Siglip(torch.nn.Module):
    def __init__(self, whole: Any) -> None:
        super().__init__()
        self.text_model = whole.text_model

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.text_model(input_ids=ids).pooler_output
        return made


def clip_tower(*, outliers: float = 1.0, attention: str = "eager") -> onnx.ModelProto:
    """int64 `input_ids` [batch, length] -> float32 `text_embeds` [batch, 24]; causal, read at the caption's end.

    Args:
        outliers: by what three channels of each normalization before linear layers are larger; the linear layers behind
            it undo that.
        attention: transformers' name of the implementation: with `eager` the mask has the lowest float32 in it, with
            `sdpa` minus infinity.
    """
    config = transformers.CLIPConfig(text_config=_TEXT, vision_config=_VISION | _PICTURE, projection_dim=24)
    torch.manual_seed(0)
    with quiet():
        module = _Clip(transformers.CLIPModel._from_config(config, attn_implementation=attention)).eval()
    _unlike(module.text_model.encoder.layers, outliers)
    return _traced(module, {0: "batch", 1: "length"})


def siglip_tower() -> onnx.ModelProto:
    """int64 `input_ids` [batch, 16] -> float32 `text_embeds` [batch, 32]; no mask, read at the last place."""
    config = transformers.SiglipConfig(text_config=_TEXT | {"projection_size": 32}, vision_config=_VISION | _PICTURE)
    torch.manual_seed(0)
    with quiet():
        module = _Siglip(transformers.SiglipModel._from_config(config, attn_implementation="eager")).eval()
    return _traced(module, {0: "batch"})


def _unlike(layers: Any, by: float) -> None:
    with torch.no_grad():
        for layer in layers:
            attention = layer.self_attn
            behind = ((layer.layer_norm1, (attention.q_proj, attention.k_proj, attention.v_proj)),)
            for norm, linears in (*behind, (layer.layer_norm2, (layer.mlp.fc1,))):
                norm.bias += 0.05 * torch.randn(norm.bias.shape, generator=torch.Generator().manual_seed(1))
                for channel in (3, 11, 20):
                    norm.weight[channel] *= by
                    norm.bias[channel] *= by
                    for linear in linears:
                        linear.weight[:, channel] /= by


def _traced(module: torch.nn.Module, free: dict[int, str]) -> onnx.ModelProto:
    taken = GraphInput("input_ids", free, "int64")
    ids = np.full((2, CONTEXT), 5, np.int64)
    ids[:, -1] = _END
    outputs = {"text_embeds": {0: "batch"}}
    traced = trace(module, {"input_ids": ids}, source=Path("tiny"), inputs=(taken,), outputs=outputs)
    return name_nodes(simplify(traced))


def captions(count: int, *, seed: int = 0, length: int | None = None) -> dict[str, NDArray[np.int64]]:
    """Drawn captions, int64 [1, 4 to 16] or [1, `length`] by name, with a few words in most of them."""
    rng = np.random.default_rng(seed)
    found = {}
    for number in range(count):
        words = (length or rng.integers(4, CONTEXT + 1)) - 2
        drawn = np.minimum(rng.zipf(1.3, words) + 1, _BEGIN - 1)
        found[f"{number:04d}"] = np.array([[_BEGIN, *drawn, _END]], np.int64)
    return found


def answers(model: onnx.ModelProto, ids: dict[str, NDArray[np.int64]]) -> NDArray[np.float32]:
    """Embeddings of each caption, run by itself: float32 [captions, dimension]."""
    engine = OnnxRuntimeEngine(model.SerializeToString(), threads=1)
    return np.concatenate([engine.run({"input_ids": each})["text_embeds"] for each in ids.values()])
