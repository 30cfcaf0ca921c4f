"""What the builder calls on TensorRT, in order, and what it makes of TensorRT's answers, with the real bindings.

The golden files in tests/golden/tensorrt hold the calls, one a line, the same for both releases of TensorRT 10. The
names of those of 11.4 end with it: explicit quantization alone, and another number for the strongly typed flag.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tensorrt_bindings import RELEASE_11, VERSIONS, run_bindings

import edgeq.demo
from edgeq.bundle.vision_report import VISION_FP16, VISION_FP32
from edgeq.demo.vlm.scenes import draw_finding
from edgeq.export.stage import fold_graph
from edgeq.export.vision import export_vision
from edgeq.model.graph.onnx_file import load_onnx, save_onnx
from edgeq.model.graph.tensors import constant_names
from edgeq.plan.precision import Precision, PrecisionPlan, Rule
from edgeq.plan.rules import plan_classifier, plan_vision
from edgeq.quantize.engine_inputs import write_vision_inputs
from edgeq.quantize.fp16.convert import to_fp16
from edgeq.quantize.tensorrt_precisions import tensorrt_precisions
from edgeq.tensorrt.inputs import Binding, EngineGraph, EngineInputs
from edgeq.tensorrt.outcome import BuildReport
from edgeq.tensorrt.precisions import VANISHING, LayerPrecision
from edgeq.tensorrt.settings import BuildSettings, build_settings

DEMO_VLM = Path(edgeq.demo.__file__).parent / "weights-vlm"
GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "tensorrt"
SHA = "0" * 64

Case = dict[str, Any]
Results = dict[str, dict[str, Any]]


def described(model: onnx.ModelProto, layers: tuple[LayerPrecision, ...]) -> dict[str, Any]:
    """The network that TensorRT's parser makes of a graph (onnx-tensorrt, onnxOpImporters.cpp).

    Layers are under the nodes' names, a Gemm's bias is added apart, and what is multiplied by is made by a layer.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    fixed, kinds = constant_names(model.graph), {layer.name: layer.outputs for layer in layers}
    made = {name for node in model.graph.node if node.name in kinds or not layers for name in node.output}
    return {
        "layers": [
            entry for node in model.graph.node for entry in _layers(node, constants, fixed, kinds.get(node.name, ()))
        ],
        "outputs": {output.name: "float32" for output in model.graph.output},
        "named": sorted({value.name for value in model.graph.input} | made),
    }


def _layers(
    node: onnx.NodeProto,
    constants: Mapping[str, onnx.TensorProto],
    fixed: frozenset[str],
    kinds: tuple[str | None, ...],
) -> Iterator[Case]:
    inputs, metadata = [name for name in node.input if name and name not in fixed], f"[ONNX Layer: {node.name}]"
    # Before it is told otherwise, a weakly typed network computes in float32 what the file has not in FP16.
    writes = "float16" if "float16" in kinds and "int8" not in kinds else "float32"
    own: Case = {"name": node.name, "metadata": metadata, "writes": writes}
    if node.op_type in ("MatMul", "Gemm") and node.input[1] in constants:
        yield _constant(node.input[1], constants[node.input[1]])
        inputs.append(f"{node.input[1]}_output")
    if node.op_type == "MatMul" and node.input[1] in constants:
        row = f"ONNXTRT_Broadcast_{node.name}"
        yield {"name": row, "type": "SHUFFLE", "inputs": [inputs.pop()], "outputs": [f"{row}_output"]}
        inputs.append(f"{row}_output")
    if node.op_type == "Gemm" and len(node.input) == 3:
        made, bias = f"{node.name}.product", node.input[2]
        yield {**own, "type": "MATRIX_MULTIPLY", "inputs": inputs, "outputs": [made]}
        yield _constant(bias, constants[bias])
        moved: Case = {"name": "(Unnamed Layer* 9) [Shuffle]", "type": "SHUFFLE"}
        yield {**moved, "inputs": [f"{bias}_output"], "outputs": [f"{node.name}.row"]}
        add: Case = {"name": "(Unnamed Layer* 10) [ElementWise]", "type": "ELEMENTWISE", "op": "SUM"}
        yield {**add, "inputs": [made, f"{node.name}.row"], "outputs": list(node.output)}
    else:
        yield {**own, "inputs": inputs, "outputs": list(node.output)}


