"""The figures of two vision-language models beside each other; `edgeq.quality.tasks.answers` measures them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from edgeq.artifact import Artifact
from edgeq.quality.estimate import Estimate
from edgeq.quality.tasks.answer_divergence import Divergence
from edgeq.quality.tasks.base import Headline, Row

__all__ = ["AnswerScore", "Features", "Forced", "VlmQuality"]

VLM_QUALITY_VERSION: Final = "edgeq.vlm-quality/1"


class AnswerScore(BaseModel):
    """How often both are right, in percent.

    Attributes:
        items: questions that say what is right.
        reference, candidate: of each model.
        drop: reference - candidate in points, with the standard error of the paired difference.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    items: int
    reference: Estimate
    candidate: Estimate
    drop: Estimate


class Forced(BaseModel):
    """The reference's own answers forced through both models.

    Attributes:
        tokens: of all answers.
        kl: mean over tokens of KL(reference || candidate) of the softmaxed logits, in nats.
        same_token: percent of tokens at which both find the same one likeliest.
        perplexity_ratio: candidate's perplexity of these answers over the reference's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: int
    kl: Estimate
    same_token: Estimate
    perplexity_ratio: Estimate


class Features(BaseModel):
    """What the language model gets of the images.

    Attributes:
        images: different ones, by name.
        patches: of all images; a patch is one image token.
        cosine: mean over patches.
        worst: the smallest cosine.
        worst_image, worst_patch: where that is; patches are counted from 0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int
    patches: int
    cosine: Estimate
    worst: float
    worst_image: str
    worst_patch: int


class VlmQuality(Artifact):
    """What a candidate does to a reference's answers.

    Attributes:
        items: questions.
        exact: answers equal to those given, but for case, spaces and a final full stop; None where none is given.
        key_terms: share of the key terms that are in the answer; None where none are given.
        agreement: percent of questions to which both give the same text.
        forced: how likely both find the reference's words.
        features: the images as the language model gets them.
        divergences: every question to which the two say something different.
    """

    otherwise = "holds no figures of a vision-language model"

    version: Literal["edgeq.vlm-quality/1"] = VLM_QUALITY_VERSION
    items: int
    exact: AnswerScore | None
    key_terms: AnswerScore | None
    agreement: Estimate
    forced: Forced
    features: Features
    divergences: tuple[Divergence, ...]

    def headline(self) -> Headline:
        """Right answers, else key terms; where neither is known, how often the answers differ."""
        scores = (("right answers", self.exact), ("key terms", self.key_terms))
        name, score = next(((name, score) for name, score in scores if score is not None), ("other answers", None))
        differ = 100.0 - self.agreement.value
        return Headline(
            name=name,
            unit="points",
            reference=None if score is None else score.reference.value,
            candidate=None if score is None else score.candidate.value,
            drop=differ if score is None else score.drop.value,
            standard_error=self.agreement.standard_error if score is None else score.drop.standard_error,
            examples=self.items if score is None else score.items,
            labelled=score is not None,
            alike="same answer",
            agreement=self.agreement.value,
        )

    def rows(self) -> tuple[Row, ...]:
        """For a table; the reference is the whole model."""
        forced, features = self.forced, self.features
        return (
            ("same answer", "", "", _percent(self.agreement)),
            *self._scores(),
            (f"KL, {forced.tokens} tokens", "", "", f"{forced.kl.value:.5f} nats a token"),
            ("perplexity", "", "", f"{forced.perplexity_ratio.value:.4f} x"),
            ("feature cosine", "", "", f"{features.cosine.value:.6f}, worst {features.worst:.6f}"),
        )

    def _scores(self) -> Iterator[Row]:
        for name, score in (("right answers", self.exact), ("key terms", self.key_terms)):
            if score is not None:
                change = f"{-score.drop.value:+.2f} points"
                ours, theirs = _percent(score.reference), _percent(score.candidate)
                yield f"{name}, {score.items} questions", ours, theirs, change


def _percent(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} %"
