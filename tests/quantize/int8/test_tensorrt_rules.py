"""Every graph that TensorRT is given keeps to the rules of `edgeq lint`; one that breaks one is found by its number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import text_towers
from lowering import drawn_weight, node, scales
from networks import tiny_network
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from residuals import residual_network

from edgeq.calibrate.observe import with_outputs
from edgeq.engine.onnxruntime import STAND_IN, OnnxRuntimeEngine
from edgeq.export.fold import fold_batchnorm
from edgeq.export.opset import HALF_PAIRS_OPSET
from edgeq.export.simplify import simplify
from edgeq.lint.graph import PAIR, LintGraph
from edgeq.lint.pair_rules import SMALLEST_SCALE
from edgeq.lint.run import check_graph
from edgeq.model.graph.element_types import unfit_layers
from edgeq.plan.precision import Precision, PrecisionPlan
from edgeq.plan.rules import float_additions, keep_range, plan_classifier
from edgeq.quantize.int8.qdq import calibrated_tensors, lower
from edgeq.quantize.int8.registry import USUAL
from edgeq.quantize.int8.tensorrt import LOWERING, TensorRtLowering
from edgeq.quantize.int8.tensorrt_kernels import has_kernel

Graph = tuple[onnx.ModelProto, PrecisionPlan]


def made(model: onnx.ModelProto) -> Graph:
    plan = plan_classifier(model)
    plan = LOWERING.planned(model, keep_range(model, plan, unfit_layers(model)))
    ranges = scales(dict.fromkeys(calibrated_tensors(model, plan), (-3.0, 3.0)))
    return LOWERING.types(lower(model, plan, ranges, LOWERING), plan), plan


def broken_rules(graph: onnx.ModelProto, plan: PrecisionPlan) -> list[tuple[str, str]]:
    """The rules that a graph breaks, by number, each with where; notes are none."""
    findings = check_graph(LintGraph(graph, Path("model.onnx"), plan))
    return [(each.rule, each.where) for each in findings if each.level != "note"]


def own_form(graph: onnx.ModelProto) -> bool:
    """What edgeq's graphs keep to beside: opset 19, float32 at the ends, scales of FP16, integers in -127..127."""
    looked = LintGraph(graph, Path("model.onnx"))
    scales = [looked.values(pair.input[1]) for pair in looked.pairs()]
    stored = [looked.values(pair.input[0]) for pair in looked.pairs() if pair.op_type == PAIR[1]]
    ends = {looked.types[value.name] for value in (*graph.graph.input, *graph.graph.output)}
    return (
        looked.opset == HALF_PAIRS_OPSET
        and TensorProto.FLOAT16 not in ends
        and all(each is not None and (each >= SMALLEST_SCALE).all() for each in scales)
        and all(each is not None and (each.astype(np.float16) == each).all() for each in scales)
        and all(each.min(initial=0) >= -127 for each in stored if each is not None)
    )


