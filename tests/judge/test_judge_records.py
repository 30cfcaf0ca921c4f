"""What was asked once is not asked again, whatever ended the process."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeq.errors import InputError, OutputError
from edgeq.judge.records import Records
from edgeq.judge.target import Said


def said(text: str) -> Said:
    return Said(text=text, logprobs=(-0.5,), seconds=1.0)


def test_answers_are_found_again(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    Records(path, "one", 8).add("q", said("a"))
    again = Records(path, "one", 8)
    assert again.get("q") == said("a")
    assert again.get("r") is None


def test_a_line_that_was_cut_off_is_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    first = Records(path, "one", 8)
    first.add("q", said("a"))
    least = path.stat().st_size
    first.add("r", said("b"))
    whole = path.read_bytes()
    for end in range(least, len(whole)):
        path.write_bytes(whole[:end])
        again = Records(path, "one", 8)
        assert again.get("q") == said("a")
        again.add("s", said("c"))
        assert Records(path, "one", 8).get("s") == said("c")


def test_nothing_but_the_head_was_begun(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    Records(path, "one", 8)
    path.write_bytes(path.read_bytes()[:20])
    Records(path, "one", 8).add("q", said("a"))
    assert Records(path, "one", 8).get("q") == said("a")


@pytest.mark.parametrize(("target", "tokens"), [("two", 8), ("one", 9)])
def test_answers_of_another_are_refused(tmp_path: Path, target: str, tokens: int) -> None:
    path = tmp_path / "answers.jsonl"
    Records(path, "one", 8).add("q", said("a"))
    before = path.read_bytes()
    with pytest.raises(InputError, match="the answers of one"):
        Records(path, target, tokens)
    assert path.read_bytes() == before


@pytest.mark.parametrize("text", ["my notes", "my notes\nand more"])
def test_what_is_no_such_file_is_left_as_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(text)
    with pytest.raises(InputError, match="holds no answers"):
        Records(path, "one", 8)
    assert path.read_text() == text


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        Records(tmp_path / "none" / "answers.jsonl", "one", 8)
