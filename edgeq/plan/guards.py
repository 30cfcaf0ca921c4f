"""The guards: mistakes that cost accuracy and show late. Each stops the work unless somebody says why it is right here.

A guard that is allowed stays visible: as a warning, in the plan, and in the bundle's manifest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from edgeq.errors import GuardError, PlanError
from edgeq.plan.facts import Facts
from edgeq.plan.precision import INT8_HEAD, QUANTIZED, Decision, Precision

__all__ = ["ENOUGH_IMAGES", "GUARDS", "LEAST_DEVIATION", "Guard", "GuardFinding", "check", "check_allowed"]

ENOUGH_IMAGES: Final = 100

LEAST_DEVIATION: Final = 0.01
"""Of a channel. Photographs have about 1 where mean and standard deviation are divided out, 0.25 in 0..1. Where pixels
in 0..1 are divided by ImageNet's 57.1 for 0..255, black and white in halves have 0.0088."""

_WEIGHT_ONLY: Final = ("gptq", "awq")
_ATTENTION_HEADS: Final = ("num_attention_heads", "num_heads", "attention_heads")


@dataclass(frozen=True)
class Guard:
    """One guard.

    Attributes:
        code: EQ and three digits.
        title: what it stops.
        why: the reason, in a sentence.
        look: what was found in the facts, in words; empty where there is nothing to stop.
    """

    code: str
    title: str
    why: str
    look: Callable[[Facts], str]


