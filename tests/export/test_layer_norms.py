"""A LayerNorm that a file brings in pieces becomes one operator, which computes the same; what is none stays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from export_graphs import assert_same, graph, operators, random, run
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.helper import make_node as node

from edgeq.export.rewrites.half import to_float32
from edgeq.export.simplify import simplify
from edgeq.model.graph.normalizations import norm_pieces

Nodes = list[onnx.NodeProto]
CHANNELS = 12
SHAPE = (2, 5, CHANNELS)
TWO, EPSILON = np.array(2, np.float32), np.array(1e-5, np.float32)
AFFINE = {"scale": random(1, CHANNELS), "bias": random(2, CHANNELS)}


def pieces(opset: int = 17, axes: tuple[int, ...] = (-1,), **changes: Nodes) -> Nodes:
    """The parts as torch writes them; `changes` are other nodes for a part."""

    def mean(name: str, tensor: str) -> onnx.NodeProto:
        if opset < 18:
            return node("ReduceMean", [tensor], [name], axes=list(axes))
        return node("ReduceMean", [tensor, "axes"], [name])

    parts = {
        "mean": [mean("mean", "x")],
        "centred": [node("Sub", ["x", "mean"], ["centred"])],
        "squared": [node("Pow", ["centred", "two"], ["squared"])],
        "variance": [mean("variance", "squared")],
        "safe": [node("Add", ["variance", "epsilon"], ["safe"])],
        "root": [node("Sqrt", ["safe"], ["root"])],
        "normal": [node("Div", ["centred", "root"], ["normal"])],
        "scaled": [node("Mul", ["normal", "scale"], ["scaled"])],
        "y": [node("Add", ["scaled", "bias"], ["y"])],
    }
    assert changes.keys() <= parts.keys()
    return [each for part in (parts | changes).values() for each in part]


def made(nodes: Nodes, *, shape: Any = SHAPE, opset: int = 17, **constants: NDArray[Any]) -> onnx.ModelProto:
    held = {"two": TWO, "epsilon": EPSILON, "axes": np.array([-1]), **AFFINE, **constants}
    read = {name for each in nodes for name in each.input}
    return graph(nodes, {name: value for name, value in held.items() if name in read}, shape, opset=opset)


def counted(model: onnx.ModelProto) -> Counter[str]:
    return Counter(operators(model))


WHOLE: dict[str, Callable[[], onnx.ModelProto]] = {
    "torch's": lambda: made(pieces()),
    "opset 18": lambda: made(pieces(18), opset=18),
    "the last axis by its number": lambda: made(pieces(axes=(2,))),
    "a product for the square": lambda: made(pieces(squared=[node("Mul", ["centred", "centred"], ["squared"])])),
    "the difference written twice": lambda: made(
        pieces(
            squared=[node("Sub", ["x", "mean"], ["again"]), node("Pow", ["again", "two"], ["squared"])],
        )
    ),
    "epsilon first": lambda: made(pieces(safe=[node("Add", ["epsilon", "variance"], ["safe"])])),
    "a reciprocal": lambda: made(
        pieces(normal=[node("Reciprocal", ["root"], ["one.over"]), node("Mul", ["centred", "one.over"], ["normal"])])
    ),
    "one over the root": lambda: made(
        pieces(normal=[node("Div", ["one", "root"], ["one.over"]), node("Mul", ["one.over", "centred"], ["normal"])]),
        one=np.array(1, np.float32),
    ),
    "a power of a half": lambda: made(
        pieces(root=[node("Pow", ["safe", "half"], ["root"])]), half=np.array([0.5], np.float32)
    ),
    "a power of minus a half": lambda: made(
        pieces(
            root=[node("Pow", ["safe", "half"], ["one.over"])],
            normal=[node("Mul", ["centred", "one.over"], ["normal"])],
        ),
        half=np.array(-0.5, np.float32),
    ),
    "no bias": lambda: made(pieces(scaled=[node("Mul", ["normal", "scale"], ["y"])], y=[])),
    "no scale": lambda: made(pieces(scaled=[], y=[node("Add", ["normal", "bias"], ["y"])])),
    "neither": lambda: made(pieces(normal=[node("Div", ["centred", "root"], ["y"])], scaled=[], y=[])),
    "scale and bias first": lambda: made(
        pieces(scaled=[node("Mul", ["scale", "normal"], ["scaled"])], y=[node("Add", ["bias", "scaled"], ["y"])])
    ),
    "a scale with axes of one": lambda: made(pieces(), scale=random(1, 1, 1, CHANNELS), bias=random(2, 1, CHANNELS)),
    "two axes": lambda: made(pieces(axes=(-2, -1)), scale=random(1, 5, CHANNELS), bias=random(2, 5, CHANNELS)),
    "a free batch": lambda: made(pieces(), shape=("batch", "tokens", CHANNELS)),
    "constants as nodes": lambda: made(
        [node("Constant", [], ["two"], value_float=2.0), node("Constant", [], ["epsilon"], value_float=1e-5), *pieces()]
    ),
    "casts that change nothing": lambda: made(
        pieces(
            squared=[
                node("Cast", ["centred"], ["same"], to=TensorProto.FLOAT),
                node("Pow", ["same", "two"], ["squared"]),
            ]
        )
    ),
}


@pytest.mark.parametrize("variant", WHOLE)
def test_each_way_to_write_it_is_one_operator_that_computes_the_same(variant: str) -> None:
    model = WHOLE[variant]()
    joined = simplify(model)
    assert counted(joined) == {"LayerNormalization": 1}
    x = 3 + 2 * random(0, *SHAPE)
    assert_same(model, joined, x)


def test_what_is_behind_a_part_that_others_read_stays() -> None:
    """The normal form without its scale is an output as well."""
    nodes = pieces()
    model = made(nodes)
    model.graph.output.append(helper.make_tensor_value_info("normal", TensorProto.FLOAT, SHAPE))
    joined = simplify(model)
    assert counted(joined) == {"LayerNormalization": 1, "Mul": 1, "Add": 1}
    x = random(0, *SHAPE)
    assert_same(model, joined, x)


def test_a_scale_that_is_computed_stays_behind_it() -> None:
    """As in diffusion transformers, whose scale comes from the time."""
    nodes = [
        node("ReduceMax", ["x"], ["computed"], axes=[1]),
        *pieces(scaled=[node("Mul", ["normal", "computed"], ["scaled"])]),
    ]
    model = made(nodes)
    joined = simplify(model)
    assert counted(joined) == {"ReduceMax": 1, "LayerNormalization": 1, "Mul": 1, "Add": 1}
    x = random(0, *SHAPE)
    assert_same(model, joined, x)


NONE: dict[str, Callable[[], onnx.ModelProto]] = {
    "the channels of an image": lambda: made(
        pieces(axes=(1,)), shape=(2, CHANNELS, 3, 3), scale=random(1, CHANNELS, 1, 1), bias=random(2, CHANNELS, 1, 1)
    ),
    "a mean that is no mean of it": lambda: made(
        pieces(mean=[node("Sigmoid", ["x"], ["other"]), node("ReduceMean", ["other"], ["mean"], axes=[-1])])
    ),
    "means over other axes": lambda: made(pieces(variance=[node("ReduceMean", ["squared"], ["variance"], axes=[1])])),
    "a root mean square alone": lambda: made(pieces(mean=[], centred=[node("Identity", ["x"], ["centred"])])),
    "a cube": lambda: made(
        pieces(squared=[node("Pow", ["centred", "two"], ["cubed"]), node("Abs", ["cubed"], ["squared"])]),
        two=np.array(3, np.float32),
    ),
    "an unbiased variance": lambda: made(
        pieces(
            safe=[
                node("Mul", ["variance", "larger"], ["larger.variance"]),
                node("Add", ["larger.variance", "epsilon"], ["safe"]),
            ]
        ),
        larger=np.array(CHANNELS / (CHANNELS - 1), np.float32),
    ),
    "no epsilon": lambda: made(pieces(safe=[], root=[node("Sqrt", ["variance"], ["root"])])),
    "a sum": lambda: made(pieces(variance=[node("ReduceSum", ["squared", "axes"], ["variance"])])),
}


@pytest.mark.parametrize("variant", NONE)
def test_what_is_no_layer_norm_stays_as_it_is(variant: str) -> None:
    model = NONE[variant]()
    left = simplify(model)
    assert "LayerNormalization" not in counted(left)
    x = random(0, *(axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim))
    assert_same(model, left, x)


def test_the_pieces_of_what_is_no_layer_norm_are_found() -> None:
    for variant in sorted(NONE.keys() - {"a cube"}):
        model = simplify(NONE[variant]())
        found = {model.graph.node[place].op_type for group in norm_pieces(model) for place in group}
        assert {"Sqrt", "Div"} <= found, variant
        assert found & {"Pow", "Mul"}, variant
    cubed = simplify(NONE["a cube"]())
    assert norm_pieces(cubed) == ()


def test_pieces_in_fp16_between_casts_are_joined_once_they_are_fp32() -> None:
    """As transformers export a half-precision checkpoint: the norm in FP32 between two casts."""
    half = [
        node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16),
        node("Cast", ["half"], ["wide"], to=TensorProto.FLOAT),
    ]
    parts = pieces(
        mean=[node("ReduceMean", ["wide"], ["mean"], axes=[-1])],
        centred=[node("Sub", ["wide", "mean"], ["centred"])],
        scaled=[
            node("Cast", ["normal"], ["normal.half"], to=TensorProto.FLOAT16),
            node("Mul", ["normal.half", "scale"], ["scaled"]),
        ],
        y=[node("Add", ["scaled", "bias"], ["y.half"]), node("Cast", ["y.half"], ["y"], to=TensorProto.FLOAT)],
    )
    affine: dict[str, Any] = {name: value.astype(np.float16) for name, value in AFFINE.items()}
    model = made([*half, *parts], **affine)
    assert counted(simplify(model))["LayerNormalization"] == 1
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    to_float32(wide)
    joined = simplify(wide)
    assert counted(joined) == {"LayerNormalization": 1}
    x = random(0, *SHAPE)
    assert_same(model, joined, x, tolerance=2**-9)  # FP16 rounds by 2**-11, four times


def test_a_number_that_is_cast_from_integers_is_not_taken_for_what_it_was() -> None:
    whole = [node("Cast", ["x"], ["whole"], to=TensorProto.INT32)]
    parts = pieces(
        mean=[node("Cast", ["whole"], ["one"], to=TensorProto.FLOAT), node("ReduceMean", ["one"], ["mean"], axes=[-1])],
        centred=[node("Cast", ["whole"], ["other"], to=TensorProto.FLOAT), node("Sub", ["other", "mean"], ["centred"])],
    )
    model = made([*whole, *parts])
    x = 100 * random(0, *SHAPE)
    assert_same(model, simplify(model), x)


class _Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.LayerNorm(CHANNELS), torch.nn.LayerNorm(CHANNELS, elementwise_affine=False)
        self.linear = torch.nn.Linear(CHANNELS, CHANNELS)
        torch.nn.init.normal_(self.first.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.second(x + self.linear(self.first(x)))
        return made


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_torch_exports_below_opset_17_is_whole_again(tmp_path: Path) -> None:
    """As `open_graph` does it: converted to opset 17 first."""
    torch.manual_seed(0)
    block, file = _Block().eval(), tmp_path / "block.onnx"
    x = random(0, *SHAPE)
    torch.onnx.export(
        block, (torch.from_numpy(x),), file, opset_version=14, dynamo=False, input_names=["x"], output_names=["y"]
    )
    old = onnx.load(file)
    assert counted(old)["ReduceMean"] == 4
    joined = simplify(onnx.version_converter.convert_version(old, 17))
    assert counted(joined) == {"LayerNormalization": 2, "MatMul": 1, "Add": 2}
    with torch.no_grad():
        np.testing.assert_allclose(run(joined, x)["y"], block(torch.from_numpy(x)).numpy(), rtol=1e-4, atol=1e-5)


def test_an_older_opset_is_left_alone() -> None:
    """It has no such operator; once it is converted it has."""
    assert "LayerNormalization" not in counted(simplify(made(pieces(), opset=16)))
