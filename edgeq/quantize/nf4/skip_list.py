"""Lower a plan to bitsandbytes' skip list, and read back which modules of a model really became 4-bit.

transformers takes a name of `llm_int8_skip_modules` from the start of a module's full name or as its end, so
"vision_tower" leaves `model.vision_tower` to be quantized; and a list of one's own replaces the default that spares
`lm_head` (transformers#45674). Nothing is said in either case. So every linear layer that must not be quantized stands
in the list under its full name, and the result is looked at module by module.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Final

from edgeq.errors import QuantizeError
from edgeq.plan.precision import Decision, Precision, PrecisionPlan
from edgeq.quantize.language.share import QuantizedShare

if TYPE_CHECKING:
    import torch

__all__ = ["fused_modules", "skip_modules", "verify_modules"]

_REPLACED: Final = frozenset({"Linear", "Conv1D"})
"""The classes that bitsandbytes' own layers replace, unless they are in the list."""

_FUSED: Final = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
"""What vLLM calls layers of one input, which it holds as one; it looks for that name in the list, and for no other."""


def skip_modules(plan: PrecisionPlan) -> list[str]:
    """Full names for `llm_int8_skip_modules`, so that the linear layers planned NF4 become 4-bit and no other.

    Args:
        plan: over a model's modules, under the names that the model has once it is loaded.

    Raises:
        QuantizeError: transformers would take one of the names for a layer planned NF4, too.
    """
    linear = [decision for decision in plan.decisions if decision.op in _REPLACED]
    skipped = [decision.layer for decision in linear if decision.precision is not Precision.NF4]
    _check_list(linear, skipped)
    return skipped


def fused_modules(skipped: Collection[str]) -> list[str]:
    """The names that a skip list needs besides for vLLM, which quantizes a layer that it does not find in the list.

    Where only some of the layers that vLLM holds as one are skipped there is no name: it makes those 4-bit, too.
    """
    names = set(skipped)
    parents = dict.fromkeys(name.rpartition(".")[0] for name in skipped)
    return [
        f"{parent}.{fused}"
        for parent in parents
        for fused, parts in _FUSED.items()
        if all(f"{parent}.{part}" in names for part in parts)
    ]


def _check_list(linear: list[Decision], skipped: list[str]) -> None:
    """Ask transformers' own rule what it would make of the list."""
    from transformers.quantizers.quantizers_utils import should_convert_module

    for decision in linear:
        if should_convert_module(decision.layer, skipped) is not (decision.precision is Precision.NF4):
            by = next((name for name in skipped if not should_convert_module(decision.layer, [name])), "")
            raise QuantizeError(
                f"{decision.layer} cannot be NF4 while {by} is not: transformers takes the two names for one",
                next_step=f"give both the same precision with a rule: layer: {decision.layer!r}",
            )


def verify_modules(model: torch.nn.Module, plan: PrecisionPlan) -> QuantizedShare:
    """Check that exactly the modules planned NF4 are bitsandbytes' 4-bit layers, of the type NF4.

    Args:
        model: loaded, or on the meta device with its layers replaced.
        plan: over its modules, under the same names.

    Raises:
        QuantizeError: with every module that is 4-bit or 8-bit and was not planned so, or the other way round.
    """
    import bitsandbytes as bnb

    found = {name: module for name, module in model.named_modules() if isinstance(module, bnb.nn.Linear4bit)}
    planned = plan.layers(Precision.NF4)
    present = {name for name, _ in model.named_modules()}
    faults = [f"{name}: planned nf4, {_state(name, present)}" for name in planned - found.keys()]
    faults += [f"{name}: 4-bit, not planned nf4" for name in found.keys() - planned]
    faults += [
        f"{name}: {module.weight.quant_type}, not nf4"
        for name, module in found.items()
        if module.weight.quant_type != "nf4"
    ]
    faults += [f"{name}: 8-bit, not planned" for name in _eight_bit(model)]
    if faults:
        raise QuantizeError(
            f"the model differs from its plan in {len(faults)} of {len(present)} modules",
            expected=f"{len(planned)} modules in nf4 and no others",
            causes=tuple(sorted(faults)),
            next_step="give the list of edgeq.quantize.nf4.skip_list.skip_modules as llm_int8_skip_modules",
        )
    parameters = sum(math.prod((module.in_features, module.out_features)) for module in found.values())
    rest = sum(value.numel() for name, value in model.named_parameters() if name not in _weights(found))
    return QuantizedShare(tuple(found), parameters, parameters + rest)


def _state(name: str, present: set[str]) -> str:
    return "not 4-bit" if name in present else "not in the model"


def _eight_bit(model: torch.nn.Module) -> Iterator[str]:
    import bitsandbytes as bnb

    yield from (name for name, module in model.named_modules() if isinstance(module, bnb.nn.Linear8bitLt))


def _weights(modules: dict[str, torch.nn.Module]) -> set[str]:
    return {f"{name}.weight" for name in modules}
