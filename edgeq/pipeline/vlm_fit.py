"""Before any work: is it such a model, what would be done to it, may that be, and does it fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from edgeq.device import device_profile
from edgeq.errors import GateError, PlanError
from edgeq.families.modules import VlmDescription
from edgeq.pipeline.vlm_options import VlmOptions
from edgeq.plan.memory import MemoryPlan, plan_memory
from edgeq.plan.precision import Precision, PrecisionPlan
from edgeq.plan.rules import MODULE_RULES, plan_modules

__all__ = ["check_fit", "check_halves", "is_vision_language", "plan_vlm"]

_SHOWN: Final = 5


def is_vision_language(config: Mapping[str, Any]) -> bool:
    """Whether a config.json speaks of a vision part or a language part, as those of vision-language models do."""
    return any(isinstance(config.get(key), Mapping) for key in ("vision_config", "text_config"))


def plan_vlm(model: VlmDescription, options: VlmOptions) -> PrecisionPlan:
    """The precision of every module, under the options' rules or those of their saved plan.

    Raises:
        PlanError: a rule does not fit the model, or the saved plan's decisions do not follow from its rules.
    """
    saved = options.plan
    if saved is None:
        return plan_modules(model.components, rules=options.rules).model_copy(update={"allowed": dict(options.allow)})
    own = tuple(rule for rule in saved.rules if rule not in MODULE_RULES)
    made = plan_modules(model.components, rules=own)
    if changes := saved.diff(made):
        raise PlanError(
            f"the plan's rules decide otherwise for this model than the plan says, in {len(changes)} places",
            expected="a plan of this very model, with decisions that follow from its rules",
            causes=changes[:_SHOWN],
            next_step="edgeq plan MODEL --rules RULES.yaml -o PLAN.yaml",
        )
    return made.model_copy(update={"allowed": {**saved.allowed, **options.allow}})


def check_halves(plan: PrecisionPlan) -> None:
    """Raise PlanError unless vision and connector are FP16: they become one graph, whose own plan has exceptions."""
    for decision in plan.decisions:
        if decision.component in ("vision", "connector") and decision.precision is not Precision.FP16:
            raise PlanError(
                f"the rule {decision.rule} wants {decision.layer} of the {decision.component} in "
                f"{decision.precision.value}",
                expected="fp16: vision and connector become one FP16 graph, in which what overflows stays fp32",
                next_step=f"make the patterns of {decision.rule} narrower: component: language",
            )


def check_fit(model: VlmDescription, plan: PrecisionPlan, options: VlmOptions) -> MemoryPlan | None:
    """The memory plan for the options' device; None where none is named.

    Args:
        model: described, not loaded.
        plan: the precision of each of its layers.
        options: for device, context and double quantization.

    Raises:
        GateError: the model does not fit; it says by how much, and which single changes would make it fit.
        InputError: the device is not known.
    """
    if options.device is None:
        return None
    memory = plan_memory(
        model,
        device_profile(options.device),
        context=options.context,
        precision={decision.layer: decision.precision for decision in plan.decisions},
        double_quant=options.double_quant,
    )
    if not memory.fits:
        raise GateError(
            f"{model.name} does not fit {memory.device.title} with a context of {options.context:,} tokens: "
            f"{-memory.spare_bytes / 1e9:.2f} GB are missing",
            causes=(memory.reason,),
            next_step="; or ".join(f"{change.what} {change.value}" for change in memory.changes)
            or "a smaller model or a larger device: no single change is enough",
        )
    return memory
