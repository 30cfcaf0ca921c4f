"""The main job for a vision-language model, from a folder to a bundle that sees in FP16 and speaks in 4 bits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import BaseModel, ConfigDict

from edgeq.bundle.manifest import Manifest
from edgeq.bundle.needs import DeviceNeeds
from edgeq.bundle.vision_report import VISION_FP16, VISION_FP32, VisionReport
from edgeq.bundle.vlm_settings import LANGUAGE, VLM_SETTINGS
from edgeq.bundle_report.changed import save_changed
from edgeq.export.vision import export_vision
from edgeq.families.modules import VlmDescription, read_vlm
from edgeq.families.registry import cap, exportable, runnable
from edgeq.files import new_directory
from edgeq.model.images.image_set import ImageSet
from edgeq.pipeline.finish import finish_bundle
from edgeq.pipeline.stages import Progress, counter
from edgeq.pipeline.vlm_fit import check_halves, fitting, plan_languages, saved_embeddings
from edgeq.pipeline.vlm_language import (
    ChosenLanguage,
    check_choice,
    choose_language,
    no_reference,
    write_language,
)
from edgeq.pipeline.vlm_options import VlmOptions, check_embeddings
from edgeq.pipeline.vlm_processor import (
    bounded_source,
    check_question,
    config_directory,
    copy_processor,
    image_token,
    model_directory,
    take_photographs,
    vlm_settings,
)
from edgeq.pipeline.vlm_reference import load_reference, make_canaries
from edgeq.plan.facts import Facts
from edgeq.plan.guards import GuardFinding, check
from edgeq.plan.memory import MemoryPlan
from edgeq.plan.photographs import PhotographCount, count_photographs
from edgeq.quality.answerer import Answerer
from edgeq.quality.tasks.answer_divergence import save_divergences
from edgeq.quality.tasks.answer_questions import Questions
from edgeq.quality.tasks.answers import VlmQuality
from edgeq.quality.tasks.registry import ANSWERS
from edgeq.quantize.engine_inputs import axis_ranges, most_pictures, write_vision_inputs
from edgeq.quantize.fp16.vision import quantize_vision
from edgeq.quantize.language.share import QuantizedShare
from edgeq.runtime.canary.canaries import Canaries
from edgeq.runtime.scheduler.budget import MEMORY
from edgeq.runtime.vlm.model import VisionLanguageModel, load_vlm
from edgeq.runtime.vlm.prompt import Prompter

__all__ = ["DIVERGENCES", "MEMORY", "PLAN", "QUALITY", "PreparedVlm", "VlmOptions", "prepare_vlm"]

PLAN, QUALITY, DIVERGENCES = "plan.yaml", "quality.json", "divergences.html"


class PreparedVlm(BaseModel):
    """Everything that was done and measured.

    Attributes:
        bundle: the directory made.
        parameters: of the whole model.
        language: what the language model's linear layers are stored in: `nf4`, `int4-awq` or `int8`.
        embeddings: what its input embedding and output head are stored in: `fp16` or `int8`.
        chosen: how that was chosen; None where it was asked for.
        quantized_parameters: those stored so.
        fp16_bytes: the whole model with 2 bytes a parameter.
        vision_bytes, language_bytes: files of the FP16 graph and of the language model.
        vision: the graphs, and what was proved of them.
        memory: for the device named; None where none was.
        dearest: of all photographs, at full resolution, the one that takes most tokens.
        canaries: and who answered them.
        quality: against the whole model; None without questions, or where the whole model was not loaded.
        photographs: images that went through the encoder.
        skipped: images that could not be read.
        guards: those that were tripped and allowed.
        warnings: what a careful reader should know.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: Path
    model_type: str
    parameters: int
    language: str
    embeddings: str
    chosen: ChosenLanguage | None
    quantized_parameters: int
    fp16_bytes: int
    vision_bytes: int
    language_bytes: int
    vision: VisionReport
    memory: MemoryPlan | None
    dearest: PhotographCount
    canaries: Canaries
    quality: VlmQuality | None
    photographs: int
    skipped: tuple[str, ...]
    guards: tuple[GuardFinding, ...]
    warnings: tuple[str, ...]
    manifest: Manifest