def _constant(name: str, tensor: onnx.TensorProto) -> Case:
    """What the parser makes of a constant that is multiplied by or added; of its numbers the two that matter."""
    values = numpy_helper.to_array(tensor)
    weights = [float(values.min()), float(values.max())]
    return {"name": name, "type": "CONSTANT", "inputs": [], "outputs": [f"{name}_output"], "weights": weights}


def inspected(layers: tuple[LayerPrecision, ...], **others: str) -> str:
    """The inspector's JSON of an engine that computes as planned, but for the layers in `others`."""
    words = {
        "float32": "Row major linear FP32",
        "float16": "Row major linear FP16 format",
        "int8": "Row major Int8 format",
    }
    shown = [(layer, words[others.get(layer.name, layer.precision)]) for layer in layers if layer.op not in VANISHING]
    entries = [
        {
            "Name": layer.name,
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "in", "Location": "Device", "Dimensions": [1, 3], "Format/Datatype": said}],
            "Outputs": [{"Name": "out", "Location": "Device", "Dimensions": [1, 3], "Format/Datatype": said}],
            "TacticValue": "0x0",
            "Metadata": f"[ONNX Layer: {layer.name}]",
        }
        for layer, said in shown
    ]
    return json.dumps({"Layers": entries, "Bindings": ["in", "out"]})


