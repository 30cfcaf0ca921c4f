"""Tiny Hugging Face classifiers with weights that do something in every layer."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
import transformers

SIDE = 64
LABELS = 5

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet": (
        "ResNetConfig",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2], "layer_type": "basic"},
    ),
    "mobilenet_v1": ("MobileNetV1Config", {"image_size": SIDE, "depth_multiplier": 0.25}),
    "mobilenet_v2": ("MobileNetV2Config", {"image_size": SIDE, "depth_multiplier": 0.25}),
    "regnet": ("RegNetConfig", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 8}),
    "convnext": ("ConvNextConfig", {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}),
    "efficientnet": (
        "EfficientNetConfig",
        {"image_size": SIDE, "width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 320},
    ),
    "vit": (
        "ViTConfig",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "image_size": SIDE,
            "patch_size": 16,
        },
    ),
}


def save_network(name: str, directory: Path) -> int:
    """Write the network called `name` with random weights; the number of its BatchNorm modules."""
    kind, settings = CONFIGS[name]
    config = getattr(transformers, kind)(num_labels=LABELS, **settings)
    torch.manual_seed(7)
    network = transformers.AutoModelForImageClassification.from_config(config)
    batchnorms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        _enliven(network, batchnorms)
    transformers.utils.logging.disable_progress_bar()
    level = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity(logging.CRITICAL)
    network.save_pretrained(directory)
    transformers.utils.logging.set_verbosity(level)
    transformers.utils.logging.enable_progress_bar()
    return len(batchnorms)


def _enliven(network: torch.nn.Module, batchnorms: list[torch.nn.BatchNorm2d]) -> None:
    """Fresh weights are tiny and fresh statistics are 0 and 1: a wrong fold would hardly show."""
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)
    for module in batchnorms:
        assert module.running_mean is not None
        assert module.running_var is not None
        module.running_mean.uniform_(-0.5, 0.5)
        module.running_var.uniform_(0.5, 2)
        module.weight.uniform_(0.5, 1.5)
        module.bias.uniform_(-0.5, 0.5)
