"""Every output of an FP16 graph is held against FP32 by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from answers import give
from networks import SIDE, tiny_network
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeq.errors import ParityError
from edgeq.plan.rules import plan_float
from edgeq.quantize.fp16.convert import to_fp16
from edgeq.quantize.fp16.overflow import Feeds
from edgeq.quantize.fp16.prove import prove_fp16, prove_judged_fp16


def detector(pixels: float) -> onnx.ModelProto:
    """Logits, a map of boxes in pixels, and the place of the largest."""
    nodes = [
        ("Mul", ["residual_relu", "pixels"], ["boxes"]),
        ("ArgMax", ["flat"], ["place"], {"axis": 1}),
    ]
    constants = {"pixels": np.array(pixels, np.float32)}
    return give(tiny_network(), nodes, ["logits", "boxes", "place"], constants=constants, integers=["place"])


def ranked(largest: float) -> onnx.ModelProto:
    """Logits, and a box for each class, the likeliest first; the scores are told apart by less than FP16 rounds."""
    nodes = [
        ("Mul", ["logits", "tiny"], ["near"]),
        ("Add", ["near", "offset"], ["scores"]),
        ("TopK", ["scores", "three"], ["best", "places"], {"axis": 1}),
        ("Gather", ["boxes", "places"], ["found"], {"axis": 0}),
        ("Mul", ["found", "largest"], ["listed"]),
    ]
    constants: dict[str, NDArray[Any]] = {
        "tiny": np.array(1e-3, np.float32),
        "offset": np.array(1000.0, np.float32),  # where a step of FP16 is 0.5
        "three": np.array([3], np.int64),
        "boxes": np.eye(3, 4, dtype=np.float32),
        "largest": np.array(largest, np.float32),
    }
    return give(tiny_network(), nodes, ["logits", "listed"], constants=constants)


def in_fp16(model: onnx.ModelProto, tmp_path: Path) -> tuple[Path, onnx.ModelProto, list[Feeds]]:
    """FP32 in a file, all of it in FP16, and eight images."""
    graph = tmp_path / "model.fp32.onnx"
    onnx.save(model, graph)
    rng = np.random.default_rng(1)
    runs: list[Feeds] = [{"pixel_values": rng.standard_normal((1, 3, SIDE, SIDE)).astype(np.float32)} for _ in range(8)]
    return graph, to_fp16(model, plan_float(model, because="to try it")), runs


def test_a_list_whose_order_is_rounding_is_left_to_what_judges_it(tmp_path: Path) -> None:
    graph, half, runs = in_fp16(ranked(1.0), tmp_path)
    with pytest.raises(ParityError, match="FP16 in the output listed sees something else"):
        prove_fp16(graph, half, runs, threads=1)
    prove_judged_fp16(graph, half, runs, threads=1)
    alone = give(ranked(1.0), (), ["listed"])
    graph, half, runs = in_fp16(alone, tmp_path)
    prove_judged_fp16(graph, half, runs, threads=1)


def test_a_list_must_be_finite_and_other_outputs_are_held_to_the_bound(tmp_path: Path) -> None:
    graph, half, runs = in_fp16(ranked(6e4), tmp_path)
    prove_judged_fp16(graph, half, runs, threads=1)
    for name, factor, said in (("boxes", 2.0, "NaN or infinity in the output listed"), ("head.", 2.0, "logits")):
        wrong = onnx.ModelProto()
        wrong.CopyFrom(half)
        for tensor in wrong.graph.initializer:
            if tensor.name.startswith(name):
                value = numpy_helper.to_array(tensor)
                tensor.CopyFrom(numpy_helper.from_array(value * value.dtype.type(factor), tensor.name))
        with pytest.raises(ParityError, match=said):
            prove_judged_fp16(graph, wrong, runs, threads=1)


def test_the_worst_output_is_told_and_another_one_is_refused(tmp_path: Path) -> None:
    graph = tmp_path / "model.fp32.onnx"
    onnx.save(detector(300.0), graph)
    rng = np.random.default_rng(1)
    runs = [{"pixel_values": rng.standard_normal((1, 3, SIDE, SIDE)).astype(np.float32)} for _ in range(3)]
    half = to_fp16(detector(300.0), plan_float(detector(300.0), because="to try it"))
    parity = prove_fp16(graph, half, runs, threads=1)
    assert parity.pictures == 3
    assert 0 < parity.worst_relative < 1e-2
    for tensor in half.graph.initializer:
        if tensor.name.startswith("pixels"):
            value = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(value * value.dtype.type(1.25), tensor.name))
    with pytest.raises(ParityError, match="FP16 in the output boxes sees something else"):
        prove_fp16(graph, half, runs, threads=1)
