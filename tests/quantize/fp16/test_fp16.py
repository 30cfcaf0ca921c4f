"""Lowering small graphs to FP16: types read back, borders counted by hand, results compared with float32."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from lowering import drawn_weight, node
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from overflowing import find_overflow

from edgeq.calibrate.scales import Scales, TensorRange, TensorScale
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.errors import QuantizeError
from edgeq.export.fold import fold_batchnorm
from edgeq.export.simplify import simplify
from edgeq.model.checkpoint.source import open_model
from edgeq.model.graph.element_types import element_types, outside_fp16, unfit_layers
from edgeq.model.images.image_set import ImageSet
from edgeq.plan.precision import Decision, Precision, PrecisionPlan
from edgeq.quantize.fp16.convert import to_fp16
from edgeq.quantize.fp16.verify import verify_fp16
from edgeq.quantize.int8.qdq import lower
from edgeq.quantize.int8.registry import lowering_for
from edgeq.quantize.int8.tensorrt import TensorRtLowering
from edgeq.quantize.int8.verify import verify_lowering

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
RNG = np.random.default_rng(3)
weight = partial(drawn_weight, RNG)
X = RNG.normal(size=(2, 3, 8, 8)).astype(np.float32)


def graph(nodes: Sequence[onnx.NodeProto], weights: dict[str, NDArray[Any]], output: str) -> onnx.ModelProto:
    made = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("x", FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info(output, FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def plan(model: onnx.ModelProto, precision: Callable[[str], Precision]) -> PrecisionPlan:
    nodes = [made for made in model.graph.node if made.op_type != "Constant"]
    return PrecisionPlan(
        decisions=tuple(
            Decision(layer=made.name, op=made.op_type, precision=precision(made.name), rule="test", reason="test")
            for made in nodes
        )
    )


def fp16(_layer: str) -> Precision:
    return Precision.FP16


def fp16_but(*kept: str) -> Callable[[str], Precision]:
    return lambda layer: Precision.FP32 if layer in kept else Precision.FP16


def run(model: onnx.ModelProto) -> NDArray[np.float64]:
    engine = OnnxRuntimeEngine(model.SerializeToString(), threads=1)
    output: NDArray[Any] = engine.run({"x": X})[engine.outputs[0]]
    assert output.dtype == np.float32
    return output.astype(np.float64)


def close(found: NDArray[np.float64], expected: NDArray[np.float64]) -> bool:
    """Within a few roundings of FP16 (each 2**-11 of the number) of each other."""
    return bool(np.linalg.norm(found - expected) < 5 * 2.0**-11 * np.linalg.norm(expected))


def convolutions() -> onnx.ModelProto:
    """conv1 -> relu1 -+-> conv2 -+-> sum -> out; conv1 and conv2 share a bias."""
    nodes = [
        node("Conv", ["x", "w1", "bias"], "conv1", pads=[1, 1, 1, 1]),
        node("Relu", ["conv1"], "relu1"),
        node("Conv", ["relu1", "w2", "bias"], "conv2", pads=[1, 1, 1, 1]),
        node("Add", ["conv2", "relu1"], "sum"),
        node("GlobalAveragePool", ["sum"], "out"),
    ]
    return graph(nodes, {"w1": weight(16, 3, 3, 3), "w2": weight(16, 16, 3, 3), "bias": weight(16)}, "out")


def attention() -> onnx.ModelProto:
    """A transformer's block with the shape arithmetic that exporters leave, a mask, and a fill."""
    nodes = [
        node("Shape", ["x"], "shape"),
        node("Gather", ["shape", "first"], "batch_size"),
        node("Concat", ["batch_size", "rest"], "tokens_shape", axis=0),
        node("Reshape", ["x", "tokens_shape"], "tokens"),
        node("LayerNormalization", ["tokens", "gamma", "beta"], "normal"),
        node("MatMul", ["normal", "wq"], "query"),
        node("Transpose", ["normal"], "key", perm=[0, 2, 1]),
        node("MatMul", ["query", "key"], "scores"),
        node("Where", ["mask", "scores", "minus_infinity"], "masked"),
        node("Softmax", ["masked"], "attention"),
        node("MatMul", ["attention", "normal"], "mixed"),
        node("Shape", ["mixed"], "mixed_shape"),
        node(
            "ConstantOfShape", ["mixed_shape"], "ones", value=numpy_helper.from_array(np.array([1.0], dtype=np.float32))
        ),
        node("Add", ["mixed", "ones"], "shifted"),
        node("ConstantOfShape", ["mixed_shape"], "zeros"),
        node("Add", ["shifted", "zeros"], "summed"),
        node("Cast", ["mask"], "mask_float", to=FLOAT),
        node("MatMul", ["mask_float", "summed"], "out"),
    ]
    weights = {
        "first": np.array([0]),
        "rest": np.array([12, 16]),
        "gamma": weight(16) + 1,
        "beta": weight(16),
        "wq": weight(16, 16),
        "mask": np.tril(np.ones((12, 12), bool)),
        "minus_infinity": np.array(-np.inf, np.float32),
    }
    return graph(nodes, weights, "out")


