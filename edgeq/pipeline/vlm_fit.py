"""Before any work: is it such a model, what would be done to it, may that be, and does it fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from edgeq.device import PROFILES, device_profile
from edgeq.errors import GateError, InputError, PlanError
from edgeq.families.modules import VlmDescription
from edgeq.families.two_tower import is_image_classifier, is_two_tower
from edgeq.pipeline.vlm_options import EMBEDDINGS, LANGUAGES, TRIED, VlmOptions, check_embeddings
from edgeq.plan.changes import Change
from edgeq.plan.memory import MemoryPlan, plan_memory
from edgeq.plan.photographs import PhotographCount
from edgeq.plan.precision import Precision, PrecisionPlan
from edgeq.plan.rules import module_rules, plan_modules

__all__ = [
    "check_fit",
    "check_halves",
    "fitting",
    "is_vision_language",
    "longest_context",
    "plan_languages",
    "saved_embeddings",
]

_SHOWN: Final = 5

_ROOMY: Final = next(iter(PROFILES.values())).model_copy(update={"title": "any device", "total_bytes": 1 << 60})
"""A device that every model fits, where none is named."""


def is_vision_language(config: Mapping[str, Any]) -> bool:
    """Whether a config.json speaks of a vision part or a language part, as those of vision-language models do.

    Of those with both, CLIP and SigLIP are none: they answer nothing, nor do their vision encoders with a class head.
    """
    if is_two_tower(config) or is_image_classifier(config):
        return False
    return any(isinstance(config.get(key), Mapping) for key in ("vision_config", "text_config"))


def plan_vlm(model: VlmDescription, options: VlmOptions, language: str) -> PrecisionPlan:
    """The precision of every module, under the options' rules or those of their saved plan.

    Args:
        model: described, not loaded.
        options: for rules, allowances and a saved plan.
        language: what the language model's linear layers are stored in, one of `LANGUAGES`.

    Raises:
        PlanError: a rule does not fit the model, or the saved plan's decisions do not follow from its rules.
    """
    saved, precision = options.plan, LANGUAGES[language]
    if saved is None:
        embeddings = EMBEDDINGS[options.embeddings]
        made = plan_modules(model.components, rules=options.rules, language=precision, embeddings=embeddings)
        return made.model_copy(update={"allowed": dict(options.allow)})
    embeddings = EMBEDDINGS[saved_embeddings(saved)]
    own = tuple(rule for rule in saved.rules if rule not in module_rules(precision, embeddings))
    made = plan_modules(model.components, rules=own, language=precision, embeddings=embeddings)
    if changes := saved.diff(made):
        raise PlanError(
            f"the plan's rules decide otherwise for this model than the plan says, in {len(changes)} places",
            expected="a plan of this very model, with decisions that follow from its rules",
            causes=changes[:_SHOWN],
            next_step="edgeq plan MODEL --rules RULES.yaml -o PLAN.yaml",
        )
    return made.model_copy(update={"allowed": {**saved.allowed, **options.allow}})


def plan_languages(model: VlmDescription, options: VlmOptions) -> dict[str, PrecisionPlan]:
    """The plan for the options' language, or with `auto` for each.

    Raises:
        PlanError: as `plan_vlm`.
        InputError: a saved plan says what the language or the embeddings are, and another one is asked for; or language
            and embeddings do not go together.
    """
    saved = saved_language(options.plan) if options.plan else None
    same = saved and LANGUAGES.get(options.language) is LANGUAGES[saved]
    if saved and not same and options.language != "nf4":
        raise InputError(
            f"language {options.language}: the plan stores the language model in {saved}",
            next_step="leave out one of the two",
        )
    if options.plan and options.embeddings not in ("fp16", saved_embeddings(options.plan)):
        raise InputError(
            f"embeddings {options.embeddings}: the plan stores them in 16 bits", next_step="leave out one of the two"
        )
    if options.language == "auto":
        return {name: plan_vlm(model, options, name) for name in languages_with(options.embeddings)}
    language = options.language if same else saved or options.language
    check_embeddings(language, options.embeddings)
    return {language: plan_vlm(model, options, language)}


def languages_with(embeddings: str) -> tuple[str, ...]:
    """Those that `auto` tries whose checkpoints can hold such embeddings."""
    return tuple(name for name in TRIED if (name, embeddings) != ("nf4", "int8"))


def saved_language(plan: PrecisionPlan) -> str | None:
    """What a plan stores the language model's linear layers in; None where its rules do not say."""
    return next(
        (
            name
            for name, precision in LANGUAGES.items()
            if any(rule in module_rules(precision) and rule.precision is precision for rule in plan.rules)
        ),
        None,
    )


def saved_embeddings(plan: PrecisionPlan) -> str:
    """What a plan stores the input embedding and the output head in."""
    int8 = set(module_rules(Precision.INT8, Precision.INT8)) - set(module_rules(Precision.INT8))
    return "int8" if any(rule in int8 for rule in plan.rules) else "fp16"


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


def check_fit(
    model: VlmDescription, plan: PrecisionPlan, options: VlmOptions, photographs: PhotographCount
) -> MemoryPlan | None:
    """The memory plan for the options' device; None where none is named, and only the context is looked at.

    Args:
        model: described, not loaded, with its images bounded as the options say.
        plan: the precision of each of its layers.
        options: for device, context and double quantization.
        photographs: the user's own; the dearest of them is planned for.

    Raises:
        GateError: the model does not fit; it says by how much, and which single changes would make it fit.
        InputError: the device is not known.
    """
    memory = plan_memory(
        model,
        device_profile(options.device) if options.device else _ROOMY,
        context=options.context if options.device else longest_context(model),
        photographs=photographs,
        caps=options.caps,
        precision={decision.layer: decision.precision for decision in plan.decisions},
        double_quant=options.double_quant,
    )
    if not memory.fits:
        raise GateError(
            _misfit(memory),
            causes=(memory.reason,),
            next_step="; or ".join(_flag(change) for change in memory.changes)
            or "a smaller model or a larger device: no single change is enough",
        )
    return memory if options.device else None


def fitting(
    model: VlmDescription, plans: Mapping[str, PrecisionPlan], options: VlmOptions, photographs: PhotographCount
) -> dict[str, MemoryPlan | None]:
    """The memory plan by language, for each that fits.

    Args:
        model, options, photographs: as for `check_fit`.
        plans: by language.

    Raises:
        GateError: none fits.
        InputError: the device is not known.
    """
    found: dict[str, MemoryPlan | None] = {}
    for name, plan in plans.items():
        try:
            found[name] = check_fit(model, plan, options, photographs)
        except GateError as error:
            misfit = error
    if not found:
        raise misfit
    return found


def longest_context(model: VlmDescription) -> int:
    """The positions that a model was made for."""
    return int(model.text["max_position_embeddings"])


def _misfit(memory: MemoryPlan) -> str:
    """What does not fit, and by how much."""
    context = f"a context of {memory.request.context:,} tokens"
    if memory.spare_bytes < 0:
        missing = f"{-memory.spare_bytes / 1e9:.2f} GB are missing"
        return f"{memory.model} does not fit {memory.device.title} with {context}: {missing}"
    dearest = memory.photographs
    assert dearest is not None, "photographs were counted"
    size = f"{dearest.size[0]} x {dearest.size[1]} pixels"
    return f"{dearest.name}, {size}, takes {dearest.tokens:,} tokens of {memory.model}, which has {context}"


def _flag(change: Change) -> str:
    """A change as `edgeq prepare` takes it."""
    if change.what == "image size":
        return f"photographs of {change.value}"
    return change.flag or f"{change.what} {change.value}"
