"""How a bundle of a vision-language model is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgeq.plan.precision import PrecisionPlan, Rule
from edgeq.quality.tasks.answers import MAX_NEW_TOKENS

__all__ = ["VlmOptions"]


@dataclass(frozen=True)
class VlmOptions:
    """How it is done.

    Attributes:
        rules: about the model's modules, asked before the built-in ones.
        plan: a saved plan, whose rules and allowances stand in for `rules` and the built-in ones.
        allow: guards that may be passed: code -> because.
        double_quant: NF4 with double quantization.
        device: plan its memory, and stop where the model does not fit; None plans none.
        context: tokens of image, question and answer that memory is planned for.
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
    double_quant: bool = True
    device: str | None = None
    context: int = 2048
    photographs: int = 16
    canaries: int = 3
    question: str = "What is in the image?"
    max_new_tokens: int = MAX_NEW_TOKENS
    reference_answers: bool = True
    keep_fp32: bool = False
    threads: int | None = None
