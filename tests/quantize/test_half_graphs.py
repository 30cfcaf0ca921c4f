"""What `engine.json` says of a graph that is FP16 by its scales alone, with no Cast in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeq.model.graph.onnx_file import save_onnx
from edgeq.plan.rules import plan_classifier
from edgeq.quantize.engine_inputs import write_text_inputs
from edgeq.tensorrt.inputs import ENGINE_INPUTS

FP32, TRT = "model.fp32.onnx", "model.int8.trt.onnx"


def head(*scales: onnx.TensorProto, cast: bool = False) -> onnx.ModelProto:
    """A linear layer, and constants of which only the types are looked at."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="head")]
    if cast:
        nodes.append(helper.make_node("Cast", ["y"], ["z"], name="cast", to=TensorProto.FLOAT))
    graph = helper.make_graph(
        nodes,
        "head",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("z" if cast else "y", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(np.ones((4, 2), np.float32), "w"), *scales],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


@pytest.mark.parametrize(
    ("kind", "cast", "half"), [(np.float16, False, True), (np.float16, True, False), (np.float32, False, False)]
)
def test_scales_alone_can_make_a_graph_fp16(tmp_path: Path, kind: type, cast: bool, half: bool) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    save_onnx(head(), folder / FP32)
    save_onnx(head(numpy_helper.from_array(np.array(0.5, kind), "scale"), cast=cast), folder / TRT)
    plan_classifier(head()).save(folder / "plan.yaml")
    made = write_text_inputs(tmp_path, "text", folder / "plan.yaml", batch=(1, 1, 1), lengths={})
    assert made.graphs["explicit"].half is half
    assert ('"half"' in (folder / ENGINE_INPUTS).read_text()) is half