def squeezing(channels: int = 16) -> onnx.ModelProto:
    """Squeeze and excitation by a ReduceMean, and a nearest Resize behind a convolution, with so many channels."""
    rng = np.random.default_rng(1)
    nodes = [
        node("Conv", ["x", "first"], "stem", pads=[1, 1, 1, 1]),
        node("Sigmoid", ["stem"], "bent"),
        node("ReduceMean", ["bent"], "squeezed", axes=[2, 3], keepdims=1),
        node("Conv", ["squeezed", "point"], "gate"),
        node("Mul", ["bent", "gate"], "gated"),
        node("Conv", ["gated", "point"], "project"),
        node("Resize", ["project", "", "twice"], "larger", mode="nearest"),
        node("Conv", ["larger", "point"], "last"),
        node("GlobalAveragePool", ["last"], "pooled"),
        node("Flatten", ["pooled"], "flat"),
        node("Gemm", ["flat", "head.weight"], "logits"),
    ]
    weights = {
        "first": rng.normal(0, 0.2, (channels, 3, 3, 3)).astype(np.float32),
        "point": rng.normal(0, 0.2, (channels, channels, 1, 1)).astype(np.float32),
        "head.weight": rng.normal(0, 0.2, (channels, 3)).astype(np.float32),
        "twice": np.array([1, 1, 2, 2], np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "squeezing",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _network(
    name: str,
    nodes: list[onnx.NodeProto],
    weights: dict[str, NDArray[np.float32]],
    image: tuple[int, ...] = (1, 3, 8, 8),
    answer: tuple[int, ...] = (1, 3),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(image))],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, list(answer))],
        [numpy_helper.from_array(value, key) for key, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def convnext(blocks: int = 2, channels: int = 16) -> onnx.ModelProto:
    """ConvNeXt whose linear layers are convolutions (timm's `conv_mlp`), its layer scale not yet folded."""
    rng = np.random.default_rng(2)
    nodes = [node("Conv", ["x", "first"], "stem", pads=[1, 1, 1, 1]), *_normalized("stem", "in0")]
    for at in range(blocks):
        nodes += [
            node("Conv", [f"in{at}", "depthwise"], f"spread{at}", group=channels, pads=[1, 1, 1, 1]),
            *_normalized(f"spread{at}", f"normal{at}"),
            node("Conv", [f"normal{at}", "wider"], f"wide{at}"),
            node("Sigmoid", [f"wide{at}"], f"bent{at}"),
            node("Mul", [f"wide{at}", f"bent{at}"], f"smooth{at}"),
            node("Conv", [f"smooth{at}", "narrower"], f"narrow{at}"),
            node("Mul", [f"narrow{at}", "layer.scale"], f"scaled{at}"),
            node("Add", [f"scaled{at}", f"in{at}"], f"in{at + 1}"),
        ]
    nodes += [
        node("GlobalAveragePool", [f"in{blocks}"], "pooled"),
        node("Flatten", ["pooled"], "flat"),
        node("Gemm", ["flat", "head.weight"], "logits"),
    ]
    weights = {
        "first": drawn_weight(rng, channels, 3, 3, 3),
        "depthwise": drawn_weight(rng, channels, 1, 3, 3),
        "wider": drawn_weight(rng, 4 * channels, channels, 1, 1),
        "narrower": drawn_weight(rng, channels, 4 * channels, 1, 1),
        "layer.scale": rng.uniform(0.5, 1.5, (1, channels, 1, 1)).astype(np.float32),
        "norm.scale": np.ones(channels, np.float32),
        "norm.shift": np.zeros(channels, np.float32),
        "head.weight": drawn_weight(rng, channels, 3),
    }
    return _network("convnext", nodes, weights)


def _normalized(source: str, target: str) -> list[onnx.NodeProto]:
    return [
        node("Transpose", [source], f"{target}.last", perm=[0, 2, 3, 1]),
        node("LayerNormalization", [f"{target}.last", "norm.scale", "norm.shift"], f"{target}.even"),
        node("Transpose", [f"{target}.even"], target, perm=[0, 3, 1, 2]),
    ]


def transposed(groups: int = 1, channels: int = 16) -> onnx.ModelProto:
    """A U-net of one step: down, up by a ConvTranspose, joined with what was there before, and an addition."""
    rng = np.random.default_rng(4)
    nodes = [
        node("Conv", ["x", "first"], "stem", pads=[1, 1, 1, 1]),
        node("Relu", ["stem"], "high"),
        node("Conv", ["high", "down"], "low", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("ConvTranspose", ["low", "up", "up.bias"], "grown", strides=[2, 2], group=groups),
        node("Relu", ["grown"], "again"),
        node("Concat", ["again", "high"], "both", axis=1),
        node("Conv", ["both", "join"], "joined"),
        node("Sigmoid", ["joined"], "bent"),
        node("Pow", ["bent", "power"], "peaked"),
        node("ConvTranspose", ["peaked", "same"], "around", group=groups),
        node("Add", ["peaked", "around"], "sum"),
        node("GlobalAveragePool", ["sum"], "pooled"),
        node("Flatten", ["pooled"], "flat"),
        node("Gemm", ["flat", "head.weight"], "logits"),
    ]
    weights = {
        "first": drawn_weight(rng, channels, 3, 3, 3),
        "down": drawn_weight(rng, channels, channels, 3, 3),
        "up": drawn_weight(rng, channels, 24 // groups, 2, 2),
        "up.bias": rng.normal(0, 0.1, 24).astype(np.float32),
        "join": drawn_weight(rng, channels, 24 + channels, 1, 1),
        "same": drawn_weight(rng, channels, channels // groups, 1, 1),
        "power": np.array(2.0, np.float32),
        "head.weight": drawn_weight(rng, channels, 3),
    }
    return _network("transposed", nodes, weights)


def fading(channels: int = 16) -> onnx.ModelProto:
    """A convolution whose bias FP16 does not hold, read by a SiLU, whose sum is read by another convolution."""
    rng = np.random.default_rng(6)
    nodes = [
        node("Conv", ["x", "first"], "stem", pads=[1, 1, 1, 1]),
        node("Conv", ["stem", "point", "vanishing"], "faint"),
        node("Sigmoid", ["faint"], "bent"),
        node("Mul", ["faint", "bent"], "smooth"),
        node("Conv", ["stem", "point"], "beside"),
        node("Mul", ["smooth", "beside"], "gated"),
        node("Conv", ["gated", "point"], "last"),
        node("GlobalAveragePool", ["last"], "pooled"),
        node("Flatten", ["pooled"], "flat"),
        node("Gemm", ["flat", "head.weight"], "logits"),
    ]
    weights = {
        "first": drawn_weight(rng, channels, 3, 3, 3),
        "point": drawn_weight(rng, channels, channels, 1, 1),
        "vanishing": np.full(channels, 1e-9, np.float32),
        "head.weight": drawn_weight(rng, channels, 3),
    }
    return _network("fading", nodes, weights)


def folded(model: onnx.ModelProto) -> onnx.ModelProto:
    return fold_batchnorm(simplify(model))[0]


NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    "mobile": lambda: folded(tiny_network()),
    "residual": lambda: residual_network(3),
    "squeezing": squeezing,
    "few channels": lambda: squeezing(12),
    "fading": fading,
    "convnext": lambda: folded(convnext()),
    "transposed": transposed,
    "transposed in groups": lambda: transposed(8),
    "clip's text": lambda: text_towers.clip_tower(attention="sdpa"),
    "siglip's text": text_towers.siglip_tower,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_graph_keeps_to_the_rules(name: str) -> None:
    graph, plan = made(NETWORKS[name]())
    assert broken_rules(graph, plan) == []
    assert own_form(graph)
    assert plan.layers(Precision.INT8) or name == "few channels"


def test_what_reads_an_int8_layer_that_writes_fp32_is_fp32_and_says_why() -> None:
    _, plan = made(fading())
    decided = {decision.layer: decision for decision in plan.decisions}
    for name in ("bent", "smooth"):
        assert (decided[name].precision, decided[name].reason) == (Precision.FP32, "reads what faint writes in FP32")
    assert decided["gated"].precision is Precision.FP16
    assert plan.layers(Precision.INT8) == {"stem", "faint", "beside", "last"}


def test_averages_and_resizing_read_integers() -> None:
    graph, _ = made(squeezing())
    makers = {name: each.op_type for each in graph.graph.node for name in each.output}
    read = {each.name: makers.get(each.input[0], "") for each in graph.graph.node if each.input}
    assert {read[name] for name in ("squeezed", "larger", "pooled", "stem", "last")} == {"DequantizeLinear"}
    assert read["flat"] == "GlobalAveragePool"


@pytest.mark.parametrize(
    ("outputs", "inputs", "kernel", "groups", "first", "has"),
    [
        (64, 64, (3, 3), 1, False, True),
        (16, 16, (1, 3), 1, False, True),
        (32, 3, (3, 3), 1, True, True),
        (8, 3, (3, 3), 1, True, True),
        (8, 8, (3, 3), 1, False, False),
        (24, 8, (3, 3), 1, False, True),
        (24, 8, (1, 3), 1, False, False),
        (20, 10, (3, 3), 1, False, False),
        (64, 1, (3, 3), 64, False, True),
        (64, 1, (1, 1), 64, False, False),
        (12, 1, (3, 3), 12, False, False),
    ],
)
def test_the_kernels_are_modelopts(
    outputs: int, inputs: int, kernel: tuple[int, int], groups: int, first: bool, has: bool
) -> None:
    assert has_kernel(outputs, inputs, kernel, groups, first=first) is has


def test_a_convolution_without_a_kernel_is_fp16_and_says_why() -> None:
    _, plan = made(squeezing(12))
    decided = {decision.layer: decision for decision in plan.decisions}
    assert decided["project"].precision is Precision.FP16
    assert decided["project"].rule == "fp16-no-kernel"
    assert decided["project"].reason == "TensorRT has no INT8 kernel for 12 to 12 channels of 1 x 1"
    assert LOWERING.planned(squeezing(12), plan) is plan


def test_convnexts_residual_is_added_in_the_accumulator() -> None:
    """The layer scale is folded into the convolution; its sum reads the pair that the next convolution reads."""
    graph, plan = made(folded(convnext()))
    decided = {decision.layer: decision for decision in plan.decisions}
    assert {decided[f"in{at}"].rule for at in (1, 2)} == {"int8-residual"}
    assert not any(each.op_type == "Mul" and "scaled" in each.name for each in graph.graph.node)
    makers = {name: each.op_type for each in graph.graph.node for name in each.output}
    for at in (1, 2):
        assert sorted(makers[name] for name in _node(graph, f"in{at}").input) == ["Conv", "DequantizeLinear"]
    readers = [each.op_type for each in graph.graph.node if "in1.fp16" in each.input]
    assert readers == ["QuantizeLinear"], "the sum is stored as integers alone"


def test_a_sum_that_no_convolution_computes_is_averaged_as_it_is() -> None:
    """As ConvNeXt ends whose linear layers are products: the sum is FP16, and a pair would be for the average alone."""
    model = convnext()
    for at, each in enumerate(model.graph.node):
        if each.name == "in2":
            model.graph.node.insert(at, node("Transpose", ["scaled1"], "turned", perm=[0, 1, 3, 2]))
            model.graph.node[at + 1].input[0] = "turned"
            break
    graph, _ = made(folded(model))
    makers = {name: each.op_type for each in graph.graph.node for name in each.output}
    assert makers[_node(graph, "pooled").input[0]] == "Add"
    graph, _ = made(folded(convnext()))
    makers = {name: each.op_type for each in graph.graph.node for name in each.output}
    assert makers[_node(graph, "pooled").input[0]] == "DequantizeLinear", "this sum is the convolution's"


def test_a_residual_that_a_rule_keeps_in_floating_point_stays() -> None:
    model = folded(convnext())
    plan = plan_classifier(model)
    other = LOWERING.planned(model, float_additions(model, plan, named=True))
    assert {d.rule for d in other.decisions if d.layer in ("in1", "in2")} == {"fp16-residual"}
    assert other.layers(Precision.INT8) == plan.layers(Precision.INT8)


def test_a_transposed_convolution_is_int8_with_scales_along_its_outputs() -> None:
    graph, plan = made(transposed())
    decided = {decision.layer: decision.rule for decision in plan.decisions}
    assert decided["grown"] == "int8-transposed"
    assert decided["again"] == "int8-activation"
    assert decided["both"] == "int8-carrier"
    assert decided["sum"] == "int8-residual"
    weight = _node(graph, "grown.weight.DequantizeLinear")
    assert [each.i for each in weight.attribute if each.name == "axis"] == [1]
    shapes = {each.name: tuple(each.dims) for each in graph.graph.initializer}
    assert shapes[weight.input[1].removesuffix(".fp16") + ".fp16"] == (24,)
    assert LOWERING.planned(transposed(), plan) is plan


@pytest.mark.parametrize(
    ("model", "rules"),
    [
        (transposed(groups=8), {"grown": "fp16-otherwise", "around": "fp16-otherwise"}),
        (transposed(channels=8), {"grown": "int8-transposed", "around": "fp16-otherwise"}),
    ],
)
def test_a_transposed_convolution_in_groups_or_of_few_channels_stays_fp16(
    model: onnx.ModelProto, rules: dict[str, str]
) -> None:
    _, plan = made(model)
    assert {d.layer: d.rule for d in plan.decisions if d.op == "ConvTranspose"} == rules


def test_onnx_runtime_has_no_kernel_for_them_and_keeps_them_in_floating_point() -> None:
    model = transposed()
    plan = plan_classifier(model)
    ranges = scales(dict.fromkeys(calibrated_tensors(model, plan), (-3.0, 3.0)))
    usual = lower(model, plan, ranges, USUAL)
    made_by = {name: each.op_type for each in usual.graph.node for name in each.output}
    transposes = [each for each in usual.graph.node if each.op_type == "ConvTranspose"]
    assert len(transposes) == 2
    assert not any(made_by.get(each.input[1]) == "DequantizeLinear" for each in transposes)


@pytest.mark.parametrize("network", [lambda: folded(convnext()), transposed])
def test_they_compute_what_fp32_computes(network: Callable[[], onnx.ModelProto]) -> None:
    model = network()
    plan = plan_classifier(model)
    image = np.random.default_rng(5).uniform(-1, 1, (1, 3, 8, 8)).astype(np.float32)
    names = [name for name in calibrated_tensors(model, plan) if name != "x"]
    right, *found = (
        OnnxRuntimeEngine(with_outputs(model, names).SerializeToString(), threads=1).run({"x": image}).values()
    )
    measured = {name: (float(each.min()), float(each.max())) for name, each in zip(names, found, strict=True)}
    lowered = lower(model, plan, scales({"x": (-1.0, 1.0), **measured}), LOWERING)
    half = LOWERING.types(lowered, LOWERING.planned(model, plan))
    (answer,) = STAND_IN.open(half.SerializeToString(), threads=1).run({"x": image}).values()
    # A dozen roundings to 255 steps over each tensor's own range, of 0.3 % of its length each or less.
    assert np.linalg.norm(answer - right) < 0.05 * np.linalg.norm(right)
    assert (answer != right).any()


def _node(graph: onnx.ModelProto, name: str) -> onnx.NodeProto:
    found: onnx.NodeProto = next(each for each in graph.graph.node if each.name == name)
    return found


def _set(graph: onnx.ModelProto, part: str, value: float | int) -> None:
    """Every number of the constants whose name ends so."""
    for tensor in graph.graph.initializer:
        if part in tensor.name:
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(np.full_like(values, value), tensor.name))


def _newer(graph: onnx.ModelProto) -> None:
    graph.opset_import[0].version = 20


def _odd(graph: onnx.ModelProto) -> None:
    """A scale that is no number of FP16."""
    pair = next(each for each in graph.graph.node if each.op_type == "QuantizeLinear")
    for tensor in graph.graph.initializer:
        if tensor.name == pair.input[1]:
            tensor.CopyFrom(numpy_helper.from_array(np.array(0.1, np.float32), tensor.name))


def _lowest(graph: onnx.ModelProto) -> None:
    stored = next(each for each in graph.graph.initializer if each.data_type == TensorProto.INT8 and len(each.dims) > 1)
    stored.CopyFrom(numpy_helper.from_array(np.full(tuple(stored.dims), -128, np.int8), stored.name))


def _half_input(graph: onnx.ModelProto) -> None:
    graph.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16


def _subnormal(graph: onnx.ModelProto) -> None:
    _set(graph, "one0.weight.scale", 2.0**-20)


def _offset(graph: onnx.ModelProto) -> None:
    _set(graph, "relu0.zero", 3)


def _axis(graph: onnx.ModelProto) -> None:
    _node(graph, "one0.weight.DequantizeLinear").attribute[0].i = 1


def _bare(graph: onnx.ModelProto) -> None:
    conv = _node(graph, "one0")
    conv.input[0] = _node(graph, _maker(graph, _maker_input(graph, conv.input[0]))).input[0]


def _maker(graph: onnx.ModelProto, tensor: str) -> str:
    return str(next(each.name for each in graph.graph.node if tensor in each.output))


def _maker_input(graph: onnx.ModelProto, tensor: str) -> str:
    return str(_node(graph, _maker(graph, tensor)).input[0])


def _cast(graph: onnx.ModelProto) -> None:
    written = _node(graph, "stem").output[0]
    reader = next(each for each in graph.graph.node if written in each.input)
    graph.graph.node.append(helper.make_node("Cast", [written], ["wide"], name="wide", to=TensorProto.FLOAT16))
    reader.input[list(reader.input).index(written)] = "wide"


@pytest.mark.parametrize(
    ("break_it", "number"),
    [(_subnormal, "TRT110"), (_offset, "TRT101"), (_axis, "TRT107"), (_bare, "TRT201"), (_cast, "TRT204")],
)
def test_a_graph_that_breaks_a_rule_is_found(break_it: Callable[[onnx.ModelProto], None], number: str) -> None:
    graph, plan = made(residual_network(2))
    break_it(graph)
    assert number in {found for found, _ in broken_rules(graph, plan)}


@pytest.mark.parametrize("break_it", [_newer, _odd, _lowest, _half_input])
def test_a_graph_of_another_form_is_found(break_it: Callable[[onnx.ModelProto], None]) -> None:
    graph, _ = made(residual_network(2))
    break_it(graph)
    assert not own_form(graph)


def _is_dequantized(graph: onnx.ModelProto, tensor: str) -> bool:
    return _node(graph, _maker(graph, tensor)).op_type == "DequantizeLinear"


def _float_beside_a_pair(graph: onnx.ModelProto) -> None:
    """The sum's side of the convolution becomes what an FP16 layer writes."""
    summed = _node(graph, "sum")
    bare = next(slot for slot, name in enumerate(summed.input) if not _is_dequantized(graph, name))
    summed.input[bare] = _node(graph, "peaked").output[0]


def _two_types(graph: onnx.ModelProto) -> None:
    """ONNX lets Pow's exponent have another type."""
    power = _node(graph, "peaked").input[1]
    for tensor in graph.graph.initializer:
        if tensor.name == power:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), power))


