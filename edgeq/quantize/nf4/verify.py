"""Read an NF4 checkpoint back, without its weights: what a loader will make 4-bit, and what is stored for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeq.errors import ModelError, QuantizeError
from edgeq.model.checkpoint.stored import read_stored
from edgeq.plan.precision import PrecisionPlan
from edgeq.quantize.language.share import QuantizedShare
from edgeq.quantize.language.source import on_meta, tensor_shapes
from edgeq.quantize.language.stored_faults import HALF, stored_faults
from edgeq.quantize.nf4.skip_list import verify_modules
from edgeq.quantize.nf4.tensor import nf4_slots

if TYPE_CHECKING:
    import torch

__all__ = ["verify_nf4"]


def verify_nf4(directory: Path, plan: PrecisionPlan) -> QuantizedShare:
    """Check an NF4 checkpoint against its plan, module by module and tensor by tensor.

    transformers' own quantizer says from config.json which layers it will replace; the headers say what is stored.

    Args:
        directory: a checkpoint with `quantization_config`.
        plan: over the modules of the language model alone.

    Raises:
        ModelError: the directory is no such checkpoint.
        QuantizeError: with every module and tensor that differs.
    """
    model, settings = _replaced(directory)
    share = verify_modules(model, plan)
    double_quant = bool(settings.bnb_4bit_use_double_quant)
    faults = list(stored_faults(dict(_expected(model, set(share.modules), double_quant)), read_stored(directory)))
    if faults:
        raise QuantizeError(
            f"{directory} differs from its plan in {len(faults)} tensors",
            expected="NF4 weights with their magnitudes for every 4-bit module, and 16-bit floats for the rest",
            causes=tuple(faults[:10]),
        )
    return share


def _replaced(directory: Path) -> tuple[torch.nn.Module, Any]:
    """The model on the meta device as a loader would prepare it, and its quantization settings."""
    from transformers import AutoConfig
    from transformers.quantizers.auto import AutoHfQuantizer

    config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    settings = getattr(config, "quantization_config", None)
    if settings is None:
        raise ModelError(f"{directory / 'config.json'} has no quantization_config")
    model = on_meta(config)
    quantizer = AutoHfQuantizer.from_config(settings, pre_quantized=True)
    quantizer.preprocess_model(model=model, device_map=None)
    return model, quantizer.quantization_config


def _expected(
    model: torch.nn.Module, modules: set[str], double_quant: bool
) -> Iterator[tuple[str, tuple[tuple[str, ...], tuple[int, ...] | None]]]:
    """Every tensor name with the dtypes it may have and its shape (None: any)."""
    for name, shape in tensor_shapes(model).items():
        module: Any = model.get_submodule(name.rpartition(".")[0])
        if name.endswith(".weight") and name.removesuffix(".weight") in modules:
            weight = (module.out_features, module.in_features)
            slots = nf4_slots(name, weight, double_quant=double_quant)
            yield from ((slot.name, ((slot.dtype,), slot.shape)) for slot in slots)
        else:
            yield name, (HALF, shape)
