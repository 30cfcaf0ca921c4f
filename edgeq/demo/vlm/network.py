"""The small vision-language model: a CLIP tower, LLaVA's two-layer connector and a Llama, 5.4 million parameters.

It is `LlavaForConditionalGeneration` as it is (Liu et al., 2023, arXiv:2310.03744), so that whatever holds for the
large ones can be tried on it. Unlike those it takes the features after the tower's last layer: a tower trained for this
has no layer to spare.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from edgeq.demo.scenes import KINDS, SIZE
from edgeq.demo.vlm.report import PLACES, SEVERITIES
from edgeq.demo.vlm.tokens import IMAGE_TOKENS, PATCH

__all__ = ["Guesses", "Sorter", "build_model", "patch_features"]

_TOWER_WIDTH, _TOWER_LAYERS = 192, 6
_LANGUAGE_WIDTH, _LANGUAGE_LAYERS = 256, 4
_HEAD_WIDTH = 64
_VOCABULARY_STEP = 64
"""The vocabulary is filled up to a multiple of this, for the kernels' sake; the last tokens never occur."""


def build_model(processor: LlavaProcessor, seed: int) -> LlavaForConditionalGeneration:
    """An untrained model in float32 for the tokens and pictures of this processor; its weights come from the seed."""
    tokenizer = processor.tokenizer
    marks = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = LlavaConfig(
        vision_config=_tower(),
        text_config=_language(-(-len(tokenizer) // _VOCABULARY_STEP) * _VOCABULARY_STEP, marks),
        image_token_id=processor.image_token_id,
        image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
        **marks,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    model.generation_config = GenerationConfig(max_new_tokens=48, do_sample=False, **marks)
    return model


def _tower() -> CLIPVisionConfig:
    """The vision tower: every patch of 8 x 8 pixels becomes a token, and nothing of it is lost in 192 numbers."""
    return CLIPVisionConfig(
        hidden_size=_TOWER_WIDTH,
        intermediate_size=4 * _TOWER_WIDTH,
        projection_dim=_TOWER_WIDTH,
        num_hidden_layers=_TOWER_LAYERS,
        num_attention_heads=_TOWER_WIDTH // _HEAD_WIDTH,
        image_size=SIZE,
        patch_size=PATCH,
        hidden_act="gelu",
    )


def _language(vocabulary: int, marks: dict[str, int]) -> LlamaConfig:
    """The language model: two queries to a key, as in those that are quantized in earnest."""
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=_LANGUAGE_WIDTH,
        intermediate_size=2 * _LANGUAGE_WIDTH,
        num_hidden_layers=_LANGUAGE_LAYERS,
        num_attention_heads=_LANGUAGE_WIDTH // _HEAD_WIDTH,
        num_key_value_heads=_LANGUAGE_WIDTH // _HEAD_WIDTH // 2,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        **marks,
    )


def patch_features(model: LlavaForConditionalGeneration, pixels: torch.Tensor) -> torch.Tensor:
    """What the connector is given: [n, 3, SIZE, SIZE] float32 to [n, IMAGE_TOKENS, tower width], without CLS."""
    features: torch.Tensor = model.model.vision_tower(pixels).last_hidden_state[:, 1:]
    return features


class Guesses(NamedTuple):
    """Logits for kind [n, 6], place [n, 9] and severity [n, 3]."""

    kind: torch.Tensor
    place: torch.Tensor
    severity: torch.Tensor


class Sorter(nn.Module):
    """Reads a finding from patch features, so that the tower learns to see before it learns to be talked about.

    It is thrown away after training.
    """

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(_TOWER_WIDTH)
        self.kind = nn.Linear(_TOWER_WIDTH, len(KINDS))
        self.place = nn.Linear(IMAGE_TOKENS * _TOWER_WIDTH, len(PLACES))
        self.severity = nn.Linear(_TOWER_WIDTH, len(SEVERITIES))

    def forward(self, features: torch.Tensor) -> Guesses:
        """Logits from features [n, IMAGE_TOKENS, tower width]: the place from all in order, the rest from the mean."""
        features = self.norm(features)
        mean = features.mean(dim=1)
        return Guesses(self.kind(mean).float(), self.place(features.flatten(1)).float(), self.severity(mean).float())
