"""Rules of one's own, from a YAML file.

version: edgeq.rules/1
rules:
  - name: keep-stem
    layer: stem*
    precision: fp32
    reason: the camera's noise is largest here
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeq.errors import ArtifactError
from edgeq.plan.precision import Rule

__all__ = ["load_rules"]

RULES_VERSION: Final = "edgeq.rules/1"


class _RuleFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal["edgeq.rules/1"]
    rules: tuple[Rule, ...] = Field(min_length=1)


def load_rules(path: Path) -> tuple[Rule, ...]:
    """Read rules, in the order in which they are asked.

    Raises:
        ArtifactError: the file is missing, is not YAML, or does not hold rules.
    """
    try:
        return _RuleFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8"))).rules
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
        raise ArtifactError(
            f"{path} is not a file of rules",
            expected=f"YAML with version {RULES_VERSION} and rules, each with name, precision, reason and patterns",
            causes=(" ".join(str(error).split())[:300],),
        ) from error
