"""The precision plan: every layer of a graph with one precision, the rule that gave it, and the reason."""

from __future__ import annotations

from collections import Counter
from enum import Enum
from pathlib import Path
from typing import Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from edgeq.errors import ArtifactError
from edgeq.files import atomic_write

__all__ = ["Backend", "Decision", "Precision", "PrecisionPlan", "WeightGranularity"]

PLAN_VERSION: Final = "edgeq.plan/1"

WeightGranularity = Literal["per-channel", "per-tensor"]
Backend = Literal["onnxruntime", "tensorrt"]
"""What a graph is lowered for."""


class Precision(str, Enum):
    """The number format that a layer computes in."""

    FP32 = "fp32"
    INT8 = "int8"


class Decision(BaseModel):
    """One layer's precision.

    Attributes:
        layer: the ONNX node's name.
        op: its operator.
        precision: what it computes in.
        rule: the name of the rule that decided.
        reason: why, in a sentence for a person.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: str
    op: str
    precision: Precision
    rule: str
    reason: str


class PrecisionPlan(BaseModel):
    """A decision for every layer of one graph, in the graph's order.

    Attributes:
        weights: granularity of the INT8 weight scales.
        shared_add: both inputs of an INT8 addition lie on one scale.
        keep_batchnorm: BatchNormalization nodes that stay, in FP32.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal["edgeq.plan/1"] = PLAN_VERSION
    weights: WeightGranularity = "per-channel"
    shared_add: bool = True
    keep_batchnorm: tuple[str, ...] = ()
    decisions: tuple[Decision, ...]

    @model_validator(mode="after")
    def _one_decision_a_layer(self) -> PrecisionPlan:
        twice = [layer for layer, count in Counter(d.layer for d in self.decisions).items() if count > 1]
        if twice:
            raise ValueError(f"more than one decision for {', '.join(twice[:3])}")
        return self

    def layers(self, precision: Precision) -> frozenset[str]:
        """Names of the layers planned in `precision`."""
        return frozenset(d.layer for d in self.decisions if d.precision is precision)

    def save(self, path: Path) -> None:
        """Write the plan as YAML, atomically."""
        text = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)
        atomic_write(path, text.encode())

    @classmethod
    def load(cls, path: Path) -> PrecisionPlan:
        """Read a plan back.

        Raises:
            ArtifactError: the file is missing, is not YAML, or is not a plan of this version.
        """
        try:
            return cls.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
            raise ArtifactError(
                f"{path} is not a precision plan",
                expected=f"YAML with version {PLAN_VERSION}",
                causes=(" ".join(str(error).split())[:300],),
            ) from error
