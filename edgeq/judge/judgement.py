"""The figures of a target beside its reference, and the verdict; nothing is asked here.

Right answers decide where it is known what is right, and only in groups in which the reference itself does better with
its images than with the images of other questions: where it does not see either, nothing can be lost. Without right
answers it is how often both say the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from edgeq.artifact import Artifact
from edgeq.judge.bounds import JudgeBounds
from edgeq.judge.questions import AskedQuestion
from edgeq.judge.target import Said
from edgeq.quality.accuracy import ONE_SIDED_95, drop_limits, images_needed
from edgeq.quality.estimate import Estimate, Ratio, wilson_limits
from edgeq.quality.tasks.answer_wording import same_wording
from edgeq.quality.tasks.base import Headline

__all__ = ["Answered", "Difference", "GroupFigures", "Judgement", "Spent", "Verdict", "judge", "judge_drop"]

Verdict = Literal["sees", "sees less", "not shown"]

_MOST_SHOWN: Final = 1000
"""Differences that are listed at the most."""

_END: Final = 1
"""Token that ends an answer."""

_OTHERS: Final = 16
"""Other questions that each is held against."""


@dataclass(frozen=True)
class Answered:
    """A question and what both said.

    Attributes:
        question: that was asked.
        reference, target: the answers.
    """

    question: AskedQuestion
    reference: Said
    target: Said

    @property
    def same(self) -> bool:
        """Whether both say the same, but for case, spaces and a final full stop."""
        return same_wording(self.target.text, self.reference.text)


class GroupFigures(BaseModel):
    """One group of questions.

    Attributes:
        group: `AskedQuestion.group`.
        items: its questions.
        right: percent of right answers of reference and target, and the drop in points; None where nobody knows.
        blind: percent that the reference's answers would be right about the images of the other questions with the
            same words; None where there are none.
        tells: the reference does better than that beyond doubt, so that this group counts.
        agreement: percent of answers that are the same.
        by_chance: percent that would be the same if the target's answers were about other images, as for `blind`.
        logprob_shift: mean over the tokens of answers that are the same of the absolute difference of their
            log-probabilities, in nats; None where either does not tell them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    group: str
    items: int
    reference_right: Estimate | None
    target_right: Estimate | None
    drop: Estimate | None
    blind: float | None
    tells: bool
    agreement: Estimate
    by_chance: float | None
    logprob_shift: Estimate | None


class Difference(BaseModel):
    """A question that both answer differently.

    Attributes:
        group, image, question: what was asked.
        reference, target: what was said.
        answer: the right one, where it is known.
        reference_score, target_score: how right each is, 0 to 1; None where nobody knows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    group: str
    image: str
    question: str
    reference: str
    target: str
    answer: str | None
    reference_score: float | None
    target_score: float | None


class Spent(BaseModel):
    """What the target's answers took.

    Attributes:
        questions: that were asked.
        seconds: of all answers together.
        prompt_tokens, answer_tokens: by the target's count; None where it does not tell.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    questions: int
    seconds: float
    prompt_tokens: int | None
    answer_tokens: int | None


class Judgement(Artifact):
    """What came of it.

    Attributes:
        target, reference: `Target.identity` of each.
        verdict: "sees": it is shown to be within the bounds; "sees less": it is shown to be beyond; "not shown":
            neither.
        reasons: sentences.
        bounds: what was demanded.
        groups: the figures.
        agreement, logprob_shift: as in `GroupFigures`, over all questions: whether it is the same model, where right
            answers tell no difference.
        headline: the figure that decided.
        enough: after so many questions, in their order, the verdict stayed what it is.
        differences: the first of them.
        spent: by the target.
    """

    otherwise = "holds no judgement"
    made_by = "edgeq judge"

    version: Literal["edgeq.judgement/1"] = "edgeq.judgement/1"
    target: str
    reference: str
    verdict: Verdict
    reasons: tuple[str, ...]
    bounds: JudgeBounds
    groups: tuple[GroupFigures, ...]
    agreement: Estimate
    logprob_shift: Estimate | None
    headline: Headline | None
    enough: int
    differences: tuple[Difference, ...]
    spent: Spent


def judge(target: str, reference: str, answered: Sequence[Answered], bounds: JudgeBounds) -> Judgement:
    """Hold a target's answers beside those of its reference.

    Args:
        target, reference: `Target.identity` of each.
        answered: at least one.
        bounds: what is demanded.
    """
    groups = _groups(answered)
    counted = _counted(answered, groups)
    headline, verdict, reason = _judged(counted, groups, bounds)
    same, shift = _agreement(answered), _shift(answered)
    return Judgement(
        target=target,
        reference=reference,
        verdict=verdict,
        reasons=(reason, _apart(same, shift, len(answered)), *_silent(groups)),
        bounds=bounds,
        groups=groups,
        agreement=same,
        logprob_shift=shift,
        headline=headline,
        enough=_enough(counted, groups, bounds),
        differences=tuple(_differences(answered)),
        spent=_spent([each.target for each in answered]),
    )


