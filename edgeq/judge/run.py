"""Ask both, and judge: the whole way of `edgeq judge`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edgeq.errors import InputError
from edgeq.judge.bounds import DEFAULT_JUDGE_BOUNDS, JudgeBounds
from edgeq.judge.judgement import Answered, Judgement, judge
from edgeq.judge.questions import AskedQuestion
from edgeq.judge.records import Records
from edgeq.judge.target import Said, Target

__all__ = ["JudgeOptions", "judge_target", "looks"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class JudgeOptions:
    """How it is asked.

    Attributes:
        max_new_tokens: the longest answer.
        clients: so many questions at once, of a target that takes several.
        bounds: what is demanded.
        target_answers, reference_answers: files of answers, that are gone on with; None keeps none.
    """

    max_new_tokens: int = 64
    clients: int = 1
    bounds: JudgeBounds = DEFAULT_JUDGE_BOUNDS
    target_answers: Path | None = None
    reference_answers: Path | None = None


def judge_target(
    target: Target,
    reference: Target,
    questions: Sequence[AskedQuestion],
    options: JudgeOptions,
    progress: Progress,
) -> Judgement:
    """Ask target and reference every question, and hold the answers beside each other.

    The target is asked first: where it cannot be asked, nothing long has been done. With several looks it ends at the
    first that shows something.

    Args:
        target: that is judged.
        reference: that sees.
        questions: that both are asked; each look takes the first of them.
        options: how.
        progress: called as (stage, done, total).

    Raises:
        InputError: there is no question, or a file of answers is another's.
        EngineError: one of them does not answer.
        OutputError: answers cannot be written.
    """
    if not questions:
        raise InputError(
            "there is no question to judge by",
            expected="questions of your own, or those of the sight test",
            next_step="--eval questions.jsonl, or --sight 50",
        )
    theirs = Records(options.target_answers, target.identity, options.max_new_tokens)
    ours = Records(options.reference_answers, reference.identity, options.max_new_tokens)
    known = any(question.known for question in questions)  # and then the same answers are no verdict on the way
    made: list[Said] = []
    right: list[Said] = []
    for count in looks(len(questions), options.bounds.looks):
        new = questions[len(made) : count]
        asked = partial(_tell, progress, len(questions), len(made))
        made += _ask(target, new, theirs, options, partial(asked, "judge: target"))
        right += _ask(reference, new, ours, options, partial(asked, "judge: reference"))
        answered = [Answered(*each) for each in zip(questions[:count], right, made, strict=True)]
        found = judge(target.identity, reference.identity, answered, options.bounds)
        if found.verdict != "not shown" and (found.headline is not None or not known):
            break
    return found


def looks(questions: int, times: int) -> list[int]:
    """After so many questions the verdict is looked at, in equal parts; the last time after all."""
    return sorted({-(-questions * time // times) for time in range(1, times + 1)})


def _tell(progress: Progress, total: int, before: int, stage: str, done: int) -> None:
    progress(stage, before + done, total)


def _ask(
    target: Target,
    questions: Sequence[AskedQuestion],
    records: Records,
    options: JudgeOptions,
    advance: Callable[[int], None],
) -> list[Said]:
    """The answer to each, from the records where they have it."""

    def one(question: AskedQuestion) -> Said:
        png = question.png()
        key = question.key(png)
        known = records.get(key)
        if known is None:
            known = target.ask(question, png, options.max_new_tokens)
            records.add(key, known)
        return known

    said: list[Said] = []
    with ThreadPoolExecutor(options.clients if target.parallel else 1) as pool:
        waiting = [pool.submit(one, question) for question in questions]
        try:
            for done, each in enumerate(waiting, start=1):
                said.append(each.result())
                advance(done)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return said
