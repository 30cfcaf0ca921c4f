"""Canaries: a few images with what is to be seen on them, for a device to check itself by."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
)

from edgeq.artifact import Artifact

__all__ = ["CANARIES", "CANARY_LIST", "Canaries", "Canary", "ClassCanaries", "ClassCanary", "OutputCanaries"]

CANARIES: Final = "canaries"
"""The directory of the canaries in a bundle."""

CANARY_LIST: Final = f"{CANARIES}/canaries.json"
"""The list of them: `Canaries` in the bundle of a vision-language model, `ClassCanaries` in that of a classifier."""

_MOST: Final = 64
_LONGEST: Final = 65_536

_FileName = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z][0-9A-Za-z_.-]{0,99}$")]
"""A file of the canaries' directory, and of no other place."""


class Canary(BaseModel):
    """One image and what belongs to it.

    Attributes:
        image: file name of a PNG.
        features: file name of its features from the FP32 graph, NumPy [tokens, hidden], float16 where that holds them.
        question: asked about it.
        answer: what was said.
        token_ids: the same as tokens.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: _FileName
    features: _FileName
    question: str
    answer: str
    token_ids: tuple[int, ...] = Field(min_length=1, max_length=_LONGEST)


class Canaries(Artifact):
    """All of a vision-language model's.

    Attributes:
        answered_by: `reference`, the whole model without 4 bits; or `bundle`, where that was not loaded: then the
            answers say only that a device does what the workshop did.
        max_new_tokens: the longest answer.
    """

    otherwise = "holds no canaries of a vision-language model"
    made_by = "edgeq prepare"

    version: Literal["edgeq.canaries/1"] = "edgeq.canaries/1"
    answered_by: Literal["reference", "bundle"]
    max_new_tokens: int = Field(ge=1, le=_LONGEST)
    canaries: tuple[Canary, ...] = Field(max_length=_MOST)


class ClassCanary(BaseModel):
    """One image for a classifier.

    Attributes:
        image: file name of a PNG.
        pixels_sha256: of the network's input that the workshop made of it, float32 [3, H, W], little-endian, in
            hexadecimal: where a device's are others, its preprocessing differs, and not its engine.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: _FileName
    pixels_sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class OutputCanaries(BaseModel):
    """What two graphs of the bundle gave in one output, for each canary.

    Attributes:
        output: its name.
        fp32, int8: file names, NumPy float32 [canaries, numbers].
        every: so many-th number of the output alone is there, from the first on.
        resized: its size differs from image to image, and rows are filled up with zeros.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: str = Field(min_length=1)
    fp32: _FileName
    int8: _FileName
    every: int = Field(1, ge=1)
    resized: bool = False


class ClassCanaries(Artifact):
    """All of a classifier's, with what two graphs of the bundle gave for them in ONNX Runtime, one image at a time.

    Attributes:
        fp32, int8: file names of the graphs in the bundle: the reference, and what ONNX Runtime runs, which is the
            reference again where floating point was kept.
        output: the output of both graphs that was kept.
        fp32_logits, int8_logits: file names of what they gave, NumPy float32 [canaries, classes].
        answer: how the answer lies in these files where it is no vector of classes or features for each image; None,
            and not written, where it is.
        further: the other outputs of both graphs; not written where there are none.
        shares: the answer is a number from 0 to 1 for each class, all of which add up to 1, and no logits; not written
            where it is not.
    """

    otherwise = "holds no canaries of a classifier"
    made_by = "edgeq prepare"

    version: Literal["edgeq.class-canaries/1"] = "edgeq.class-canaries/1"
    fp32: _FileName
    int8: _FileName
    output: str = Field(min_length=1)
    fp32_logits: _FileName
    int8_logits: _FileName
    canaries: tuple[ClassCanary, ...] = Field(min_length=1, max_length=_MOST)
    answer: OutputCanaries | None = None
    further: tuple[OutputCanaries, ...] = Field((), max_length=_MOST)
    shares: bool = False
    later: ClassVar[tuple[str, ...]] = ("answer", "further", "shares")

    @property
    def outputs(self) -> tuple[OutputCanaries, ...]:
        """All of them, the answer first."""
        plain = OutputCanaries(output=self.output, fp32=self.fp32_logits, int8=self.int8_logits)
        return (self.answer or plain, *self.further)
