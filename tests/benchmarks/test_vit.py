"""The benchmark of INT8 networks: its arithmetic, and one turn on a small network and drawn pictures."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from networks import SIDE, write_model
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from pictures import draw_pictures, zip_folder

from benchmarks import vit
from benchmarks.vit_figures import interval, measure_rounds, operator_times, paired, speed

ONE, TWO = [4.0, 1.0], [1.0, 4.0]
"""Logits that name the first class, and the second."""


def test_answers_are_held_against_those_of_the_reference_image_by_image() -> None:
    """Of five images FP32 has four right; the other is wrong on one of these and right on the fifth.

    So top-1 is the same, two of five answers differ, each by (3, -3) of logits whose square is 17.
    """
    reference = np.array([ONE, ONE, TWO, TWO, ONE], np.float32)
    candidate = np.array([ONE, TWO, TWO, TWO, TWO], np.float32)
    found = paired(reference, candidate, np.array([0, 0, 1, 1, 1]))
    assert (found.top1_reference, found.top1_candidate) == (80.0, 80.0)
    assert found.agreement == pytest.approx(60.0)
    assert found.logit_error == pytest.approx(math.sqrt(2 * 18 / (5 * 17)))
    assert interval(found) == pytest.approx(196 * math.sqrt(3) / 7)  # two discordant images and 1, of 5 and 2


def test_an_interval_is_never_empty() -> None:
    same = np.array([ONE] * 98, np.float32)
    found = paired(same, same, np.zeros(98, np.int64))
    assert interval(found) == pytest.approx(1.96)  # 196 * sqrt(1) / 100


def test_ratios_are_taken_within_a_round() -> None:
    """FP32 slows down as the machine does: 2 / 1, 8 / 2 and 9 / 3."""
    rounds = [{"fp32": 2.0, "a": 1.0}, {"fp32": 8.0, "a": 2.0}, {"fp32": 9.0, "a": 3.0}]
    found = speed("a", rounds, 1, "wall")
    assert (found.milliseconds, found.ratio, found.low, found.high) == (2.0, 3.0, 2.0, 4.0)


def test_rounds_go_on_where_they_were_stopped(tmp_path: Path) -> None:
    """Rounds are of the same graphs and setting, and every second one is taken backwards."""
    graphs = {name: tmp_path / name for name in ("fp32", "a")}
    for path in graphs.values():
        path.write_text(path.name)
    timed: list[str] = []

    def time_one(graph: Path) -> float:
        timed.append(graph.name)
        return float(len(timed))

    kept = tmp_path / "rounds.jsonl"
    measure_rounds(graphs, time_one, kept, "quiet", 1)
    rounds = measure_rounds(graphs, time_one, kept, "quiet", 2)
    assert timed == ["fp32", "a", "a", "fp32"]
    assert rounds == [{"fp32": 1.0, "a": 2.0}, {"a": 3.0, "fp32": 4.0}]
    graphs["a"].write_text("made anew")
    assert len(measure_rounds(graphs, time_one, kept, "quiet", 1)) == 1
    assert len(measure_rounds(graphs, time_one, kept, "busy", 1)) == 1
    assert len(timed) == 8


def test_operators_by_what_they_read(tmp_path: Path) -> None:
    """One product on integers between two conversions, and a Softmax on what comes out."""
    graph = tmp_path / "small.onnx"
    scale = ["scale", "zero"]
    constants: dict[str, NDArray[Any]] = {
        "scale": np.array(0.02, np.float32),
        "zero": np.array(128, np.uint8),
        "weight": np.full((4, 3), 130, np.uint8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["pixels", *scale], ["q"]),
        helper.make_node("QLinearMatMul", ["q", *scale, "weight", *scale, *scale], ["p"]),
        helper.make_node("DequantizeLinear", ["p", *scale], ["y"]),
        helper.make_node("Softmax", ["y"], ["logits"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size])
        for name, size in (("pixels", 4), ("logits", 3))
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    whole = helper.make_graph(nodes, "small", ends[:1], ends[1:], tensors)
    onnx.save(helper.make_model(whole, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), graph)
    found = {
        (row.operator, row.kind, row.nodes) for row in operator_times(graph, np.ones((1, 4), np.float32), threads=1)
    }
    assert found == {
        ("QuantizeLinear", "conversion", 1),
        ("QLinearMatMul", "integer", 1),
        ("DequantizeLinear", "conversion", 1),
        ("Softmax", "float", 1),
    }


def test_one_turn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was made and measured once is not made again; other images want another directory."""
    write_model(tmp_path / "model")
    for name, each, seed in (("train", 4, 0), ("test", 5, 1)):
        zip_folder(draw_pictures(tmp_path / name, each, side=SIDE, seed=seed), tmp_path / f"{name}.zip")
    flags = ["--model", str(tmp_path / "model"), "--data", str(tmp_path), "--work", str(tmp_path / "work")]
    flags += ["--calibration-images", "12", "--only", "ort-minmax", "default", "--rounds", "1", "--seconds", "0.01"]
    assert vit.main([*flags, "--json", str(tmp_path / "figures.json")]) == 0
    printed = capsys.readouterr().out
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [row["name"] for row in figures["rows"]] == ["fp32", "ort-minmax", "default"]
    assert [row["title"] in printed for row in figures["rows"]] == [True] * 3
    assert figures["labelled_images"] == 15
    reference, _, ours = figures["rows"]
    assert (reference["logit_error"], reference["disagreement"], reference["speeds"][0]["ratio"]) == (0.0, 0.0, 1.0)
    assert 0.0 < ours["logit_error"] < 0.2
    assert ours["bytes"] == (tmp_path / "work" / "default" / "model.int8.ort.onnx").stat().st_size

    assert vit.main(flags) == 0
    again = capsys.readouterr()
    assert (
        again.out.split("load average")[0].split("operators")[0]
        == printed.split("load average")[0].split("operators")[0]
    )
    assert "making" not in again.err
    assert vit.main([*flags, "--test-images", "6"]) == 2
    assert "give another --work" in capsys.readouterr().err


def test_what_is_missing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--work", str(tmp_path / "work")]
    assert vit.main([*flags, "--model", str(tmp_path / "nowhere"), "--data", str(tmp_path)]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()