def _axis_of_inputs(graph: onnx.ModelProto) -> None:
    _node(graph, "grown.weight.DequantizeLinear").attribute[0].i = 0


def _grouped(graph: onnx.ModelProto) -> None:
    groups = next(each for each in _node(graph, "around").attribute if each.name == "group")
    groups.i = 4


def _unpaired(graph: onnx.ModelProto) -> None:
    """The sum reads what is before the pair."""
    summed = _node(graph, "sum")
    paired = next(slot for slot, name in enumerate(summed.input) if _is_dequantized(graph, name))
    summed.input[paired] = _node(graph, "peaked").output[0]


@pytest.mark.parametrize(
    ("break_it", "numbers"),
    [
        (_float_beside_a_pair, {"TRT205"}),
        (_two_types, {"TRT302"}),
        (_axis_of_inputs, {"TRT107", "TRT108"}),
        (_grouped, {"TRT203"}),
    ],
)
def test_a_graph_of_transposed_convolutions_that_breaks_a_rule_is_found(
    break_it: Callable[[onnx.ModelProto], None], numbers: set[str]
) -> None:
    graph, plan = made(transposed())
    break_it(graph)
    assert {found for found, _ in broken_rules(graph, plan)} == numbers


def test_a_convolution_without_a_kernel_is_found() -> None:
    """Lowered by a plan that nobody asked which layers have kernels."""
    model = squeezing(12)
    plan = plan_classifier(model)
    ranges = scales(dict.fromkeys(calibrated_tensors(model, plan), (-3.0, 3.0)))
    everything = _Everything()
    graph = everything.types(lower(model, plan, ranges, everything), plan)
    assert {number for number, _ in broken_rules(graph, plan)} == {"TRT203"}


