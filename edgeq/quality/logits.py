"""What a changed network answers beside the unchanged one, and how sure that is.

What each image adds to a figure is kept, so that standard errors and pairs are exact for any number of images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from edgeq.errors import EngineError
from edgeq.quality.tasks.base import Headline

__all__ = ["Answers", "LogitFigures", "judge_answers", "log_likelihoods", "root_ratio"]


class LogitFigures(BaseModel):
    """What a change does to the answers.

    Attributes:
        images: so many images all figures rest on.
        logit_error: ||changed - FP32|| / ||FP32|| over all logits.
        kl: mean over images of KL(FP32 || changed) of the softmaxed logits, in nats.
        agreement: percent of images on which both name the same class.
        top1: percent right; None without labels.
        drop: FP32's top-1 - `top1` on these images, in points.
        logit_error_se, kl_se, agreement_se, drop_se: standard errors over the choice of images.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int
    logit_error: float
    logit_error_se: float
    kl: float
    kl_se: float
    agreement: float
    agreement_se: float
    top1: float | None = None
    drop: float | None = None
    drop_se: float | None = None

    def headline(self) -> Headline:
        """Top-1, or the logit error where there are no labels."""
        labelled = self.drop is not None and self.top1 is not None
        return Headline(
            name="top-1" if labelled else "logit error",
            unit="points" if labelled else "of their length",
            reference=None if self.top1 is None or self.drop is None else self.top1 + self.drop,
            candidate=self.top1,
            drop=self.logit_error if self.drop is None else self.drop,
            standard_error=self.logit_error_se if self.drop_se is None else self.drop_se,
            examples=self.images,
            labelled=labelled,
            alike="same class",
            agreement=self.agreement,
        )


@dataclass(frozen=True)
class Answers:
    """One number an image, float64 [n].

    Attributes:
        error: squared length of the difference of the logits.
        length: squared length of the FP32 logits.
        divergence: KL(FP32 || changed).
        agrees: 1.0 where both name the same class.
        right, reference_right: 1.0 where the class is that of the label, NaN without labels.
    """

    error: NDArray[np.float64]
    length: NDArray[np.float64]
    divergence: NDArray[np.float64]
    agrees: NDArray[np.float64]
    right: NDArray[np.float64]
    reference_right: NDArray[np.float64]

    def figures(self) -> LogitFigures:
        """The figures over all images."""
        logit_error, logit_error_se = root_ratio(self.error, self.length)
        labelled = not np.isnan(self.right).any()
        lost = self.reference_right - self.right
        return LogitFigures(
            images=len(self.error),
            logit_error=logit_error,
            logit_error_se=logit_error_se,
            kl=float(self.divergence.mean()),
            kl_se=_standard_error(self.divergence),
            agreement=100.0 * float(self.agrees.mean()),
            agreement_se=100.0 * _standard_error(self.agrees),
            top1=100.0 * float(self.right.mean()) if labelled else None,
            drop=100.0 * float(lost.mean()) if labelled else None,
            drop_se=100.0 * _standard_error(lost) if labelled else None,
        )

    def joined(self, later: Answers) -> Answers:
        """These images and then those of `later`."""
        return Answers(*(np.concatenate((mine, vars(later)[name])) for name, mine in vars(self).items()))


def judge_answers(
    reference: NDArray[np.float32], changed: NDArray[np.float32], truth: NDArray[np.int64] | None
) -> Answers:
    """Compare logits, float32 [n, classes] each.

    Args:
        reference: FP32's.
        changed: the changed network's.
        truth: class indices [n]; None without labels.

    Raises:
        EngineError: a logit is NaN or infinite.
    """
    ours, theirs = (_finite(logits) for logits in (reference, changed))
    log_p, log_q = _log_softmax(ours), _log_softmax(theirs)
    answer, other = ours.argmax(axis=1), theirs.argmax(axis=1)
    unknown = np.full(len(ours), np.nan)
    return Answers(
        error=np.square(theirs - ours).sum(axis=1),
        length=np.square(ours).sum(axis=1),
        divergence=np.maximum((np.exp(log_p) * (log_p - log_q)).sum(axis=1), 0.0),
        agrees=(answer == other).astype(np.float64),
        right=unknown if truth is None else (other == truth).astype(np.float64),
        reference_right=unknown if truth is None else (answer == truth).astype(np.float64),
    )


def root_ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> tuple[float, float]:
    """sqrt(sum of `above` / sum of `below`), [n] each, and its standard error by the delta method.

    For a ratio of sums see Cochran, "Sampling Techniques", 6.4: its variance is that of above - ratio * below over
    n mean(below)^2. The error is infinite for one image alone.
    """
    total = max(float(below.sum()), float(np.finfo(np.float64).tiny))
    ratio = float(above.sum()) / total
    if ratio == 0.0:
        return 0.0, 0.0
    ratio_error = _standard_error(above - ratio * below) * len(below) / total
    return math.sqrt(ratio), ratio_error / (2.0 * math.sqrt(ratio))


def _standard_error(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.inf


def _finite(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    if not np.isfinite(logits).all():
        raise EngineError("a network gave NaN or infinity", expected="finite logits on real images")
    return logits.reshape(len(logits), -1).astype(np.float64)


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def log_likelihoods(logits: NDArray[np.float32], ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """log of the probability that each row of `logits` [n, vocabulary] gives its token of `ids` [n]: float64 [n]."""
    wide = logits.astype(np.float64)
    chosen: NDArray[np.float64] = wide[np.arange(len(ids)), ids] - np.logaddexp.reduce(wide, axis=1)
    return chosen
