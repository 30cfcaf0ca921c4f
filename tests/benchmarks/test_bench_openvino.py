"""The benchmark of OpenVINO: its quartiles, one block timed in a process of its own, and what it cannot do without."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from networks import SIDE, tiny_network

from benchmarks.openvino import main
from benchmarks.turns import Contender, measure_latency, quartiles


def test_quartiles() -> None:
    assert quartiles([5, 1, 4, 2, 3]) == (2, 3, 4)


def test_each_contender_is_timed_beside_the_last(tmp_path: Path) -> None:
    onnx.save(tiny_network(), tmp_path / "m.onnx")
    contenders = [Contender(name, name, tmp_path / "m.onnx") for name in ("openvino", "onnxruntime")]
    rows = measure_latency("tiny", contenders, threads=1, batch=2, side=SIDE, rounds=2, seconds=0.01)
    assert [(row.network, row.threads, row.batch, row.contender) for row in rows] == [
        ("tiny", 1, 2, "openvino"),
        ("tiny", 1, 2, "onnxruntime"),
    ]
    assert all(row.milliseconds > 0 for row in rows)
    assert rows[1].ratio == (1, 1, 1)


def test_a_graph_that_does_not_run(tmp_path: Path) -> None:
    contenders = [Contender("nothing", "onnxruntime", tmp_path / "m.onnx")]
    with pytest.raises(RuntimeError, match="nothing does not run"):
        measure_latency("tiny", contenders, threads=1, batch=1, side=SIDE, rounds=1, seconds=0.01)


def test_without_nncf(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NNCF_PYTHON", raising=False)
    assert main(["--data", str(tmp_path)]) == 2
    assert "--nncf PYTHON" in capsys.readouterr().err
