"""The language half of a model as a checkpoint of its own, written tensor by tensor from safetensors.

What comes out is a standard Hugging Face checkpoint with its `quantization_config`. Results go straight to the disk, so
memory stays at what makes one of them.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgeq.errors import ModelError, QuantizeError
from edgeq.extras import install_command
from edgeq.files import atomic_write
from edgeq.model.checkpoint.safetensors_file import SafetensorsFile, TensorSlot
from edgeq.plan.precision import PACKED_BITS, Precision, PrecisionPlan
from edgeq.quantize.language.read import FloatType
from edgeq.quantize.language.source import Language, Source, embeddings, linear_layers

if TYPE_CHECKING:
    import torch

__all__ = [
    "HEADER_NAMES",
    "SHARD_BYTES",
    "Item",
    "Progress",
    "check_plan",
    "copy_tokenizer",
    "float_slot",
    "float_type",
    "require_language_packages",
    "write_config",
    "write_tensors",
]

SHARD_BYTES: Final = 2_000_000_000
"""A file of the result is at most this long, or holds one tensor."""

HEADER_NAMES: Final[dict[FloatType, str]] = {"float16": "F16", "bfloat16": "BF16"}
"""What safetensors calls the 16-bit types."""

Progress = Callable[[str, int, int], None]
"""Called as (stage, numbers done, numbers in total)."""

_COPIED: Final = (
    *("added_tokens.json", "chat_template.jinja", "chat_template.json", "generation_config.json", "merges.txt"),
    *("special_tokens_map.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json"),
)


@dataclass(frozen=True)
class Item:
    """One tensor of the language model on its way into the result.

    Attributes:
        name: in the language model alone.
        source: where it comes from.
        slots: what it becomes.
    """

    name: str
    source: Source
    slots: tuple[TensorSlot, ...]

    @property
    def most_bytes(self) -> int:
        """What it takes of a file at most."""
        return sum(slot.most_bytes for slot in self.slots)


def require_language_packages(*names: str) -> None:
    """Raise QuantizeError, which says what to install, where one of these packages is missing."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise QuantizeError(
            f"the checkpoint of a language model is made with {missing[0]}, which is not installed",
            next_step=install_command("language"),
        )


def check_plan(language: Language, plan: PrecisionPlan, precision: Precision) -> None:
    """Each layer must have a decision, and one that a checkpoint of one 16-bit type and one quantized type can be.

    Beside INT4 and INT8, input embedding and output head may be INT8; a head that is the embedding is what that is.

    Args:
        language: the language model alone.
        plan: over its modules.
        precision: the quantized type: NF4, INT4 or INT8.

    Raises:
        QuantizeError: with the layers whose decisions cannot be.
    """
    decided, linear = {decision.layer for decision in plan.decisions}, linear_layers(language.model)
    faults = [f"{name}: no decision" for name in linear if name not in decided]
    kind, tables = precision.value, set(embeddings(language.model)) if precision in PACKED_BITS else set()
    tables_int8 = any(decision.layer in tables and decision.precision is Precision.INT8 for decision in plan.decisions)
    for decision in plan.decisions:
        found, name = decision.precision, decision.layer
        int8_table = found is Precision.INT8 and (name in tables or (decision.component == "head" and bool(tables)))
        if found not in (precision, Precision.FP16) and not int8_table:
            faults.append(f"{name}: {found.value}, this checkpoint has {kind} and a 16-bit type")
        elif found is not Precision.FP16 and f"{name}.weight" not in language.tensors:
            if not (int8_table and tables_int8):
                faults.append(f"{name}: {found.value}, and its weight is another layer's (a tied head)")
        elif found is not Precision.FP16 and name not in linear and not int8_table:
            faults.append(f"{name}: {found.value}, which there is for linear layers only")
    if faults:
        raise QuantizeError(
            f"the plan cannot be put into a checkpoint in {kind}, for {len(faults)} layers",
            expected=f"{kind} or fp16 for every layer of the language model, {kind} for linear ones",
            causes=tuple(faults[:10]),
            next_step="plan this model again, or change the rule that decides these layers",
        )


def float_type(language: Language) -> FloatType:
    """The 16-bit type of the result: the one that most numbers are stored in; float16 for a float32 checkpoint.

    Raises:
        ModelError: weights are stored as something else than floats.
    """
    counts: Counter[str] = Counter()
    for source in language.tensors.values():
        counts[source.stored.dtype] += source.stored.elements
    unknown = counts.keys() - {"F64", "F32", "F16", "BF16"}
    if unknown:
        raise ModelError(f"{language.path} stores {min(unknown)}, expected floating-point weights")
    return "bfloat16" if counts.most_common(1)[0][0] == "BF16" else "float16"


def float_slot(name: str, source: Source, kind: FloatType) -> tuple[TensorSlot, ...]:
    """A tensor that stays in 16-bit floats.

    Args:
        name: in the result.
        source: with its shape.
        kind: the result's 16-bit type.
    """
    return (TensorSlot(name, HEADER_NAMES[kind], source.stored.shape),)


def write_tensors(
    directory: Path,
    items: Sequence[Item],
    tensors: Iterable[Mapping[str, torch.Tensor]],
    shard_bytes: int,
    *,
    stage: str,
    progress: Progress | None,
) -> None:
    """Write the result's files, and their index where there are several.

    Args:
        directory: of the checkpoint.
        items: all of it, in an order of the caller's.
        tensors: what each item became, in the same order; made one after another while the files are written.
        shard_bytes: the longest file of the result.
        stage: for `progress`.
        progress: called after each item.
    """
    shards = list(_shards(items, shard_bytes))
    total, done = sum(item.source.stored.elements for item in items), 0
    weight_map: dict[str, str] = {}
    made = iter(tensors)
    for number, shard in enumerate(shards, start=1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        slots = [slot for item in shard for slot in item.slots]
        weight_map |= {slot.name: name for slot in slots}
        with (directory / name).open("xb") as file, SafetensorsFile(file, slots) as written:
            for item in shard:
                for key, value in next(made).items():
                    written.put(key, value)
                done += item.source.stored.elements
                if progress:
                    progress(stage, done, total)
    if len(shards) > 1:
        _write_index(directory, weight_map)


def write_config(directory: Path, language: Language, kind: FloatType, quantization: Mapping[str, Any]) -> None:
    """config.json of the language model, with how it is quantized.

    Args:
        directory: of the checkpoint.
        language: the language model alone.
        kind: the result's 16-bit type.
        quantization: its `quantization_config`.
    """
    content = language.config.to_dict() | {
        "architectures": [type(language.model).__name__],
        "dtype": kind,
        "quantization_config": dict(quantization),
    }
    atomic_write(directory / "config.json", (json.dumps(content, indent=2) + "\n").encode())


def copy_tokenizer(source: Path, directory: Path) -> None:
    """Copy what a language model's directory has beside weights and config."""
    for name in _COPIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, directory / name)


def _shards(items: Iterable[Item], limit: int) -> Iterator[list[Item]]:
    """The items in order, in files of at most `limit` bytes."""
    shard: list[Item] = []
    for item in items:
        if shard and sum(other.most_bytes for other in shard) + item.most_bytes > limit:
            yield shard
            shard = []
        shard.append(item)
    yield shard


def _write_index(directory: Path, weight_map: Mapping[str, str]) -> None:
    size = sum((directory / name).stat().st_size for name in set(weight_map.values()))
    content = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
    atomic_write(directory / "model.safetensors.index.json", (json.dumps(content, indent=1) + "\n").encode())
