"""What is read of a file: no weight but its range, within bounds; what is no whole file is refused."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from lint_graphs import CHANNELS, made, network, node
from onnx import helper, numpy_helper
from onnx.external_data_helper import convert_model_to_external_data

import edgeq
from edgeq.errors import EdgeqError, InputError, LimitError, ModelError
from edgeq.lint import load
from edgeq.lint.load import load_graph
from edgeq.lint.registry import RULES, choose_rules
from edgeq.lint.run import lint_file
from edgeq.lint.stored import stored_range
from edgeq.model.graph.onnx_bounds import MOST_NODES


def _saved(path: Path, model: onnx.ModelProto | None = None) -> Path:
    path.write_bytes((model or made(*network())).SerializeToString())
    return path


def _many_scales(channels: int = 1024) -> onnx.ModelProto:
    """Scales that are large enough to be no part of an outline."""
    nodes, constants = network()
    constants["second"] = np.ones((channels, CHANNELS, 1, 1), np.int8)
    constants["second.scale"] = np.full(channels, -1, np.float16)
    constants["second.zero"] = np.zeros(channels, np.int8)
    return made(
        [each for each in nodes if each.name in ("half", "half.q", "half.dq", "second.dq")],
        constants,
        outputs=("half.dq", "second.dq"),
    )


def test_large_scales_are_read_and_weights_are_not(tmp_path: Path) -> None:
    graph = load_graph(_saved(tmp_path / "model.onnx", _many_scales()))
    assert graph.values("second") is None
    scale = graph.values("second.scale")
    assert scale is not None
    assert scale.shape == (1024,)
    assert {each.rule for each in lint_file(tmp_path / "model.onnx").findings if each.where == "second.dq"} >= {
        "TRT104"
    }


def _weighted() -> onnx.ModelProto:
    weight = np.full((64, 64), 0.5, np.float32)
    weight[3, 7] = 70000
    nodes = [node("MatMul", ["x", "weight"], "y")]
    return made(nodes, {"weight": weight}, shape=(1, 64))


@pytest.mark.parametrize("external", [False, True])
def test_ranges_are_found_where_weights_lie(external: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeq.lint.stored._PIECE", 100)
    model = _weighted()
    if external:
        convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    onnx.save(model, tmp_path / "model.onnx")
    findings = lint_file(tmp_path / "model.onnx").findings
    assert [(each.rule, each.where) for each in findings if each.level == "warning"] == [("TRT401", "weight")]
    assert [each.where for each in findings if each.rule == "TRT011"] == (["weights.bin"] if external else [])


def test_a_range_is_that_of_all_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeq.lint.stored._PIECE", 7)
    values = np.concatenate([np.full(10, 1e-9), [np.inf, -3.0], np.full(20, 1e-9)]).astype(np.float32)
    tensor = numpy_helper.from_array(values, "values")
    found = stored_range(tensor, tmp_path / "model.onnx")
    assert (found.peak, found.infinite) == (3.0, True)
    assert found.lost < 1e-6, "-3 is nearly all of its length"
    assert stored_range(numpy_helper.from_array(values[:10], "values"), tmp_path).lost == 1.0


def _cut_data(path: Path) -> None:
    model = _weighted()
    convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    onnx.save(model, path)
    data = path.with_name("weights.bin")
    data.write_bytes(data.read_bytes()[:-4])


def _outside(path: Path) -> None:
    model = _weighted()
    convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    onnx.save(model, path)
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = "../weights.bin"
    path.write_bytes(model.SerializeToString())


def _short_scale(path: Path) -> None:
    model = made(*network())
    next(each for each in model.graph.initializer if each.name == "relu.scale").raw_data = b"\0"
    _saved(path, model)


def _circle(path: Path) -> None:
    nodes = [node("Relu", ["b"], "a"), node("Relu", ["a"], "b"), node("Add", ["a", "x"], "y")]
    _saved(path, made(nodes, {}))


def _without_scale(path: Path) -> None:
    model = made(*network())
    pair = next(each for each in model.graph.node if each.name == "relu.q")
    del pair.input[1:]
    _saved(path, model)


def _no_text(path: Path) -> None:
    """The graph's name is no UTF-8."""
    data = made(*network()).SerializeToString()
    path.write_bytes(data.replace(b"\x12\x04test", b"\x12\x04tes\xff"))


