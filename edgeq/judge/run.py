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

__all__ = ["JudgeOptions", "judge_target"]

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

    The target is asked first: where it cannot be asked, nothing long has been done.

    Args:
        target: that is judged.
        reference: that sees.
        questions: that both are asked.
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
    made = _ask(target, questions, theirs, options, partial(_tell, progress, "judge: target", len(questions)))
    right = _ask(reference, questions, ours, options, partial(_tell, progress, "judge: reference", len(questions)))
    answered = [Answered(*each) for each in zip(questions, right, made, strict=True)]
    return judge(target.identity, reference.identity, answered, options.bounds)


def _tell(progress: Progress, stage: str, total: int, done: int) -> None:
    progress(stage, done, total)


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
