"""Two vision-language models on the same questions: is the quantized one still right, and does it say the same?

Being right says little on a few hundred questions. What both say of the same image, and how likely each finds the same
words, is far sharper, so these figures stand beside it: the reference's own answer is forced through both models, token
by token, and the image features are compared patch by patch. Nothing is kept of an item but its share of the sums,
and the texts where the two part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import EngineError, InputError
from edgeq.quality.answerer import Answer, Answerer
from edgeq.quality.estimate import Ratio
from edgeq.quality.logits import judge_answers, log_likelihoods
from edgeq.quality.tasks.answer_divergence import Divergence, common_start
from edgeq.quality.tasks.answer_figures import AnswerScore, Features, Forced, VlmQuality
from edgeq.quality.tasks.answer_questions import QuestionItem, Questions
from edgeq.quality.tasks.answer_wording import found_terms, same_wording
from edgeq.quality.tasks.base import Task
from edgeq.quality.tasks.classification import cosines

__all__ = ["MAX_NEW_TOKENS", "AnswersTask", "VlmQuality", "compare_answers"]

MAX_NEW_TOKENS: Final = 64
"""The longest answer that is asked for, in tokens."""


class AnswersTask(Task[Questions]):
    """Questions about images, answered in words."""

    name = "answers"
    what = "a vision-language model's answers, held beside those of the whole model"

    def open(self, path: Path, labels: Sequence[str] | None = None) -> Questions:  # noqa: ARG002
        """A JSONL file beside its images, as `Questions.open`; a vision-language model has no class names."""
        return Questions.open(path)

    def compare(
        self,
        reference: Answerer,
        candidate: Answerer,
        questions: Iterable[QuestionItem],
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        advance: Callable[[int], None] | None = None,
    ) -> VlmQuality:
        """As `compare_answers`.

        Args:
            questions: each with its image and what may be right.
            reference, candidate, max_new_tokens, advance: as for `compare_answers`.
        """
        return compare_answers(reference, candidate, questions, max_new_tokens=max_new_tokens, advance=advance)


def compare_answers(
    reference: Answerer,
    candidate: Answerer,
    items: Iterable[QuestionItem],
    *,
    max_new_tokens: int = MAX_NEW_TOKENS,
    advance: Callable[[int], None] | None = None,
) -> VlmQuality:
    """Ask both models every question, and compare.

    Args:
        reference, candidate: the models; both have the same tokenizer and the same number of tokens for an image.
        items: the questions; `Questions` reads them from a file.
        max_new_tokens: the longest answer.
        advance: called with 1 after each question.

    Raises:
        InputError: there is no question.
        EngineError: a model gave no token, NaN, infinity, or logits or features of another shape than the other.
    """
    tally = _Tally(reference, candidate, max_new_tokens)
    for item in items:
        tally.add(item)
        if advance:
            advance(1)
    if tally.agreement.items == 0:
        raise InputError("there is no question to judge by")
    return tally.result()


class _Tally:
    """Running sums."""

    def __init__(self, reference: Answerer, candidate: Answerer, max_new_tokens: int) -> None:
        self._models = (reference, candidate)
        self._max_new_tokens = max_new_tokens
        self.exact, self.key_terms = _Scores(), _Scores()
        self.agreement, self.kl, self.same_token, self.log_ratio = Ratio(), Ratio(), Ratio(), Ratio()
        self.cosine, self.worst = Ratio(), (np.inf, "", 0)
        self.divergences: list[Divergence] = []
        self._seen: set[str] = set()

    def add(self, item: QuestionItem) -> None:
        ours, theirs = (model.answer(item.image, item.question, self._max_new_tokens) for model in self._models)
        self._add_texts(item, ours, theirs)
        self._add_forced(item, ours)
        if item.name not in self._seen:
            self._seen.add(item.name)
            self._add_features(item)

    def _add_texts(self, item: QuestionItem, ours: Answer, theirs: Answer) -> None:
        texts = (ours.text, theirs.text)
        self.agreement.add(ours.text == theirs.text)
        if item.answer is not None:
            self.exact.add(*(float(same_wording(text, item.answer)) for text in texts))
        if item.key_terms:
            self.key_terms.add(*(found_terms(text, item.key_terms) / len(item.key_terms) for text in texts))
        if ours.text != theirs.text:
            self.divergences.append(
                Divergence(
                    item=self.agreement.items,
                    image=item.name,
                    question=item.question,
                    reference=ours.text,
                    candidate=theirs.text,
                    token=common_start(ours.token_ids, theirs.token_ids),
                    answer=item.answer,
                )
            )

    def _add_forced(self, item: QuestionItem, ours: Answer) -> None:
        """The reference's answer through both, each token judged by both."""
        if not ours.token_ids:
            raise EngineError(
                f"{item.name}: the reference gave no token", expected="one at least, that ends the answer"
            )
        ids = np.array(ours.token_ids, np.int64)
        logits = tuple(model.logits(item.image, item.question, ours.token_ids) for model in self._models)
        p, q = _checked(item, "logits", logits, len(ids))
        judged = judge_answers(p, q, ids)
        tokens = float(len(ids))
        self.kl.add(float(judged.divergence.sum()), tokens)
        self.same_token.add(float(judged.agrees.sum()), tokens)
        self.log_ratio.add(float((log_likelihoods(p, ids) - log_likelihoods(q, ids)).sum()), tokens)

    def _add_features(self, item: QuestionItem) -> None:
        found = tuple(model.features(item.image) for model in self._models)
        cosine = cosines(*_checked(item, "features", found, len(found[0])))
        self.cosine.add(float(cosine.sum()), float(len(cosine)))
        patch = int(cosine.argmin())
        self.worst = min(self.worst, (float(cosine[patch]), item.name, patch))

    def result(self) -> VlmQuality:
        return VlmQuality(
            items=self.agreement.items,
            exact=self.exact.score(),
            key_terms=self.key_terms.score(),
            agreement=self.agreement.estimate().times(100.0),
            forced=Forced(
                tokens=int(self.kl.below),
                kl=self.kl.estimate(),
                same_token=self.same_token.estimate().times(100.0),
                perplexity_ratio=self.log_ratio.estimate().exponential(),
            ),
            features=Features(
                images=self.cosine.items,
                patches=int(self.cosine.below),
                cosine=self.cosine.estimate(),
                worst=self.worst[0],
                worst_image=self.worst[1],
                worst_patch=self.worst[2],
            ),
            divergences=tuple(self.divergences),
        )


