"""The OpenVINO engine: the same answers as ONNX Runtime, what it refuses, threads, and that it tells nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from networks import SIDE, tiny_network
from onnx import TensorProto, helper

from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.engine.openvino import OpenVinoEngine, executed_layers
from edgeq.errors import EngineError


def network(inputs: tuple[str, ...] = ("x",)) -> onnx.ModelProto:
    """x [n, 2] -> twice = x + (the last input) -> y = max(twice, 0)."""
    nodes = [helper.make_node("Add", ["x", inputs[-1]], ["twice"]), helper.make_node("Relu", ["twice"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in ("y", "twice")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


X = np.array([[1.0, -2.0]], np.float32)


@pytest.fixture(scope="module")
def engine() -> OpenVinoEngine:
    return OpenVinoEngine(network().SerializeToString(), threads=1)


def pixels(count: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-2, 2, (count, 3, SIDE, SIDE)).astype(np.float32)


def test_all_outputs_some_and_none(engine: OpenVinoEngine) -> None:
    assert (engine.inputs, engine.outputs) == (("x",), ("y", "twice"))
    found = engine.run({"x": X})
    assert found["y"].tolist() == [[2.0, 0.0]]
    assert found["twice"].tolist() == [[2.0, -4.0]]
    assert set(engine.run({"x": X}, ["y"])) == {"y"}
    assert engine.run({"x": X}, []) == {}


def test_answers_outlive_the_next_run(engine: OpenVinoEngine) -> None:
    first = engine.run({"x": X})["y"]
    engine.run({"x": 5 * X})
    assert first.tolist() == [[2.0, 0.0]]


@pytest.mark.parametrize("batch", [None, 4])
def test_the_answers_are_those_of_onnxruntime(batch: int | None) -> None:
    """Both sum in FP32, in another order: each operation is off by 2^-24 at most.

    Four layers, none with sums of more than 64 terms: 4 * 64 * 2^-24 = 1.5e-5 of the terms, which are some times as
    large as their sum; so 1e-4 of the largest logit. bfloat16, the default here, has 2^-9 = 2e-3 an operation.
    """
    model = tiny_network().SerializeToString()
    ours = OpenVinoEngine(model, threads=1, batch=batch).run({"pixel_values": pixels(4)})["logits"]
    theirs = OnnxRuntimeEngine(model, threads=1).run({"pixel_values": pixels(4)})["logits"]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


def test_an_array_that_lies_across(engine: OpenVinoEngine) -> None:
    """A view of the columns of another array, which OpenVINO cannot read where it lies."""
    across = np.asfortranarray(np.array([[1.0, -2.0], [3.0, 4.0]], np.float32))
    assert engine.run({"x": across}, ["twice"])["twice"].tolist() == [[2.0, -4.0], [6.0, 8.0]]


def test_a_file_is_as_good_as_bytes(tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "m.onnx")
    assert OpenVinoEngine(tmp_path / "m.onnx").run({"x": X}, ["y"])["y"].tolist() == [[2.0, 0.0]]


def test_what_is_no_graph_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"not a graph")
    with pytest.raises(EngineError, match=r"OpenVINO .* refuses .*m\.onnx"):
        OpenVinoEngine(tmp_path / "m.onnx")
    with pytest.raises(EngineError, match="refuses the graph"):
        OpenVinoEngine(b"not a graph")
    with pytest.raises(EngineError, match=r"refuses .*nowhere\.onnx"):
        OpenVinoEngine(tmp_path / "nowhere.onnx")


def test_names_that_the_graph_has_not(engine: OpenVinoEngine) -> None:
    for feeds, names in (({}, None), ({"z": X}, None), ({"x": X, "z": X}, None), ({"x": X}, ["z"])):
        with pytest.raises(EngineError, match="failed while running") as refused:
            engine.run(feeds, names)
        assert "inputs x" in refused.value.expected


def test_a_missing_input_is_not_the_last_runs() -> None:
    both = OpenVinoEngine(network(("x", "other")).SerializeToString(), threads=1, batch=1)
    assert both.run({"x": X, "other": X}, ["twice"])["twice"].tolist() == [[2.0, -4.0]]
    with pytest.raises(EngineError, match="failed while running"):
        both.run({"x": X}, ["twice"])


@pytest.mark.parametrize("kind", [np.float64, np.int64, np.uint8])
def test_other_types_are_not_converted(engine: OpenVinoEngine, kind: type[np.generic]) -> None:
    with pytest.raises(EngineError) as refused:
        engine.run({"x": np.abs(X).astype(kind)})
    assert refused.value.expected == "x of float32"
    assert refused.value.causes == (f"it is {np.dtype(kind)}",)


def test_shapes_that_do_not_fit(engine: OpenVinoEngine) -> None:
    with pytest.raises(EngineError, match="failed while running"):
        engine.run({"x": np.zeros((1, 3), np.float32)})


def test_a_batch_that_was_fixed_is_fixed() -> None:
    two = OpenVinoEngine(network().SerializeToString(), threads=1, batch=2)
    assert two.run({"x": np.repeat(X, 2, axis=0)}, ["y"])["y"].tolist() == [[2.0, 0.0]] * 2
    with pytest.raises(EngineError, match="failed while running"):
        two.run({"x": X})


def test_threads_run_together() -> None:
    """Each has another image, and gets its own answer every time."""
    engine = OpenVinoEngine(tiny_network().SerializeToString(), threads=1)
    images = pixels(4)
    wanted = [engine.run({"pixel_values": image[None]})["logits"].tolist() for image in images]

    def ask(number: int) -> bool:
        found = [engine.run({"pixel_values": images[number][None]})["logits"].tolist() for _ in range(50)]
        return found == [wanted[number]] * 50

    with ThreadPoolExecutor(len(images)) as together:
        assert all(together.map(ask, range(len(images))))


def test_executed_layers_of_a_float_graph() -> None:
    found = executed_layers(tiny_network().SerializeToString())
    folded = ("stem_bn", "depthwise_bn", "pointwise_bn")  # by OpenVINO, which then names the convolution so
    assert {found[name] for name in folded} == {"f32"}
    assert found["logits"] == "f32"  # the head, by the output that it makes
    assert "" not in found


def test_it_tells_nobody(tmp_path: Path) -> None:
    """OpenVINO's own import would leave ~/intel and a report to Google Analytics."""
    onnx.save(network(), tmp_path / "m.onnx")
    home = tmp_path / "home"
    home.mkdir()
    code = """
import sys
from pathlib import Path
from edgeq.engine.openvino import OpenVinoEngine
assert "openvino" not in sys.modules
engine = OpenVinoEngine(Path(sys.argv[1]))
assert "openvino" in sys.modules
print([name for name in sys.modules if name.startswith("openvino_telemetry")])
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "m.onnx")],
        env={**os.environ, "HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
    assert list(home.rglob("*")) == []
