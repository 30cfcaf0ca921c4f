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

from pydantic import BaseModel, ConfigDict, Field

from edgeq.errors import ArtifactError
from edgeq.plan.precision import Rule
from edgeq.yaml_text import read_yaml

__all__ = ["load_rules"]

RULES_VERSION: Final = "edgeq.rules/1"


_MOST_RULES: Final = 10_000
_MOST_BYTES: Final = 4 << 20


class _RuleFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal["edgeq.rules/1"]
    rules: tuple[Rule, ...] = Field(min_length=1, max_length=_MOST_RULES)


def load_rules(path: Path) -> tuple[Rule, ...]:
    """Read rules, in the order in which they are asked.

    Raises:
        ArtifactError: the file is missing, is not YAML, or does not hold rules.
    """
    try:
        return _RuleFile.model_validate(read_yaml(path, _MOST_BYTES)).rules
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path} is not a file of rules",
            expected=f"YAML with version {RULES_VERSION} and rules, each with name, precision, reason and patterns",
            causes=(" ".join(str(error).split())[:300],),
        ) from error
