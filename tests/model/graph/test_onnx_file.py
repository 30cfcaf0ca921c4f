"""ONNX files: what is read is whole and uniform, what is written comes back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeq.errors import ModelError, OutputError
from edgeq.model.graph.onnx_file import load_onnx, save_onnx


def small_model(opset: int = 17, ir_version: int = 8) -> onnx.ModelProto:
    """Conv 3x3, Relu, global pooling, Flatten, Gemm: [batch, 3, 8, 8] -> [batch, 5]."""
    random = np.random.default_rng(0)
    weights = {
        "w": random.normal(size=(16, 3, 3, 3)),
        "b": random.normal(size=16),
        "fc.w": random.normal(size=(5, 16)),
        "fc.b": random.normal(size=5),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["r"], name="relu"),
            helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"),
            helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
            helper.make_node("Gemm", ["f", "fc.w", "fc.b"], ["y"], name="fc", transB=1),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def names_in(directory: Path) -> list[str]:
    """What lies in a directory, hidden files too, sorted."""
    return sorted(file.name for file in directory.iterdir())


def run(model: onnx.ModelProto, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """The first output of a model."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    output: NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: pixels})[0]
    return output


def test_a_model_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    model = small_model()
    save_onnx(model, tmp_path / "a.onnx")
    assert load_onnx(tmp_path / "a.onnx") == model
    assert names_in(tmp_path) == ["a.onnx"]


def test_saving_is_deterministic_and_lowers_the_ir_version_of_a_copy(tmp_path: Path) -> None:
    model = small_model(ir_version=11)
    save_onnx(model, tmp_path / "a.onnx")
    save_onnx(model, tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert load_onnx(tmp_path / "a.onnx").ir_version == 10
    assert model.ir_version == 11


def test_external_data_comes_back_and_runs(tmp_path: Path) -> None:
    model = small_model()
    save_onnx(model, tmp_path / "a.onnx", external_over=100)
    assert names_in(tmp_path) == ["a.onnx", "a.onnx.data"]
    assert load_onnx(tmp_path / "a.onnx") == model
    pixels = np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(tmp_path / "a.onnx"), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"x": pixels})[0], run(model, pixels))


def test_an_unwritable_place_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot be written"):
        save_onnx(small_model(), tmp_path / "file" / "a.onnx")


def test_the_real_network_loads_and_runs_as_it_lies_there(shared_data: Path) -> None:
    path = shared_data / "cifar10-resnet20" / "model.onnx"
    pixels = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(run(load_onnx(path), pixels), session.run(None, {"pixel_values": pixels})[0])


def test_initializers_are_taken_off_the_inputs(tmp_path: Path) -> None:
    model = small_model()
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [16, 3, 3, 3]))
    onnx.save(model, tmp_path / "a.onnx")
    assert [value.name for value in load_onnx(tmp_path / "a.onnx").graph.input] == ["x"]


def test_local_functions_are_inlined(tmp_path: Path) -> None:
    model = small_model()
    model.functions.append(
        helper.make_function(
            "local", "Act", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], [helper.make_opsetid("", 17)]
        )
    )
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.graph.node[1].CopyFrom(helper.make_node("Act", ["c"], ["r"], domain="local"))
    onnx.save(model, tmp_path / "a.onnx")
    loaded = load_onnx(tmp_path / "a.onnx")
    assert [node.op_type for node in loaded.graph.node] == ["Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]
    assert not loaded.functions


@pytest.mark.parametrize("op", ["QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv"])
def test_a_quantized_model_is_refused(tmp_path: Path, op: str) -> None:
    model = small_model()
    model.graph.node[1].op_type = op
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(ModelError, match=rf"already quantized: its node 'relu' is a {op}"):
        load_onnx(tmp_path / "a.onnx")


def test_an_output_nobody_computes_is_refused(tmp_path: Path) -> None:
    model = small_model()
    model.graph.output[0].name = "elsewhere"
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(ModelError, match=r"no node computes the output 'elsewhere'"):
        load_onnx(tmp_path / "a.onnx")


@pytest.mark.parametrize("part", ["node", "input", "output"])
def test_a_graph_without_a_part_is_refused(tmp_path: Path, part: str) -> None:
    model = small_model()
    model.graph.ClearField(part)
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(ModelError, match=f"no {part}s"):
        load_onnx(tmp_path / "a.onnx")


def test_a_model_too_large_for_the_checker_is_checked_without_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeq.model.graph.onnx_checks._CHECKER_BYTES", 100)
    model = small_model()
    onnx.save(model, tmp_path / "a.onnx")
    assert load_onnx(tmp_path / "a.onnx") == model
    model.graph.node[4].input[0] = "nowhere"
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(ModelError, match="not a valid ONNX model"):
        load_onnx(tmp_path / "a.onnx")


def test_a_graph_the_checker_refuses_is_an_error(tmp_path: Path) -> None:
    model = small_model()
    model.graph.node[4].input[0] = "nowhere"
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(ModelError, match="not a valid ONNX model"):
        load_onnx(tmp_path / "a.onnx")


@pytest.mark.parametrize("change", [-4, 4])
def test_a_tensor_without_its_whole_data_is_refused(tmp_path: Path, change: int) -> None:
    model = small_model()
    raw = model.graph.initializer[0].raw_data
    model.graph.initializer[0].raw_data = raw[:change] if change < 0 else raw + bytes(change)
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(ModelError, match=r"tensor 'w' of shape .* does not have its whole data"):
        load_onnx(tmp_path / "a.onnx")


def test_nan_in_a_weight_is_said(tmp_path: Path) -> None:
    model = small_model()
    tensor = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    values = numpy_helper.to_array(tensor).copy()
    values.reshape(-1)[[1, 5]] = np.nan
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ModelError, match=rf"NaN in weight '{tensor.name}': 2 of {values.size:,} numbers"):
        load_onnx(tmp_path / "model.onnx")


def test_missing_directories_and_empty_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(ModelError, match="does not exist"):
        load_onnx(tmp_path / "no.onnx")
    with pytest.raises(ModelError, match="cannot be read: File name too long"):
        load_onnx(tmp_path / ("x" * 5000))
    with pytest.raises(ModelError, match="is a directory"):
        load_onnx(tmp_path)
    with pytest.raises(ModelError, match="is empty"):
        load_onnx(tmp_path / "empty.onnx")


def test_missing_and_short_external_data_is_named(tmp_path: Path) -> None:
    save_onnx(small_model(), tmp_path / "a.onnx", external_over=100)
    data = tmp_path / "a.onnx.data"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"a\.onnx\.data is too short"):
        load_onnx(tmp_path / "a.onnx")
    data.unlink()
    with pytest.raises(ModelError, match=r"a\.onnx\.data is missing"):
        load_onnx(tmp_path / "a.onnx")
