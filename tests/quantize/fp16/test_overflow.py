"""Looking for numbers beyond FP16 in graphs whose numbers are known by hand."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from overflowing import find_overflow

from edgeq.model.graph.element_types import LARGEST
from edgeq.quantize.fp16.overflow import layers_beyond, peaks, to_look_at

# One row of four numbers; the mean is 0, so a decomposed LayerNorm squares them as they are.
NUMBERS = np.array([[1.0, -1.0, 3.0, -3.0]], np.float32)


def run(factor: float = 1.0) -> dict[str, NDArray[np.float32]]:
    """The numbers, times a factor, as a graph is given them."""
    return {"x": NUMBERS * np.float32(factor)}


def graph(nodes: Sequence[tuple[str, Sequence[str], str]], weights: dict[str, Any]) -> onnx.ModelProto:
    made = [helper.make_node(op, list(inputs), [output], name=output) for op, inputs, output in nodes]
    whole = helper.make_graph(
        made,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info(nodes[-1][2], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    return helper.make_model(whole, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def decomposed() -> onnx.ModelProto:
    """A LayerNorm in pieces, after a scale of 100."""
    nodes = [
        ("Mul", ["x", "hundred"], "scaled"),
        ("Mul", ["scaled", "scaled"], "squares"),
        ("ReduceMean", ["squares"], "variance"),
        ("Sqrt", ["variance"], "deviation"),
        ("Div", ["scaled", "deviation"], "normal"),
    ]
    return graph(nodes, {"hundred": np.float32(100)})


def test_who_writes_and_who_reads_too_large_a_number_is_named() -> None:
    # 300 squared is 90,000: beyond 65,504. Their mean, (1 + 1 + 9 + 9) / 4 * 10,000 = 50,000, is not.
    assert find_overflow(decomposed(), [run()]) == ("squares", "variance")
    found = peaks(decomposed(), [run()])
    assert (found["x"], found["scaled"], found["squares"], found["variance"]) == (3.0, 300.0, 90_000.0, 50_000.0)


def test_one_image_among_many_is_enough() -> None:
    assert find_overflow(decomposed(), [run(0.5), run(0.5)]) == ()
    assert find_overflow(decomposed(), [run(0.5), run(), run(0.5)]) == ("squares", "variance")


def test_a_margin_names_more() -> None:
    assert find_overflow(decomposed(), [run(0.5)]) == ()
    assert find_overflow(decomposed(), [run(0.5)], limit=20_000) == ("squares", "variance")  # 150 squared is 22,500


def test_what_was_seen_is_not_looked_at_again() -> None:
    """The mean of squares is no larger than they are, so of these layers nothing has to be run; it may be smaller."""
    asked = {"known": {"x": 3.0, "scaled": 300.0, "squares": 90_000.0}, "layers": {"squares", "variance"}}
    assert to_look_at(decomposed(), **asked) == ()  # type: ignore[arg-type]
    found = peaks(decomposed(), iter(()), **asked)  # type: ignore[arg-type]
    assert (found["squares"], found["variance"]) == (90_000.0, 90_000.0)
    assert layers_beyond(decomposed(), found, LARGEST) == ("squares", "variance", "deviation")
    asked["layers"] = {"normal"}  # it reads a root, which may be larger than its square
    assert to_look_at(decomposed(), **asked) == ("deviation", "normal")  # type: ignore[arg-type]
    assert peaks(decomposed(), [run()], **asked)["deviation"] == pytest.approx(50_000**0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(("size", "named"), [(80.0, ()), (90.0, ("norm",))])
def test_the_squares_inside_a_layernorm_count(size: float, named: tuple[str, ...]) -> None:
    # 3 * 80 squared is 57,600; 3 * 90 squared is 72,900.
    nodes = [("LayerNormalization", ["x", "gamma"], "norm"), ("Relu", ["norm"], "out")]
    model = graph(nodes, {"gamma": np.ones(4, np.float32)})
    assert find_overflow(model, [run(size)]) == named


@pytest.mark.parametrize(("size", "named"), [(50.0, ()), (60.0, ("length",))])
def test_the_squares_under_a_root_count(size: float, named: tuple[str, ...]) -> None:
    # The length of (1, -1, 3, -3) squared is 20: times 50 squared is 50,000, times 60 squared 72,000.
    model = graph([("ReduceL2", ["x"], "length")], {})
    assert find_overflow(model, [run(size)]) == named


def test_infinities_made_on_purpose_do_not_count() -> None:
    mask: NDArray[np.float32] = np.array([0, 0, -np.inf, -np.inf], np.float32)
    nodes = [("Add", ["x", "mask"], "masked"), ("Softmax", ["masked"], "out")]
    assert find_overflow(graph(nodes, {"mask": mask}), [run()]) == ()


def test_a_finite_mask_beyond_fp16_counts() -> None:
    mask: NDArray[np.float32] = np.array([0, 0, -3e38, -3e38], np.float32)
    nodes = [("Add", ["x", "mask"], "masked"), ("Softmax", ["masked"], "out")]
    assert find_overflow(graph(nodes, {"mask": mask}), [run()]) == ("masked", "out")


def test_integers_and_shapes_do_not_count() -> None:
    nodes = [
        ("Mul", ["x", "large"], "far"),
        ("Shape", ["far"], "shape"),
        ("Mul", ["shape", "million"], "product"),
        ("Expand", ["x", "shape"], "out"),
    ]
    model = graph(nodes, {"large": np.float32(1e6), "million": np.int64(1_000_000)})
    assert find_overflow(model, [run()]) == ("far",)


def test_several_inputs_of_several_types() -> None:
    """Rows of a table are taken by number; the numbers themselves are no FP16, however large."""
    model = graph([("Gather", ["x", "rows"], "taken"), ("Mul", ["taken", "large"], "far")], {"large": np.float32(3e4)})
    model.graph.input.append(helper.make_tensor_value_info("rows", TensorProto.INT64, ["picked"]))
    rows = np.array([0, 0, 0], np.int64)
    assert find_overflow(model, [run() | {"rows": rows}]) == ("far",)
    assert set(peaks(model, [run() | {"rows": rows}])) == {"x", "taken", "far", "large"}


def test_memory_does_not_grow_with_the_number_of_tensors(tmp_path: Path) -> None:
    """A chain of 40 layers, whose tensors of 8 MB would take 320 MB together; a quarter of that is 10 of them."""
    names = ["x", *(f"wider{index}" for index in range(40))]
    nodes = [("Mul", [last, "factor"], name) for last, name in pairwise(names)]
    onnx.save(graph(nodes, {"factor": np.float32(1.01)}), tmp_path / "chain.onnx")
    code = (
        "import sys, numpy, onnx\n"
        "from edgeq.quantize.fp16.overflow import peaks\n"
        "def memory(name):\n"
        "    lines = dict(line.split(':') for line in open('/proc/self/status').read().splitlines())\n"
        "    return int(lines[name].split()[0]) * 1024\n"
        "model, ones = onnx.load(sys.argv[1]), numpy.ones((500_000, 4), numpy.float32)\n"
        "peaks(model, [{'x': ones[:1]}], threads=1)\n"
        "before = memory('VmRSS')\n"
        "peaks(model, [{'x': ones}], threads=1)\n"
        "print(memory('VmHWM') - before)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "chain.onnx")]
    assert int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) < 40 * 8_000_000 / 4
