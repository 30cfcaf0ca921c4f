"""Looking at the verdict on the way: when, how strictly, and what is asked until then."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from edgeq.judge.bounds import JudgeBounds
from edgeq.judge.judgement import Judgement, judge_drop
from edgeq.judge.questions import AskedQuestion, in_parts
from edgeq.judge.run import JudgeOptions, judge_target, looks
from edgeq.judge.target import Said
from edgeq.quality.tasks.base import Headline

COLOURS = ("red", "green", "blue")
MAX_DROP = 0.05


class Simulated:
    """Answers by the number in a question's name, which is its place."""

    parallel = False

    def __init__(self, identity: str, says: Callable[[int], str]) -> None:
        self.identity, self.says, self.asked = identity, says, 0

    def ask(self, question: AskedQuestion, _png: bytes, _max_new_tokens: int) -> Said:
        self.asked += 1
        return Said(text=self.says(int(question.name)), seconds=0.1)


def right(place: int) -> str:
    return COLOURS[place % 3]


def picture(place: int) -> Image.Image:
    return Image.new("RGB", (1 + place, 1))


def question(place: int, group: str = "colour", *, labelled: bool = True) -> AskedQuestion:
    answer, options = (right(place), COLOURS) if labelled else (None, ())
    return AskedQuestion(group, str(place), "Which colour?", lambda: picture(place), answer, options=options)


def judged(target: Simulated, reference: Simulated, count: int, times: int, *, labelled: bool = True) -> Judgement:
    questions = [question(place, labelled=labelled) for place in range(count)]
    options = JudgeOptions(bounds=JudgeBounds(looks=times))
    return judge_target(target, reference, questions, options, lambda *_: None)


@pytest.mark.parametrize(
    ("questions", "times", "after"),
    [(10, 1, [10]), (10, 4, [3, 5, 8, 10]), (2, 4, [1, 2]), (1, 20, [1]), (60, 3, [20, 40, 60])],
)
def test_when_it_is_looked(questions: int, times: int, after: list[int]) -> None:
    assert looks(questions, times) == after


@pytest.mark.parametrize(("times", "sure"), [(1, 1.6449), (2, 1.9600), (4, 2.2414), (5, 2.3263)])
def test_each_look_has_its_part_of_the_doubt(times: int, sure: float) -> None:
    assert JudgeBounds(looks=times).sure == pytest.approx(sure, abs=1e-4)  # tables of the normal distribution


@pytest.mark.parametrize(
    ("liar", "asked", "verdict"),
    [(False, 120, "sees"), (True, 60, "sees less")],
    ids=["an honest one", "a blind one"],
)
def test_it_ends_as_soon_as_the_verdict_is_shown(liar: bool, asked: int, verdict: str) -> None:
    target, reference = Simulated("t", lambda place: "red" if liar else right(place)), Simulated("r", right)
    found = judged(target, reference, 240, 4)
    assert (found.verdict, found.spent.questions, found.bounds.looks) == (verdict, asked, 4)
    assert target.asked == reference.asked == asked
    assert "with 95 % over 4 looks" in found.reasons[0]


def test_what_is_not_shown_is_asked_to_the_end() -> None:
    target, reference = Simulated("t", right), Simulated("r", right)
    assert judged(target, reference, 40, 4).verdict == "not shown"
    assert target.asked == 40


def test_where_it_is_known_what_is_right_other_answers_are_no_verdict_on_the_way() -> None:
    """The reference has not been shown to see, so far: that the target says something else may mean nothing."""
    target, reference = Simulated("t", lambda _place: "blue"), Simulated("r", lambda _place: "red")
    found = judged(target, reference, 240, 4)
    assert (found.verdict, found.headline, found.spent.questions) == ("sees less", None, 240)


def test_without_right_answers_the_same_answers_decide_on_the_way() -> None:
    target, reference = Simulated("t", lambda place: right(place + 1)), Simulated("r", right)
    found = judged(target, reference, 240, 4, labelled=False)
    assert (found.verdict, found.spent.questions) == ("sees less", 60)


def test_who_looks_often_is_let_through_no_more_often() -> None:
    """Targets that lose just what is allowed, simulated: 5 % may pass at the most.

    More do where each look has all the doubt.
    """
    rng = np.random.Generator(np.random.PCG64(5))
    lost = np.cumsum(rng.random((1000, 240)) < MAX_DROP, axis=1)
    places = looks(240, 8)
    strict, loose = (
        np.mean([any(passes(int(each[place - 1]), place, bounds) for place in places) for each in lost])
        for bounds in (JudgeBounds(looks=8), JudgeBounds())
    )
    assert strict <= 0.05
    assert loose > 0.1


def passes(lost: int, asked: int, bounds: JudgeBounds) -> bool:
    share = lost / asked
    headline = Headline(
        name="right answers",
        unit="points",
        reference=100.0,
        candidate=100.0 * (1.0 - share),
        drop=100.0 * share,
        standard_error=100.0 * float(np.sqrt(share * (1.0 - share) / (asked - 1))),
        examples=asked,
        labelled=True,
        alike="same answer",
        agreement=None,
    )
    return judge_drop(headline, bounds)[0] == "sees"


@pytest.mark.parametrize(
    ("times", "lost", "asked"),
    [(1, 0, 45), (1, 1, 75), (1, 2, 104), (1, 4, 159), (4, 0, 62), (4, 1, 96), (4, 2, 128), (4, 4, 188)],
)
def test_how_many_questions_show_that_it_sees(times: int, lost: int, asked: int) -> None:
    """As docs/judge.md tells."""
    bounds = JudgeBounds(looks=times)
    assert passes(lost, asked, bounds)
    assert not passes(lost, asked - 1, bounds)


def test_each_part_has_each_groups_share() -> None:
    questions = [question(place, group) for group, size in (("a", 8), ("b", 4)) for place in range(size)]
    ordered = in_parts(questions, 3)
    assert sorted(map(id, ordered)) == sorted(map(id, questions))
    for count in (3, 6, 9):
        assert Counter(each.group for each in ordered[:count]) == {"a": 2 * count // 3, "b": count // 3}
    assert in_parts(questions, 3) == ordered
    assert in_parts(questions, 4) != ordered
    assert [each.name for each in ordered if each.group == "a"] != [str(place) for place in range(8)]
