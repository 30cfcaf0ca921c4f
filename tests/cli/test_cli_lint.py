"""`edgeq lint`: tables, JSON, exit statuses, chosen rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from command import Edgeq, assert_refused
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeq.lint.registry import RULES
from edgeq.lint.report import LintReport


def _model(path: Path, zero: int = 0, *, free: bool = False, overflowing: bool = False) -> Path:
    """A pair before an addition; a constant that FP16 does not hold."""
    constants: dict[str, NDArray[Any]] = {"scale": np.array(0.1, np.float32), "zero": np.array(zero, np.int8)}
    constants["added"] = np.array(1e9 if overflowing else 1, np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], name="quantize"),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"], name="dequantize"),
            helper.make_node("Mul", ["dq", "added"], ["y"], name="multiply"),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n" if free else 1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n" if free else 1, 4])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


def test_a_clean_file_is_status_0(edgeq: Edgeq, tmp_path: Path) -> None:
    done = edgeq("lint", _model(tmp_path / "model.onnx"), "--ignore", "mostly-fp32", "--strict")
    assert done.status == 0, done.err
    assert "0 errors, 0 warnings, 0 notes." in done.out


def test_an_error_is_status_1_and_names_rule_place_and_advice(edgeq: Edgeq, tmp_path: Path) -> None:
    done = edgeq("lint", _model(tmp_path / "model.onnx", zero=3))
    assert done.status == 1
    for part in ("TRT101", "quantize", "zero point 3", "quantize symmetrically", "2 errors"):
        assert part in done.out


@pytest.mark.parametrize(
    ("flags", "status"), [([], 0), (["--strict"], 1), (["--strict", "--ignore", "TRT401,TRT3"], 0)]
)
def test_warnings_count_where_they_are_asked_to(edgeq: Edgeq, tmp_path: Path, flags: list[str], status: int) -> None:
    done = edgeq("lint", _model(tmp_path / "model.onnx", overflowing=True), *flags)
    assert done.status == status, done.err


def test_json_of_two_files_is_one_report(edgeq: Edgeq, tmp_path: Path) -> None:
    clean, broken = _model(tmp_path / "a.onnx", free=True), _model(tmp_path / "b.onnx", zero=3)
    done = edgeq("lint", clean, broken, "--json", "--select", "TRT1", "--select", "free-axes")
    assert done.status == 1
    report = LintReport.model_validate_json(done.out)
    assert [each.file for each in report.files] == [str(clean), str(broken)]
    assert [[each.rule for each in file.findings] for file in report.files] == [["TRT008"], ["TRT101", "TRT101"]]
    assert json.loads(done.out)["files"][1]["findings"][0]["source"].startswith("onnx-tensorrt")


def test_all_rules_are_listed(edgeq: Edgeq) -> None:
    done = edgeq("lint", "--list-rules")
    assert done.status == 0
    assert all(rule.number in done.out for rule in RULES)


def test_what_cannot_be_read_is_status_2(edgeq: Edgeq, tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    assert_refused(edgeq("lint", tmp_path / "text.onnx"), "text.onnx")
    assert_refused(edgeq("lint", tmp_path / "none.onnx"), "none.onnx")
    assert_refused(edgeq("lint", _model(tmp_path / "model.onnx"), "--select", "TRT9"), "TRT9")
    assert edgeq("lint").status == 2
