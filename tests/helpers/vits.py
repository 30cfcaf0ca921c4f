"""Tiny vision transformers whose every layer does something."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from networks import CLASSES, PREPROCESSOR, SIDE
from transformers import ViTConfig, ViTForImageClassification

BLOCKS = 2


def tiny_vit(attention: str = "eager") -> Any:
    """Two blocks, 16 wide, 17 tokens, with weights large enough to make attention choose."""
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=BLOCKS,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=SIDE,
        patch_size=4,
        id2label=dict(enumerate(CLASSES)),
        attn_implementation=attention,
    )
    torch.manual_seed(0)
    model = ViTForImageClassification(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight *= 12.0  # they are drawn with a standard deviation of 0.02
    return model


def save_tiny_vit(directory: Path) -> Path:
    """The same as a Hugging Face directory."""
    tiny_vit().save_pretrained(directory)
    (directory / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return directory
