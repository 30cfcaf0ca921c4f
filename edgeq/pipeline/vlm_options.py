"""How a bundle of a vision-language model is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from edgeq.errors import InputError
from edgeq.plan.precision import Precision, PrecisionPlan, Rule
from edgeq.quality.tasks.answers import MAX_NEW_TOKENS

__all__ = [
    "EMBEDDINGS",
    "LANGUAGES",
    "TRIED",
    "EmbeddingChoice",
    "LanguageChoice",
    "VlmOptions",
    "check_embeddings",
    "image_caps",
]

LanguageChoice = Literal["nf4", "int4-awq", "int4-gptq", "int8", "auto"]

LANGUAGES: Final = {
    "nf4": Precision.NF4,
    "int4-awq": Precision.INT4,
    "int4-gptq": Precision.INT4,
    "int8": Precision.INT8,
}
"""What the language model's linear layers can be stored in, and how they are rounded."""

TRIED: Final = ("nf4", "int4-awq", "int8")
"""Those that `auto` tries."""

EmbeddingChoice = Literal["fp16", "int8"]

EMBEDDINGS: Final = {"fp16": Precision.FP16, "int8": Precision.INT8}
"""What its input embedding and output head can be stored in."""


@dataclass(frozen=True)
class VlmOptions:
    """How it is done.

    Attributes:
        rules: about the model's modules, asked before the built-in ones.
        plan: a saved plan, whose rules and allowances stand in for `rules` and the built-in ones.
        allow: guards that may be passed: code -> because.
        language: what the language model's linear layers are stored in; a saved plan goes before it.
        embeddings: what the language model's input embedding and output head are stored in; a saved plan goes before
            it. INT8 goes with INT4 and INT8 of the language model, and `auto` leaves out NF4 then.
        max_drop: right answers in points that `auto` may lose.
        double_quant: NF4 with double quantization.
        device: plan its memory, and stop where the model does not fit; None plans none.
        context: tokens of image, question and answer that memory is planned for.
        max_pixels: bound on an image's pixels, for families whose images keep their size; None leaves the model's own.
        max_tiles: likewise on the tiles that an image is cut into.
        photographs: at most so many of the images go through the encoder, to find overflow and prove parity.
        canaries: so many of them go into the bundle with what is to be seen on them.
        question: asked about canaries, where there are no questions.
        max_new_tokens: the longest answer, to canaries and to questions.
        reference_answers: load the whole model for reference answers, where memory allows.
        keep_fp32: leave the FP32 vision graph in the bundle.
        threads: of one operator; None takes every processor there is.
    """

    rules: tuple[Rule, ...] = ()
    plan: PrecisionPlan | None = None
    allow: Mapping[str, str] = field(default_factory=dict)
    language: LanguageChoice = "nf4"
    embeddings: EmbeddingChoice = "fp16"
    max_drop: float = 5.0
    double_quant: bool = True
    device: str | None = None
    context: int = 2048
    max_pixels: int | None = None
    max_tiles: int | None = None
    photographs: int = 16
    canaries: int = 3
    question: str = "What is in the image?"
    max_new_tokens: int = MAX_NEW_TOKENS
    reference_answers: bool = True
    keep_fp32: bool = False
    threads: int | None = None

    @property
    def caps(self) -> dict[str, int]:
        """The bounds on an image, `pixels` or `tiles` -> the most."""
        return image_caps(self.max_pixels, self.max_tiles)


def check_embeddings(language: str, embeddings: str) -> None:
    """Look whether language half and embeddings can be stored so in one checkpoint.

    Raises:
        InputError: NF4 and INT8: bitsandbytes, whose format a checkpoint in NF4 has, has no embedding in integers.
    """
    if (language, embeddings) == ("nf4", "int8"):
        raise InputError(
            "embeddings int8 and language nf4: a checkpoint of bitsandbytes has no embedding in integers",
            expected="int4-awq or int8 for the language model, whose format has",
            next_step="--language int4-awq --embeddings int8",
        )


def image_caps(max_pixels: int | None, max_tiles: int | None) -> dict[str, int]:
    """Bounds on an image as `edgeq.families.registry.cap` takes them.

    Raises:
        InputError: one is less than 1.
    """
    caps = {what: most for what, most in (("pixels", max_pixels), ("tiles", max_tiles)) if most is not None}
    for what, most in caps.items():
        if most < 1:
            raise InputError(f"an image of at most {most} {what} is none", expected="1 or more")
    return caps