def casts(model: onnx.ModelProto) -> Counter[str]:
    return Counter(f"{made.input[0]} -> {made.output[0]}" for made in model.graph.node if made.op_type == "Cast")


def test_everything_in_fp16_has_casts_at_the_two_ends_only() -> None:
    model = convolutions()
    made = to_fp16(model, plan(model, fp16))
    assert casts(made) == Counter({"x -> x.fp16": 1, "out.fp16 -> out": 1})
    assert {tensor.name: tensor.data_type for tensor in made.graph.initializer} == {
        "w1.fp16": HALF,
        "w2.fp16": HALF,
        "bias.fp16": HALF,
    }
    assert [value.type.tensor_type.elem_type for value in (*made.graph.input, *made.graph.output)] == [FLOAT, FLOAT]
    assert close(run(made), run(model))


def test_weights_are_rounded_to_the_nearest_fp16() -> None:
    model = convolutions()
    made = to_fp16(model, plan(model, fp16))
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    (first,) = (numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name == "w1")
    # An FP16 number of size 2**e to 2**(e+1) lies on a grid of 2**(e-10): half of that is the most that is lost.
    step = 2.0 ** (np.floor(np.log2(np.abs(first))) - 10)
    assert np.all(np.abs(stored["w1.fp16"].astype(np.float64) - first) <= step / 2)


def test_an_fp32_layer_has_casts_on_both_sides_and_its_own_weights() -> None:
    model = convolutions()
    made = to_fp16(model, plan(model, fp16_but("conv2")))
    expected = {"x -> x.fp16": 1, "relu1.fp16 -> relu1": 1, "conv2 -> conv2.fp16": 1, "out.fp16 -> out": 1}
    assert casts(made) == Counter(expected)
    stored = {tensor.name: tensor.data_type for tensor in made.graph.initializer}
    assert stored == {"w2": FLOAT, "bias": FLOAT, "w1.fp16": HALF, "bias.fp16": HALF}
    types = element_types(made)
    assert (types["conv2"], types["conv1.fp16"], types["sum.fp16"]) == (FLOAT, HALF, HALF)
    assert close(run(made), run(model))


def test_a_border_is_crossed_once_however_many_read_behind_it() -> None:
    model = convolutions()
    made = to_fp16(model, plan(model, fp16_but("conv1", "relu1")))
    # relu1 is read by conv2 and by sum.
    assert casts(made) == Counter({"relu1 -> relu1.fp16": 1, "out.fp16 -> out": 1})


def test_nothing_in_fp16_changes_nothing() -> None:
    model = convolutions()
    made = to_fp16(model, plan(model, lambda _: Precision.FP32))
    assert list(made.graph.node) == list(model.graph.node)
    assert list(made.graph.initializer) == list(model.graph.initializer)


def test_a_transformer_block_keeps_its_shape_arithmetic() -> None:
    model = attention()
    made = to_fp16(model, plan(model, fp16))
    types = element_types(made)
    assert {name: types[name] for name in ("shape", "tokens_shape", "mixed_shape")} == dict.fromkeys(
        ("shape", "tokens_shape", "mixed_shape"), TensorProto.INT64
    )
    floats = [name for name, kind in types.items() if kind == FLOAT]
    assert sorted(floats) == ["out", "x"]
    # The Cast of the mask is a layer of the model: it writes FP16 itself.
    assert casts(made) == Counter({"x -> x.fp16": 1, "mask -> mask_float.fp16": 1, "out.fp16 -> out": 1})
    assert close(run(made), run(model))


def test_shapes_are_read_off_whatever_there_is() -> None:
    model = attention()
    shapes = [made.name for made in model.graph.node if made.op_type == "Shape"]
    made = to_fp16(model, plan(model, fp16_but(*shapes)))
    assert casts(made) == casts(to_fp16(model, plan(model, fp16)))


def test_a_slot_that_must_be_float32_stays_float32() -> None:
    nodes = [node("Resize", ["x", "", "scales"], "out", mode="nearest")]
    model = graph(nodes, {"scales": np.array([1, 1, 2, 2], np.float32)}, "out")
    made = to_fp16(model, plan(model, fp16))
    assert {tensor.name: tensor.data_type for tensor in made.graph.initializer} == {"scales": FLOAT}
    assert close(run(made), run(model))


