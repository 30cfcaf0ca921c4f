"""A text encoder for TensorRT: its graphs keep to what TensorRT takes, and `engine.json` says what is built of them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from tensorrt_operators import refused
from two_towers import CONTEXT, SIDE, write_two_tower

from edgeq.calibrate.samples import CaptionSamples
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.errors import QuantizeError
from edgeq.export.towers import export_text, load_towers
from edgeq.model.graph.element_types import element_types
from edgeq.model.graph.onnx_file import save_onnx
from edgeq.model.graph.tensors import constant_tensors
from edgeq.pipeline.retrieval.engines import length_buckets
from edgeq.pipeline.stages import Options, calibrate_graph
from edgeq.plan.precision import PrecisionPlan
from edgeq.plan.rules import plan_classifier, plan_float
from edgeq.quantize.engine_inputs import write_text_inputs
from edgeq.quantize.fp16.convert import to_fp16
from edgeq.quantize.int8.qdq import calibrated_tensors
from edgeq.quantize.int8.select import resolve
from edgeq.quantize.int8.stage import FP16, PLAN, quantize
from edgeq.tensorrt.inputs import BATCH, Binding, EngineInputs

INT8 = "model.int8.trt.onnx"
LINEARS = 2 * 6
"""Query, key, value, output and two feed-forward layers, in each of two blocks."""
LONGEST_FP16 = 65504.0
BATCHES = (1, 32, 64)


@dataclass(frozen=True)
class Made:
    """A bundle's directory with the text encoder's graphs in `text`, texts, and what was written of each graph."""

    bundle: Path
    end: int
    free: bool
    int8: EngineInputs
    half: EngineInputs

    def graph(self, name: str) -> onnx.ModelProto:
        return onnx.load(self.bundle / "text" / name)


@pytest.fixture(scope="module", params=["clip", "siglip"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """As `prepare_retrieval` makes them, with minmax on ten captions."""
    bundle, free = tmp_path_factory.mktemp("bundle"), request.param != "siglip"
    folder, source = bundle / "text", write_two_tower(bundle / "model", request.param)
    folder.mkdir()
    towers = load_towers(source, (SIDE, SIDE))
    end = json.loads((source / "config.json").read_text())["text_config"]["vocab_size"] - 1
    captions = {str(seed): drawn(1, 4 + seed % 13 if free else CONTEXT, end, seed=seed) for seed in range(10)}
    export_text(towers, source, folder, [ids[0] for ids in captions.values()][:4], threads=1)
    model = onnx.load(folder / "model.fp32.onnx")
    samples = CaptionSamples(captions, "1" * 64)
    lengths = {"length": length_buckets(CONTEXT)} if free else {}
    half = plan_float(model, because="in a test")
    half.save(folder / "fp16.plan.yaml")
    save_onnx(to_fp16(model, half), folder / FP16)
    in_half = write_text_inputs(bundle, "text", folder / "fp16.plan.yaml", batch=BATCHES, lengths=lengths, half=True)
    plan, tensors = plan_classifier(model), calibrated_tensors(model, plan_classifier(model))
    options = Options(method="minmax", threads=1)
    scales, _ = calibrate_graph(folder / "model.fp32.onnx", plan, tensors, samples, options, lambda *_: None)
    quantize(folder / "model.fp32.onnx", resolve(plan, scales, folder / "model.fp32.onnx"), scales, None, folder)
    in_int8 = write_text_inputs(bundle, "text", folder / PLAN, batch=BATCHES, lengths=lengths)
    return Made(bundle, end, free, in_int8, in_half)


def drawn(count: int, length: int, end: int, *, seed: int) -> NDArray[np.int64]:
    """Texts that end with the token `end`, int64 [count, length]."""
    ids = np.random.default_rng(seed).integers(3, end - 1, (count, length))
    ids[:, -1] = end
    return ids


def test_lengths_are_in_buckets_without_gaps() -> None:
    assert length_buckets(77) == ((1, 8, 8), (9, 16, 16), (17, 32, 32), (33, 77, 77))
    assert length_buckets(CONTEXT) == ((1, 8, 8), (9, 16, 16))
    assert length_buckets(20) == ((1, 8, 8), (9, 16, 16), (17, 20, 20))
    assert length_buckets(248)[-1] == (78, 248, 248)
    assert length_buckets(5) == ((1, 5, 5),)


def test_what_is_said_of_the_graph_in_int8(made: Made) -> None:
    assert made.int8 == EngineInputs.load(made.bundle / "text" / "engine.json"), "the last that was written"
    assert list(made.int8.graphs) == ["explicit"], "no ranges for implicit quantization are there"
    graph = made.int8.graphs["explicit"]
    length = "length" if made.free else CONTEXT
    assert graph.file == f"text/{INT8}"
    assert graph.inputs == (Binding(name="input_ids", dtype="int64", shape=(BATCH, length)),)
    assert [(each.name, each.dtype, each.shape[0]) for each in graph.outputs] == [("text_embeds", "float32", BATCH)]
    assert made.int8.ranges == {BATCH: BATCHES}
    assert made.int8.buckets == ({"length": ((1, 8, 8), (9, 16, 16))} if made.free else {})
    assert made.int8.precision == "int8"


def test_every_layer_is_what_the_graph_has(made: Made) -> None:
    """In the Q/DQ graph all but the linear layers is FP16, the projection FP32; in the other all is FP16."""
    int8 = made.int8.graphs["explicit"].layers
    assert Counter((layer.op, layer.precision) for layer in int8 if layer.precision == "int8") == {
        ("MatMul", "int8"): LINEARS
    }
    assert {layer.precision for layer in int8} == {"int8", "float16", "float32"}
    assert len([layer for layer in int8 if layer.precision == "float32"]) == 1, "the head"
    names = {node.name for node in made.graph(INT8).graph.node}
    assert {layer.name for layer in int8} <= names
    assert not [layer.name for layer in int8 if "token_embedding" in layer.name], "its FP16 table is read, not computed"
    half = made.half.graphs["explicit"]
    assert made.half.graphs["implicit"] == half
    assert (half.file, made.half.precision) == (f"text/{FP16}", "fp16")
    assert {layer.precision for layer in half.layers} == {"float16"}
    written = element_types(made.graph(FP16))
    outputs = {node.name: node.output for node in made.graph(FP16).graph.node}
    for layer in half.layers:
        assert [kind == "float16" for kind in layer.outputs] == [
            written[name] == TensorProto.FLOAT16 for name in outputs[layer.name]
        ]


@pytest.mark.parametrize("name", [INT8, FP16])
def test_operators_and_types_are_those_that_tensorrt_takes(made: Made, name: str) -> None:
    model = made.graph(name)
    assert refused(model) == []
    assert model.ir_version <= 10
    assert [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")] == [
        19 if name == INT8 else 17
    ]
    other = next(node for node in model.graph.node if node.op_type == "Softmax")
    other.op_type = "MaxUnpool"
    assert refused(model) == [f"{other.name}: the parser has no MaxUnpool; a plugin would be needed"]


@pytest.mark.parametrize("name", [INT8, FP16])
def test_no_constant_is_beyond_fp16(made: Made, name: str) -> None:
    """The mask's was minus infinity: TensorRT may compute in FP16 what the file has in FP32."""
    constants = {key: numpy_helper.to_array(each) for key, each in constant_tensors(made.graph(name).graph).items()}
    floats = {key: each for key, each in constants.items() if each.dtype in (np.float16, np.float32) and each.size}
    assert all(float(np.abs(each).max()) <= LONGEST_FP16 for each in floats.values())
    lowest = min(float(each.min()) for each in floats.values())
    assert (lowest == -1e4) == made.free, "CLIP alone has a mask"


