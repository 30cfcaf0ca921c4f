"""Does another runtime still see?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeq.errors import InputError
from edgeq.judge.bounds import DEFAULT_JUDGE_BOUNDS, DEFAULT_SEED, JudgeBounds
from edgeq.judge.judgement import Judgement
from edgeq.judge.open import open_asked
from edgeq.judge.questions import AskedQuestion, in_parts, own_questions
from edgeq.judge.run import JudgeOptions, judge_target
from edgeq.judge.sight import sight_questions
from edgeq.pipeline.stages import Progress

__all__ = ["judge_model"]


def judge_model(
    target: str | Path,
    against: str | Path,
    *,
    evaluation: str | Path | None = None,
    sight: int | None = None,
    seed: int = DEFAULT_SEED,
    model: str | None = None,
    against_model: str | None = None,
    token: str | None = None,
    against_token: str | None = None,
    extra_body: Mapping[str, Any] | None = None,
    against_extra_body: Mapping[str, Any] | None = None,
    bounds: JudgeBounds = DEFAULT_JUDGE_BOUNDS,
    max_new_tokens: int = 64,
    clients: int = 4,
    per_minute: float | None = None,
    answers: str | Path | None = None,
    against_answers: str | Path | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Judgement:
    """Ask a server, a bundle or a checkpoint what another one is asked, and hold the answers beside each other.

    Args:
        target: that is judged: the address of a server of OpenAI's chat completions such as
            `http://127.0.0.1:8000/v1`, the bundle of a vision-language model, or a Hugging Face directory.
        against: that sees, one of the same. The canaries of a bundle are asked as well.
        evaluation: a JSONL file of questions beside its images, as for `prepare`.
        sight: questions of each skill of the sight test; None asks none.
        seed: of the sight test, and of the order of questions where the verdict is looked at several times.
        model: the name of it at its server; None takes the first that is listed there.
        against_model: likewise, of `against`.
        token: that the server of `target` wants.
        against_token: that of `against` wants.
        extra_body: fields that go with every question to the server of `target`, such as those that your own client
            sends: `{"repeat_penalty": 1.0}`.
        against_extra_body: likewise, of `against`.
        bounds: what is demanded.
        max_new_tokens: the longest answer.
        clients: questions at once, to a server.
        per_minute: requests to a server at the most; None sets no limit.
        answers: a file of answers in JSON lines, made or gone on with: what is in it is not asked again.
        against_answers: likewise, of `against`.
        threads: of one operator, of what runs on this machine.
        progress: called as (stage, done, total).

    Returns:
        The figures, what differs, and the verdict.

    Raises:
        InputError: a name stands for nothing, there is no question, or a file of answers is another's.
        ImageError: an image of the questions cannot be read.
        ArtifactError: a bundle is damaged, or answers no questions.
        ModelError: a model cannot be loaded.
        EngineError: a server does not answer.
        OutputError: answers cannot be written.
    """
    own = own_questions(Path(evaluation)) if evaluation else ()
    drawn = sight_questions(sight, seed) if sight else ()
    judged = open_asked(
        str(target), model=model, token=token, per_minute=per_minute, extra_body=extra_body, threads=threads
    )
    reference = open_asked(
        str(against),
        model=against_model,
        token=against_token,
        per_minute=per_minute,
        extra_body=against_extra_body,
        threads=threads,
    )
    if judged.target.identity == reference.target.identity:
        raise InputError(f"{target} would be held beside itself", expected="something else in --against")
    options = JudgeOptions(
        max_new_tokens=max_new_tokens,
        clients=clients,
        bounds=bounds,
        target_answers=Path(answers) if answers else None,
        reference_answers=Path(against_answers) if against_answers else None,
    )
    questions: Sequence[AskedQuestion] = (*reference.canaries, *own, *drawn)
    if bounds.looks > 1:
        questions = in_parts(questions, seed)
    return judge_target(judged.target, reference.target, questions, options, progress or (lambda *_: None))