def test_a_constant_node_is_stored_in_fp16() -> None:
    value = numpy_helper.from_array(np.array(0.5, np.float32))
    nodes = [node("Constant", [], "half", value=value), node("Mul", ["x", "half"], "out")]
    model = graph(nodes, {}, "out")
    made = to_fp16(model, plan(model, fp16))
    assert [made_node.op_type for made_node in made.graph.node] == ["Cast", "Mul", "Cast"]
    assert {tensor.name: tensor.data_type for tensor in made.graph.initializer} == {"half.fp16": HALF}
    assert close(run(made), run(model))


def test_a_branch_inside_reads_float32() -> None:
    def branch(op: str) -> onnx.GraphProto:
        output = helper.make_tensor_value_info(op, FLOAT, None)
        return helper.make_graph([helper.make_node(op, ["twice"], [op])], op, [], [output])

    nodes = [
        node("Mul", ["x", "two"], "twice"),
        node("If", ["yes"], "out", then_branch=branch("Neg"), else_branch=branch("Abs")),
    ]
    model = graph(nodes, {"two": np.array(2, np.float32), "yes": np.array(True)}, "out")
    made = to_fp16(model, plan(model, fp16_but("out")))
    assert casts(made) == Counter({"x -> x.fp16": 1, "twice.fp16 -> twice": 1})
    assert close(run(made), -2 * X.astype(np.float64))
    with pytest.raises(QuantizeError, match="first is out"):
        to_fp16(model, plan(model, fp16))


class InputsAlone(TensorRtLowering):
    """TensorRT's, with pairs on the inputs of INT8 layers alone."""

    def also_reads(self, node: gs.Node) -> Sequence[gs.Variable]:  # noqa: ARG002
        return ()


def test_an_int8_graph_takes_fp16_layers_beside_its_pairs() -> None:
    model = convolutions()
    wanted = plan(model, lambda layer: Precision.INT8 if layer in ("conv1", "relu1", "conv2") else Precision.FP16)
    ranges = {name: TensorRange(amax=6.0, low=-6.0, high=6.0) for name in ("x", "relu1", "conv2")}
    scales = Scales(
        graph_sha256="",
        preprocess_sha256="",
        images=1,
        method="minmax",
        tensors={
            name: TensorScale(minimum=-6.0, maximum=6.0, ranges={"minmax": kept}, histogram_sha256="")
            for name, kept in ranges.items()
        },
    )
    int8 = lower(model, wanted, scales, InputsAlone())
    made = to_fp16(int8, wanted)
    verify_lowering(made, wanted, lowering_for("tensorrt"))
    # sum reads conv2 and relu1, both float32.
    assert casts(made) == Counter({"conv2 -> conv2.fp16": 1, "relu1 -> relu1.fp16": 1, "out.fp16 -> out": 1})
    assert close(run(made), run(int8))


def test_a_trained_network_keeps_its_answers(shared_data: Path) -> None:
    model, _ = fold_batchnorm(simplify(onnx.load(shared_data / "cifar10-resnet20" / "model.onnx")))
    preprocess = open_model(shared_data / "cifar10-resnet20").preprocess
    images = ImageSet.open(shared_data / "cifar10" / "test.zip")
    photos = np.stack([preprocess(images.read(item)) for item in images.sample(20).items])
    name = model.graph.input[0].name
    assert find_overflow(model, [{name: photo[None]} for photo in photos]) == ()
    made = to_fp16(model, plan(model, fp16_but(model.graph.node[-1].name)))
    logits = [
        OnnxRuntimeEngine(graph.SerializeToString()).run({graph.graph.input[0].name: photos})["logits"]
        for graph in (model, made)
    ]
    assert np.linalg.norm(logits[1] - logits[0]) < 0.005 * np.linalg.norm(logits[0])
    # A close call may fall the other way; these are twenty photographs.
    assert np.mean(logits[1].argmax(axis=1) == logits[0].argmax(axis=1)) >= 0.95


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (65505.0, "ends at 65504"),
        (-3.4e38, "ends at 65504"),
        (1e-12, "vanish"),  # a decomposed LayerNorm's epsilon: division by zero in FP16
    ],
)
def test_a_constant_that_fp16_does_not_hold_names_its_layer(value: float, reason: str) -> None:
    nodes = [node("Add", ["x", "constant"], "shifted"), node("Neg", ["shifted"], "out")]
    model = graph(nodes, {"constant": np.array(value, np.float32)}, "out")
    with pytest.raises(QuantizeError, match="first is shifted") as caught:
        to_fp16(model, plan(model, fp16))
    assert reason in str(caught.value)
    assert list(unfit_layers(model)) == ["shifted"]
    assert casts(to_fp16(model, plan(model, fp16_but("shifted"))))["shifted -> shifted.fp16"] == 1


