"""A vision-language model with random weights, FP16 vision and NF4 language, made layer by layer on the device itself.

Neither the whole model in FP16 nor a file of it ever exists: a linear layer of 13 billion parameters is 0.1 GB.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import torch
import transformers
from accelerate import init_empty_weights
from transformers.quantizers.auto import AutoHfQuantizer

from edgeq.families.modules import read_modules
from edgeq.plan.rules import plan_modules
from edgeq.quantize.nf4.skip_list import skip_modules, verify_modules

__all__ = ["load_nf4", "random_nf4"]

SPREAD = 0.02


def random_nf4(directory: Path, device: torch.device, *, seed: int = 0) -> Any:
    """Build the model of a config.json as edgeq plans it, with double quantization.

    Args:
        directory: holds config.json; no weights are looked for.
        device: where the weights are drawn, quantized and left.
        seed: of the weights.

    Raises:
        QuantizeError: what became 4-bit is not what was planned.
    """
    plan = plan_modules(read_modules(directory))
    settings = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float16,
        llm_int8_skip_modules=skip_modules(plan),
    )
    config = transformers.AutoConfig.from_pretrained(directory, local_files_only=True)
    with init_empty_weights(include_buffers=False):
        model = transformers.AutoModelForImageTextToText.from_config(config, dtype=torch.float16)
    quantizer = AutoHfQuantizer.from_config(settings, pre_quantized=False)
    quantizer.preprocess_model(model=model, device_map=None)
    torch.manual_seed(seed)
    for module in model.modules():
        _fill(module, device)
    model.tie_weights()
    quantizer.postprocess_model(model)
    verify_modules(model, plan)
    return model.eval()


def load_nf4(directory: Path, device: torch.device) -> Any:
    """A saved model, by transformers."""
    kind = transformers.AutoModelForImageTextToText
    return kind.from_pretrained(directory, device_map={"": device}, dtype="auto", local_files_only=True).eval()


def _fill(module: torch.nn.Module, device: torch.device) -> None:
    """Give a module's own parameters values, and move its buffers."""
    for name, empty in list(module.named_parameters(recurse=False)):
        values = _values(name, empty.shape, device)
        if name == "weight" and isinstance(module, bnb.nn.Linear4bit):
            weight = bnb.nn.Params4bit(
                values, requires_grad=False, compress_statistics=True, quant_type="nf4", module=module
            )
            module.weight = weight.to(device)  # this quantizes it
        else:
            setattr(module, name, torch.nn.Parameter(values, requires_grad=False))
    for name, buffer in list(module.named_buffers(recurse=False)):
        module._buffers[name] = buffer.to(device)


def _values(name: str, shape: torch.Size, device: torch.device) -> torch.Tensor:
    """Norms that scale by 1, biases of 0, and normal numbers elsewhere; float16."""
    if len(shape) == 1 and name in ("weight", "bias"):
        return torch.full(shape, float(name == "weight"), dtype=torch.float16, device=device)
    return torch.empty(shape, dtype=torch.float16, device=device).normal_(0.0, SPREAD)