class _Everything(TensorRtLowering):
    """As if TensorRT had a kernel for each convolution."""

    def planned(self, model: onnx.ModelProto, plan: PrecisionPlan) -> PrecisionPlan:  # noqa: ARG002
        return plan


def test_a_layer_in_fp32_that_the_plan_has_in_fp16_is_found() -> None:
    graph, plan = made(transposed())
    head = next(decision for decision in plan.decisions if decision.layer == "logits")
    other = head.model_copy(update={"precision": Precision.FP16})
    decisions = tuple(other if decision is head else decision for decision in plan.decisions)
    broken = broken_rules(graph, plan.model_copy(update={"decisions": decisions}))
    assert broken == [("TRT305", "logits")]


def test_an_addition_that_leaves_the_accumulator_unused_is_found() -> None:
    graph, plan = made(transposed())
    _unpaired(graph)
    as_it_was = tuple(
        decision.model_copy(update={"precision": Precision.FP16, "rule": "fp16-otherwise"})
        if decision.layer == "sum"
        else decision
        for decision in plan.decisions
    )
    assert broken_rules(graph, plan.model_copy(update={"decisions": as_it_was})) == [("TRT206", "sum")]


def test_what_the_plan_has_in_fp16_and_the_graph_in_fp32_is_found() -> None:
    model = residual_network(2)
    plan = plan_classifier(model)
    ranges = scales(dict.fromkeys(calibrated_tensors(model, plan), (-3.0, 3.0)))
    wide = lower(model, plan, ranges, LOWERING)
    assert {number for number, _ in broken_rules(wide, plan)} >= {"TRT305"}
    assert not own_form(wide)
