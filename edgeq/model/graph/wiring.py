"""Who makes and who reads each tensor of a graph, kept true while nodes are taken out of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeq.errors import ExportError
from edgeq.model.graph.tensors import reads

__all__ = ["Wiring", "attribute", "label", "operator", "subgraphs"]


def label(node: onnx.NodeProto) -> str:
    """The node's name; an unnamed node goes by its first output."""
    return node.name or (node.output[0] if node.output else node.op_type)


def operator(node: onnx.NodeProto) -> str:
    """The operator: "Conv" for ONNX's own, "com.microsoft::FusedConv" for those of another domain."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """The value of attribute `name` of `node`, or `default`; strings come as str.

    Args:
        node: that may have it.
        name: of the attribute.
        default: where the node has none of that name.
    """
    for item in node.attribute:
        if item.name == name:
            value = onnx.helper.get_attribute_value(item)
            return value.decode() if isinstance(value, bytes) else value
    return default


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs inside `node` (the branches of an If, the body of a Loop), one level deep."""
    for item in node.attribute:
        if item.type == onnx.AttributeProto.GRAPH:
            yield item.g
        yield from item.graphs


class Wiring:
    """The main graph of a model, edited in place."""

    def __init__(self, model: onnx.ModelProto) -> None:
        """Read the graph of `model`, which the caller owns; `finish` must be called at the end."""
        self._model = model
        self.nodes = list(model.graph.node)
        self._outputs = {value.name for value in model.graph.output}
        self._initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self._producers = {name: node for node in self.nodes for name in node.output if name}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in reads(node):
                self._readers.setdefault(name, []).append(node)

    def producer(self, tensor: str) -> onnx.NodeProto | None:
        """The node that makes `tensor`; None for inputs and initializers."""
        return self._producers.get(tensor)

    def readers(self, tensor: str) -> list[onnx.NodeProto]:
        """The nodes that read `tensor`, itself or inside a subgraph; twice where a node reads it twice."""
        return self._readers.get(tensor, [])

    def is_output(self, tensor: str) -> bool:
        """Whether the graph gives `tensor` to its caller."""
        return tensor in self._outputs

    def constant(self, tensor: str) -> NDArray[Any] | None:
        """The value of an initializer or of a Constant node, in its own shape [...] and dtype; None for anything else.

        Raises:
            ExportError: the value is in an external file that was not loaded.
        """
        proto = self._initializers.get(tensor)
        node = self._producers.get(tensor)
        if proto is None and node is not None and operator(node) == "Constant":
            proto = attribute(node, "value", None)
        if proto is None:
            return None
        if proto.data_location == onnx.TensorProto.EXTERNAL:
            raise ExportError(f"the values of {tensor} were not loaded with the graph", expected="weights in memory")
        return numpy_helper.to_array(proto)

    def rank(self, tensor: str) -> int | None:
        """The number of axes of `tensor` as ONNX's shape inference finds it; None where it cannot tell."""
        return self._ranks.get(tensor)

    @cached_property
    def _ranks(self) -> dict[str, int]:
        bare = onnx.ModelProto()
        bare.CopyFrom(self._model)
        del bare.graph.value_info[:]  # what the file claims is not evidence
        try:
            inferred = onnx.shape_inference.infer_shapes(bare).graph
        except (onnx.shape_inference.InferenceError, ValueError):  # contradictions, or more than 2 GB
            return {}
        values = [*inferred.input, *inferred.value_info, *inferred.output]
        tensors = [(value.name, value.type.tensor_type) for value in values]
        return {name: len(kind.shape.dim) for name, kind in tensors if kind.HasField("shape")}

    def set_input(self, node: onnx.NodeProto, index: int, tensor: str) -> None:
        """Let a node read a tensor.

        Args:
            node: is changed.
            index: of the input, which is made when it was not there.
            tensor: its name.
        """
        while len(node.input) <= index:
            node.input.append("")
        if node.input[index]:
            self._forget_reader(node.input[index], node)
        node.input[index] = tensor
        self._readers.setdefault(tensor, []).append(node)

    def set_output(self, node: onnx.NodeProto, tensor: str) -> None:
        """Let `node` make `tensor` as its first output."""
        self._producers.pop(node.output[0], None)
        node.output[0] = tensor
        self._producers[tensor] = node

    def store(self, node: onnx.NodeProto, index: int, value: NDArray[Any], name: str) -> None:
        """Give `node` the constant `value` at input `index`.

        An initializer that nobody else reads is replaced under its own name; any other constant is left as it is
        for its other readers, and `node` reads a new one called `name` (or `name_1`, ...).

        Args:
            node: is changed.
            index: of the input.
            value: copied, in its own dtype.
            name: of the new initializer, where one is made.
        """
        old = node.input[index] if index < len(node.input) else ""
        if old in self._initializers and len(self.readers(old)) == 1 and not self.is_output(old):
            self._initializers[old].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), old))
            return
        self.set_input(node, index, self.add_constant(value, name))

    def add_constant(self, value: NDArray[Any], name: str) -> str:
        """A new initializer [...]; returns its name: `name`, or `name_1`, ... where that is taken."""
        name = self._unused(name)
        tensor = self._model.graph.initializer.add()
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), name))
        self._initializers[name] = tensor
        return name

    def insert_before(self, node: onnx.NodeProto, made: Sequence[onnx.NodeProto]) -> None:
        """Put new nodes, in order, in front of `node`; their readers are rewired by `set_input`."""
        place = next(index for index, other in enumerate(self.nodes) if other is node)
        self.nodes[place:place] = made
        for new in made:
            self._producers |= {name: new for name in new.output if name}
            for name in reads(new):
                self._readers.setdefault(name, []).append(new)

    def remove(self, node: onnx.NodeProto) -> None:
        """Take `node` out of the graph; readers of its outputs must have been rewired."""
        self.nodes = [other for other in self.nodes if other is not node]
        for name in reads(node):
            self._forget_reader(name, node)
        for name in node.output:
            if self._producers.get(name) is node:
                del self._producers[name]

    def finish(self) -> None:
        """Write the nodes back, without the constants and type notes that nothing uses any more."""
        graph = self._model.graph
        nodes = [node for node in self.nodes if operator(node) != "Constant" or self._used(node.output[0])]
        del graph.node[:]
        graph.node.extend(nodes)
        constants = [tensor for tensor in graph.initializer if self._used(tensor.name)]
        del graph.initializer[:]
        graph.initializer.extend(constants)
        notes = [value for value in graph.value_info if value.name in self._producers]
        del graph.value_info[:]
        graph.value_info.extend(notes)

    def _used(self, tensor: str) -> bool:
        return bool(self.readers(tensor)) or self.is_output(tensor)

    def _forget_reader(self, tensor: str, node: onnx.NodeProto) -> None:
        readers = self._readers[tensor]
        readers.pop(next(place for place, reader in enumerate(readers) if reader is node))

    def _unused(self, name: str) -> str:
        taken = self._initializers.keys() | self._producers.keys() | self._readers.keys()
        names = [name, *(f"{name}_{number}" for number in range(1, len(taken) + 1))]
        return next(candidate for candidate in names if candidate not in taken)
