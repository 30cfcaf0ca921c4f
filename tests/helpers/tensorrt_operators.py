"""What TensorRT's parser would refuse of a graph."""

from __future__ import annotations

from pathlib import Path

import onnx

from edgeq.lint.graph import LintGraph
from edgeq.lint.registry import choose_rules
from edgeq.lint.run import check_graph

__all__ = ["refused"]


def refused(model: onnx.ModelProto) -> list[str]:
    """The nodes that it does not take, in words."""
    findings = check_graph(LintGraph(model, Path("model.onnx")), choose_rules(["TRT0"]))
    return [f"{each.where}: {each.what}" for each in findings if each.level == "error"]
