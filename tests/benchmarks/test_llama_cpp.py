"""The benchmark beside llama.cpp: its own side, the order of rows in a GGUF file, and its table."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from benchmarks.llama_cpp import EDGEQ, main, table
from benchmarks.peers import edgeq_answer_run
from benchmarks.peers.answer_clock import AnswerClock, prompt_ids
from benchmarks.peers.llama_gguf import interleaved

if TYPE_CHECKING:
    from pathlib import Path

    from edgeq.pipeline.vlm import PreparedVlm


def test_our_side_answers_each_seed_with_as_many_tokens_as_were_asked_for(
    prepared_vlm: PreparedVlm, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    size = {"prompt": 20, "tokens": 5, "threads": 1}
    monkeypatch.setattr("sys.stdin", io.StringIO("1\n2\n"))
    monkeypatch.setattr("sys.argv", ["side", str(prepared_vlm.bundle), json.dumps(size)])
    said: list[int] = []
    took = AnswerClock.took

    def noted(clock: AnswerClock, tokens: int) -> dict[str, float]:
        said.append(tokens)
        return took(clock, tokens)

    monkeypatch.setattr(AnswerClock, "took", noted)
    edgeq_answer_run.main()
    ready, *turns = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert ready == {"ready": "edgeq"}
    assert said == [5, 5]
    assert [set(turn) for turn in turns] == [{"first", "further", "first_cpu", "further_cpu"}] * 2
    assert all(seconds > 0 for turn in turns for seconds in turn.values())


def test_every_side_reads_the_same_prompt() -> None:
    assert prompt_ids(3, 50) == prompt_ids(3, 50)
    assert prompt_ids(3, 50) != prompt_ids(4, 50)
    assert set(prompt_ids(3, 5000)) == set(range(16, 48))


def test_rows_change_places_so_that_neighbours_are_turned_as_halves_were() -> None:
    """Two heads of width 4: row 0 of a head turns with row 2 in transformers, and with row 1 in llama.cpp."""
    rows = np.arange(8, dtype=np.float16)[:, None]
    assert interleaved(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_a_ratio_is_taken_within_a_round() -> None:
    """edgeq takes 20, 40 and 80 ms a token, the other 10, 10 and 40: it is 2, 4 and 2 times as fast."""

    def turns(*milliseconds: float) -> list[dict[str, float]]:
        return [{"first": 0.5, "further": took / 1e3, "first_cpu": 1, "further_cpu": 0.03} for took in milliseconds]

    size = {"prompt": 128, "tokens": 48, "threads": 2}
    sides = {EDGEQ: turns(20, 40, 80), "other": turns(10, 10, 40)}
    lines = table({"processor": "a CPU", "kernels": "AVX2 = 1", "size": size, "sides": sides}).splitlines()
    assert lines[-2:] == [
        "| edgeq NF4 | 500 | 25.0 |  | 1,000 | 30.0 |",
        "| other | 500 | 100.0 | 2.00 (2.00-4.00) | 1,000 | 30.0 |",
    ]


def test_without_llama_cpp_it_says_what_is_needed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--llama-python", str(tmp_path / "python"), "--work", str(tmp_path / "work")]) == 2
    assert "llama-cpp-python" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()
