"""The precision plan: rules in order, and what they decide for every layer, with the reason.

A plan is data. Its rules can be read, changed and asked again; its decisions can be compared with those of another plan
and with the graph or checkpoint that was made of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from edgeq.artifact import Versioned
from edgeq.errors import ArtifactError
from edgeq.files import atomic_write
from edgeq.yaml_text import read_yaml

__all__ = [
    "CHANNEL_EQUALIZATIONS",
    "INT8_HEAD",
    "PACKED_BITS",
    "QUANTIZED",
    "ChannelEqualization",
    "Condition",
    "Decision",
    "Precision",
    "PrecisionPlan",
    "Rule",
    "Scope",
    "WeightGranularity",
    "WeightRounding",
]

PLAN_VERSION: Final = "edgeq.plan/1"

WeightGranularity = Literal["per-channel", "per-tensor"]
WeightRounding = Literal["auto", "nearest", "adaround"]
"""How INT8 weights are rounded: to the nearest integer, or up or down by what the layer answers (AdaRound)."""

Scope = Literal["ffn", "ffn-vo", "linears"]
"""Which linear layers of a transformer are INT8: feed-forward; those, value and output; or all, query and key too.

Attention scores, softmax, normalization, GELU and the convolution that embeds patches are floating point in each of
them. All is the default: while the scores are floating point, query and key lose little in INT8, and each layer that is
left out costs speed.
"""

CHANNEL_EQUALIZATIONS: Final = r"^(auto|none|cle|repq|(repq-)?smooth(:(0\.\d{1,4}|[01]))?)$"
ChannelEqualization = Annotated[str, StringConstraints(pattern=CHANNEL_EQUALIZATIONS)]
"""How channels are brought to like ranges (`edgeq.quantize.equalize.choose`); `cle` is cross-layer equalization.

`smooth:0.5` gives SmoothQuant's strength, `smooth` alone lets it be tried, `auto` everything.
"""

Condition = Literal[
    "constant-weight",
    "done-by-int8-layer",
    "adds-tensors",
    "adds-int8",
    "moves-int8",
    "pools-int8",
    "unknown-operator",
    "embeds-patches",
    "makes-angles",
    "decodes-answer",
    "divides-by-root",
]
"""A question about a layer and its surroundings in a graph; `edgeq.plan.conditions` answers it."""


class Precision(str, Enum):
    """The number format that a layer computes in, or that its weights are stored in (NF4, INT4)."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
    INT4 = "int4"
    NF4 = "nf4"


QUANTIZED: Final = frozenset({Precision.INT8, Precision.INT4, Precision.NF4})

PACKED_BITS: Final = {Precision.INT4: 4, Precision.INT8: 8}
"""Bits of the integers that a language model's weights alone are stored in; its activations stay 16-bit."""

INT8_HEAD: Final = "int8-head"
"""The rule by which a language model's head is INT8 because the user asked for it (`--embeddings`)."""


class Rule(BaseModel):
    """One line of a plan. The rules are asked in order, and the first that matches a layer decides.

    The three patterns are those of `fnmatch` (case matters), and all must match. Characters that mean something in a
    pattern are escaped with `glob.escape` where a name is meant literally.

    Attributes:
        name: short and telling, such as "fp32-head"; no two rules of a plan share one.
        precision: what the layers matched get.
        reason: why, in a sentence for a person.
        component: pattern over the component's name, such as "head".
        kind: pattern over the layer's kind, such as "linear" or "attention*".
        layer: pattern over the layer's full name.
        when: a condition on the layer's surroundings as well; only a graph can answer it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    precision: Precision
    reason: str = Field(min_length=1)
    component: str = "*"
    kind: str = "*"
    layer: str = "*"
    when: Condition | None = None


class Decision(BaseModel):
    """One layer's precision.

    Attributes:
        layer: the ONNX node's name, or the module's full name.
        op: the ONNX operator, or the module's class.
        component: the part of the model that the layer is in.
        kind: what it is to a reader, such as "convolution".
        parameters: learned numbers.
        bytes: what is stored for it in the source model.
        precision: what it computes in.
        rule: the name of the rule that decided.
        reason: why, in a sentence for a person.
        overruled: names of later rules that match as well and would have given another precision.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: str
    op: str
    component: str = "model"
    kind: str = "other"
    parameters: int = 0
    bytes: int = 0
    precision: Precision
    rule: str
    reason: str
    overruled: tuple[str, ...] = ()


_LATER: Final = ("weight_rounding", "bias_correction")


