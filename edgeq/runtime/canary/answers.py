"""Ask a vision-language model the questions of its canaries, as the device would be asked."""

from __future__ import annotations

from pathlib import Path

from edgeq.bundle.vlm_settings import LANGUAGE
from edgeq.engine import Engine
from edgeq.runtime.canary.canaries import Canary
from edgeq.runtime.canary.canary_set import CanarySet, KnownCanary
from edgeq.runtime.canary.report import AnswerCheck, CanaryReport
from edgeq.runtime.vlm.language import open_language_model, require_packages
from edgeq.runtime.vlm.model import VisionLanguageModel
from edgeq.runtime.vlm.vision_encoder import VisionEncoder

__all__ = ["ask_canaries"]


def ask_canaries(
    bundle: Path, engine: Engine, canaries: CanarySet, report: CanaryReport, *, threads: int | None = None
) -> CanaryReport:
    """A report with answers in it, and with a failure more where too few of their tokens are the workshop's.

    A canary whose features could not be compared is not asked about: its failure is in the report already.

    Args:
        bundle: of a vision-language model, checked.
        engine: its vision engine.
        canaries: its own.
        report: on the features that the engine gave.
        threads: of one operator.

    Raises:
        ModelError: the language model cannot be loaded.
        EngineError: a package that it needs is not installed.
    """
    assert canaries.talk is not None, "only a vision-language model is asked"
    require_packages(bundle / LANGUAGE)
    prompter, listed = canaries.talk.prompter, canaries.talk.canaries
    language = open_language_model(bundle / LANGUAGE, prompter, threads=threads)
    vlm = VisionLanguageModel(prompter, VisionEncoder(engine), language)
    checks = tuple(
        check.model_copy(update={"answer": _ask(vlm, known, canary, listed.max_new_tokens)})
        if check.parity is not None
        else check
        for check, known, canary in zip(report.canaries, canaries.known, listed.canaries, strict=True)
    )
    failures = (*report.failures, *_other_tokens([c.answer for c in checks if c.answer], report.bounds.tokens))
    return report.model_copy(update={"canaries": checks, "failures": failures})


def _ask(vlm: VisionLanguageModel, known: KnownCanary, canary: Canary, limit: int) -> AnswerCheck:
    """What is said here, and which tokens of the workshop's answer are."""
    assert known.picture is not None, "a question is about an image"
    said = vlm.answer(known.picture, canary.question, limit)
    forced = vlm.logits(known.picture, canary.question, canary.token_ids).argmax(axis=1)
    return AnswerCheck(
        said=said.text,
        wanted=canary.answer,
        same=said.token_ids == canary.token_ids,
        tokens=len(canary.token_ids),
        chosen=int((forced == canary.token_ids).sum()),
    )


def _other_tokens(answers: list[AnswerCheck], least: float) -> tuple[str, ...]:
    chosen, tokens = sum(one.chosen for one in answers), sum(one.tokens for one in answers)
    if chosen >= least * tokens:
        return ()
    return (f"{chosen} of the {tokens} tokens of the workshop's answers are chosen here, {least:.0%} are demanded",)
