"""The main job on vision transformers with drawn weights, and what it does where the gate says no."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from command import Edgeq
from networks import ALLOWED, CLASSES, PREPROCESSOR, QUICK
from onnx import TensorProto, helper, numpy_helper
from pictures import draw_pictures
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    DeiTConfig,
    DeiTForImageClassification,
    PreTrainedModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from edgeq.engine.onnxruntime import OnnxRuntimeEngine, executed_operators
from edgeq.engine.registry import DEFAULT
from edgeq.engine_store.run import build
from edgeq.pipeline.classifier import Options, Prepared, prepare
from edgeq.pipeline.gate import GATE
from edgeq.plan.precision import Precision, PrecisionPlan
from edgeq.quality.gate import Gate, GateBounds
from edgeq.runtime.canary.check import check_canaries
from edgeq.tensorrt.inputs import ENGINE_INPUTS, FP16_INPUTS, EngineInputs

SIDE = 32
ANY_SPEED, NO_SPEED = GateBounds(min_speedup=0.0), GateBounds(min_speedup=1e9)
INT8, FP16, FP32 = "model.int8.ort.onnx", "model.fp16.onnx", "model.fp32.onnx"
TENSORRT, FP16_PLAN = "model.int8.trt.onnx", "plan.fp16.yaml"
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": SIDE,
    "patch_size": 8,
}
SWIN = SwinConfig(
    image_size=SIDE, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4, num_labels=3
)
NETWORKS: dict[str, tuple[Callable[[], PreTrainedModel], str, int]] = {
    "ViT": (lambda: ViTForImageClassification(ViTConfig(**SIZES, num_labels=3)), "logits", 6),
    "DeiT": (lambda: DeiTForImageClassification(DeiTConfig(**SIZES, num_labels=3)), "logits", 6),
    "Swin": (lambda: SwinForImageClassification(SWIN), "logits", 2 * 6 + 1),  # and a patch merging
    "CLIP": (lambda: CLIPVisionModel(CLIPVisionConfig(**SIZES)), "pooler_output", 6),
    "CLIP with projection": (
        lambda: CLIPVisionModelWithProjection(CLIPVisionConfig(**SIZES, projection_dim=12)),
        "image_embeds",
        6,
    ),
    # And output and feed-forward layers of an attention that pools; the weights before it are cut out while it runs.
    "SigLIP": (lambda: SiglipVisionModel(SiglipVisionConfig(**SIZES)), "pooler_output", 6 + 3),
}
"""Each with the output that it is for, and its INT8 linear layers."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """18 pictures."""
    return draw_pictures(tmp_path_factory.mktemp("drawn") / "pictures", each=6)


def write_network(name: str, directory: Path) -> Path:
    torch.manual_seed(0)
    network = NETWORKS[name][0]()
    if "logits" in NETWORKS[name]:
        network.config.id2label = dict(enumerate(CLASSES))
    network.save_pretrained(directory)
    preprocessor = {**PREPROCESSOR, "size": {"height": SIDE, "width": SIDE}}
    (directory / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return directory


def options(gate: GateBounds) -> Options:
    return Options(allow=ALLOWED, threads=1, timing=QUICK, method="minmax", gate=gate)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_vision_transformer_goes_all_the_way(name: str, pictures: Path, tmp_path: Path) -> None:
    model = write_network(name, tmp_path / "model")
    made = prepare(model, pictures, tmp_path / "bundle", options=options(ANY_SPEED))
    _, output, linears = NETWORKS[name]
    assert made.gate is not None
    assert (made.gate.kept, made.gate.fidelity) == ("int8", made.quality.fidelity)
    assert made.int8_layers == linears
    operators = executed_operators(made.bundle / INT8)
    assert operators["MatMulIntegerToFloat"] + operators["QGemm"] == linears
    assert not operators["QLinearMatMul"], "nothing that they write is rounded"
    assert [one.name for one in onnx.load(made.bundle / FP32, load_external_data=False).graph.output] == [output]
    assert made.quality.fidelity is not None
    assert made.quality.fidelity.images == 18
    assert made.quality.fidelity.cosine_worst > 0.95
    assert not any("is not known here" in warning for warning in made.warnings)


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Prepared:
    """A ViT whose INT8 graph is not fast enough."""
    folder = tmp_path_factory.mktemp("refused")
    model = write_network("ViT", folder / "model")
    return prepare(model, pictures, folder / "bundle", labelled=pictures, options=options(NO_SPEED))


def test_where_the_gate_says_no_floating_point_is_kept(refused: Prepared) -> None:
    assert refused.gate is not None
    assert Gate.load(refused.bundle / GATE) == refused.gate
    (objection,) = refused.gate.objections
    assert f"floating point was kept: {objection}" in refused.warnings
    plan = PrecisionPlan.load(refused.bundle / FP16_PLAN)
    assert plan.layers(Precision.FP16) == {decision.layer for decision in plan.decisions}
    assert all(objection in decision.reason for decision in plan.decisions)
    names = {path.name for path in refused.bundle.iterdir()}
    assert {FP32, FP16} <= names
    assert not {INT8, "quality.json"} & names


def test_a_speed_of_onnxruntime_decides_nothing_for_tensorrt(refused: Prepared) -> None:
    assert refused.gate is not None
    int8, half = refused.gate.others
    assert (int8.graph, int8.made_for, int8.kept) == (TENSORRT, "tensorrt", True)
    assert (half.graph, half.made_for, half.kept) == (FP16, "tensorrt", True)
    assert refused.gate.worst_layers == (), "no accuracy was lost, so that nothing was looked for"
    assert {TENSORRT, "calibration.cache", ENGINE_INPUTS, FP16_INPUTS} <= {
        path.name for path in refused.bundle.iterdir()
    }
    assert PrecisionPlan.load(refused.bundle / "plan.yaml").layers(Precision.INT8)
    graph = onnx.load(refused.bundle / TENSORRT)
    assert "QuantizeLinear" in {node.op_type for node in graph.graph.node}


def test_the_fp16_graph_answers_as_fp32_does(refused: Prepared) -> None:
    pixels = np.random.default_rng(0).standard_normal((2, 3, SIDE, SIDE)).astype(np.float32)
    wanted, found = (
        OnnxRuntimeEngine(refused.bundle / name, threads=1).run({"pixel_values": pixels})["logits"]
        for name in (FP32, FP16)
    )
    np.testing.assert_allclose(found, wanted, rtol=0, atol=0.01 * np.abs(wanted).max())


def test_a_refused_bundle_has_what_a_device_needs(refused: Prepared, tmp_path: Path) -> None:
    assert check_canaries(refused.bundle, threads=1).passed
    built = build(refused.bundle, tmp_path / "store", backend=DEFAULT)[""]
    assert built.engine == refused.bundle / FP32
    assert EngineInputs.load(refused.bundle / ENGINE_INPUTS).precision == "int8"
    inputs = EngineInputs.load(refused.bundle / FP16_INPUTS)
    assert inputs.precision == "fp16"
    assert {quantization: graph.file for quantization, graph in inputs.graphs.items()} == {
        "implicit": FP32,
        "explicit": FP16,
    }
    assert {layer.precision for graph in inputs.graphs.values() for layer in graph.layers} == {"float16"}


@pytest.mark.usefixtures("quick_latency")
def test_a_refused_bundle_is_evaluated_in_fp16(refused: Prepared, pictures: Path, edgeq: Edgeq) -> None:
    done = edgeq("evaluate", refused.bundle, "--eval", pictures, "--threads", 1, "--json")
    assert done.status == 0
    answers = json.loads(done.out)["answers"]
    assert answers["images"] == 18
    assert answers["logit_error"] < 0.01


def odd_block() -> onnx.ModelProto:
    """Patches, an attention, a feed-forward part with a BiasGelu of ONNX Runtime's own between its layers, a head."""
    rng, wide, ffn = np.random.default_rng(0), 16, 32
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys("qkvo", (wide, wide))
    shapes |= {"up": (wide, ffn), "down": (ffn, wide), "bias": (ffn,), "patch": (wide, 3, 8, 8)}
    shapes |= {"head": (wide, len(CLASSES))}
    constants = {name: rng.standard_normal(shape).astype(np.float32) / 8 for name, shape in shapes.items()}
    constants |= {"gain": np.ones(wide, np.float32), "shift": np.zeros(wide, np.float32)}

    def node(op: str, inputs: str, name: str, **attributes: object) -> onnx.NodeProto:
        return helper.make_node(op, inputs.split(), [name], name=name, **attributes)  # type: ignore[arg-type]

    nodes = [
        node("Conv", "x patch", "patches", strides=[8, 8]),
        node("Reshape", "patches shape", "flat"),
        node("Transpose", "flat", "tokens", perm=[0, 2, 1]),
        node("LayerNormalization", "tokens gain shift", "norm"),
        *(node("MatMul", f"norm {name}", f"{name}_proj") for name in "qkv"),
        node("Transpose", "k_proj", "turned", perm=[0, 2, 1]),
        node("MatMul", "q_proj turned", "scores"),
        node("Softmax", "scores", "shares"),
        node("MatMul", "shares v_proj", "mixed"),
        node("MatMul", "mixed o", "o_proj"),
        node("Add", "o_proj tokens", "middle"),
        node("MatMul", "middle up", "fc1"),
        node("BiasGelu", "fc1 bias", "odd", domain="com.microsoft"),
        node("MatMul", "odd down", "fc2"),
        node("Add", "fc2 middle", "end"),
        node("ReduceMean", "end", "mean", axes=[1], keepdims=0),
        node("MatMul", "mean head", "logits"),
    ]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(
        nodes,
        "odd",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", len(CLASSES)])],
        [*initializers, numpy_helper.from_array(np.array([0, wide, -1], np.int64), "shape")],
    )
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=8)


@pytest.mark.parametrize("gate", [ANY_SPEED, NO_SPEED], ids=["int8", "float"])
def test_an_operator_that_nobody_knows_stays_in_fp32_and_is_named(
    gate: GateBounds, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    onnx.save(odd_block(), tmp_path / "model" / "model.onnx")
    (tmp_path / "model" / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    made = prepare(tmp_path / "model", pictures, tmp_path / "bundle", options=options(gate))
    warning = "the operator BiasGelu is not known here: 1 layers stay in FP32, the first is odd"
    assert warning in made.warnings
    plan = PrecisionPlan.load(made.bundle / ("plan.yaml" if gate is ANY_SPEED else FP16_PLAN))
    (decision,) = (one for one in plan.decisions if one.layer == "odd")
    assert (decision.precision, decision.rule) == (Precision.FP32, "fp32-unknown")
    graph = onnx.load(made.bundle / (INT8 if gate is ANY_SPEED else FP16)).graph
    reads = {node.name: set(node.input) for node in graph.node}
    assert reads["odd"] == {"fc1", "bias"}, "in float32, exactly as in the graph that came"
    assert made.int8_layers == 6, "TensorRT's, whatever ONNX Runtime's speed is"
