"""Read a checkpoint of integers back, without its weights: what config.json says of each layer, and what is stored."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeq.errors import ModelError, QuantizeError
from edgeq.model.checkpoint.packed_weights import WeightScheme, packed_slots, read_schemes
from edgeq.model.checkpoint.stored import read_stored
from edgeq.plan.precision import PACKED_BITS, Precision, PrecisionPlan
from edgeq.quantize.language.share import QuantizedShare
from edgeq.quantize.language.source import embeddings, linear_layers, on_meta, tensor_shapes
from edgeq.quantize.language.stored_faults import HALF, stored_faults

if TYPE_CHECKING:
    import torch

__all__ = ["verify_packed"]


def verify_packed(directory: Path, plan: PrecisionPlan) -> QuantizedShare:
    """Check a checkpoint of integers against its plan, layer by layer and tensor by tensor.

    Args:
        directory: a checkpoint with `quantization_config`.
        plan: over the modules of the language model alone.

    Raises:
        ModelError: the directory is no such checkpoint.
        QuantizeError: with every layer and tensor that differs.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    settings: Any = getattr(config, "quantization_config", None)
    if settings is None:
        raise ModelError(f"{directory / 'config.json'} has no quantization_config")
    given = settings if isinstance(settings, Mapping) else settings.to_dict()
    model = on_meta(config)
    schemes = read_schemes(given, linear_layers(model), embeddings(model))
    planned = dict(_planned(plan, model))
    faults = [f"{name}: planned {planned[name].value}, and is not" for name in sorted(planned.keys() - schemes.keys())]
    faults += [f"{name}: in integers, not planned so" for name in sorted(schemes.keys() - planned.keys())]
    faults += [
        f"{name}: {schemes[name].bits} bits, planned {planned[name].value}"
        for name in sorted(planned.keys() & schemes.keys())
        if schemes[name].bits != PACKED_BITS[planned[name]]
    ]
    faults += stored_faults(dict(_expected(model, schemes)), read_stored(directory))
    if faults:
        raise QuantizeError(
            f"{directory} differs from its plan in {len(faults)} places",
            expected="integers with 16-bit scales for every layer planned so, and 16-bit floats for the rest",
            causes=tuple(faults[:10]),
        )
    inside = sum(math.prod(model.get_parameter(f"{name}.weight").shape) for name in schemes)
    return QuantizedShare(tuple(schemes), inside, sum(value.numel() for value in model.parameters()))


def _planned(plan: PrecisionPlan, model: torch.nn.Module) -> Iterator[tuple[str, Precision]]:
    """Layers planned in integers that have a weight of their own: a tied head has none."""
    own = tensor_shapes(model)
    for decision in plan.decisions:
        if decision.precision in PACKED_BITS and f"{decision.layer}.weight" in own:
            yield decision.layer, decision.precision


def _expected(
    model: torch.nn.Module, schemes: Mapping[str, WeightScheme]
) -> Iterator[tuple[str, tuple[tuple[str, ...], tuple[int, ...] | None]]]:
    """Every tensor name with the dtypes it may have and its shape."""
    for name, shape in tensor_shapes(model).items():
        layer = name.removesuffix(".weight")
        if name.endswith(".weight") and layer in schemes:
            for slot in packed_slots(layer, shape, schemes[layer], HALF[0]):
                yield slot.name, (HALF if slot.dtype in HALF else (slot.dtype,), slot.shape)
        else:
            yield name, (HALF, shape)
