"""The ONNX Runtime engine: what it runs, what it refuses, and in which words."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeq.engine.onnxruntime import OnnxRuntimeEngine, default_threads, executed_operators
from edgeq.errors import EngineError


def network() -> onnx.ModelProto:
    """x [n, 2] -> twice = x + x -> y = max(twice, 0)."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["twice"]), helper.make_node("Relu", ["twice"], ["y"])],
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2]),
            helper.make_tensor_value_info("twice", TensorProto.FLOAT, ["batch", 2]),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


X = np.array([[1.0, -2.0]], np.float32)


def test_all_outputs_some_and_none() -> None:
    engine = OnnxRuntimeEngine(network().SerializeToString(), threads=1)
    assert (engine.inputs, engine.outputs) == (("x",), ("y", "twice"))
    found = engine.run({"x": X})
    assert found["y"].tolist() == [[2.0, 0.0]]
    assert found["twice"].tolist() == [[2.0, -4.0]]
    assert set(engine.run({"x": X}, ["y"])) == {"y"}
    assert engine.run({"x": X}, []) == {}


def test_a_file_is_as_good_as_bytes(tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "m.onnx")
    assert OnnxRuntimeEngine(tmp_path / "m.onnx").run({"x": X}, ["y"])["y"].tolist() == [[2.0, 0.0]]


def test_what_is_no_graph_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"not a graph")
    with pytest.raises(EngineError, match=r"refuses .*m\.onnx"):
        OnnxRuntimeEngine(tmp_path / "m.onnx")


def test_a_wrong_shape_or_name_is_an_engine_error() -> None:
    engine = OnnxRuntimeEngine(network().SerializeToString())
    with pytest.raises(EngineError, match="failed while running"):
        engine.run({"x": np.zeros((1, 3), np.float32)})
    with pytest.raises(EngineError, match="failed while running"):
        engine.run({"z": X})


def test_executed_operators_are_those_of_the_file_where_nothing_fuses(tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "m.onnx")
    assert executed_operators(tmp_path / "m.onnx") == {"Add": 1, "Relu": 1}


def test_there_is_at_least_one_thread() -> None:
    assert default_threads() >= 1


@pytest.mark.parametrize(("setting", "left"), [(None, False), ("1", False), ("0", True)])
def test_onnxruntime_tells_nobody_unless_it_is_asked_to(tmp_path: Path, setting: str | None, left: bool) -> None:
    """From 1.29 on it reports to Microsoft by default, and leaves a device's number and a database in ~/.cache.

    The environment has nothing else: in what looks like continuous integration ONNX Runtime is silent by itself.
    """
    environment = {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    if setting is not None:
        environment["ORT_DISABLE_TELEMETRY"] = setting
    subprocess.run([sys.executable, "-c", "import edgeq, onnxruntime"], env=environment, check=True)
    assert bool(list(tmp_path.rglob("onnxruntime.db"))) == left