class GuardFinding(BaseModel):
    """A guard that was tripped and allowed.

    Attributes:
        found: what tripped it.
        because: why that is right here, in the words of the one who allowed it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    code: str
    title: str
    found: str
    why: str
    because: str

    @property
    def warning(self) -> str:
        """One line for a careful reader."""
        return f"{self.code} {self.found}: {self.why} (allowed: {self.because})"


def check(facts: Facts, allowed: Mapping[str, str]) -> tuple[GuardFinding, ...]:
    """Ask every guard.

    Args:
        facts: what is known.
        allowed: code -> because.

    Returns:
        The guards that were tripped and allowed.

    Raises:
        GuardError: one was tripped and is not allowed.
        PlanError: `allowed` has an unknown code or an empty reason.
    """
    check_allowed(allowed)
    tripped = [(guard, found) for guard in GUARDS if (found := guard.look(facts))]
    stopped = [(guard, found) for guard, found in tripped if guard.code not in allowed]
    if stopped:
        flags = " ".join(f'--allow {guard.code} --because "…"' for guard, _ in stopped)
        raise GuardError(
            "; ".join(f"{guard.code}: {guard.title}" for guard, _ in stopped),
            causes=tuple(f"{guard.code} {found}: {guard.why}" for guard, found in stopped),
            next_step=f"put it right, or say why it is right here: {flags}",
        )
    return tuple(
        GuardFinding(code=guard.code, title=guard.title, found=found, why=guard.why, because=allowed[guard.code])
        for guard, found in tripped
    )


def check_allowed(allowed: Mapping[str, str]) -> None:
    """Raise PlanError for an unknown code, or where no reason is given."""
    codes = [guard.code for guard in GUARDS]
    for code, because in allowed.items():
        if code not in codes:
            raise PlanError(f"there is no guard {code}", expected=f"one of {', '.join(codes)}")
        if not because.strip():
            raise PlanError(f"no reason is given for allowing {code}", expected="a sentence that a reader can judge")


def _planned(facts: Facts, component: str, *precisions: Precision) -> str:
    """How many layers of a component are planned in some precisions."""
    found = [d for d in _decisions(facts) if d.component == component and d.precision in precisions]
    kinds = " and ".join(dict.fromkeys(decision.precision.value for decision in found))
    return f"{len(found)} layers of the {component} in {kinds}, the first is {found[0].layer}" if found else ""


def _decisions(facts: Facts) -> tuple[Decision, ...]:
    return facts.plan.decisions if facts.plan else ()


def _vision_below_8_bits(facts: Facts) -> str:
    return _planned(facts, "vision", Precision.NF4)


def _unfolded(facts: Facts) -> str:
    found = [decision.layer for decision in _decisions(facts) if decision.kind == "batchnorm"]
    return f"{len(found)} BatchNormalization nodes are not folded, the first is {found[0]}" if found else ""


def _per_tensor(facts: Facts) -> str:
    if facts.plan is None or facts.plan.weights != "per-tensor":
        return ""
    int8 = [d for d in facts.plan.decisions if "convolution" in d.kind and d.precision is Precision.INT8]
    return f"per-tensor weights in {len(int8)} convolutions" if int8 else ""


def _connector(facts: Facts) -> str:
    return _planned(facts, "connector", *QUANTIZED)


def _head(facts: Facts) -> str:
    """By a rule that nobody asked for by an option of its own, whose answers are judged."""
    asked = any(d.component == "head" and d.rule == INT8_HEAD for d in _decisions(facts))
    return "" if asked else _planned(facts, "head", *QUANTIZED)


def _weight_only_vision(facts: Facts) -> str:
    quantization = facts.config.get("quantization_config")
    if not isinstance(quantization, Mapping):
        return ""
    method = str(quantization.get("quant_method", "")).lower()
    if method not in _WEIGHT_ONLY:
        return ""
    if _is_vision_transformer(facts.config):
        return f"config.json quantizes a vision transformer with {method}"
    if isinstance(facts.config.get("vision_config"), Mapping) and not _spares_vision(quantization):
        return f"config.json quantizes with {method} and does not leave out the vision encoder"
    return ""


def _is_vision_transformer(config: Mapping[str, Any]) -> bool:
    """A network of patches and attention heads, and of nothing beside: ViT, DeiT, Swin, CLIP's and SigLIP's towers."""
    return "patch_size" in config and any(name in config for name in _ATTENTION_HEADS)


def _spares_vision(quantization: Mapping[str, Any]) -> bool:
    """Whether modules to leave out name the vision part, or the blocks to quantize do not."""
    left_out = [str(name) for name in quantization.get("modules_to_not_convert") or ()]
    blocks = str(quantization.get("block_name_to_quantize") or "")
    return any("vis" in name for name in left_out) or bool(blocks and "vis" not in blocks)


def _few_images(facts: Facts) -> str:
    count = facts.calibration_images
    return f"only {count} calibration images" if count is not None and count < ENOUGH_IMAGES else ""


def _shared_images(facts: Facts) -> str:
    shared = facts.shared_images
    return f"{len(shared)} evaluation images are calibration images, the first is {shared[0]}" if shared else ""


def _other_preprocessing(facts: Facts) -> str:
    digests = (facts.calibration_preprocess, facts.evaluation_preprocess)
    if None in digests or len(set(digests)) == 1:
        return ""
    return "calibration saw other pixels than the network will"


def _flat_inputs(facts: Facts) -> str:
    deviation = facts.pixel_deviation
    if deviation is None or deviation >= LEAST_DEVIATION:
        return ""
    return f"what the network takes hardly varies: the standard deviation of a channel is {deviation:.2g} at most"


def _guards() -> Iterator[Guard]:
    yield Guard(
        "EQ101",
        "the vision encoder below 8 bits",
        "4 bits here save little and can lose what the image shows, which no answer tells",
        _vision_below_8_bits,
    )
    yield Guard("EQ102", "BatchNorm that is not folded", "slower and less accurate", _unfolded)
    yield Guard(
        "EQ103",
        "convolution weights on one scale per tensor",
        "the widest channel sets the step of all, most of all in depthwise convolutions",
        _per_tensor,
    )
    yield Guard("EQ104", "a quantized connector", "it is small, and every image token goes through it", _connector)
    yield Guard("EQ105", "a quantized head", "its error goes straight into the answer", _head)
    yield Guard(
        "EQ106",
        "GPTQ or AWQ on a vision transformer",
        "their defaults are made for language: text calibrates them, activations of images have other outliers",
        _weight_only_vision,
    )
    yield Guard("EQ107", f"fewer than {ENOUGH_IMAGES} calibration images", "100 to 500 are usual", _few_images)
    yield Guard(
        "EQ108",
        "evaluation images among the calibration images",
        "the figures would flatter: they must come from images that calibration has not seen",
        _shared_images,
    )
    yield Guard(
        "EQ109",
        "calibration with another preprocessing than evaluation",
        "the ranges belong to other pixels",
        _other_preprocessing,
    )
    yield Guard(
        "EQ110",
        "images that are nearly one colour after the preprocessing",
        "mean and std are for pixels in 0..1, where 123.7 and 58.4 would be 0.485 and 0.229; those for 0..255 go with "
        "--rescale-factor 1",
        _flat_inputs,
    )


GUARDS: Final = tuple(_guards())
