"""What was found in a file, or in several."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from edgeq.artifact import Artifact
from edgeq.lint.base import Level

__all__ = ["FileFindings", "Finding", "LintReport"]


class Finding(BaseModel):
    """One place where a rule is broken.

    Attributes:
        rule: its number.
        name: the rule's.
        level: `error` where TensorRT refuses the file, `warning` where it is slower or wrong, `note` otherwise.
        where: a node or a tensor; `graph` for all of it.
        what: in words.
        advice: what to do.
        source: where the rule is published.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: str
    name: str
    level: Level
    where: str
    what: str
    advice: str
    source: str


class FileFindings(BaseModel):
    """What was found in one file.

    Attributes:
        file: as it was given.
        opset: of ONNX's own operators.
        nodes: how many, functions written out, those inside of nodes as well.
        written: percent of the numbers of activations that kernels of the main graph write, by type; pairs are INT8.
        computed: percent of the operators on floating-point numbers, by type.
        findings: by rule, then in the graph's order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    opset: int
    nodes: int
    written: dict[str, float]
    computed: dict[str, float]
    findings: tuple[Finding, ...]


class LintReport(Artifact):
    """What was found in files.

    Attributes:
        files: in the order given.
    """

    otherwise: ClassVar[str] = "is no report of edgeq lint"

    version: Literal["edgeq.lint/1"] = "edgeq.lint/1"
    files: tuple[FileFindings, ...]

    def count(self, *levels: Level) -> int:
        """How many findings are of these levels."""
        return sum(each.level in levels for file in self.files for each in file.findings)
