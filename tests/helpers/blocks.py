"""A small transformer for the tests of channel equalization, in the forms that exporters write."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import networks
import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeq.engine.onnxruntime import OnnxRuntimeEngine

WIDTH = 16
HEADS = 2
TOKENS = 16
CLASSES = 3
SIDE = 16


@dataclass
class Graph:
    """Nodes and constants under construction."""

    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, NDArray[np.generic]] = field(default_factory=dict)

    def add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """A node named after what it makes."""
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def put(self, name: str, value: ArrayLike) -> str:
        """A constant."""
        self.constants[name] = np.asarray(value)
        return name

    def drawn(self, name: str, *shape: int, size: float = 1.0, mean: float = 0.0) -> str:
        """A drawn float32 constant."""
        return self.put(name, (mean + size * self.rng.standard_normal(shape)).astype(np.float32))

    def linear(self, name: str, source: str, inputs: int, outputs: int) -> str:
        """MatMul and Add, as exporters write a linear layer of tokens."""
        self.drawn(f"{name}.w", inputs, outputs, size=inputs**-0.5)
        self.add("MatMul", [source, f"{name}.w"], name)
        return self.add("Add", [self.drawn(f"{name}.b", outputs, size=0.1), name], f"{name}.out")

    def norm(self, name: str, source: str, *, written_out: bool) -> str:
        """LayerNormalization, as one node or as nine."""
        weight = self.drawn(f"{name}.w", WIDTH, size=0.1, mean=1.0)
        bias = self.drawn(f"{name}.b", WIDTH, size=0.1)
        if not written_out:
            return self.add("LayerNormalization", [source, weight, bias], name, axis=-1)
        self.put("two", np.float32(2))
        self.put("tiny", np.float32(1e-5))
        mean = self.add("ReduceMean", [source], f"{name}.mean", axes=[-1])
        centred = self.add("Sub", [source, mean], f"{name}.centred")
        squares = self.add("Pow", [centred, "two"], f"{name}.squares")
        variance = self.add("ReduceMean", [squares], f"{name}.variance", axes=[-1])
        added = self.add("Add", [variance, "tiny"], f"{name}.added")
        root = self.add("Sqrt", [added], f"{name}.root")
        divided = self.add("Div", [centred, root], f"{name}.divided")
        scaled = self.add("Mul", [divided, weight], f"{name}.scaled")
        return self.add("Add", [scaled, bias], name)

    def heads(self, name: str, source: str, perm: list[int]) -> str:
        """[n, tokens, width] to heads."""
        self.put("by head", [-1, TOKENS, HEADS, WIDTH // HEADS])
        apart = self.add("Reshape", [source, "by head"], f"{name}.apart")
        return self.add("Transpose", [apart], f"{name}.heads", perm=perm)

    def attention(self, name: str, source: str, *, fused: bool) -> str:
        """Query, key and value, from three layers or one, the scores, the mix, and the output projection."""
        if fused:
            whole = self.linear(f"{name}.qkv", source, WIDTH, 3 * WIDTH)
            parts = [f"{name}.{part}" for part in "qkv"]
            self.nodes.append(helper.make_node("Split", [whole], parts, name=f"{name}.split", axis=-1))
        else:
            parts = [self.linear(f"{name}.{part}", source, WIDTH, WIDTH) for part in "qkv"]
        query, key, value = (
            self.heads(f"{name}.{part}", tensor, [0, 2, 3, 1] if part == "k" else [0, 2, 1, 3])
            for part, tensor in zip("qkv", parts, strict=True)
        )
        scores = self.add("MatMul", [query, key], f"{name}.scores")
        share = self.add("Softmax", [scores], f"{name}.share", axis=-1)
        mixed = self.add("MatMul", [share, value], f"{name}.mixed")
        turned = self.add("Transpose", [mixed], f"{name}.turned", perm=[0, 2, 1, 3])
        self.put("tokens", [-1, TOKENS, WIDTH])
        return self.linear(f"{name}.o", self.add("Reshape", [turned, "tokens"], f"{name}.seen"), WIDTH, WIDTH)

    def feed_forward(self, name: str, source: str, *, relu: bool) -> str:
        """Two linear layers with GELU or ReLU between them."""
        up = self.linear(f"{name}.up", source, WIDTH, 2 * WIDTH)
        if relu:
            bent = self.add("Relu", [up], f"{name}.bent")
        else:
            self.put("root2", np.float32(2**0.5))
            self.put("one", np.float32(1))
            self.put("half", np.float32(0.5))
            error = self.add("Erf", [self.add("Div", [up, "root2"], f"{name}.turn")], f"{name}.erf")
            plus = self.add("Add", [error, "one"], f"{name}.plus")
            bent = self.add("Mul", [self.add("Mul", [up, plus], f"{name}.twice"), "half"], f"{name}.bent")
        return self.linear(f"{name}.down", bent, 2 * WIDTH, WIDTH)

    def model(self, source: list[int | str], target: list[int | str], output: str) -> onnx.ModelProto:
        """float32 `pixels` -> float32 `output`, opset 17, checked."""
        graph = helper.make_graph(
            self.nodes,
            "made",
            [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, source)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, target)],
            [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in self.constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return model


def transformer(
    seed: int = 0, *, layers: int = 2, fused: bool = False, written_out: bool = False, relu: bool = False
) -> onnx.ModelProto:
    """Patches of 4 x 4 pixels, `layers` blocks, the mean, a head: float32 [n, 3, 16, 16] -> [n, 3]."""
    graph = Graph(np.random.default_rng(seed))
    graph.drawn("patch.w", WIDTH, 3, 4, 4, size=0.2)
    graph.put("flat", [-1, WIDTH, TOKENS])
    patches = graph.add("Conv", ["pixels", "patch.w"], "patch", strides=[4, 4])
    x = graph.add("Transpose", [graph.add("Reshape", [patches, "flat"], "patch.flat")], "patch.tokens", perm=[0, 2, 1])
    x = graph.add("Add", [x, graph.drawn("position", 1, TOKENS, WIDTH, size=0.3)], "placed")
    for layer in range(layers):
        normed = graph.norm(f"{layer}.before", x, written_out=written_out)
        x = graph.add("Add", [x, graph.attention(f"{layer}", normed, fused=fused)], f"{layer}.middle")
        normed = graph.norm(f"{layer}.after", x, written_out=written_out)
        x = graph.add("Add", [x, graph.feed_forward(f"{layer}", normed, relu=relu)], f"{layer}.end")
    graph.norm("last", x, written_out=written_out)
    graph.add("ReduceMean", ["last"], "pooled", axes=[1], keepdims=0)
    graph.drawn("head.w", WIDTH, CLASSES)
    graph.drawn("head.b", CLASSES)
    graph.nodes.append(helper.make_node("Gemm", ["pooled", "head.w", "head.b"], ["logits"], name="head"))
    return graph.model(["n", 3, SIDE, SIDE], ["n", CLASSES], "logits")


def unbalance(model: onnx.ModelProto, *, layers: int = 2, seed: int = 1) -> onnx.ModelProto:
    """The same function with channels behind each normalization of `transformer` a hundred times apart."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    constants = {tensor.name: tensor for tensor in made.graph.initializer}
    rng = np.random.default_rng(seed)

    def times(name: str, factor: NDArray[np.float64]) -> None:
        value = numpy_helper.to_array(constants[name]).astype(np.float64) * factor
        constants[name].CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))

    for layer in range(layers):
        for norm, readers in (("before", "qkv"), ("after", ("up",))):
            factor = 10.0 ** rng.uniform(-1, 1, WIDTH)
            times(f"{layer}.{norm}.w", factor)
            times(f"{layer}.{norm}.b", factor)
            for reader in readers:
                times(f"{layer}.{reader}.w", 1.0 / factor[:, None])
    return made


def run(model: onnx.ModelProto, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """The first output."""
    engine = OnnxRuntimeEngine(model.SerializeToString(), threads=1)
    made: NDArray[np.float32] = engine.run({engine.inputs[0]: pixels})[engine.outputs[0]]
    return made


def constant(model: onnx.ModelProto, name: str) -> NDArray[np.float32]:
    """An initializer's value."""
    return next(numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name == name)


def write_model(directory: Path, model: onnx.ModelProto) -> Path:
    """A MODEL directory with this graph."""
    directory.mkdir(parents=True)
    onnx.save(model, directory / "model.onnx")
    config = {"id2label": {str(index): name for index, name in enumerate(networks.CLASSES)}}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "preprocessor_config.json").write_text(json.dumps(networks.PREPROCESSOR))
    return directory
