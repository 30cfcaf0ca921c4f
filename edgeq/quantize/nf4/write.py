"""The language half of a model as an NF4 checkpoint, made tensor by tensor from safetensors; no model is built.

What comes out is a standard Hugging Face checkpoint with its `quantization_config`, as transformers and bitsandbytes
would have saved it: `AutoModelForCausalLM.from_pretrained` loads it as 4-bit. Source tensors are mapped, one file at a
time, and results go straight to the disk, so memory stays at the largest source file and a tensor's result, for a
checkpoint larger than memory, too. No weight of vision or connector is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgeq.files import new_directory
from edgeq.plan.precision import Precision, PrecisionPlan
from edgeq.quantize.language.checkpoint import (
    SHARD_BYTES,
    Item,
    Progress,
    check_plan,
    copy_tokenizer,
    float_slot,
    float_type,
    require_language_packages,
    write_config,
    write_tensors,
)
from edgeq.quantize.language.read import FloatType, read_tensors
from edgeq.quantize.language.share import QuantizedShare
from edgeq.quantize.language.source import Language, language_plan, open_language
from edgeq.quantize.nf4.skip_list import fused_modules, skip_modules
from edgeq.quantize.nf4.tensor import nf4_slots, nf4_tensors
from edgeq.quantize.nf4.verify import verify_nf4

if TYPE_CHECKING:
    import torch

__all__ = ["write_nf4"]

_PACKAGES: Final = ("torch", "transformers", "safetensors", "bitsandbytes")


def write_nf4(
    source: Path,
    plan: PrecisionPlan,
    target: Path,
    *,
    double_quant: bool = True,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> QuantizedShare:
    """Write the language model of `source` as an NF4 checkpoint.

    Linear layers planned NF4 are quantized from the type that they are stored in (float32 ones are rounded to float16
    first, as `from_pretrained(dtype=torch.float16)` would); everything else is stored in that 16-bit type. The result
    is read back and compared with the plan.

    Args:
        source: a Hugging Face directory of a vision-language model, or of a causal language model.
        plan: over the modules of that whole model (`plan_modules`); what it says of vision and connector is not used.
        target: a directory that does not exist yet; it appears complete or not at all.
        double_quant: quantize the magnitudes, too: 0.516 bytes a number instead of 0.5625.
        shard_bytes: the longest file of the result.
        progress: called after each tensor.

    Returns:
        What is 4-bit in the result, under the names of the language model alone.

    Raises:
        ModelError: there is no language model in `source`, or its weights are missing or damaged.
        QuantizeError: the plan does not cover it, asks for what a checkpoint cannot be, or differs from what was made;
            or a package is missing.
        OutputError: `target` exists, or the disk is full.
    """
    require_language_packages(*_PACKAGES)
    language = open_language(source)
    own = language_plan(plan, language)
    check_plan(language, own, Precision.NF4)
    kind = float_type(language)
    items = list(_items(language, own, kind, double_quant))
    with new_directory(target) as directory:
        made = _tensors(items, kind, double_quant)
        write_tensors(directory, items, made, shard_bytes, stage="nf4", progress=progress)
        write_config(directory, language, kind, _quantization(own, kind, double_quant))
        copy_tokenizer(source, directory)
        return verify_nf4(directory, own)


def _items(language: Language, plan: PrecisionPlan, kind: FloatType, double_quant: bool) -> Iterator[Item]:
    nf4 = {f"{layer}.weight" for layer in plan.layers(Precision.NF4)}
    for name, source in language.tensors.items():
        if name in nf4:
            yield Item(name, source, nf4_slots(name, source.stored.shape, double_quant=double_quant))
        else:
            yield Item(name, source, float_slot(name, source, kind))


def _tensors(items: Sequence[Item], kind: FloatType, double_quant: bool) -> Iterator[Mapping[str, torch.Tensor]]:
    """What each item becomes."""
    for item, tensor in zip(items, read_tensors([item.source for item in items], kind), strict=True):
        stays = len(item.slots) == 1
        yield {item.name: tensor} if stays else nf4_tensors(item.name, tensor, double_quant=double_quant)


def _quantization(plan: PrecisionPlan, kind: FloatType, double_quant: bool) -> dict[str, object]:
    """How it is quantized, with the full list of what is not."""
    from transformers import BitsAndBytesConfig

    skipped = skip_modules(plan)
    found: dict[str, object] = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=double_quant,
        bnb_4bit_compute_dtype=kind,
        llm_int8_skip_modules=[*skipped, *fused_modules(skipped)],
    ).to_dict()
    return found
