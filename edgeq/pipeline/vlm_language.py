"""The language half of a bundle: NF4, INT4 by AWQ, or INT8; or the smallest of them that the user's questions allow."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from pydantic import BaseModel, ConfigDict

from edgeq.bundle.vlm_settings import LANGUAGE, VlmSettings
from edgeq.errors import InputError, ModelError
from edgeq.families.modules import VlmDescription
from edgeq.families.structure import Module
from edgeq.pipeline.stages import Progress, counter
from edgeq.pipeline.vlm_options import LANGUAGES, VlmOptions
from edgeq.pipeline.vlm_reference import free_memory, reference_fits
from edgeq.plan.precision import Precision, PrecisionPlan
from edgeq.plan.weights import LINEAR_KINDS
from edgeq.quality.accuracy import drop_limits
from edgeq.quality.answerer import Answerer
from edgeq.quality.tasks.answer_questions import Questions
from edgeq.quality.tasks.answers import VlmQuality
from edgeq.quality.tasks.registry import ANSWERS
from edgeq.quantize.language.share import QuantizedShare
from edgeq.quantize.nf4.write import write_nf4
from edgeq.quantize.weight_only.write import feedback_bytes, write_packed
from edgeq.runtime.vlm.language import LanguageModel
from edgeq.runtime.vlm.model import VisionLanguageModel, load_vlm
from edgeq.runtime.vlm.prompt import Prompter
from edgeq.runtime.vlm.vision_encoder import VisionEncoder

if TYPE_CHECKING:
    import torch

    from edgeq.quantize.weight_only.blocks import Prompts

__all__ = [
    "ChosenLanguage",
    "LanguageFigures",
    "check_choice",
    "choose_language",
    "image_prompts",
    "no_reference",
    "write_language",
]


class LanguageFigures(BaseModel):
    """A language half that was tried.

    Attributes:
        language: as `--language` has it.
        bytes: of its files.
        drop: right answers lost, in points, or where nobody knows what is right, answers that are others, in percent.
        standard_error: of the drop; None where there are too few questions for one.
        agreement: percent of answers that are the whole model's.
        kl: mean over tokens of KL(whole || this) of the softmaxed logits, in nats.
        within: the drop is below the bound, with 95 % certainty.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    language: str
    bytes: int
    drop: float
    standard_error: float | None
    agreement: float
    kl: float
    within: bool


