"""The language half of a model as a checkpoint of integers: INT4 by AWQ, or INT8.

It has the form of compressed-tensors' "pack-quantized" (`edgeq.model.checkpoint.packed_weights`), which vLLM and
transformers read. AWQ's scales are folded into what stands before a layer, so that there is nothing else to be read.
INT8 is rounded tensor by tensor, and so are an embedding and a head in INT8; for INT4 prompts go through the model
block by block, and memory stays at one block's 16-bit weights, the prompts' activations and rows that are tried. No
weight of vision or connector is read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgeq.engine.heap import large_blocks_returned, trim_heap
from edgeq.errors import QuantizeError
from edgeq.files import new_directory
from edgeq.model.checkpoint.packed_weights import (
    WeightScheme,
    pack_integers,
    packed_scheme,
    packed_slots,
    quantization_config,
)
from edgeq.plan.precision import PACKED_BITS, Precision, PrecisionPlan
from edgeq.quantize.language.checkpoint import (
    HEADER_NAMES,
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
from edgeq.quantize.language.source import (
    Language,
    embeddings,
    language_plan,
    linear_layers,
    open_language,
    output_head,
)
from edgeq.quantize.weight_only.verify import verify_packed

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgeq.quantize.weight_only.blocks import BlockWalk, Prompts
    from edgeq.quantize.weight_only.round import Rounded

__all__ = ["feedback_bytes", "write_packed"]

_PACKAGES: Final = ("torch", "transformers", "safetensors", "accelerate")


@dataclass(frozen=True)
class _Job:
    """A checkpoint in the making."""

    language: Language
    kind: FloatType
    schemes: Mapping[str, WeightScheme]
    tables: Collection[str]
    error_feedback: bool

    @property
    def dtype(self) -> torch.dtype:
        import torch

        found: torch.dtype = getattr(torch, self.kind)
        return found

    def item(self, name: str) -> Item:
        source, layer = self.language.tensors[name], name.removesuffix(".weight")
        scheme = self.schemes.get(layer) if name.endswith(".weight") else None
        if scheme is None:
            return Item(name, source, float_slot(name, source, self.kind))
        return Item(name, source, packed_slots(layer, source.stored.shape, scheme, HEADER_NAMES[self.kind]))


def write_packed(
    source: Path,
    plan: PrecisionPlan,
    target: Path,
    *,
    precision: Precision,
    prompts: Prompts | None = None,
    error_feedback: bool = False,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> QuantizedShare:
    """Write the language model of `source` as a checkpoint of integers.

    Linear layers planned in `precision` become integers, embedding and head INT8 where they are planned so; everything
    else is stored in the 16-bit type that the source has (float16 for float32). The result is read back and compared
    with the plan.

    Args:
        source: a Hugging Face directory of a vision-language model, or of a causal language model.
        plan: over the modules of that whole model (`plan_modules`); what it says of vision and connector is not used.
        target: a directory that does not exist yet; it appears complete or not at all.
        precision: INT4 or INT8.
        prompts: for INT4, what the scales are searched on; None rounds to the nearest integers.
        error_feedback: with prompts, GPTQ's rounding on top of AWQ's scales.
        shard_bytes: the longest file of the result.
        progress: called after each tensor.

    Returns:
        What is in integers in the result, under the names of the language model alone.

    Raises:
        ModelError: there is no language model in `source`, its weights are missing or damaged, or its blocks cannot be
            run one by one.
        QuantizeError: the plan does not cover it, asks for what a checkpoint cannot be, or differs from what was made;
            or a package is missing.
        OutputError: `target` exists, or the disk is full.
    """
    require_language_packages(*_PACKAGES)
    language = open_language(source)
    own = language_plan(plan, language)
    check_plan(language, own, precision)
    tables, head = embeddings(language.model), output_head(language.model)
    job = _Job(language, float_type(language), _schemes(language, own), {*tables, head}, error_feedback)
    parts = _parts(language)
    items = [job.item(name) for names in parts.values() for name in names]
    ignored = [name for name in linear_layers(language.model) if name not in job.schemes]
    with new_directory(target) as directory, large_blocks_returned():
        tensors = _searched(job, parts, prompts) if prompts else _nearest(job, items)
        write_tensors(directory, items, tensors, shard_bytes, stage=precision.value, progress=progress)
        write_config(directory, language, job.kind, quantization_config(job.schemes, ignored, tables))
        copy_tokenizer(source, directory)
        return verify_packed(directory, own)


def feedback_bytes(inputs: int) -> int:
    """What GPTQ needs for a layer of so many inputs beside its weight: four float32 matrices [inputs, inputs]."""
    return 4 * 4 * inputs**2


def _schemes(language: Language, plan: PrecisionPlan) -> dict[str, WeightScheme]:
    """How each layer with a weight of its own in integers is stored."""
    found = {}
    planned = {decision.layer: decision.precision for decision in plan.decisions if decision.precision in PACKED_BITS}
    for layer in (*embeddings(language.model), *linear_layers(language.model)):
        if layer not in planned or f"{layer}.weight" not in language.tensors:
            continue
        columns = language.tensors[f"{layer}.weight"].stored.shape[-1]
        scheme = packed_scheme(PACKED_BITS[planned[layer]], columns)
        if scheme is None:
            raise QuantizeError(
                f"{layer} cannot be {planned[layer].value}: its input of {columns:,} falls into no groups"
            )
        found[layer] = scheme
    return found


def _parts(language: Language) -> dict[str, list[str]]:
    """Every tensor by the block that it is in, in their order; first those outside, by an empty name."""
    from edgeq.quantize.weight_only.blocks import block_names

    parts: dict[str, list[str]] = {name: [] for name in ("", *block_names(language.model))}
    for name in language.tensors:
        parts[next((block for block in parts if block and name.startswith(f"{block}.")), "")].append(name)
    return parts


def _nearest(job: _Job, items: Sequence[Item]) -> Iterator[Mapping[str, torch.Tensor]]:
    """Each weight rounded as it stands."""
    from edgeq.quantize.weight_only.round import round_weight
    from edgeq.quantize.weight_only.table import round_table

    for item, value in zip(items, read_tensors([item.source for item in items], job.kind), strict=True):
        scheme = job.schemes.get(item.name.removesuffix(".weight")) if len(item.slots) > 1 else None
        if scheme is None:
            yield {item.name: value}
        elif item.name.removesuffix(".weight") in job.tables:
            yield _packed(item.name, round_table(value, scheme))
        else:
            yield _packed(item.name, round_weight(value.float(), scheme, job.dtype))


def _searched(job: _Job, parts: Mapping[str, Sequence[str]], prompts: Prompts) -> Iterator[Mapping[str, torch.Tensor]]:
    """What is outside the blocks, then each block scaled and rounded on what the blocks before it gave."""
    from edgeq.quantize.weight_only.blocks import open_walk
    from edgeq.quantize.weight_only.table import as_rounded

    yield from _nearest(job, [job.item(name) for name in parts[""]])
    walk = open_walk(job.language, job.kind, prompts, lambda name, table: as_rounded(table, job.schemes.get(name)))
    for number, block in enumerate(block for block in parts if block):
        _search_block(job, walk, number, block)
        for name in parts[block]:
            yield _made(job, walk.block(number), name, name.removeprefix(f"{block}."))
        walk.free(number)
        trim_heap()


def _search_block(job: _Job, walk: BlockWalk, number: int, prefix: str) -> None:
    """Scale and round one block; the prompts go through it as it is then."""
    import torch

    from edgeq.quantize.weight_only.awq import quantize_block, scale_block
    from edgeq.quantize.weight_only.blocks import load_block
    from edgeq.quantize.weight_only.points import find_points
    from edgeq.quantize.weight_only.stored_linear import stored_linear

    block = walk.block(number)
    schemes = {
        name.removeprefix(f"{prefix}."): scheme for name, scheme in job.schemes.items() if name.startswith(f"{prefix}.")
    }
    load_block(job.language, block, prefix, job.kind)
    with torch.no_grad():
        points = find_points(block, lambda: walk.run(number, 0))
        trim_heap()  # of temporary tensors; again wherever many come and go
        groups = {name: scheme.group or stored_linear(block, name).in_features for name, scheme in schemes.items()}
        seen = walk.observe(number, groups)
        trim_heap()
        scale_block(block, points, seen, schemes, job.dtype)
        if job.error_feedback:
            del seen
            _feed_back(job, walk, number, schemes)
        else:
            quantize_block(block, seen, schemes, job.dtype)
            del seen
        walk.advance(number)


def _feed_back(job: _Job, walk: BlockWalk, number: int, schemes: Mapping[str, WeightScheme]) -> None:
    """Round a block's layers by GPTQ, each on what the layers before it give once they are rounded."""
    from edgeq.quantize.weight_only.awq import round_unseen
    from edgeq.quantize.weight_only.gptq import feed_back
    from edgeq.quantize.weight_only.stored_linear import stored_linear

    block = walk.block(number)
    for name, scheme in schemes.items():
        layer = stored_linear(block, name)
        (seen,) = walk.observe(number, {name: layer.in_features}).values()
        if seen.tokens:
            feed_back(layer, scheme, job.dtype, seen)
        else:
            round_unseen(layer, scheme, job.dtype)


def _made(job: _Job, block: nn.Module, full: str, name: str) -> dict[str, torch.Tensor]:
    """What a tensor of a block became."""
    owner, _, leaf = name.rpartition(".")
    module: Any = block.get_submodule(owner)
    if leaf == "weight" and full.removesuffix(".weight") in job.schemes:
        return _packed(full, module.rounded)
    return {full: getattr(module, leaf).to(job.dtype)}


def _packed(name: str, rounded: Rounded) -> dict[str, torch.Tensor]:
    import torch

    layer = name.removesuffix(".weight")
    return {
        f"{layer}.weight_packed": pack_integers(rounded.values, rounded.scheme.bits),
        f"{layer}.weight_scale": rounded.scales,
        f"{layer}.weight_shape": torch.tensor(rounded.values.shape, dtype=torch.int64),
    }
