"""Who sees, who does not, and who is not shown to: from answers alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from PIL import Image

from edgeq.judge.bounds import JudgeBounds
from edgeq.judge.judgement import Answered, Judgement, judge
from edgeq.judge.questions import AskedQuestion
from edgeq.judge.target import Said

BOUNDS = JudgeBounds(max_drop=5.0, min_agreement=80.0)
OPTIONS = ("red", "green", "blue")
Says = Callable[[int], str]


def right(place: int) -> str:
    return OPTIONS[place % 3]


def judged(count: int, reference: Says, target: Says, *, labelled: bool = True, group: str = "colour") -> Judgement:
    return judge("target", "reference", answered(count, reference, target, labelled=labelled, group=group), BOUNDS)


def answered(
    count: int, reference: Says, target: Says, *, labelled: bool = True, group: str = "colour"
) -> list[Answered]:
    return [
        Answered(question(place, labelled, group), said(reference(place)), said(target(place)))
        for place in range(count)
    ]


def question(place: int, labelled: bool, group: str) -> AskedQuestion:
    answer, options = (right(place), OPTIONS) if labelled else (None, ())
    blank = Image.new("RGB", (2, 2))
    return AskedQuestion(group, f"{place}.png", "Which colour?", lambda: blank, answer, options=options)


def said(text: str, logprobs: tuple[float, ...] = ()) -> Said:
    return Said(text=text, logprobs=logprobs, seconds=0.5, prompt_tokens=10, answer_tokens=1)


def test_an_honest_one_sees() -> None:
    found = judged(60, right, lambda place: f"It is {right(place)}.")
    assert found.verdict == "sees"
    assert found.groups[0].tells
    assert found.headline is not None
    assert (found.headline.drop, found.headline.examples) == (0.0, 60)
    assert found.spent.seconds == pytest.approx(30.0)
    assert (found.spent.prompt_tokens, found.spent.answer_tokens) == (600, 60)


@pytest.mark.parametrize(
    "liar",
    [lambda _place: "red", lambda place: right(place + 1), lambda _place: "red, green or blue"],
    ids=["blind", "another image's", "all options at once"],
)
def test_liars_are_caught(liar: Says) -> None:
    found = judged(60, right, liar)
    assert found.verdict == "sees less"
    assert found.enough <= 20
    assert "drop by" in found.reasons[0]


def test_a_few_questions_show_nothing() -> None:
    found = judged(6, right, right)
    assert found.verdict == "not shown"
    assert "questions would show it" in found.reasons[0]


def test_where_the_reference_does_not_see_nothing_counts() -> None:
    seen = answered(60, right, right)
    unseen = answered(60, lambda _place: "red", lambda place: right(place + 1), group="counting")
    found = judge("target", "reference", [*seen, *unseen], BOUNDS)
    assert [group.tells for group in found.groups] == [True, False]
    assert found.groups[1].blind == pytest.approx(100 / 3, abs=3.0)
    assert found.verdict == "sees"
    assert found.headline is not None
    assert found.headline.examples == 60
    assert "counting does not count" in found.reasons[2]


def test_without_right_answers_the_same_answers_decide() -> None:
    assert judged(60, right, right, labelled=False).verdict == "sees"
    assert judged(60, right, lambda place: right(place + place % 2), labelled=False).verdict == "sees less"
    assert judged(8, right, right, labelled=False).verdict == "not shown"


def test_the_same_answer_to_everything_shows_nothing() -> None:
    found = judged(60, lambda _place: "a wall", lambda _place: "a wall", labelled=False)
    assert found.groups[0].by_chance == 100.0
    assert found.verdict == "not shown"


def test_differences_are_told_with_what_is_right() -> None:
    found = judged(60, right, lambda place: "blue" if place == 3 else right(place))
    (difference,) = found.differences
    assert (difference.image, difference.answer) == ("3.png", "red")
    assert (difference.reference_score, difference.target_score) == (1.0, 0.0)


def test_how_far_log_probabilities_are_apart() -> None:
    pairs = [((-0.1, -0.2), (-0.1, -0.4)), ((-0.3,), (-0.2,)), ((-0.3,), (-0.2, -9.0, -9.0)), ((), (-0.5,))]
    found = apart(pairs)
    assert found.logprob_shift is not None
    assert found.logprob_shift.value == pytest.approx((0.0 + 0.2 + 0.1) / 3)
    assert found.groups[0].logprob_shift == found.logprob_shift
    assert found.reasons[1].startswith("100.0 % of 4 answers are the reference's, and the log-probabilities")
    assert found.reasons[1].endswith(" 0.1 nats apart")


def test_the_token_that_ends_an_answer_may_be_told_by_one_alone() -> None:
    found = apart([((-0.1, -0.2, -5.0), (-0.1, -0.4)), ((-0.3,), (-0.2, -7.0))])
    assert found.logprob_shift is not None
    assert found.logprob_shift.value == pytest.approx((0.0 + 0.2 + 0.1) / 3)


def test_log_probabilities_that_one_does_not_tell() -> None:
    found = apart([((-0.1, -0.2), ()), ((), (-0.1,))])
    assert found.logprob_shift is None
    assert found.reasons[1] == "100.0 % of 2 answers are the reference's; log-probabilities are not told by both"


def apart(pairs: list[tuple[tuple[float, ...], tuple[float, ...]]]) -> Judgement:
    """Of answers that are the same, whose tokens are as likely as this to reference and target."""
    answered = [Answered(question(0, True, "colour"), said("red", ours), said("red", theirs)) for ours, theirs in pairs]
    return judge("target", "reference", answered, BOUNDS)
