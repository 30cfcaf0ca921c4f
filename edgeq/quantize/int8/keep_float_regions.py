"""Hold floating-point layers in floating point in ONNX Runtime's graph.

ONNX Runtime quantizes on its own, per tensor, the float weights of a Conv or Gemm that stands between a
DequantizeLinear and a QuantizeLinear, even where an activation follows (its `WeightBiasQuantization`). A plan that
leaves such a layer in floating point would be undone without a word. A LeakyRelu of slope 1, which changes no number
and which the layer's kernel applies by itself, stands in the way.
"""

from __future__ import annotations

from typing import Final

import onnx_graphsurgeon as gs

from edgeq.plan.rules import FUSED_ACTIVATIONS

__all__ = ["keep_float_regions"]

_TAKEN: Final = ("Conv", "ConvTranspose", "Gemm")


def keep_float_regions(graph: gs.Graph, int8: frozenset[str]) -> None:
    """Put a LeakyRelu of slope 1 behind every layer that ONNX Runtime would quantize against the plan.

    Args:
        graph: with all its Q/DQ pairs; it is changed.
        int8: names of the layers planned INT8.
    """
    for node in list(graph.nodes):
        if node.op in _TAKEN and node.name not in int8 and _is_between_pairs(node):
            _hold(graph, node)


def _is_between_pairs(node: gs.Node) -> bool:
    makers = node.inputs[0].inputs
    return bool(makers) and makers[0].op == "DequantizeLinear" and _leads_to_quantizer(node.outputs[0])


def _leads_to_quantizer(tensor: gs.Variable) -> bool:
    if len(tensor.outputs) != 1:
        return False
    user = tensor.outputs[0]
    return user.op == "QuantizeLinear" or (user.op in FUSED_ACTIVATIONS and _leads_to_quantizer(user.outputs[0]))


def _hold(graph: gs.Graph, node: gs.Node) -> None:
    output = node.outputs[0]
    before = gs.Variable(f"{node.name}.float", dtype=output.dtype, shape=output.shape)
    node.outputs[0] = before
    held = gs.Node("LeakyRelu", f"{node.name}.hold", attrs={"alpha": 1.0}, inputs=[before], outputs=[output])
    graph.nodes.append(held)
