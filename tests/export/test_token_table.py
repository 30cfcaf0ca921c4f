"""Token tables in FP16."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.export.token_table import token_table_in_fp16

TABLE = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
IDS = np.array([[3, 49, 0], [7, 7, 1]])


def reading(table: np.ndarray[tuple[int, ...], np.dtype[np.float32]], *, twice: bool = False) -> onnx.ModelProto:
    """Rows of a table, and where `twice`, the table itself beside them."""
    nodes = [
        helper.make_node("Unsqueeze", ["ids", "axes"], ["lifted"], "lift"),
        helper.make_node("Squeeze", ["lifted", "axes"], ["moved"], "settle"),
        helper.make_node("Gather", ["table", "moved"], ["rows"], "tokens"),
    ]
    outputs = [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["batch", "length", 8])]
    if twice:
        nodes.append(helper.make_node("Abs", ["table"], ["sizes"], "other"))
        outputs.append(helper.make_tensor_value_info("sizes", TensorProto.FLOAT, [50, 8]))
    constants = [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([0]), "axes")]
    given = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "length"])
    graph = helper.make_graph(nodes, "g", [given], outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_rows_are_those_of_the_table_rounded_and_it_takes_half() -> None:
    model = reading(TABLE)
    made = token_table_in_fp16(model, "ids")
    onnx.checker.check_model(made, full_check=True)
    assert made.graph.initializer[0].data_type == TensorProto.FLOAT16
    assert made.ByteSize() < model.ByteSize() - TABLE.nbytes // 2 + 200
    rows = OnnxRuntimeEngine(made.SerializeToString()).run({"ids": IDS})["rows"]
    np.testing.assert_array_equal(rows, TABLE.astype(np.float16).astype(np.float32)[IDS])
    assert model.graph.initializer[0].data_type == TensorProto.FLOAT, "the one given is as it was"


@pytest.mark.parametrize("why", ["another reader", "beyond FP16", "no ids"])
def test_a_table_that_stays(why: str) -> None:
    table = TABLE.copy()
    if why == "beyond FP16":
        table[3, 3] = 7e4
    model = reading(table, twice=why == "another reader")
    made = token_table_in_fp16(model, "other" if why == "no ids" else "ids")
    assert made.graph.initializer[0].data_type == TensorProto.FLOAT
    assert [node.op_type for node in made.graph.node] == [node.op_type for node in model.graph.node]