class PrecisionPlan(Versioned):
    """A decision for every layer of one model, in the model's order, and the rules that led to them.

    Attributes:
        weights: granularity of the INT8 weight scales.
        shared_add: both inputs of an INT8 addition are on one scale.
        keep_batchnorm: BatchNormalization nodes that stay, in FP32.
        transformer: which linear layers of a transformer are INT8; nothing where there is no attention.
        channel_equalization: how channels are brought to like ranges before calibration; in a plan that was carried
            out, how they were.
        weight_rounding: how INT8 weights are rounded; `nearest` leaves that open in a plan to be carried out.
        bias_correction: biases take back what quantization shifts on average; False leaves that open likewise. Both
            came later than version 1, and are not written where they say what always was.
        rules: those in force, in the order in which they are asked.
        allowed: guards that may be passed: code -> because.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal["edgeq.plan/1"] = PLAN_VERSION
    weights: WeightGranularity = "per-channel"
    shared_add: bool = True
    keep_batchnorm: tuple[str, ...] = ()
    transformer: Scope = "linears"
    channel_equalization: ChannelEqualization = "none"
    weight_rounding: Literal["nearest", "adaround"] = "nearest"
    bias_correction: bool = False
    rules: tuple[Rule, ...] = ()
    allowed: dict[str, str] = Field(default_factory=dict)
    decisions: tuple[Decision, ...]

    @model_validator(mode="after")
    def _each_name_once(self) -> PrecisionPlan:
        if twice := _repeated(decision.layer for decision in self.decisions):
            raise ValueError(f"more than one decision for {', '.join(twice[:3])}")
        if twice := _repeated(rule.name for rule in self.rules):
            raise ValueError(f"more than one rule is named {', '.join(twice[:3])}")
        return self

    def layers(self, precision: Precision) -> frozenset[str]:
        """Names of the layers planned in `precision`."""
        return frozenset(d.layer for d in self.decisions if d.precision is precision)

    def diff(self, other: PrecisionPlan) -> tuple[str, ...]:
        """What is different in `other`, a line each, for a person; empty when the two plans are equal."""
        return (*_settings(self, other), *_rules(self, other), *_decisions(self, other))

    def save(self, path: Path) -> None:
        """Write the plan as YAML, atomically."""
        values = self.model_dump(mode="json")
        for name in _LATER:
            if values[name] == type(self).model_fields[name].default:
                del values[name]
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)
        atomic_write(path, text.encode())

    @classmethod
    def load(cls, path: Path) -> PrecisionPlan:
        """Read a plan back.

        Raises:
            ArtifactError: the file is missing, is not YAML, or is not a plan of this version.
        """
        try:
            return cls.model_validate(read_yaml(path))
        except (OSError, ValueError) as error:
            raise ArtifactError(
                f"{path} is not a precision plan",
                expected=f"YAML with version {PLAN_VERSION}",
                causes=(" ".join(str(error).split())[:300],),
            ) from error


def _repeated(names: Iterator[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def _settings(old: PrecisionPlan, new: PrecisionPlan) -> Iterator[str]:
    names = ("weights", "shared_add", "keep_batchnorm", "transformer", "channel_equalization", *_LATER, "allowed")
    for name in names:
        before, after = getattr(old, name), getattr(new, name)
        if before != after:
            yield f"{name}: {before} -> {after}"


def _rules(old: PrecisionPlan, new: PrecisionPlan) -> Iterator[str]:
    before, after = ({rule.name: rule for rule in plan.rules} for plan in (old, new))
    yield from (f"- rule {name}" for name in before if name not in after)
    yield from (f"+ rule {name}" for name in after if name not in before)
    yield from (f"~ rule {name}" for name, rule in before.items() if name in after and after[name] != rule)
    common = [[name for name in names if name in before and name in after] for names in (before, after)]
    if common[0] != common[1]:
        yield f"order of rules: {', '.join(common[0])} -> {', '.join(common[1])}"


def _decisions(old: PrecisionPlan, new: PrecisionPlan) -> Iterator[str]:
    before, after = ({decision.layer: decision for decision in plan.decisions} for plan in (old, new))
    for layer, decision in before.items():
        if layer not in after:
            yield f"- {layer}: {_short(decision)}"
        elif (now := after[layer]) != decision:
            yield f"~ {layer}: {_change(decision, now)}"
    yield from (f"+ {layer}: {_short(decision)}" for layer, decision in after.items() if layer not in before)
    common = [[layer for layer in layers if layer in before and layer in after] for layers in (before, after)]
    if common[0] != common[1]:
        yield "the layers stand in another order"


def _short(decision: Decision) -> str:
    return f"{decision.precision.value} ({decision.rule})"


def _change(old: Decision, new: Decision) -> str:
    if (old.precision, old.rule) != (new.precision, new.rule):
        return f"{_short(old)} -> {_short(new)}"
    names = [name for name in Decision.model_fields if getattr(old, name) != getattr(new, name)]
    return ", ".join(f"{name} {getattr(old, name)} -> {getattr(new, name)}" for name in names)