def prepare_vlm(
    model: str | Path,
    images: Path,
    output: Path,
    *,
    questions: Path | None = None,
    options: VlmOptions | None = None,
    progress: Progress | None = None,
) -> PreparedVlm:
    """Make a bundle of a vision-language model.

    Args:
        model: a Hugging Face directory with weights, or a Hugging Face id, which is downloaded.
        images: a folder or zip of photographs, like those that it will see.
        output: the bundle's directory; it must not exist, and exists only once all has succeeded.
        questions: a JSONL file beside its images, to judge answers by.
        options: see `VlmOptions`.
        progress: called as the stages go on.

    Raises:
        EdgeqError: any of them; nothing is left behind then. GateError: it does not fit the device, or a guard said no.
    """
    options = options or VlmOptions()
    if options.plan is None:
        check_embeddings(options.language, options.embeddings)
    report = progress or (lambda _stage, _done, _total: None)
    with new_directory(output) as work, TemporaryDirectory() as scratch:
        report("open", 0, 0)
        given = read_vlm(model)
        described = cap(given, options.caps)
        check_choice(described, options, questions)
        plans = plan_languages(described, options)
        plan = next(iter(plans.values()))
        findings = check(Facts(plan=plan, config=described.config), plan.allowed)
        check_halves(plan)
        exportable(described.model_type, described.vision)
        runnable(described.model_type)
        pictures = ImageSet.open(images)
        count = count_photographs(config_directory(model), described, pictures)
        memories = fitting(described, plans, options, count)
        memory = next(iter(memories.values()))
        source = bounded_source(model_directory(model), given, described, Path(scratch))
        token = image_token(source, described)
        asked = ANSWERS.open(questions) if questions else None
        longest = max((entry.question for entry in asked.entries), key=len) if asked else options.question
        check_question(source, described, memory, token, count=count, question=longest)
        photographs, skipped = take_photographs(pictures, options.photographs)
        export_vision(source, work, photographs, threads=options.threads, report=report)
        vision = quantize_vision(source, work, photographs, threads=options.threads, report=report)
        lengths = axis_ranges(vision.lengths, count.lengths)
        write_vision_inputs(work, pictures=most_pictures(described), ranges=lengths)
        copy_processor(source, work)
        settings = vlm_settings(source, described, memory, token, vision=VISION_FP16, tokens=vision.image_tokens)
        settings.save(work / VLM_SETTINGS)
        prompter, chosen, quality = Prompter.open(work, settings), None, None
        if options.language == "auto":
            report("reference", 0, 0)
            reference = load_reference(source, described, prompter)
            assert asked is not None, "looked at before any work"
            if reference is None:
                raise no_reference(described.name)
            fit = {language: plans[language] for language in memories}
            chosen, share, quality = choose_language(source, fit, work, options, photographs, asked, reference, report)
            language = chosen.language
        else:
            (language,) = plans
            share = write_language(source, plan, work, language, options, photographs, asked, report)
            report("reference", 0, 0)
            reference = load_reference(source, described, prompter, wanted=options.reference_answers)
        plan, memory = plans[language], memories[language]
        plan.save(work / PLAN)
        if memory:
            memory.save(work / MEMORY)
        vlm = load_vlm(work, threads=options.threads)
        report("canaries", 0, 0)
        canaries = make_canaries(work, photographs, vlm, reference, asked, options)
        quality = quality or _judged(vlm, reference, asked, options, report)
        _save_quality(work, quality, asked)
        del vlm, reference
        _drop_fp32(work, options)
        allowed = {finding.code: finding.because for finding in findings}
        needs = _needs(memory)
        manifest = finish_bundle(work, output.name, model, kind="vision-language", allowed=allowed, needs=needs)
    return _summary(
        output,
        described,
        language,
        saved_embeddings(plan),
        chosen,
        share,
        vision,
        memory,
        count,
        canaries,
        quality,
        len(photographs),
        skipped,
        findings,
        manifest,
        asked,
    )


def _judged(
    vlm: VisionLanguageModel,
    reference: Answerer | None,
    questions: Questions | None,
    options: VlmOptions,
    report: Progress,
) -> VlmQuality | None:
    """The bundle against the whole model on the user's questions, where there are both."""
    if questions is None or reference is None:
        return None
    advance = counter(report, "judge", len(questions))
    return ANSWERS.compare(reference, vlm, questions, max_new_tokens=options.max_new_tokens, advance=advance)


def _save_quality(work: Path, quality: VlmQuality | None, questions: Questions | None) -> None:
    """What was judged, and where the two part, into the bundle."""
    if quality is None or questions is None:
        return
    quality.save(work / QUALITY)
    if quality.divergences:
        save_divergences(quality.divergences, questions.read, work / DIVERGENCES)
        save_changed(quality, questions.read, work)


def _needs(memory: MemoryPlan | None) -> DeviceNeeds:
    """The memory of a device that it was planned for: what it needs, and what the system takes there."""
    return DeviceNeeds(memory_bytes=memory.needed_bytes + memory.device.reserve_bytes) if memory else DeviceNeeds()


def _drop_fp32(work: Path, options: VlmOptions) -> None:
    """The FP32 graph and its weights leave the bundle; its digest stays in vision.json."""
    if not options.keep_fp32:
        for file in work.glob(f"{VISION_FP32}*"):
            file.unlink()


def _summary(
    output: Path,
    described: VlmDescription,
    language: str,
    embeddings: str,
    chosen: ChosenLanguage | None,
    share: QuantizedShare,
    vision: VisionReport,
    memory: MemoryPlan | None,
    count: PhotographCount,
    canaries: Canaries,
    quality: VlmQuality | None,
    photographs: int,
    skipped: tuple[str, ...],
    findings: tuple[GuardFinding, ...],
    manifest: Manifest,
    questions: Questions | None,
) -> PreparedVlm:
    return PreparedVlm(
        bundle=output,
        model_type=described.model_type,
        parameters=described.parameters,
        language=language,
        embeddings=embeddings,
        chosen=chosen,
        quantized_parameters=share.parameters,
        fp16_bytes=2 * described.parameters,
        vision_bytes=_bytes(manifest, VISION_FP16),
        language_bytes=_bytes(manifest, f"{LANGUAGE}/"),
        vision=vision,
        memory=memory,
        dearest=count,
        canaries=canaries,
        quality=quality,
        photographs=photographs,
        skipped=skipped,
        guards=findings,
        warnings=(*(finding.warning for finding in findings), *_doubts(canaries, questions, chosen)),
        manifest=manifest,
    )


def _bytes(manifest: Manifest, start: str) -> int:
    return sum(file.size for file in manifest.files if file.name.startswith(start))


def _doubts(canaries: Canaries, questions: Questions | None, chosen: ChosenLanguage | None) -> Iterator[str]:
    if chosen is not None and not chosen.shown:
        yield (
            f"no language half was shown to lose less than {chosen.max_drop:g} points on the questions given; "
            f"{chosen.language} is nearest to the whole model: more questions decide it"
        )
    if questions is None:
        yield "no questions were given (--eval): what the bundle answers was not judged"
    if canaries.answered_by == "bundle":
        yield "the whole model was not loaded: the canaries' answers are the bundle's own, and answers were not judged"
