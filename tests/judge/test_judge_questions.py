"""What counts as a right answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from edgeq.judge.questions import OWN_GROUP, AskedQuestion, own_questions

BLANK = Image.new("RGB", (2, 2))
CRACKS = ("hairline crack", "crack", "sound")
DIGITS = ("1", "2", "3")


def asked(answer: str | None, options: tuple[str, ...] = (), terms: tuple[str, ...] = ()) -> AskedQuestion:
    return AskedQuestion("group", "a.png", "what?", lambda: BLANK, answer, key_terms=terms, options=options)


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("hairline crack", 1.0),
        ("There is a Hairline Crack here.", 1.0),
        ("a crack", 0.0),
        ("sound, or a hairline crack", 0.0),
        ("a soundproof hairline crack", 1.0),
        ("", 0.0),
    ],
)
def test_one_of_some_options(said: str, right: float) -> None:
    assert asked("hairline crack", CRACKS).score(said) == right


@pytest.mark.parametrize(("said", "right"), [("3", 1.0), ("Three discs.", 1.0), ("13", 0.0), ("two or three", 0.0)])
def test_numbers_may_be_words(said: str, right: float) -> None:
    assert asked("3", DIGITS).score(said) == right


def test_wording_or_key_terms() -> None:
    assert asked("A wide crack.").score("a wide  crack") == 1.0
    assert asked("A wide crack.").score("a crack") == 0.0
    assert asked(None, terms=("wide", "crack")).score("a crack") == 0.5
    assert not asked(None).known


def test_questions_of_a_file(tmp_path: Path) -> None:
    BLANK.save(tmp_path / "a.png")
    lines = [{"image": "a.png", "question": "what?", "answer": "a wall"}, {"image": "a.png", "question": "where?"}]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    first, second = own_questions(tmp_path / "questions.jsonl")
    assert (first.group, first.answer, first.known, second.known) == (OWN_GROUP, "a wall", True, False)
    assert first.key(first.png()) != second.key(second.png())
    assert first.read().size == (2, 2)