def test_an_operator_without_an_fp16_form_is_named() -> None:
    limits = {"start": np.array(0, np.float32), "step": np.array(1, np.float32), "axes": np.array([1, 2, 3])}
    nodes = [
        node("ReduceSum", ["x"], "sum", keepdims=0),
        node("Range", ["start", "sum", "step"], "range"),
        node("Neg", ["range"], "out"),
    ]
    model = graph(nodes, limits, "out")
    assert unfit_layers(model) == {"range": "ONNX has no Range in FP16"}


@pytest.mark.parametrize(
    ("values", "held"),
    [
        ([1.0, -65504.0, np.inf], True),
        ([0.0, 0.0], True),
        ([], True),
        ([1.0, 1e-30], True),  # one tiny number beside a large one does not matter
        ([1e-8, -2e-8], False),  # the smallest is 6e-8
        ([6e-8, 6e-8], True),
        ([7e4], False),
    ],
)
def test_what_fp16_holds(values: list[float], held: bool) -> None:
    assert (outside_fp16(np.array(values, np.float32)) == "") is held


def lowered_convolutions() -> tuple[onnx.ModelProto, PrecisionPlan]:
    model = convolutions()
    wanted = plan(model, fp16_but("conv2"))
    return to_fp16(model, wanted), wanted


def _into_fp32(model: onnx.ModelProto) -> None:
    """sum gets float32 values and writes float32."""
    (add,) = (made for made in model.graph.node if made.name == "sum")
    (pool,) = (made for made in model.graph.node if made.name == "out")
    add.input[:] = ["conv2", "relu1"]
    add.output[0] = pool.input[0] = "sum"
    pool.output[0] = "out"
    del model.graph.node[-1]


def _needless_pair(model: onnx.ModelProto) -> None:
    """conv1's FP16 output goes to float32 and back before relu1 reads it."""
    (relu,) = (made for made in model.graph.node if made.name == "relu1")
    place = list(model.graph.node).index(relu)
    relu.input[0] = "back"
    up = helper.make_node("Cast", ["conv1.fp16"], ["up"], name="up", to=FLOAT)
    back = helper.make_node("Cast", ["up"], ["back"], name="back", to=HALF)
    for made in (back, up):
        model.graph.node.insert(place, made)


def _weight_behind_cast(model: onnx.ModelProto) -> None:
    """conv1's weight is stored in float32 and cast while running."""
    (stored,) = (tensor for tensor in model.graph.initializer if tensor.name == "w1.fp16")
    stored.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(stored).astype(np.float32), "w1"))
    model.graph.node.insert(0, helper.make_node("Cast", ["w1"], ["w1.fp16"], name="stored", to=HALF))


def _fp32_layer_in_fp16(model: onnx.ModelProto) -> None:
    (conv,) = (made for made in model.graph.node if made.name == "conv2")
    (back,) = (made for made in model.graph.node if made.name == "conv2.fp16.Cast")
    for name in ("w2", "bias"):
        (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), name))
    conv.input[0] = "relu1.fp16"
    conv.output[0] = "conv2.fp16"
    model.graph.node.remove(back)


def _lost_layer(model: onnx.ModelProto) -> None:
    (relu,) = (made for made in model.graph.node if made.name == "relu1")
    relu.name = "other"


def _half_output(model: onnx.ModelProto) -> None:
    (last,) = (made for made in model.graph.node if made.name == "out.Cast")
    (pool,) = (made for made in model.graph.node if made.name == "out")
    model.graph.node.remove(last)
    pool.output[0] = "out"
    model.graph.output[0].type.tensor_type.elem_type = HALF


@pytest.mark.parametrize(
    ("break_it", "fault"),
    [
        (_into_fp32, "sum: planned fp16"),
        (_needless_pair, "up: a Cast where no border is"),
        (_weight_behind_cast, "stored: a Cast where no border is"),
        (_fp32_layer_in_fp16, "conv2: planned fp32"),
        (_lost_layer, "relu1: planned, but not in the graph"),
        (_half_output, "out: the graph's inputs and outputs stay float32"),
    ],
)
def test_a_broken_lowering_is_found(break_it: Callable[[onnx.ModelProto], None], fault: str) -> None:
    made, wanted = lowered_convolutions()
    verify_fp16(made, wanted)
    break_it(made)
    with pytest.raises(QuantizeError) as caught:
        verify_fp16(made, wanted)
    assert any(cause.startswith(fault) for cause in caught.value.causes), caught.value.causes


def test_types_that_contradict_each_other_are_found() -> None:
    made, wanted = lowered_convolutions()
    (conv,) = (tensor for tensor in made.graph.initializer if tensor.name == "w1.fp16")
    conv.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(conv).astype(np.float32), "w1.fp16"))
    with pytest.raises(QuantizeError, match="contradict"):
        verify_fp16(made, wanted)