class ChosenLanguage(BaseModel):
    """What was chosen of several language halves.

    Attributes:
        language: the smallest that is within the bound; where none is, the one that is nearest to the whole model.
        max_drop: the bound, in points.
        tried: all of them, the smallest first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    language: str
    max_drop: float
    tried: tuple[LanguageFigures, ...]

    @property
    def shown(self) -> bool:
        """Whether the chosen one is within the bound."""
        return any(figures.language == self.language and figures.within for figures in self.tried)


def write_language(
    source: Path,
    plan: PrecisionPlan,
    bundle: Path,
    language: str,
    options: VlmOptions,
    photographs: Sequence[Image.Image],
    questions: Questions | None,
    report: Progress,
) -> QuantizedShare:
    """Write the language half into a bundle that has its vision graph, its processor and its settings.

    Args:
        source: the model's directory.
        plan: with the language half in the precision of `language`.
        bundle: in the making.
        language: as `--language` has it.
        options: for double quantization and threads.
        photographs: that INT4's scales are searched on.
        questions: whose words are asked about the photographs; their images are not looked at.
        report: called as it goes on.
    """
    if LANGUAGES[language] is Precision.NF4:
        return write_nf4(source, plan, bundle / LANGUAGE, double_quant=options.double_quant, progress=report)
    asked = tuple(dict.fromkeys(entry.question for entry in questions.entries)) if questions else (options.question,)
    searched = LANGUAGES[language] is Precision.INT4
    return write_packed(
        source,
        plan,
        bundle / LANGUAGE,
        precision=LANGUAGES[language],
        prompts=image_prompts(bundle, photographs, asked, options.threads) if searched else None,
        error_feedback=language == "int4-gptq",
        progress=report,
    )


def image_prompts(
    bundle: Path, photographs: Sequence[Image.Image], questions: Sequence[str], threads: int | None
) -> Prompts:
    """Prompts of photographs and questions, seen through the bundle's own FP16 vision encoder.

    Args:
        bundle: with vision graph, processor and settings.
        photographs: mode RGB; each is asked about once.
        questions: in turn.
        threads: of one operator of the vision encoder.
    """

    def run(model: torch.nn.Module) -> None:
        settings = VlmSettings.of(bundle)
        prompter = Prompter.open(bundle, settings)
        vision = VisionEncoder.open(bundle / settings.vision, threads=threads)
        language = LanguageModel(model, prompter.image_prompt, settings.image_token_id, prompter.config)
        vlm = VisionLanguageModel(prompter, vision, language)
        for number, photograph in enumerate(photographs):
            vlm.logits(photograph, questions[number % len(questions)], (0,))

    return run


def choose_language(
    source: Path,
    plans: Mapping[str, PrecisionPlan],
    bundle: Path,
    options: VlmOptions,
    photographs: Sequence[Image.Image],
    questions: Questions,
    reference: Answerer,
    report: Progress,
) -> tuple[ChosenLanguage, QuantizedShare, VlmQuality]:
    """Make every language half, judge each on the user's questions, and leave the chosen one in the bundle.

    Args:
        source: the model's directory.
        plans: by language.
        bundle: in the making, with vision graph, processor and settings.
        options: for the bound and the answers' length.
        photographs: that INT4's scales are searched on.
        questions: to judge by.
        reference: the whole model.
        report: called as it goes on.

    Returns:
        What was tried and chosen, and of the chosen one the share in few bits and what was judged.
    """
    made: dict[str, tuple[QuantizedShare, VlmQuality, LanguageFigures]] = {}
    for language, plan in plans.items():
        share = write_language(source, plan, bundle, language, options, photographs, questions, report)
        vlm = load_vlm(bundle, threads=options.threads)
        advance = counter(report, f"judge {language}", len(questions))
        quality = ANSWERS.compare(reference, vlm, questions, max_new_tokens=options.max_new_tokens, advance=advance)
        del vlm
        made[language] = (share, quality, _figures(language, bundle / LANGUAGE, quality, options.max_drop))
        (bundle / LANGUAGE).rename(_aside(bundle, language))
    tried = tuple(sorted((figures for _, _, figures in made.values()), key=lambda figures: figures.bytes))
    nearest = min(tried, key=lambda figures: figures.kl)
    language = next((figures for figures in tried if figures.within), nearest).language
    _aside(bundle, language).rename(bundle / LANGUAGE)
    for other in made.keys() - {language}:
        shutil.rmtree(_aside(bundle, other))
    share, quality, _ = made[language]
    return ChosenLanguage(language=language, max_drop=options.max_drop, tried=tried), share, quality


def no_reference(model: str) -> ModelError:
    """The error where language `auto` cannot load the whole model."""
    return ModelError(
        f"language auto judges by the whole model's answers, and {model} does not fit this machine's memory",
        next_step="name the language: nf4, int4-awq, int4-gptq or int8",
    )


def check_choice(model: VlmDescription, options: VlmOptions, questions: Path | None) -> None:
    """Look whether a choice by questions can be made at all, and whether there is memory for GPTQ.

    Args:
        model: described, not loaded.
        options: `auto` asks for the choice.
        questions: the user's.

    Raises:
        InputError: there are no questions, or the whole model is not to be asked.
        ModelError: it does not fit this machine.
    """
    if options.language == "int4-gptq":
        _check_feedback(model)
    if options.language != "auto":
        return
    if questions is None:
        raise InputError(
            "language auto chooses by your own questions, and none are given",
            next_step="give a JSONL file of questions (--eval), or name the language: nf4, int4-awq, int4-gptq or int8",
        )
    if not options.reference_answers:
        raise InputError(
            "language auto judges by the whole model's answers, which are not asked for",
            next_step="leave out --no-reference-answers, or name the language: nf4, int4-awq, int4-gptq or int8",
        )
    if not reference_fits(model):
        raise no_reference(model.name)


def _check_feedback(model: VlmDescription) -> None:
    """Raise ModelError where this machine lacks the memory for GPTQ's matrices of the widest layer."""
    layers = (layer for part in model.components if part.name not in ("vision", "connector") for layer in part.layers)
    linear = (layer for layer in layers if isinstance(layer, Module) and layer.kind in LINEAR_KINDS)
    inputs = max(layer.shape[-1] for layer in linear)
    needed, free = feedback_bytes(inputs), free_memory()
    if free < needed:
        raise ModelError(
            f"GPTQ needs {needed / 1e9:.1f} GB for a layer of {inputs:,} inputs, and {free / 1e9:.1f} GB are free",
            next_step="--language int4-awq",
        )


def _aside(bundle: Path, language: str) -> Path:
    return bundle / f"{LANGUAGE}.{language}"


def _figures(language: str, directory: Path, quality: VlmQuality, max_drop: float) -> LanguageFigures:
    headline = quality.headline()
    error = headline.standard_error
    return LanguageFigures(
        language=language,
        bytes=sum(file.stat().st_size for file in directory.rglob("*") if file.is_file()),
        drop=headline.drop,
        standard_error=error,
        agreement=quality.agreement.value,
        kl=quality.forced.kl.value,
        within=error is not None and drop_limits(headline)[1] <= max_drop,
    )
