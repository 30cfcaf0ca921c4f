"""The language half of a model as an NF4 checkpoint, made tensor by tensor from safetensors; no model is built.

What comes out is a standard Hugging Face checkpoint with its `quantization_config`, as transformers and bitsandbytes
would have saved it: `AutoModelForCausalLM.from_pretrained` loads it as 4-bit. Source tensors are mapped, one file at a
time, and results go straight to the disk, so memory stays at the largest source file and a tensor's result, for a
checkpoint larger than memory, too. No weight of vision or connector is read.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from edgeq.errors import ModelError, QuantizeError
from edgeq.extras import install_command
from edgeq.files import atomic_write, new_directory
from edgeq.model.checkpoint.safetensors_file import SafetensorsFile, TensorSlot
from edgeq.plan.precision import Precision, PrecisionPlan
from edgeq.quantize.nf4.language import Language, Source, language_plan, open_language
from edgeq.quantize.nf4.read import FloatType, read_tensors
from edgeq.quantize.nf4.skip_list import FourBitShare, fused_modules, skip_modules
from edgeq.quantize.nf4.tensor import nf4_slots, nf4_tensors
from edgeq.quantize.nf4.verify import verify_nf4

__all__ = ["SHARD_BYTES", "write_nf4"]

SHARD_BYTES: Final = 2_000_000_000
"""A file of the result is at most this long, or holds one tensor."""

_COPIED: Final = (
    *("added_tokens.json", "chat_template.jinja", "chat_template.json", "generation_config.json", "merges.txt"),
    *("special_tokens_map.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json"),
)

_PACKAGES: Final = ("torch", "transformers", "safetensors", "bitsandbytes")
_HEADER_NAMES: Final[dict[FloatType, str]] = {"float16": "F16", "bfloat16": "BF16"}

Progress = Callable[[str, int, int], None]
"""Called as (stage, numbers done, numbers in total)."""


@dataclass(frozen=True)
class _Item:
    """One tensor of the language model on its way into the result."""

    name: str
    source: Source
    slots: tuple[TensorSlot, ...]
    quantized: bool

    @property
    def most_bytes(self) -> int:
        return sum(slot.most_bytes for slot in self.slots)


def write_nf4(
    source: Path,
    plan: PrecisionPlan,
    target: Path,
    *,
    double_quant: bool = True,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> FourBitShare:
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
    _require_packages()
    language = open_language(source)
    own = language_plan(plan, language)
    _check_plan(language, own)
    kind = _float_type(language)
    shards = list(_shards(_items(language, own, kind, double_quant), shard_bytes))
    with new_directory(target) as directory:
        _write_shards(directory, shards, kind, double_quant, progress)
        _write_config(directory, language, own, kind, double_quant)
        for name in _COPIED:
            if (source / name).is_file():
                shutil.copyfile(source / name, directory / name)
        return verify_nf4(directory, own)


def _require_packages() -> None:
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise QuantizeError(
            f"an NF4 checkpoint is made with {missing[0]}, which is not installed",
            next_step=install_command("language"),
        )


def _check_plan(language: Language, plan: PrecisionPlan) -> None:
    """Each layer must have a decision, and one that a checkpoint of one float type and NF4 can be."""
    from torch import nn

    modules = dict(language.model.named_modules())
    decided = {decision.layer for decision in plan.decisions}
    linear = [name for name, module in modules.items() if type(module) is nn.Linear]
    faults = [f"{name}: no decision" for name in linear if name not in decided]
    for decision in plan.decisions:
        if decision.precision not in (Precision.NF4, Precision.FP16):
            faults.append(f"{decision.layer}: {decision.precision.value}, a checkpoint has NF4 and one 16-bit type")
        elif decision.precision is Precision.NF4 and f"{decision.layer}.weight" not in language.tensors:
            faults.append(f"{decision.layer}: nf4, and its weight is another layer's (a tied head)")
        elif decision.precision is Precision.NF4 and decision.layer not in linear:
            faults.append(f"{decision.layer}: nf4, which bitsandbytes has for linear layers only")
    if faults:
        raise QuantizeError(
            f"the plan cannot be put into an NF4 checkpoint, for {len(faults)} layers",
            expected="nf4 or fp16 for every layer of the language model, nf4 for linear ones",
            causes=tuple(faults[:10]),
            next_step="plan this model again, or change the rule that decides these layers",
        )


def _float_type(language: Language) -> FloatType:
    """The 16-bit type of the result: the one that most numbers are stored in; float16 for a float32 checkpoint."""
    counts: Counter[str] = Counter()
    for source in language.tensors.values():
        counts[source.stored.dtype] += source.stored.elements
    unknown = counts.keys() - {"F64", "F32", "F16", "BF16"}
    if unknown:
        raise ModelError(f"{language.path} stores {min(unknown)}, expected floating-point weights")
    return "bfloat16" if counts.most_common(1)[0][0] == "BF16" else "float16"


def _items(language: Language, plan: PrecisionPlan, kind: FloatType, double_quant: bool) -> Iterator[_Item]:
    nf4 = {f"{layer}.weight" for layer in plan.layers(Precision.NF4)}
    for name, source in language.tensors.items():
        if name in nf4:
            yield _Item(name, source, nf4_slots(name, source.stored.shape, double_quant=double_quant), True)
        else:
            yield _Item(name, source, (TensorSlot(name, _HEADER_NAMES[kind], source.stored.shape),), False)


def _shards(items: Iterator[_Item], limit: int) -> Iterator[list[_Item]]:
    """The items in order, in files of at most `limit` bytes."""
    shard: list[_Item] = []
    for item in items:
        if shard and sum(other.most_bytes for other in shard) + item.most_bytes > limit:
            yield shard
            shard = []
        shard.append(item)
    yield shard


def _write_shards(
    directory: Path, shards: Sequence[list[_Item]], kind: FloatType, double_quant: bool, progress: Progress | None
) -> None:
    total = sum(item.source.stored.elements for shard in shards for item in shard)
    done = 0
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        slots = [slot for item in shard for slot in item.slots]
        weight_map |= {slot.name: name for slot in slots}
        with (directory / name).open("xb") as file, SafetensorsFile(file, slots) as made:
            for item, tensor in zip(shard, read_tensors([item.source for item in shard], kind), strict=True):
                results = nf4_tensors(item.name, tensor, double_quant=double_quant) if item.quantized else None
                for key, value in (results or {item.name: tensor}).items():
                    made.put(key, value)
                done += item.source.stored.elements
                if progress:
                    progress("nf4", done, total)
    if len(shards) > 1:
        _write_index(directory, weight_map)


def _write_index(directory: Path, weight_map: Mapping[str, str]) -> None:
    size = sum((directory / name).stat().st_size for name in set(weight_map.values()))
    content = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
    atomic_write(directory / "model.safetensors.index.json", (json.dumps(content, indent=1) + "\n").encode())


def _write_config(
    directory: Path, language: Language, plan: PrecisionPlan, kind: FloatType, double_quant: bool
) -> None:
    """config.json of the language model, with how it is quantized and the full list of what is not."""
    from transformers import BitsAndBytesConfig

    skipped = skip_modules(plan)
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=double_quant,
        bnb_4bit_compute_dtype=kind,
        llm_int8_skip_modules=[*skipped, *fused_modules(skipped)],
    )
    content = language.config.to_dict() | {
        "architectures": [type(language.model).__name__],
        "dtype": kind,
        "quantization_config": quantization.to_dict(),
    }
    atomic_write(directory / "config.json", (json.dumps(content, indent=2) + "\n").encode())
