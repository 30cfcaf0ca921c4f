"""The benchmark of decode steps: its side, and its table."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import pytest

from benchmarks.decode_steps import main, table

if TYPE_CHECKING:
    from edgeq.pipeline.vlm import PreparedVlm


def test_a_side_says_the_same_to_one_client_and_to_many(
    prepared_vlm: PreparedVlm, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("1\n4\n"))
    given = {"slots": 2, "threads": 1, "tokens": 4, "requests": 3}
    assert main([str(prepared_vlm.bundle), "--side", json.dumps(given)]) == 0
    alone, together = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert alone["said"] == together["said"]
    assert alone["tokens"] == together["tokens"] > 0
    assert alone["seconds"] > 0


def test_a_ratio_is_taken_within_a_round() -> None:
    """2 / 1, 3 / 3 and 8 / 2; in turns that are twice as long for both it is the same."""
    row = {"clients": 4, "speeds": {"this": [2.0, 3.0, 8.0], "beside": [1.0, 3.0, 2.0]}}
    assert table([row]).splitlines()[-1] == "| 4 | 3.0 | 2.0 | 2.00 (1.00-4.00) |"
    assert table([{"clients": 1, "speeds": {"this": [5.0]}}]).splitlines()[-1] == "| 1 | 5.0 |  |  |"
