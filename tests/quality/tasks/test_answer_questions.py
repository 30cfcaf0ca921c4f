"""Questions beside images: what is read, and what is refused with the line that is at fault."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pictures import cut_short, draw_pictures

from edgeq.errors import ImageError, InputError
from edgeq.quality.tasks.answer_questions import MAX_CHARACTERS, Questions

RED = "red/red-000.jpg"
GOOD = {"image": RED, "question": "What colour?"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return draw_pictures(tmp_path / "given", each=1)


def written(folder: Path, *lines: object) -> Path:
    path = folder / "questions.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), "utf-8")
    return path


def test_lines_become_items_in_order_with_their_pictures(folder: Path) -> None:
    full = {"image": "blue/blue-000.jpg", "question": "Which?", "answer": "Blue.", "key_terms": ["blue", "light"]}
    questions = Questions.open(written(folder, GOOD, "", full, ""))
    assert len(questions) == 2
    for _ in range(2):  # as often as one likes
        first, second = questions
        assert (first.name, first.question, first.answer, first.key_terms) == (RED, "What colour?", None, ())
        assert (second.name, second.answer, second.key_terms) == ("blue/blue-000.jpg", "Blue.", ("blue", "light"))
        assert (first.image.mode, first.image.size) == ("RGB", (20, 20))
    assert questions.read(RED).tobytes() == first.image.tobytes()


def test_a_byte_order_mark_and_a_rare_line_separator_are_no_fault(folder: Path) -> None:
    path = written(folder, json.dumps({**GOOD, "question": "one\u2028two"}, ensure_ascii=False))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [entry.question for entry in Questions.open(path).entries] == ["one\u2028two"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("[1, 2]", "object"),
        ('"red"', "object"),
        ("{", "JSON"),
        ('{"image": "\\ud800", "question": "?"}', "JSON"),
        ({"image": RED}, "question: Field required"),
        ({**GOOD, "question": "  "}, "question: it is empty"),
        ({**GOOD, "question": 7}, "question: "),
        ({**GOOD, "question": "a" * (MAX_CHARACTERS + 1)}, "question: "),
        ({**GOOD, "answer": ""}, "answer: it is empty"),
        ({**GOOD, "key_terms": "crack"}, "key_terms: "),
        ({**GOOD, "key_terms": ["crack", ""]}, "key_terms.1: it is empty"),
        ({**GOOD, "anwser": "red"}, "anwser: no such key is known"),
    ],
)
def test_a_bad_line_is_named(folder: Path, line: object, words: str) -> None:
    path = written(folder, GOOD, "", line)
    with pytest.raises(InputError) as caught:
        Questions.open(path)
    assert f"{path}, line 3: " in caught.value.what
    assert words in caught.value.what
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../secret.jpg", "leads out of the folder"),
        ("red/../../secret.jpg", "leads out of the folder"),
        ("..\\secret.jpg", "leads out of the folder"),
        ("/etc/hostname", "leads out of the folder"),
        ("red/red-007.jpg", "there is no image"),
        ("red", "there is no image"),
        ("notes.txt", "cannot be decoded"),
        ("half.jpg", "cannot be decoded"),
    ],
)
def test_a_bad_image_is_named(folder: Path, name: str, words: str) -> None:
    (folder.parent / "secret.jpg").write_bytes((folder / RED).read_bytes())
    (folder / "notes.txt").write_text("no picture")
    (folder / "half.jpg").write_bytes((folder / RED).read_bytes())
    cut_short(folder / "half.jpg")
    path = written(folder, GOOD, {**GOOD, "image": name})
    with pytest.raises(ImageError) as caught:
        Questions.open(path)
    assert f"{path}, line 2: " in caught.value.what
    assert words in caught.value.what


def test_a_file_that_is_missing_empty_or_not_text(folder: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        Questions.open(folder / "none.jsonl")
    with pytest.raises(InputError, match="has no question"):
        Questions.open(written(folder, "", " "))
    path = folder / "latin.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"image": "r\xe9d.jpg", "question": "?"}')
    with pytest.raises(InputError, match="line 2: "):
        Questions.open(path)


def test_a_picture_that_goes_away_later(folder: Path) -> None:
    questions = Questions.open(written(folder, GOOD))
    (folder / RED).unlink()
    with pytest.raises(ImageError, match="cannot be read"):
        list(questions)
