"""Lower a plan to an FP16 graph: the layers planned FP16 compute in FP16, everything else stays as it is.

Casts stand at the borders between the two and nowhere else; the graph's inputs and outputs stay float32. A tensor keeps
its name where it is float32, and is called `NAME.fp16` where it is FP16. Layers without floating-point numbers (shape
arithmetic, masks) are left alone, whatever was planned for them. TensorRT keeps to these types in a strongly typed
network; ONNX Runtime has few FP16 kernels on a CPU and puts float32 ones between Casts of its own there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeq.errors import QuantizeError
from edgeq.model.graph.element_types import (
    SHAPE_READERS,
    element_types,
    fp16_inputs,
    fp16_outputs,
    inner_reads,
    opset_of,
    unfit_layers,
)
from edgeq.model.graph.tensors import constant_tensors
from edgeq.plan.precision import Precision, PrecisionPlan
from edgeq.quantize.fp16.verify import verify_fp16

__all__ = ["to_fp16"]


def to_fp16(model: onnx.ModelProto, plan: PrecisionPlan, *, beside: frozenset[str] = frozenset()) -> onnx.ModelProto:
    """The graph of `model` with the layers that `plan` has in FP16 computing in FP16; `model` is not changed.

    Args:
        model: float32, nodes uniquely named as in `plan`, in topological order. Nodes that the plan does not name (the
            Q/DQ pairs of an INT8 lowering) stay as they are, unless they are in `beside`.
        plan: for that graph.
        beside: further nodes that read and write FP16: of a Q/DQ graph of opset 19, pairs, and INT8 layers between them
            (`edgeq.quantize.int8.half_types`).

    Raises:
        QuantizeError: a layer planned FP16 has no FP16 form or a constant that FP16 does not hold (each is named, so
            that a rule can keep it in FP32), or the graph made differs from the plan.
    """
    half = plan.layers(Precision.FP16) | beside
    _refuse({name: why for name, why in unfit_layers(model).items() if name in half})
    made = _Lowering(model, half).model()
    verify_fp16(made, plan, beside=beside)
    return made


def _refuse(unfit: Mapping[str, str]) -> None:
    if unfit:
        layers = list(unfit)
        raise QuantizeError(
            f"{len(unfit)} layers planned fp16 cannot be FP16, the first is {layers[0]}",
            expected="constants of at most 65504 that do not vanish, and operators that ONNX has in FP16",
            causes=tuple(f"{name}: {why}" for name, why in list(unfit.items())[:10]),
            next_step=f"keep them in FP32 with a rule before the others: layer: {layers[0]!r}, precision: fp32",
        )


class _Lowering:
    """One graph on its way: what is FP16 so far, and the nodes and constants made."""

    def __init__(self, model: onnx.ModelProto, half: frozenset[str]) -> None:
        self._source, self._layers = model, half
        self._types, self._version = element_types(model), opset_of(model)
        self._constants = constant_tensors(model.graph)
        self._suffix = _new_suffix(self._types)
        self._in_fp32 = self._read_in_fp32()
        self._in_fp16: set[str] = set()
        self._nodes: list[onnx.NodeProto] = []
        self._halves: list[onnx.TensorProto] = []

    def model(self) -> onnx.ModelProto:
        for node in self._source.graph.node:
            self._lower(node)
        kept = [tensor for tensor in self._source.graph.initializer if self._is_kept(tensor.name)]
        made = onnx.ModelProto()
        made.CopyFrom(_without_graph(self._source))
        source = self._source.graph
        graph = helper.make_graph(self._nodes, source.name, source.input, source.output, [*kept, *self._halves])
        made.graph.CopyFrom(graph)
        return made

    def _read_in_fp32(self) -> frozenset[str]:
        """The tensors that somebody wants as they were: layers that are not FP16, graphs inside, the caller."""
        wanted = {output.name for output in self._source.graph.output}
        for node in self._source.graph.node:
            wanted.update(inner_reads(node))
            if node.op_type not in SHAPE_READERS:
                wanted.update(name for name, half in self._inputs(node) if not half)
        return frozenset(wanted)

    def _inputs(self, node: onnx.NodeProto) -> Iterator[tuple[str, bool]]:
        """Each input, and whether `node` reads it in FP16."""
        slots = fp16_inputs(node, self._version)
        for name, allowed in zip(node.input, slots, strict=True):
            yield name, allowed and node.name in self._layers and self._is_float(name)

    def _is_float(self, name: str) -> bool:
        return self._types.get(name) == TensorProto.FLOAT

    def _is_kept(self, constant: str) -> bool:
        return constant in self._in_fp32 or not self._is_float(constant)

    def _lower(self, node: onnx.NodeProto) -> None:
        if node.op_type == "Constant" and not self._is_kept(node.output[0]):
            return
        made = onnx.NodeProto()
        made.CopyFrom(node)
        for slot, (name, half) in enumerate(self._inputs(node)):
            if half or (node.op_type in SHAPE_READERS and name in self._in_fp16):
                made.input[slot] = self._as_fp16(name)
        self._nodes.append(made)
        if node.name in self._layers:
            self._write_fp16(made)

    def _as_fp16(self, name: str) -> str:
        """The FP16 form of a float32 tensor: made with the first reader that asks for it."""
        half = name + self._suffix
        if name not in self._in_fp16:
            self._in_fp16.add(name)
            if name in self._constants:
                values = numpy_helper.to_array(self._constants[name]).astype(np.float16)
                self._halves.append(numpy_helper.from_array(values, half))
            else:
                self._nodes.append(_cast(name, half, TensorProto.FLOAT16))
        return half

    def _write_fp16(self, node: onnx.NodeProto) -> None:
        """Let `node` write FP16; a Cast behind it gives float32 back to those who want that."""
        names, slots = list(node.output), fp16_outputs(node, self._version)
        changed = [slot for slot, name in enumerate(names) if slots[slot] and self._is_float(name)]
        for slot in changed:
            node.output[slot] = names[slot] + self._suffix
            self._in_fp16.add(names[slot])
            if names[slot] in self._in_fp32:
                self._nodes.append(_cast(node.output[slot], names[slot], TensorProto.FLOAT))
        if changed:
            _retype(node)


def _new_suffix(names: Mapping[str, int]) -> str:
    """`.fp16`, with as many strokes behind as it takes to be nobody's name yet."""
    suffix = ".fp16"
    while any(name.endswith(suffix) for name in names):
        suffix += "_"
    return suffix


def _without_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """Everything else that the file says: versions, metadata."""
    return onnx.ModelProto(
        ir_version=model.ir_version,
        opset_import=model.opset_import,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
        domain=model.domain,
        model_version=model.model_version,
        doc_string=model.doc_string,
        metadata_props=model.metadata_props,
        functions=model.functions,
    )


def _cast(source: str, target: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{target}.Cast", to=kind)


def _retype(node: onnx.NodeProto) -> None:
    """FP16 in the attributes that say what type a node writes."""
    for attribute in node.attribute:
        if attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
    if node.op_type == "ConstantOfShape":
        _retype_fill(node)


def _retype_fill(node: onnx.NodeProto) -> None:
    """ConstantOfShape writes the type of its `value`, and float32 zeros without one."""
    value = np.zeros(1, np.float32)
    if node.attribute:
        value = numpy_helper.to_array(node.attribute.pop().t)
    node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(value.astype(np.float16))))