class _Scores:
    """How right both are, and the difference."""

    def __init__(self) -> None:
        self._sums = (Ratio(), Ratio(), Ratio())

    def add(self, ours: float, theirs: float) -> None:
        for ratio, value in zip(self._sums, (ours, theirs, ours - theirs), strict=True):
            ratio.add(value)

    def score(self) -> AnswerScore | None:
        if self._sums[0].items == 0:
            return None
        reference, candidate, drop = (ratio.estimate().times(100.0) for ratio in self._sums)
        return AnswerScore(items=self._sums[0].items, reference=reference, candidate=candidate, drop=drop)


def _checked(
    item: QuestionItem, what: str, found: tuple[NDArray[np.float32], ...], rows: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Both models' arrays of one item, if they can be compared."""
    ours, theirs = found
    if ours.shape != theirs.shape or ours.ndim != 2 or len(ours) != rows or rows == 0:
        raise EngineError(
            f"{item.name}: {what} of the reference are {list(ours.shape)}, of the candidate {list(theirs.shape)}",
            expected="one row for each token, and equal shapes",
            causes=("the two do not have the same tokenizer, prompt or image size",),
        )
    for role, values in (("reference", ours), ("candidate", theirs)):
        if not np.isfinite(values).all():
            raise EngineError(f"{item.name}: the {role} gave {what} that are NaN or infinite")
    return ours, theirs
