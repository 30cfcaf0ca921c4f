"""What a check of the canaries found, and the bounds that it was held against."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from edgeq.artifact import Artifact
from edgeq.bundle.manifest import Kind
from edgeq.errors import GateError
from edgeq.quality.token_parity import FP16_BOUND, TokenParity

__all__ = ["DEFAULT_BOUNDS", "AnswerCheck", "CanaryBounds", "CanaryCheck", "CanaryReport", "ClassCheck"]

_SHOWN: Final = 3


class CanaryBounds(BaseModel):
    """What counts as the same network. A bound on 1 - cosine of d stands for a relative error of sqrt(2 d) as well.

    Attributes:
        features: largest 1 - cosine of a vision-language model's worst token to FP32: what `edgeq prepare` demands of
            the FP16 graph. Rounding to FP16 alone stays a hundred times below.
        logits: of a classifier's canary, the largest 1 - cosine of the logits to those of FP32, or to those of the
            workshop's INT8 graph if they are nearer: a relative error of 0.3. Of 600 images of a ResNet-56, ONNX
            Runtime with TensorRT's INT8 graph was farther away on 1, and at most 0.08 away on nine of ten.
        mean_logits: the same for the mean of all canaries' relative errors, 0.14; there the mean of the images was
            0.05. One image may be unlucky, all are not.
        times_workshop: these errors may instead be so many times those of the workshop's own INT8 graph to FP32: two
            INT8 graphs whose rounding has nothing in common are 1.4 times as far from each other as each is from FP32,
            and some networks bear INT8 less well than others.
        other_class: share of the canaries whose likeliest class may be neither FP32's nor INT8's. Where two classes
            are nearly alike likely, rounding decides; what is beyond rounding shows in the logits.
        embeddings: largest 1 - cosine of a two-tower model's embedding to that of the bundle's own graph in the
            workshop. Another order of sums leaves under 0.001 in FP16; in INT8 a step more or less costs more.
        tokens: smallest share of the tokens of all answers that the language model must choose, each after the tokens
            of the answer before it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: float = Field(FP16_BOUND, gt=0, le=2)
    logits: float = Field(4.5e-2, gt=0, le=2)
    mean_logits: float = Field(1e-2, gt=0, le=2)
    times_workshop: float = Field(2.0, ge=0)
    other_class: float = Field(0.25, ge=0, le=1)
    embeddings: float = Field(2e-2, gt=0, le=2)
    tokens: float = Field(0.75, ge=0, le=1)


DEFAULT_BOUNDS: Final = CanaryBounds()


class ClassCheck(BaseModel):
    """The likeliest class of one canary, by logit: of the engine, and in the workshop of FP32 and of INT8."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: int
    fp32: int
    int8: int

    @property
    def known(self) -> bool:
        """Whether the engine names a class that the workshop saw."""
        return self.engine in (self.fp32, self.int8)


class AnswerCheck(BaseModel):
    """The answer about one canary.

    Attributes:
        said: here.
        wanted: in the workshop.
        same: the same tokens.
        tokens: of the workshop's answer.
        chosen: how many of them the model here chooses as well, each after the ones before it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    said: str
    wanted: str
    same: bool
    tokens: int
    chosen: int


class CanaryCheck(BaseModel):
    """One canary through the engine.

    Attributes:
        image: its file name; of a text, the text.
        parity: the engine against the FP32 graph, token by token; a classifier's logits count as one token. None where
            the engine gave another shape, NaN or infinity.
        int8: a classifier's engine against the workshop's INT8 graph.
        classes: of a classifier.
        answer: None where it was not asked for.
        same_pixels: whether the network's input is the workshop's, to the last bit; None where that is not known.
        failure: what is wrong, in words; empty where nothing is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: str
    parity: TokenParity | None = None
    int8: TokenParity | None = None
    classes: ClassCheck | None = None
    answer: AnswerCheck | None = None
    same_pixels: bool | None = None
    failure: str = ""


class CanaryReport(Artifact):
    """All canaries of a bundle through one engine.

    Attributes:
        against: what they were compared with.
        bounds: that were asked for.
        canaries: in the bundle's order.
        failures: what does not hold, a sentence each, the worst canary first; empty where all is well.
    """

    otherwise = "is no report on canaries"

    version: Literal["edgeq.canary-report/1"] = "edgeq.canary-report/1"
    kind: Kind
    against: str
    bounds: CanaryBounds
    canaries: tuple[CanaryCheck, ...]
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the engine computes what the workshop saw."""
        return not self.failures

    def raise_if_failed(self, hint: str = "") -> None:
        """Raise GateError, which names the canaries that failed and by how much, unless all is well.

        Args:
            hint: a likely cause that is known besides.
        """
        if self.passed:
            return
        bad = sum(1 for canary in self.canaries if canary.failure)
        others = any(canary.same_pixels is False for canary in self.canaries)
        raise GateError(
            f"the engine does not compute what the workshop saw: {bad} of {len(self.canaries)} canaries fail"
            if bad
            else "the engine does not do what the workshop saw",
            expected=f"what {self.against} gave",
            causes=(
                *self.failures[:_SHOWN],
                *((hint,) if hint else ()),
                *(("images become other pixels here than in the workshop: Pillow differs",) if others else ()),
            ),
            next_step="do not use this engine; `edgeq verify-engine BUNDLE -o report.json` writes down what it does",
        )