def test_pairs_stand_where_tensorrt_wants_them(made: Made) -> None:
    """On both inputs of an INT8 layer, signed, without a zero point; weights by output channel; residuals have none."""
    model, plan = made.graph(INT8), PrecisionPlan.load(made.bundle / "text" / PLAN)
    constants = {name: numpy_helper.to_array(each) for name, each in constant_tensors(model.graph).items()}
    makers = {name: node for node in model.graph.node for name in node.output}
    quantized = {decision.layer for decision in plan.decisions if decision.precision.value == "int8"}
    readers: dict[str, set[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.name)
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert constants[node.input[2]].dtype == np.int8, node.name
            assert not constants[node.input[2]].any(), node.name
    seen = set()
    for node in model.graph.node:
        if node.name not in quantized:
            continue
        seen.add(node.name)
        activation, weight = (makers[name] for name in node.input)
        assert (activation.op_type, weight.op_type) == ("DequantizeLinear", "DequantizeLinear")
        made_by = makers[activation.input[0]]
        assert made_by.op_type == "QuantizeLinear"
        assert constants[made_by.input[1]].shape == constants[activation.input[1]].shape == ()
        stored = constants[weight.input[0]]
        (axis,) = (attribute.i for attribute in weight.attribute if attribute.name == "axis")
        assert (str(stored.dtype), axis) == ("int8", 1)
        assert constants[weight.input[1]].shape == (stored.shape[1],), "a scale for each output channel"
        assert readers[activation.output[0]] <= quantized, "nothing in floating point reads what was rounded"
    assert seen == quantized
    assert len(quantized) == LINEARS
    counts = Counter(node.op_type for node in model.graph.node)
    assert counts["QuantizeLinear"] == 2 * 4, "before query, key and value once, and before three more, in each block"
    assert counts["DequantizeLinear"] == 2 * (4 + 6)


def test_each_bucket_computes_what_fp32_computes(made: Made) -> None:
    """At its least and its largest length, a batch at once, in ONNX Runtime without integer kernels."""
    fp32 = OnnxRuntimeEngine(made.bundle / "text" / "model.fp32.onnx", threads=1)
    engines = [
        OnnxRuntimeEngine(made.bundle / "text" / name, threads=1, integers=name != INT8) for name in (INT8, FP16)
    ]
    edges = [length for least, _, most in made.int8.buckets.get("length", ()) for length in (max(least, 3), most)]
    for length in edges or [CONTEXT]:
        ids = drawn(3, length, made.end, seed=99)
        right = fp32.run({"input_ids": ids})["text_embeds"]
        for engine in engines:
            found = engine.run({"input_ids": ids})["text_embeds"]
            assert found.shape == right.shape
            assert (np.linalg.norm(found - right, axis=1) < 0.05 * np.linalg.norm(right, axis=1)).all()


def test_an_input_that_no_engine_is_given_is_refused(made: Made, tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    model = made.graph("model.fp32.onnx")
    plan = plan_classifier(model)
    plan.save(tmp_path / "text" / PLAN)
    save_onnx(model, tmp_path / "text" / "model.fp32.onnx")
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT16
    save_onnx(model, tmp_path / "text" / INT8)
    with pytest.raises(QuantizeError, match="input_ids holds INT16"):
        write_text_inputs(tmp_path, "text", tmp_path / "text" / PLAN, batch=BATCHES, lengths={})