def judge_drop(headline: Headline, bounds: JudgeBounds, asked: str = "questions") -> tuple[Verdict, str]:
    """The verdict by what is right, and why.

    Args:
        headline: of what is labelled, in points.
        bounds: what is demanded.
        asked: what was asked, in the plural.
    """
    low, high = drop_limits(headline, bounds.sure)
    verb = "drop" if headline.name.endswith("s") else "drops"
    reason = (
        f"{headline.name} {verb} by {headline.drop:.2f}{headline.doubt} points on {headline.examples} {asked}, from "
        f"{headline.reference:.1f} to {headline.candidate:.1f} %; at most {bounds.max_drop:g} points are allowed"
    )
    if high <= bounds.max_drop:
        return "sees", f"{reason}, and {bounds.certainty} it is below {high:.1f}"
    if low > bounds.max_drop:
        return "sees less", f"{reason}, and {bounds.certainty} it is above {low:.1f}"
    needed = images_needed(headline, bounds.max_drop, bounds.sure)
    more = "more questions would tell" if needed is None else f"about {needed:,} {asked} would show it"
    return "not shown", f"{reason}, and {bounds.certainty} it is between {low:.1f} and {high:.1f}; {more}"


def _groups(answered: Sequence[Answered]) -> tuple[GroupFigures, ...]:
    names = dict.fromkeys(each.question.group for each in answered)
    return tuple(_group(name, [each for each in answered if each.question.group == name]) for name in names)


def _group(name: str, answered: Sequence[Answered]) -> GroupFigures:
    known = [each for each in answered if each.question.known]
    right = _ratio(each.question.score(each.reference.text) for each in known)
    blind = _exchanged(known, lambda asked, other: asked.question.score(other.reference.text))
    return GroupFigures(
        group=name,
        items=len(answered),
        reference_right=right,
        target_right=_ratio(each.question.score(each.target.text) for each in known),
        drop=_ratio(_loss(each) for each in known),
        blind=blind,
        tells=right is not None and _limits(right, len(known), ONE_SIDED_95)[0] > (blind or 0.0),
        agreement=_agreement(answered),
        by_chance=_exchanged(
            answered, lambda asked, other: float(same_wording(other.target.text, asked.reference.text))
        ),
        logprob_shift=_shift(answered),
    )


def _counted(answered: Sequence[Answered], groups: Iterable[GroupFigures]) -> list[Answered]:
    """The questions that decide: those with a right answer in groups that tell; all of them where there are none."""
    telling = {group.group for group in groups if group.tells}
    return [each for each in answered if each.question.known and each.question.group in telling] or [*answered]


def _judged(
    counted: Sequence[Answered], groups: Iterable[GroupFigures], bounds: JudgeBounds
) -> tuple[Headline | None, Verdict, str]:
    """The figure that decides, where there is one; the verdict, and why."""
    if not any(group.tells for group in groups):
        return None, *_by_agreement(counted, bounds)
    headline = _headline(counted)
    return headline, *judge_drop(headline, bounds)


def _headline(counted: Sequence[Answered]) -> Headline:
    """The drop of right answers to questions of which each has one."""
    sums = [
        _sure_ratio(values)
        for values in (
            (each.question.score(each.reference.text) for each in counted),
            (each.question.score(each.target.text) for each in counted),
            (_loss(each) for each in counted),
        )
    ]
    reference, target, drop = sums
    return Headline(
        name="right answers",
        unit="points",
        reference=reference.value,
        candidate=target.value,
        drop=drop.value,
        standard_error=drop.standard_error,
        examples=len(counted),
        labelled=True,
        alike="same answer",
        agreement=_agreement(counted).value,
    )


def _by_agreement(counted: Sequence[Answered], bounds: JudgeBounds) -> tuple[Verdict, str]:
    same = _agreement(counted)
    low, high = _limits(same, len(counted), bounds.sure)
    chance = _exchanged(counted, lambda asked, other: float(same_wording(other.target.text, asked.reference.text)))
    reason = (
        f"{same.value:.1f} % of {len(counted)} answers are the reference's, {bounds.certainty} it is between "
        f"{low:.1f} and {high:.1f}; at least {bounds.min_agreement:g} % are demanded"
    )
    if chance is not None:
        reason += f", and about other images {chance:.1f} % would be"
    if low >= bounds.min_agreement and low > (chance or 0.0):
        return "sees", reason
    return ("sees less" if high < bounds.min_agreement else "not shown"), reason


