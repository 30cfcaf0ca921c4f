"""The end of a detector's graph: its last convolutions and all that makes boxes and scores of what they give."""

from __future__ import annotations

import onnx

__all__ = ["last_nodes"]


def last_nodes(model: onnx.ModelProto) -> list[str]:
    """Names of the convolutions that no other follows, and of every node behind one of them.

    These are what users of post-training quantization are told to leave in floating point.
    """
    nodes = model.graph.node
    behind: dict[str, set[int]] = {}  # tensor -> the convolutions that it depends on
    for index, node in enumerate(nodes):
        reached = set().union(*(behind.get(name, set()) for name in node.input))
        for name in node.output:
            behind[name] = reached | ({index} if node.op_type == "Conv" else set())
    followed = {
        index for node in nodes if node.op_type == "Conv" for name in node.input for index in behind.get(name, set())
    }
    last = {index for index, node in enumerate(nodes) if node.op_type == "Conv"} - followed
    return [node.name for node in nodes if last & behind[node.output[0]]]
