"""The sight test: what is drawn is what is asked about."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from edgeq.errors import InputError
from edgeq.judge.questions import AskedQuestion
from edgeq.judge.sight import SKILLS, sight_questions
from edgeq.judge.sight.drawing import COLOURS, SIDE

QUESTIONS = sight_questions(12)


def of(skill: str) -> list[AskedQuestion]:
    return [each for each in QUESTIONS if each.group == skill]


def pixels(question: AskedQuestion) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.asarray(question.read(), np.int64)


def test_every_skill_is_asked_alike() -> None:
    assert Counter(each.group for each in QUESTIONS) == dict.fromkeys(SKILLS, 12)
    assert len({each.name for each in QUESTIONS}) == len(QUESTIONS)


def test_the_same_seed_draws_the_same() -> None:
    again = sight_questions(2)
    assert [each.png() for each in again] == [each.png() for each in sight_questions(2)]
    assert again[0].png() != sight_questions(2, seed=1)[0].png()


@pytest.mark.parametrize("skill", [skill for skill in SKILLS if skill != "small text"])
def test_the_question_tells_its_options_and_answers_vary(skill: str) -> None:
    questions = sight_questions(40)
    asked = [each for each in questions if each.group == skill]
    counts = Counter(each.answer for each in asked)
    assert set(counts) <= set(asked[0].options)
    assert max(counts.values()) < 40 * 0.75
    assert all(each.score(each.answer or "") == 1.0 for each in asked)
    assert sum(each.score(asked[0].answer or "") for each in asked) == counts[asked[0].answer]


def test_pictures_are_of_one_size() -> None:
    assert {each.read().size for each in QUESTIONS[: len(SKILLS)]} == {(SIDE, SIDE)}
    assert {each.read().mode for each in QUESTIONS[: len(SKILLS)]} == {"RGB"}


def test_the_square_has_its_colour() -> None:
    for each in of("colour"):
        near = {name: int((np.abs(pixels(each) - colour).max(axis=2) < 2).sum()) for name, colour in COLOURS.items()}
        assert max(near, key=lambda name: near[name]) == each.answer
        assert near[each.answer or ""] >= (SIDE // 3) ** 2


def test_so_many_discs_are_there() -> None:
    for each in of("counting"):
        dark = np.abs(pixels(each) - (25, 25, 28)).max(axis=2) < 2
        assert regions(dark) == int(each.answer or "")


def test_a_number_is_read_by_its_width() -> None:
    """Digits are not read here: that text is there, dark, where nothing else is as dark, and no taller than told."""
    for each in of("small text"):
        rows = np.flatnonzero((np.abs(pixels(each) - (20, 20, 24)).max(axis=2) < 3).any(axis=1))
        assert 0 < rows[-1] - rows[0] < SIDE // 10
        assert each.score(f"The number {each.answer} is painted there.") == 1.0
        assert each.score("The number 99999 is painted there.") == 0.0


def regions(mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> int:
    """How many connected parts of more than a few pixels there are, by a flood of Pillow's."""
    from PIL import ImageDraw

    image = Image.fromarray(mask.astype(np.uint8) * 255).copy()
    found = 0
    for row, column in np.argwhere(mask):
        if image.getpixel((int(column), int(row))) == 255:
            ImageDraw.floodfill(image, (int(column), int(row)), 100)
            found += 1
    return found


@pytest.mark.parametrize(("count", "seed"), [(0, 1), (10_001, 1), (1, -1)])
def test_what_cannot_be_drawn_is_refused(count: int, seed: int) -> None:
    with pytest.raises(InputError, match="cannot be drawn"):
        sight_questions(count, seed)