REFUSED: dict[str, tuple[Callable[[Path], object], type[Exception]]] = {
    "missing": (lambda path: path.unlink(missing_ok=True), ModelError),
    "a directory": (lambda path: path.mkdir(), ModelError),
    "empty": (lambda path: path.write_bytes(b""), ModelError),
    "text": (lambda path: path.write_text("no model\n" * 9), ModelError),
    "cut short": (lambda path: path.write_bytes(made(*network()).SerializeToString()[:-9]), ModelError),
    "weights cut short": (_cut_data, ModelError),
    "weights outside": (_outside, ModelError),
    "a scale cut short": (_short_scale, ModelError),
    "a pair without a scale": (_without_scale, ModelError),
    "a name that is no text": (_no_text, ModelError),
    "a circle": (_circle, ModelError),
    "too many nodes": (
        lambda path: _saved(path, made([node("Relu", ["x"], "y")] * (MOST_NODES + 1), {})),
        LimitError,
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_is_no_whole_graph_is_refused(fault: str, tmp_path: Path) -> None:
    spoil, error = REFUSED[fault]
    spoil(tmp_path / "model.onnx")
    with pytest.raises(error, match=r"model\.onnx|weights\.bin"):
        edgeq.lint_model(tmp_path / "model.onnx")


def test_too_much_is_refused_by_cheap_facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _saved(tmp_path / "model.onnx")
    monkeypatch.setattr(load, "_MOST_TENSORS", 3)
    with pytest.raises(LimitError, match="tensors"):
        load_graph(path)
    with (tmp_path / "large.onnx").open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(ModelError, match="2 GiB"):
        load_graph(tmp_path / "large.onnx")


def test_functions_are_written_out(tmp_path: Path) -> None:
    body = [helper.make_node("MaxUnpool", ["a", "b"], ["c"], kernel_shape=[2, 2])]
    function = helper.make_function("own", "Pools", ["a", "b"], ["c"], body, [helper.make_opsetid("", 19)])
    model = made([node("Pools", ["x", "x"], "y", domain="own")], {})
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.functions.append(function)
    findings = lint_file(_saved(tmp_path / "model.onnx", model)).findings
    assert ["MaxUnpool" in each.what for each in findings if each.rule == "TRT001"] == [True]


def test_rules_are_chosen_by_number_beginning_and_name() -> None:
    assert choose_rules() == RULES
    assert {rule.number[:4] for rule in choose_rules(["TRT2"])} == {"TRT2"}
    assert [rule.number for rule in choose_rules(["zero-point", "trt303"], ["TRT3"])] == ["TRT101"]
    with pytest.raises(InputError, match="no rule is called 'zero-pont'") as caught:
        choose_rules(["zero-pont"])
    assert "zero-point" in str(caught.value)
    with pytest.raises(InputError):
        choose_rules([""])


def test_shares_of_types_are_those_of_the_network(tmp_path: Path) -> None:
    """Numbers: the image in FP16 goes into a pair of 192; each convolution's result is a pair of 1,024."""
    report = lint_file(_saved(tmp_path / "model.onnx"))
    integers, half, wide = 192 + 1024 + 1024, 16 * 3, 16 + 3
    whole = integers + half + wide
    assert report.written == pytest.approx(
        {"INT8": 100 * integers / whole, "FP16": 100 * half / whole, "FP32": 100 * wide / whole}
    )
    assert sum(report.computed.values()) == pytest.approx(100)


@pytest.mark.parametrize("seed", range(40))
def test_what_is_damaged_is_read_or_refused(seed: int, tmp_path: Path) -> None:
    """Bytes changed at random: no other error than edgeq's own."""
    rng = np.random.default_rng(seed)
    data = bytearray(made(*network()).SerializeToString())
    for place in rng.integers(0, len(data), 3):
        data[place] ^= 1 << int(rng.integers(0, 8))
    (tmp_path / "model.onnx").write_bytes(data)
    with contextlib.suppress(EdgeqError):
        lint_file(tmp_path / "model.onnx")


def test_an_attribute_of_another_kind_and_a_type_that_is_none_are_passed_over(tmp_path: Path) -> None:
    model = made(*network())
    for each in model.graph.node:
        for attribute in each.attribute:
            if attribute.name == "axis":
                attribute.type = onnx.AttributeProto.STRING
    cast = next(each for each in model.graph.node if each.name == "wide")
    cast.attribute[0].i = 99
    assert lint_file(_saved(tmp_path / "model.onnx", model)).nodes == len(model.graph.node)
