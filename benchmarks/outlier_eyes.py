"""The demo's vision-language model with outlier channels in its eyes, put in by hand: it computes the same.

Three channels behind each LayerNorm of the vision encoder are scaled by a power of two, and the columns of the linear
layers that read them by its inverse: in FP32 not a bit of what it computes changes. One of them lies in each of NF4's
blocks of 64.

Wide activations are the published shape (LLM.int8(), arXiv:2208.07339; SmoothQuant, arXiv:2211.10438; CLIP and SigLIP:
arXiv:2602.14432). Wide weights are the other way round. That published towers in NF4 do not see is told
(https://unsloth.ai/blog/dynamic-4bit, of Qwen2-VL-2B); that they have just these channels is not.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final

from edgeq.export.tracing import quiet

__all__ = ["WIDE_ACTIVATIONS", "WIDE_WEIGHTS", "inject_outliers", "vision_layers"]

_CHANNELS: Final = (3, 77, 140)
"""One in each block of 64 of a row of 192."""

WIDE_WEIGHTS: Final = 1 / 64
"""What activations are scaled by; the weights that read them are 64 times as wide, and rule their blocks."""

WIDE_ACTIVATIONS: Final = 64.0
"""The other way round; the weights that read them are lost beside those of their blocks."""


def inject_outliers(model: Path, made: Path, wider: float) -> None:
    """Write a model that computes the same.

    Args:
        model: its directory, a LLaVA with CLIP's vision encoder.
        made: the directory that is written, in FP32.
        wider: what three channels behind each LayerNorm are scaled by, a power of two.

    Raises:
        ValueError: it is no power of two.
    """
    import torch
    import transformers

    if not _power_of_two(wider):
        raise ValueError(f"{wider} is no power of two")
    shutil.copytree(model, made)
    with quiet():
        whole = transformers.AutoModelForImageTextToText.from_pretrained(
            model, dtype=torch.float32, local_files_only=True
        )
    channels = list(_CHANNELS)
    with torch.no_grad():
        for layer in vision_layers(whole):
            attention = layer.self_attn
            readers = {
                layer.layer_norm1: (attention.q_proj, attention.k_proj, attention.v_proj),
                layer.layer_norm2: (layer.mlp.fc1,),
            }
            for norm, linears in readers.items():
                norm.weight[channels] *= wider
                norm.bias[channels] *= wider
                for linear in linears:
                    linear.weight[:, channels] /= wider
    whole.save_pretrained(made)


def vision_layers(whole: Any) -> Any:
    """The transformer layers of a LLaVA's vision encoder, in order."""
    tower = whole.model.vision_tower
    return getattr(tower, "vision_model", tower).encoder.layers  # by the release of transformers


def _power_of_two(value: float) -> bool:
    numerator, denominator = value.as_integer_ratio()
    return value > 0 and numerator & (numerator - 1) == 0 and denominator & (denominator - 1) == 0