def block() -> onnx.ModelProto:
    """A transformer's block over one picture: patches, LayerNorm, attention, MLP, connector."""
    random = np.random.default_rng(0)
    weights = {
        "patch": random.normal(0, 0.1, (8, 3, 4, 4)).astype(np.float32),
        "tokens": np.array([0, 8, -1]),
        **{name: np.ones(8, np.float32) for name in ("gain", "gain2")},
        **{name: np.zeros(8, np.float32) for name in ("shift", "shift2")},
        **{
            name: random.normal(0, 0.1, (8, 8)).astype(np.float32)
            for name in ("wq", "wk", "wv", "wo", "w1", "w2", "wc")
        },
        "root": np.array(8**-0.5, np.float32),
    }
    rows: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("Conv", ["pixel_values", "patch"], "patches", {"strides": [4, 4]}),
        ("Reshape", ["patches", "tokens"], "flat", {}),
        ("Transpose", ["flat"], "embedded", {"perm": [0, 2, 1]}),
        ("LayerNormalization", ["embedded", "gain", "shift"], "normal", {}),
        ("MatMul", ["normal", "wq"], "q", {}),
        ("MatMul", ["normal", "wk"], "k", {}),
        ("MatMul", ["normal", "wv"], "v", {}),
        ("Transpose", ["k"], "kt", {"perm": [0, 2, 1]}),
        ("MatMul", ["q", "kt"], "scores", {}),
        ("Mul", ["scores", "root"], "scaled", {}),
        ("Softmax", ["scaled"], "attention", {"axis": -1}),
        ("MatMul", ["attention", "v"], "mixed", {}),
        ("MatMul", ["mixed", "wo"], "projected", {}),
        ("Add", ["embedded", "projected"], "residual", {}),
        ("LayerNormalization", ["residual", "gain2", "shift2"], "normal2", {}),
        ("MatMul", ["normal2", "w1"], "wide", {}),
        ("Sigmoid", ["wide"], "gate", {}),
        ("Mul", ["wide", "gate"], "activated", {}),
        ("MatMul", ["activated", "w2"], "narrow", {}),
        ("Add", ["residual", "narrow"], "encoded", {}),
        ("MatMul", ["encoded", "wc"], "image_features", {}),
    ]
    nodes = [
        helper.make_node(op, inputs, [output], name=f"{_where(output)}/{output}", **attributes)
        for op, inputs, output, attributes in rows
    ]
    graph = helper.make_graph(
        nodes,
        "vision",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("image_features", TensorProto.FLOAT, ["n", 16, 8])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def _where(output: str) -> str:
    return "/connector" if output == "image_features" else "/vision"


def vision(directory: Path) -> tuple[onnx.ModelProto, EngineInputs]:
    """That block in FP16 with its second LayerNorm in FP32, as a bundle has it; nine tiles at most."""
    kept = Rule(name="kept", precision=Precision.FP32, reason="overflows", layer="/vision/normal2")
    plan = plan_vision(block(), rules=(kept,))
    half = to_fp16(block(), plan)
    save_onnx(block(), directory / "vision.fp32.onnx")
    save_onnx(half, directory / "vision.fp16.onnx")
    plan.save(directory / "vision.plan.yaml")
    return half, write_vision_inputs(directory, pictures=9)


def resnet(shared_data: Path) -> tuple[onnx.ModelProto, PrecisionPlan]:
    model, _ = fold_graph(load_onnx(shared_data / "cifar10-resnet56" / "model.onnx"))
    return model, plan_classifier(model)


def classifier_inputs(layers: tuple[LayerPrecision, ...], outputs: tuple[str, ...] = ("logits",)) -> EngineInputs:
    def graph(file: str) -> EngineGraph:
        return EngineGraph(
            file=file,
            sha256=SHA,
            weight_bytes=3_500_000,
            inputs=(Binding(name="pixel_values", dtype="float32", shape=(None, 3, 32, 32)),),
            outputs=tuple(Binding(name=name, dtype="float32", shape=(None, 10)) for name in outputs),
            layers=layers,
        )

    graphs = {"implicit": graph("model.fp32.onnx"), "explicit": graph("model.int8.trt.onnx")}
    return EngineInputs(precision="int8", graphs=graphs, plan_sha256=SHA)


def case(settings: BuildSettings, network: Mapping[str, Any], **others: Any) -> Case:
    made = {
        "settings": settings.model_dump(mode="json"),
        "network": network,
        "inspector": inspected(settings.layers),
        "calibrator": None if settings.calibration == "none" else "",
        "ranges": dict.fromkeys(network.get("named", ("pixel_values", "features")), 1.0),
    }
    return made | others


TEXT = (
    LayerPrecision(name="q", op="MatMul", precision="int8", outputs=("float32",)),
    LayerPrecision(name="softmax", op="Softmax", precision="float32", outputs=("float32",)),
    LayerPrecision(name="projection", op="MatMul", precision="float32", outputs=("float32",)),
)
"""Of CLIP's text encoder, as far as the builder looks at them."""


def text_settings() -> BuildSettings:
    """Texts of up to 77 tokens, in four buckets."""
    graph = EngineGraph(
        file="text/model.int8.trt.onnx",
        sha256=SHA,
        weight_bytes=40_000_000,
        inputs=(Binding(name="input_ids", dtype="int64", shape=("batch", "length")),),
        outputs=(Binding(name="text_embeds", dtype="float32", shape=("batch", 512)),),
        layers=TEXT,
        casts=("token_table.Cast",),
    )
    buckets = {"length": ((1, 8, 8), (9, 16, 16), (17, 32, 32), (33, 77, 77))}
    inputs = EngineInputs(
        precision="int8", graphs={"explicit": graph}, ranges={"batch": (1, 32, 64)}, buckets=buckets, plan_sha256=SHA
    )
    return build_settings(inputs, "explicit", "a test", encoder="text", runtime_bytes=1_000_000_000)


def text_cases() -> dict[str, Case]:
    settings = text_settings()
    network = {
        "layers": [{"name": layer.name, "inputs": [], "outputs": [layer.name]} for layer in TEXT],
        "outputs": {"text_embeds": "float32"},
    }
    shown = json.loads(inspected(TEXT))["Layers"]
    later = [{**layer, "Name": f"{layer['Name']} [profile {number}]"} for number in (1, 2, 3) for layer in shown]
    wide = [{**layer, "Name": f"{layer['Name']} [profile 3]", "Metadata": ""} for layer in shown]
    wide[0]["Inputs"] = [{"Name": "in", "Location": "Device", "Dimensions": [1], "Format/Datatype": "Row major FP32"}]
    every = json.dumps({"Layers": [*shown, *later], "Bindings": []})
    other = json.dumps({"Layers": [*shown, *wide], "Bindings": []})
    half = {**network, "outputs": {"text_embeds": "float16"}}
    return {
        "text": case(settings, network, inspector=every),
        "text, another profile in FP32": case(settings, network, inspector=other),
        "text, half": case(settings, half),
        "text, profile refused": case(settings, network, first_profile=1),
    }


TINY = (
    LayerPrecision(name="conv", op="Conv", precision="int8", outputs=("float32",)),
    LayerPrecision(name="flat", op="Flatten", precision="float32", outputs=("float32",)),
    LayerPrecision(name="head", op="Gemm", precision="float32", outputs=("float32",)),
)
NETWORK: Case = {
    "named": ["pixel_values", "features"],
    "layers": [
        {"name": "conv", "inputs": ["pixel_values"], "outputs": ["features"]},
        {"name": "head", "inputs": ["features"], "outputs": ["product"]},
        {"name": "head_7", "metadata": "[ONNX Layer: head]", "inputs": ["product"], "outputs": ["sum"]},
        {"name": "(Unnamed Layer* 4) [Shuffle]", "inputs": ["features"], "outputs": ["row"]},
        {"name": "(Unnamed Layer* 5) [TopK]", "inputs": ["sum"], "outputs": ["best"], "writes": "int32"},
    ],
    "outputs": {"logits": "float32"},
}


def tiny(quantization: Any = "implicit") -> BuildSettings:
    return build_settings(classifier_inputs(TINY), quantization, "a test", tensorrt="10.3.0")


def kept_timings(payload: str) -> str:
    return f"edgeq.timing-cache/1 timing.cache {hashlib.sha256(payload.encode()).hexdigest()}\n{payload}"


def cases() -> dict[str, Case]:
    weak, typed = tiny(), tiny("explicit")
    headless = {**NETWORK, "layers": NETWORK["layers"][:1]}
    other = {**NETWORK, "outputs": {"scores": "float32"}}
    half = {**NETWORK, "outputs": {"logits": "float16"}}
    return {
        "tiny": case(weak, NETWORK),
        "binding in FP16": case(weak, half),
        "unparsed": case(weak, NETWORK, parser_errors=[["/odd", "Odd", "no  importer\nfor Odd"], ["", "", "broken"]]),
        "nothing built": case(
            weak,
            NETWORK,
            built="",
            logged=["[conv] could not find any implementation"],
            warned=["Missing scale and zero-point for tensor b"],
        ),
        "nothing built, none asked for": case(
            weak, NETWORK, built="", calibrator="too few batches", logged=["no kernel"]
        ),
        "too few batches": case(weak, NETWORK, calibrator="too few batches"),
        "nothing built, no range": case(weak, NETWORK, built="", calibrator="batch 3 failed"),
        "no head": case(weak, headless),
        "other output": case(weak, other),
        "typed, other type": case(typed, half),
        "other precision": case(weak, NETWORK, inspector=inspected(TINY, head="float16")),
        "other precision, typed": case(typed, NETWORK, inspector=inspected(TINY, head="float16")),
        "other precision, preferred": case(
            weak.preferring() or weak, NETWORK, inspector=inspected(TINY, head="float16")
        ),
        "out of memory": case(weak, NETWORK, built="", logged=["[allocator] Out of memory: 2147483648 bytes"]),
        "unseen": case(weak, NETWORK, inspector='{"Layers": [{"Name": "{ForeignNode[a...b]}"}]}'),
        "names only": case(weak, NETWORK, inspector='{"Layers": ["conv", "head"], "Bindings": []}'),
        "calibrator failed": case(weak, NETWORK, calibrator="batch 3 failed"),
        "no calibrator": case(weak, NETWORK, calibrator=None),
        "needless calibrator": case(typed, NETWORK, calibrator=""),
        "progress": case(weak, NETWORK, phases={"Building Engine": 3, "Timing": 0}),
        "cancelled": case(weak, NETWORK, phases={"Building Engine": 3, "Later": 2}, cancel="engine: Later"),
        "no timings": case(weak, NETWORK, timings=""),
        "timings": case(weak, NETWORK, timings=kept_timings("earlier")),
        "damaged timings": case(weak, NETWORK, timings=kept_timings("earlier") + "x"),
        "timings refused": case(weak, NETWORK, timings=kept_timings("earlier"), timings_refused=True),
        "real builder": case(weak, NETWORK, builder="real"),
    }


def vision_cases(directory: Path) -> dict[str, Case]:
    half, inputs = vision(directory)
    weak = build_settings(inputs, "implicit", "a test", runtime_bytes=1_000_000_000)
    typed = build_settings(inputs, "explicit", "a test", runtime_bytes=1_000_000_000)
    network = described(half, weak.layers)
    return {"vision, implicit": case(weak, network), "vision, explicit": case(typed, network)}


@pytest.fixture(scope="module", params=VERSIONS)
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Results:
    directory = tmp_path_factory.mktemp("cases")
    return build_all(request.param, cases() | text_cases() | vision_cases(directory), directory)


def build_all(version: str, wanted: dict[str, Case], directory: Path) -> Results:
    file = directory / "cases.json"
    file.write_text(json.dumps(list(wanted.values())))
    found = run_bindings(version, "from tensorrt_calls import main; main()", str(file))
    return dict(zip(wanted, found, strict=True))


def calls_of(result: dict[str, Any]) -> str:
    assert result["error"] is None, result
    return "".join(f"{line}\n" for line in result["calls"])


@pytest.mark.parametrize("version", VERSIONS)
def test_resnet56_in_int8_with_an_fp32_head(version: str, shared_data: Path, tmp_path: Path) -> None:
    model, plan = resnet(shared_data)
    inputs = classifier_inputs(tensorrt_precisions(plan, model))
    network = described(model, ())
    weak = build_settings(inputs, "implicit", "a test", batch=(1, 4, 8))
    typed = build_settings(inputs, "explicit", "a test", batch=(1, 4, 8))
    found = build_all(version, {"weak": case(weak, network), "typed": case(typed, network)}, tmp_path)
    assert calls_of(found["weak"]) == (GOLDEN / "resnet56-int8-implicit.txt").read_text()
    assert calls_of(found["typed"]) == (GOLDEN / "resnet56-int8-explicit.txt").read_text()


def test_a_vision_encoder_in_fp16_with_a_layer_in_fp32(results: Results) -> None:
    assert calls_of(results["vision, implicit"]) == (GOLDEN / "vision-fp16-implicit.txt").read_text()
    assert calls_of(results["vision, explicit"]) == (GOLDEN / "vision-fp16-explicit.txt").read_text()


def test_a_text_encoder_in_int8_with_a_profile_for_each_bucket_of_lengths(results: Results) -> None:
    assert calls_of(results["text"]) == (GOLDEN / "clip-text-int8-explicit.txt").read_text()
    assert results["text"]["said"] == []
    assert all(results["text"]["alive"].values()), "TensorRT holds no profile by itself"
    assert {"profile0", "profile1", "profile2", "profile3"} <= results["text"]["alive"].keys()


def test_every_profile_computes_as_planned(results: Results) -> None:
    found = results["text, another profile in FP32"]
    assert found["error"] == "QuantizeError"
    assert found["causes"] == ["q: planned int8, the engine has float32 to int8"]
    assert results["text, half"]["error"] == results["text, profile refused"]["error"] == "EngineError"


@pytest.fixture(scope="module")
def on_release_11(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What explicit quantization is there, and one build on the implicit one."""
    directory = tmp_path_factory.mktemp("release-11")
    model, plan = resnet(shared_data)
    inputs = classifier_inputs(tensorrt_precisions(plan, model))
    typed = build_settings(inputs, "explicit", "a test", batch=(1, 4, 8))
    wanted = {
        "resnet56-int8": case(typed, described(model, ())),
        "vision-fp16": vision_cases(directory)["vision, explicit"],
        "clip-text-int8": text_cases()["text"],
        "implicit": case(tiny(), NETWORK),
    }
    return build_all(RELEASE_11, wanted, directory)


@pytest.mark.parametrize("name", ["resnet56-int8", "vision-fp16", "clip-text-int8"])
def test_release_11_is_told_the_same(on_release_11: Results, name: str) -> None:
    golden = (GOLDEN / f"{name}-explicit-11.4.txt").read_text()
    assert calls_of(on_release_11[name]) == golden
    # The flag is bit 1 in TensorRT 10, and bit 0 in 11: a number in the code would ask 11 for Python plugins.
    ten = (GOLDEN / f"{name}-explicit.txt").read_text()
    assert golden == ten.replace("builder.create_network(2)", "builder.create_network(1)") != ten


def test_a_release_without_a_flag_is_refused_before_anything_is_parsed(on_release_11: Results) -> None:
    found = on_release_11["implicit"]
    assert (found["error"], found["calls"]) == ("EngineError", [])
    assert "TensorRT 11.4.0.106 lacks BuilderFlag.INT8, BuilderFlag.FP16, " in found["what"]


def demo_eyes(directory: Path) -> tuple[onnx.ModelProto, EngineInputs]:
    """The vision graph of the model that comes along, with its last LayerNorm in FP32."""
    export_vision(DEMO_VLM, directory, [draw_finding(0)[0]], threads=1)
    graph = load_onnx(directory / VISION_FP32)
    last = [node.name for node in graph.graph.node if node.op_type == "LayerNormalization"][-1]
    plan = plan_vision(graph, rules=(Rule(name="kept", precision=Precision.FP32, reason="overflows", layer=last),))
    half = to_fp16(graph, plan)
    save_onnx(half, directory / VISION_FP16)
    plan.save(directory / "vision.plan.yaml")
    return half, write_vision_inputs(directory, pictures=1)


def test_the_demos_eyes_in_fp16_with_a_layer_in_fp32(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="the torch extra is not installed")
    half, inputs = demo_eyes(tmp_path)
    weak = build_settings(inputs, "implicit", "a test", runtime_bytes=1_000_000_000)
    typed = build_settings(inputs, "explicit", "a test", runtime_bytes=1_000_000_000)
    network = described(half, weak.layers)
    wanted = {"weak": case(weak, network), "typed": case(typed, network)}
    for version in VERSIONS:
        found = build_all(version, wanted, tmp_path)
        assert calls_of(found["weak"]) == (GOLDEN / "demo-vision-encoder-implicit.txt").read_text()
        assert calls_of(found["typed"]) == (GOLDEN / "demo-vision-encoder-explicit.txt").read_text()


def test_every_planned_layer_is_set_and_nothing_else(shared_data: Path) -> None:
    model, plan = resnet(shared_data)
    lines = (GOLDEN / "resnet56-int8-implicit.txt").read_text().splitlines()
    set_to = dict(line.removesuffix(" = DataType.INT8").split("].precision") for line in lines if "].precision" in line)
    int8 = {name.removeprefix("layer[") for name, rest in set_to.items() if rest == ""}
    assert int8 == plan.layers(Precision.INT8)
    fp32 = {name.removeprefix("layer[") for name, rest in set_to.items() if rest == " = DataType.FLOAT"}
    assert fp32 == plan.layers(Precision.FP32) | {"(Unnamed Layer* 10) [ElementWise]"}
    fp16 = {name.removeprefix("layer[") for name, rest in set_to.items() if rest == " = DataType.HALF"}
    assert fp16 == plan.layers(Precision.FP16) == {"/GlobalAveragePool", "/Flatten"}
    assert len(model.graph.node) + 1 == len(set_to)


def test_the_strongly_typed_road_sets_no_precision() -> None:
    for name in ("resnet56-int8-explicit.txt", "vision-fp16-explicit.txt", "clip-text-int8-explicit.txt"):
        text = (GOLDEN / name).read_text()
        assert "builder.create_network(2)" in text
        for word in ("set_flag", "precision =", "set_output_type", "calibrat", ".dtype ="):
            assert word not in text, word


def test_what_the_parser_adds_behind_an_fp32_layer_is_fp32(results: Results) -> None:
    touched = [line for line in results["tiny"]["calls"] if line.startswith("layer[")]
    assert touched == [
        "layer[conv].precision = DataType.INT8",
        "layer[conv].set_output_type(0, DataType.FLOAT)",
        "layer[head].precision = DataType.FLOAT",
        "layer[head].set_output_type(0, DataType.FLOAT)",
        "layer[head_7].precision = DataType.FLOAT",
        "layer[head_7].set_output_type(0, DataType.FLOAT)",
    ]


def test_a_binding_has_its_type_set_on_itself(results: Results) -> None:
    # set_output_type says what the layer writes; the binding stays what the parser made of it.
    assert "network.output[logits].dtype = DataType.FLOAT" in results["binding in FP16"]["calls"]
    assert results["binding in FP16"]["error"] is None


def test_parser_and_profiles_outlive_the_build(results: Results) -> None:
    assert results["tiny"]["alive"] == {"parser": True, "profile0": True, "profile1": True}


def test_a_graph_that_is_not_parsed(results: Results) -> None:
    found = results["unparsed"]
    assert found["error"] == "EngineError"
    assert found["causes"] == ["/odd (Odd): no importer for Odd", "a node without a name (no operator): broken"]


def test_no_engine_and_why(results: Results) -> None:
    found = results["nothing built"]
    assert found["error"] == "UnbuiltError"
    assert found["causes"][0] == "[conv] could not find any implementation"
    assert results["nothing built, no range"]["what"] == "batch 3 failed"  # which is why nothing was built
    assert results["nothing built, none asked for"]["causes"][0] == "no kernel"  # it gave up before calibrating


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("no head", "EngineError", "lacks 1 of 3 planned layers"),
        ("other output", "EngineError", "the network gives scores\nexpected: logits"),
        ("typed, other type", "EngineError", "the graph gives logits in DataType.HALF\nexpected: float32"),
        ("other precision", "QuantizeError", "head: planned float32, the engine has float16 to float16"),
        ("other precision, typed", "QuantizeError", "head: planned float32, the engine has float16 to float16"),
        ("names only", "EngineError", "layers by name only"),
        ("out of memory", "EngineError", "Out of memory: 2147483648 bytes"),
        ("calibrator failed", "CalibrationError", "batch 3 failed"),
        ("too few batches", "CalibrationError", "too few batches"),
        ("no calibrator", "EngineError", "ranges are wanted and no calibrator was given"),
        ("needless calibrator", "EngineError", "nothing is to be calibrated"),
    ],
)
def test_what_fails_a_build(results: Results, name: str, error: str, words: str) -> None:
    assert results[name]["error"] == error
    assert words in results[name]["what"]


@pytest.mark.parametrize("name", ["other precision", "other precision, typed"])
def test_an_engine_that_differs_is_kept_with_what_its_inspector_shows(results: Results, name: str) -> None:
    """On the first day on a device that is all there is to find the reason in."""
    found, left = results[name], results[name]["left"]
    assert left.keys() == {"engine.plan", "inspector.json", "report.json"}
    assert left["engine.plan"] == "the engine"
    assert json.loads(left["inspector.json"]) == json.loads(inspected(TINY, head="float16"))
    report = BuildReport.model_validate_json(left["report.json"])
    assert report.differs == ("head: planned float32, the engine has float16 to float16",)
    assert report.settings.quantization == ("explicit" if "typed" in name else "implicit")
    assert f"the engine, its inspector's JSON and a report are in {found['place']}: " in found["what"]
    assert f"edgeq verify-engine BUNDLE --backend tensorrt --engine {found['place']}/engine.plan" in found["what"]


def test_a_strongly_typed_network_has_nothing_to_loosen(results: Results) -> None:
    assert (
        "a strongly typed network has no constraints that could be loosened"
        in (results["other precision, typed"]["what"])
    )
    assert "are obeyed" in results["other precision"]["what"]
    assert tiny("explicit").preferring() is None
    preferring = tiny().preferring()
    assert preferring is not None
    assert preferring.builder_flags == ("INT8", "FP16", "PREFER_PRECISION_CONSTRAINTS")
    assert preferring.preferring() is None


def test_where_precisions_are_preferred_an_engine_that_differs_is_given(results: Results) -> None:
    found = results["other precision, preferred"]
    assert (found["error"], found["engine"]) == (None, "the engine")
    assert found["said"] == [
        "the engine differs from its plan in 1 places, where precisions are preferred: "
        "head: planned float32, the engine has float16 to float16"
    ]
    assert BuildReport.model_validate_json(found["left"]["report.json"]).differs == (
        "head: planned float32, the engine has float16 to float16",
    )


def test_an_inspector_that_cannot_be_read_leaves_its_text(results: Results) -> None:
    """Its form is documented nowhere: another one would be seen on the device alone."""
    left = results["names only"]["left"]
    assert left["inspector.json"] == '{"Layers": ["conv", "head"], "Bindings": []}'
    assert left["engine.plan"] == "the engine"


def test_without_an_engine_what_tensorrt_logged_is_kept(results: Results) -> None:
    left = results["nothing built"]["left"]
    assert left.keys() == {"report.json"}
    report = BuildReport.model_validate_json(left["report.json"])
    assert report.logged == ("[conv] could not find any implementation",)
    assert report.warned == ("Missing scale and zero-point for tensor b",)
    assert report.warned[0] not in results["nothing built"]["causes"]
    assert results["tiny"]["left"] == {}


def test_a_missing_layer_is_named(results: Results) -> None:
    assert results["no head"]["causes"] == ["head"]  # a Flatten may become no layer at all


def test_layers_that_the_engine_does_not_show_are_said(results: Results) -> None:
    (sentence,) = results["unseen"]["said"]
    assert sentence == (
        "the engine does not show what 2 of 3 layers compute in: conv: planned int8, and the engine does not name it; "
        "head: planned float32, and the engine does not name it"
    )


def test_progress_is_reported(results: Results) -> None:
    assert results["progress"]["reported"] == [
        *(["engine: Building Engine", done, 3] for done in (0, 1, 2, 3, 3)),
        *(["engine: Timing", 0, 0], ["engine: Timing", 0, 0]),
    ]


def test_what_progress_raises_stops_the_build(results: Results) -> None:
    found = results["cancelled"]
    assert found["error"] == "KeyboardInterrupt"  # and not that nothing was built
    assert found["reported"][-1] == ["engine: Later", 0, 2]


def test_timings_are_kept_for_the_next_build(results: Results) -> None:
    assert results["no timings"]["timings"] == kept_timings("measured")
    assert results["timings"]["timings"] == kept_timings("measured+earlier")
    assert results["no timings"]["said"] == results["timings"]["said"] == []
    assert "config.set_timing_cache(timings(earlier), False)" in results["timings"]["calls"]


def test_timings_that_cannot_be_used_are_said(results: Results) -> None:
    damaged, refused = results["damaged timings"], results["timings refused"]
    assert damaged["said"] == [
        "timing cache ignored: timing.cache was changed, cut short, or made for another device or release"
    ]
    assert damaged["timings"] == kept_timings("measured")
    assert refused["said"] == ["timing cache ignored: TensorRT does not take timing.cache"]
    assert damaged["error"] is refused["error"] is None


def test_without_a_gpu_the_real_builder_says_so(results: Results) -> None:
    found = results["real builder"]
    assert found["error"] == "EngineError"
    assert any("nullptr" in cause for cause in found["causes"])
    assert any("CUDA" in cause for cause in found["causes"])