def _apart(same: Estimate, shift: Estimate | None, count: int) -> str:
    """How far the two models are from each other, whatever is right."""
    reason = f"{same.value:.1f} % of {count} answers are the reference's"
    if shift is None:
        return f"{reason}; log-probabilities are not told by both"
    return f"{reason}, and the log-probabilities of their tokens are {shift.value:.2g} nats apart"


def _silent(groups: Iterable[GroupFigures]) -> Iterator[str]:
    """A sentence for each group of which it is known what is right, and that says nothing all the same."""
    for group in groups:
        if group.reference_right is not None and not group.tells:
            blind = "" if group.blind is None else f", about other images it would be {group.blind:.1f} %"
            yield (
                f"{group.group} does not count: the reference is right in {group.reference_right.value:.1f} % of "
                f"{group.items}{blind}"
            )


def _enough(counted: Sequence[Answered], groups: Sequence[GroupFigures], bounds: JudgeBounds) -> int:
    """After so many questions the verdict stayed what it is.

    The verdict over the first n is looked at for n that grow by a tenth each, from the last one down.
    """
    (_, verdict, _), found = _judged(counted, groups, bounds), len(counted)
    for count in sorted(_counts(len(counted)), reverse=True):
        if _judged(counted[:count], groups, bounds)[1] != verdict:
            break
        found = count
    return found


def _counts(most: int) -> Iterator[int]:
    count = 2
    while count < most:
        yield count
        count += max(count // 10, 1)


def _differences(answered: Iterable[Answered]) -> Iterator[Difference]:
    left = _MOST_SHOWN
    for each in answered:
        if each.same or not left:
            continue
        left -= 1
        asked, texts = each.question, (each.reference.text, each.target.text)
        scores = tuple(asked.score(text) for text in texts) if asked.known else (None, None)
        yield Difference(
            group=asked.group,
            image=asked.name,
            question=asked.question,
            reference=texts[0],
            target=texts[1],
            answer=asked.answer,
            reference_score=scores[0],
            target_score=scores[1],
        )


def _spent(said: Sequence[Said]) -> Spent:
    prompts, answers = [each.prompt_tokens for each in said], [each.answer_tokens for each in said]
    return Spent(
        questions=len(said),
        seconds=sum(each.seconds for each in said),
        prompt_tokens=None if None in prompts else sum(count or 0 for count in prompts),
        answer_tokens=None if None in answers else sum(count or 0 for count in answers),
    )


def _loss(each: Answered) -> float:
    return each.question.score(each.reference.text) - each.question.score(each.target.text)


def _agreement(answered: Iterable[Answered]) -> Estimate:
    """Percent of answers that are the same, of one at least."""
    return _sure_ratio(float(each.same) for each in answered)


def _shift(answered: Iterable[Answered]) -> Estimate | None:
    """Some servers tell of the token that ends an answer, others do not: it may be missing on one side."""
    shift = Ratio()
    for each in answered:
        ours, theirs = each.reference.logprobs, each.target.logprobs
        told = min(len(ours), len(theirs))
        if each.reference.text == each.target.text and told and max(len(ours), len(theirs)) <= told + _END:
            shift.add(sum(abs(a - b) for a, b in zip(ours[:told], theirs[:told], strict=True)), float(told))
    return shift.estimate() if shift.items else None


def _exchanged(answered: Sequence[Answered], score: Callable[[Answered, Answered], float]) -> float | None:
    """The mean score, in percent, of answers about other images of the same question; None where there are none.

    Each question is held against the next `_OTHERS` that have its words, and another image.
    """
    alike: dict[tuple[str, str], list[Answered]] = {}
    for each in answered:
        alike.setdefault((each.question.group, each.question.question), []).append(each)
    scores = [
        score(asked, other)
        for same in alike.values()
        for place, asked in enumerate(same)
        for other in (same[(place + step) % len(same)] for step in range(1, min(_OTHERS, len(same) - 1) + 1))
        if other.question.name != asked.question.name
    ]
    return 100.0 * fmean(scores) if scores else None


def _ratio(values: Iterable[float]) -> Estimate | None:
    ratio = Ratio()
    for value in values:
        ratio.add(value)
    return ratio.estimate().times(100.0) if ratio.items else None


def _sure_ratio(values: Iterable[float]) -> Estimate:
    """As `_ratio`, of one at least."""
    found = _ratio(values)
    assert found is not None, "there is a question at least"
    return found


def _limits(share: Estimate, count: int, sure: float) -> tuple[float, float]:
    """What a share is above, and what it is below, in percent (Wilson's score interval of `sure` standard errors)."""
    low, high = wilson_limits(share.value / 100.0, count, sure)
    return 100.0 * low, 100.0 * high
