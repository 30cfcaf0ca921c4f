"""What a rule is, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from edgeq.lint.graph import LintGraph

__all__ = ["API", "GUIDE", "LEVELS", "MODELOPT", "ONNX", "PARSER", "WHOLE", "Check", "Level", "Rule"]

Level = Literal["error", "warning", "note"]
"""An error: TensorRT refuses the file. A warning: it is slower than it could be, or its numbers are wrong. A note: what
one should know."""

WHOLE: Final = "graph"
"""The place of what a rule finds in the file as a whole."""

LEVELS: Final[tuple[Level, ...]] = ("error", "warning", "note")

GUIDE: Final = "TensorRT Developer Guide"
PARSER: Final = "onnx-tensorrt 10.1, docs/operators.md"
API: Final = "TensorRT API, IQuantizeLayer"
MODELOPT: Final = "ModelOpt 0.47"
ONNX: Final = "ONNX operators"

Check = Callable[[LintGraph], Iterator[tuple[str, str]]]
"""Gives (where, what): the name of a node or a tensor, and a sentence about it."""


@dataclass(frozen=True)
class Rule:
    """One published rule.

    Attributes:
        number: by which it is selected, such as TRT101; the first digit is its kind.
        name: the same in words.
        level: of what breaks it.
        says: what follows, and what to do.
        source: where it is published.
        check: finds what breaks it.
        inside: whether it is asked of the graphs inside of nodes too.
    """

    number: str
    name: str
    level: Level
    says: str
    source: str
    check: Check
    inside: bool = True
