"""Every output of an FP16 graph is held against FP32 by itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from answers import give
from networks import SIDE, tiny_network
from onnx import numpy_helper

from edgeq.errors import ParityError
from edgeq.plan.rules import plan_float
from edgeq.quantize.fp16.convert import to_fp16
from edgeq.quantize.fp16.prove import prove_fp16


def detector(pixels: float) -> onnx.ModelProto:
    """Logits, a map of boxes in pixels, and the place of the largest."""
    nodes = [
        ("Mul", ["residual_relu", "pixels"], ["boxes"]),
        ("ArgMax", ["flat"], ["place"], {"axis": 1}),
    ]
    constants = {"pixels": np.array(pixels, np.float32)}
    return give(tiny_network(), nodes, ["logits", "boxes", "place"], constants=constants, integers=["place"])


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
