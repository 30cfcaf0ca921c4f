"""Move a map by channel, a BatchNorm's as a rule, into the layer before it, or into the layer after it.

After a layer it is always exact: scale * (W x + b) + shift = (scale W) x + (scale b + shift)
(Jacob et al. 2018, arXiv:1712.05877, section 3.2).

Before a layer, W (scale x + shift) + b = (W scale) x + (b + W shift), it is exact only where each output sees the
whole kernel: a padded convolution adds zeros after the BatchNorm, and the shift would leak into them.
"""

from __future__ import annotations

import dataclasses

import onnx

from edgeq.export.batchnorm import Affine, Refused
from edgeq.export.layers import LAYERS, ExportedLayer, read_layer, write_layer
from edgeq.model.graph.wiring import Wiring, attribute, label, operator

__all__ = ["absorb_after", "absorb_before"]


def absorb_after(wiring: Wiring, batchnorm: onnx.NodeProto, affine: Affine) -> ExportedLayer:
    """Fold `batchnorm` into the layer that feeds it, and return that layer as it was.

    The layer makes the BatchNorm's output from now on, under that name.

    Args:
        wiring: of the graph, which is changed.
        batchnorm: a node of it with one input that is not constant; is taken out.
        affine: what `batchnorm` does; a single pair of figures is for all channels.

    Raises:
        Refused: with the reason; the graph is as it was.
    """
    data = next(name for name in batchnorm.input if wiring.constant(name) is None)
    layer = _layer_before(wiring, data)
    if affine.channels == 1:
        affine = affine.repeated(layer.outputs)
    if layer.outputs != affine.channels:
        raise Refused(f"{_title(layer.node)} makes {layer.outputs} channels, and it normalizes {affine.channels}")
    group = layer.weight.shape[0]
    weight = layer.weight * affine.scale.reshape(group, -1, 1, 1)
    bias = layer.bias * affine.scale + affine.shift
    write_layer(wiring, dataclasses.replace(layer, weight=weight, bias=bias))
    wiring.remove(batchnorm)
    wiring.set_output(layer.last, batchnorm.output[0])
    return layer


def _layer_before(wiring: Wiring, tensor: str) -> ExportedLayer:
    producer = wiring.producer(tensor)
    if producer is None:
        raise Refused("no layer comes before it")
    adder = None
    if operator(producer) == "Add" and (matmul := _matmul_behind(wiring, producer)) is not None:
        producer, adder = matmul, producer
    if operator(producer) not in LAYERS:
        raise Refused(f"{_title(producer)} stands before it")
    _only_reader(wiring, (adder or producer).output[0])
    return read_layer(wiring, producer, adder)


def _matmul_behind(wiring: Wiring, adder: onnx.NodeProto) -> onnx.NodeProto | None:
    """The MatMul that feeds `adder` and nothing else, where the other side is a constant."""
    for tensor, other in (tuple(adder.input), tuple(adder.input)[::-1]):
        node = wiring.producer(tensor)
        alone = len(wiring.readers(tensor)) == 1 and not wiring.is_output(tensor)
        if node is not None and operator(node) == "MatMul" and alone and wiring.constant(other) is not None:
            return node
    return None


def absorb_before(wiring: Wiring, batchnorm: onnx.NodeProto, affine: Affine) -> ExportedLayer:
    """Fold `batchnorm` into the layer that reads it, and return that layer as it was.

    GlobalAveragePool and Flatten may stand between: the mean of a * x + b is a * mean + b, and Flatten only
    repeats each channel's pair.

    Args:
        wiring: of the graph, which is changed.
        batchnorm: a node of it; is taken out.
        affine: what `batchnorm` does.

    Raises:
        Refused: with the reason; the graph is as it was.
    """
    node, flat = _layer_after(wiring, batchnorm)
    _refuse_borders(node, affine)
    layer = read_layer(wiring, node, _bias_adder(wiring, node))
    if flat and layer.inputs % affine.channels == 0:
        affine = affine.repeated(layer.inputs // affine.channels)
    if layer.inputs != affine.channels:
        raise Refused(f"{_title(node)} reads {layer.inputs} channels, and it normalizes {affine.channels}")
    group = layer.weight.shape[0]
    weight = layer.weight * affine.scale.reshape(group, 1, -1, 1)
    added = (layer.weight * affine.shift.reshape(group, 1, -1, 1)).sum(axis=(2, 3)).reshape(-1)
    write_layer(wiring, dataclasses.replace(layer, weight=weight, bias=layer.bias + added))
    for reader in list(wiring.readers(batchnorm.output[0])):
        wiring.set_input(reader, 0, batchnorm.input[0])
    wiring.remove(batchnorm)
    return layer


def _layer_after(wiring: Wiring, batchnorm: onnx.NodeProto) -> tuple[onnx.NodeProto, bool]:
    """The layer that reads the BatchNorm's output as its data, and whether a Flatten stands between."""
    flat = False
    node = batchnorm
    while True:
        tensor = node.output[0]
        node = _only_reader(wiring, tensor)
        if operator(node) == "Flatten" and attribute(node, "axis", 1) == 1:
            flat = True
        elif operator(node) != "GlobalAveragePool":
            break
    if operator(node) not in LAYERS or node.input[0] != tensor:
        raise Refused(f"{_title(node)} stands after it")
    if operator(node) == "Gemm" and attribute(node, "transA", 0):
        raise Refused(f"{_title(node)} transposes its input")
    return node, flat


def _refuse_borders(node: onnx.NodeProto, affine: Affine) -> None:
    if not affine.shift.any():
        return
    if operator(node) == "ConvTranspose":
        raise Refused(f"its shift does not reach each output of {_title(node)} alike")
    padded = attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID") or any(attribute(node, "pads", ()))
    if operator(node) == "Conv" and padded:
        raise Refused(f"{_title(node)} after it pads with zeros, and its shift would leak at the borders")


def _bias_adder(wiring: Wiring, node: onnx.NodeProto) -> onnx.NodeProto | None:
    """The Add that holds the bias of MatMul `node`; None where there is none."""
    readers = wiring.readers(node.output[0])
    if operator(node) != "MatMul" or len(readers) != 1 or operator(readers[0]) != "Add":
        return None
    return readers[0] if _matmul_behind(wiring, readers[0]) is node else None


def _only_reader(wiring: Wiring, tensor: str) -> onnx.NodeProto:
    """The one node that reads `tensor`."""
    readers = wiring.readers(tensor)
    if wiring.is_output(tensor):
        raise Refused(f"{tensor} is an output of the graph")
    if len(readers) != 1:
        names = ", ".join(sorted({_title(reader) for reader in readers})) or "nothing"
        raise Refused(f"{tensor} is read by {names}")
    return readers[0]


def _title(node: onnx.NodeProto) -> str:
    return f"{operator(node)} {label(node)}"
