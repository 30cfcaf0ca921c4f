"""The main job for a two-tower model (CLIP, SigLIP): a bundle that reads texts in INT8 and sees in FP16.

Images are embedded once, and an index of them is asked for years: so the vision encoder stays FP16. Texts are read at
every question: so the text encoder is INT8, where the images that it finds are shown to be the same.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict

from edgeq.bundle.manifest import Manifest, write_manifest
from edgeq.bundle.retrieval_settings import RETRIEVAL_SETTINGS, TEXT, RetrievalSettings
from edgeq.bundle.vision_report import VISION_FP16, VISION_FP32
from edgeq.calibrate.captions import read_captions
from edgeq.calibrate.samples import CaptionSamples
from edgeq.calibrate.scales import Trial
from edgeq.calibrate.stage import SCALES
from edgeq.engine.registry import DEFAULT
from edgeq.errors import CalibrationError, ImageError
from edgeq.export.parity import Parity
from edgeq.export.stage import FP32, PREPROCESS
from edgeq.export.towers import IDS, PIXELS, Towers, export_text, export_vision, load_towers
from edgeq.families.two_tower import check_two_tower
from edgeq.files import atomic_write, new_directory, sha256_file
from edgeq.model.checkpoint.source import ModelSource, open_model
from edgeq.model.graph.onnx_file import load_onnx
from edgeq.model.images.image_set import ImageSet
from edgeq.model.images.preprocess import Preprocess
from edgeq.pipeline.retrieval_options import RetrievalOptions
from edgeq.pipeline.retrieval_tokenizer import prove_tokenizer, save_tokenizer, tokenizer_pad_id
from edgeq.pipeline.stages import Options, Progress, calibrate_graph, counter, parity_images, planned_tensors
from edgeq.plan.precision import Precision, PrecisionPlan, Rule
from edgeq.plan.rules import WEIGHTED, plan_classifier, plan_float, plan_vision
from edgeq.quality.tasks.pairs import Pairs
from edgeq.quality.tasks.registry import RETRIEVAL
from edgeq.quality.tasks.retrieval import Embedded
from edgeq.quality.tasks.retrieval_gate import RetrievalGate, decide_retrieval
from edgeq.quality.token_parity import TokenParity
from edgeq.quantize.equalize.record import EqualizationRecord
from edgeq.quantize.equalize.stage import equalize_channels
from edgeq.quantize.fp16.make import make_fp16
from edgeq.quantize.fp16.vision import VISION_PLAN
from edgeq.quantize.int8.registry import USUAL
from edgeq.quantize.int8.select import resolve
from edgeq.quantize.int8.stage import FP16, quantize
from edgeq.runtime.retrieval.canaries import make_retrieval_canaries
from edgeq.runtime.retrieval.tokenizer import TOKENIZER, TextTokenizer
from edgeq.runtime.retrieval.two_tower import TwoTowerModel, open_two_tower

__all__ = ["GATE", "PreparedRetrieval", "RetrievalOptions", "prepare_retrieval"]

GATE = "gate.json"

_INT8 = f"{TEXT}/{USUAL.file}"
_HALF = f"{TEXT}/{FP16}"
_KEPT = "a text encoder in floating point, where INT8 was not shown to find the same images"
_EMBEDDED = 64


class PreparedRetrieval(BaseModel):
    """Everything that was done and measured.

    Attributes:
        bundle: the directory made.
        dimension: of an embedding.
        text_parameters, vision_parameters: numbers in each encoder, projections included.
        tokenized: texts whose tokens were compared with transformers'.
        text_parity, vision_parity: the model against its FP32 graphs.
        text_fp16, vision_fp16: the FP32 graphs against those in FP16.
        channels: how the text encoder's channels were rescaled; None where nothing was looked at.
        calibration_captions: how many were used, those held back included.
        method: whose ranges ONNX Runtime's graph got.
        trials: what `auto` tried.
        int8_layers, float_layers: layers of the text encoder with weights, by precision.
        text_precision: of the graph that reads texts.
        text_bytes, vision_bytes: files of the graphs that run.
        gate: what was decided, and the figures; None where there were no pairs to judge by.
        canaries: texts and images in the bundle with what is to be seen on them.
        warnings: what a careful reader should know.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: Path
    model_type: str
    dimension: int
    text_parameters: int
    vision_parameters: int
    tokenized: int
    text_parity: Parity
    vision_parity: Parity
    text_fp16: TokenParity
    vision_fp16: TokenParity
    channels: EqualizationRecord | None
    calibration_captions: int
    method: str
    trials: tuple[Trial, ...]
    int8_layers: int
    float_layers: int
    text_precision: Literal["int8", "fp16"]
    text_bytes: int
    vision_bytes: int
    gate: RetrievalGate | None
    canaries: int
    warnings: tuple[str, ...]
    manifest: Manifest


def prepare_retrieval(
    model: str | Path,
    images: Path,
    captions: Path,
    output: Path,
    *,
    pairs: Path | None = None,
    preprocess: Preprocess | None = None,
    options: RetrievalOptions | None = None,
    progress: Progress | None = None,
) -> PreparedRetrieval:
    """Make a bundle of a two-tower model.

    Args:
        model: a Hugging Face directory with weights, or a Hugging Face id, which is downloaded.
        images: a folder or zip, like those that will be searched.
        captions: texts like those that will be asked, a text file or JSON lines, to calibrate the text encoder on.
        output: the bundle's directory; it must not exist, and exists only once all has succeeded.
        pairs: `pairs.jsonl` beside its images, to judge by; other captions than `captions`. Without it nothing is
            judged, and texts stay in FP16 but where the options say otherwise.
        preprocess: replaces the model's preprocessor_config.json.
        options: see `RetrievalOptions`.
        progress: called as the stages go on.

    Raises:
        EdgeqError: any of them; nothing is left behind then.
    """
    options = options or RetrievalOptions()
    report = progress or (lambda _stage, _done, _total: None)
    with new_directory(output) as work:
        report("open", 0, 0)
        source = open_model(model, preprocess=preprocess)
        check_two_tower(source.config)
        texts = _some(read_captions(captions), options.calibration_captions)
        judged = Pairs.open(pairs) if pairs else None
        pixels = parity_images(ImageSet.open(images).sample(options.photographs), source, options.photographs)
        towers = load_towers(source.path)
        settings = _settings(towers, source.path)
        tokenizer, tokenized = _tokenizer(source, work, texts, settings)
        atomic_write(work / PREPROCESS, _json(source.preprocess))
        report("export", 0, 0)
        (work / TEXT).mkdir()
        ids = tokenizer.ids(texts)
        exported = export_text(towers, source.path, work / TEXT, ids[: options.photographs], threads=options.threads)
        vision_parity = export_vision(towers, source.path, work, pixels, threads=options.threads)
        parameters = towers.parameters
        del towers  # its weights are in the graphs now
        report("vision: fp16", 0, 0)
        vision_fp16 = _vision_fp16(work, pixels, options)
        report("text: fp16", 0, 0)
        text_fp16 = _text_fp16(work / TEXT, ids[: options.photographs], options)
        samples = _samples(ids, work)
        plan = _plan_text(work / TEXT, options)
        exported, plan, channels = equalize_channels(
            work / TEXT,
            exported,
            plan,
            samples,
            [text[None] for text in ids[: options.photographs]],
            options.channel_equalization,
            threads=options.threads,
            begin=partial(counter, report, "fold"),
        )
        graph = work / TEXT / FP32
        calibration = Options(method=options.method, weights=options.weights, threads=options.threads)
        scales, _ = calibrate_graph(graph, plan, planned_tensors(graph, plan), samples, calibration, report)
        plan = resolve(plan, scales)
        scales.save(work / TEXT / SCALES)
        report("quantize", 0, 0)
        quantize(graph, plan, scales, None, work / TEXT)
        gate = _judge(work, settings, judged, options, report)
        settings = settings.model_copy(update={"text": _INT8 if _reads_int8(gate, options) else _HALF})
        settings.save(work / RETRIEVAL_SETTINGS)
        report("canaries", 0, 0)
        pictures = _pictures(images, options.canaries)
        canaries = make_retrieval_canaries(work, texts, pictures, count=options.canaries, threads=options.threads)
        _drop(work, settings, options)
        manifest = write_manifest(work, kind="retrieval")
    weighted = Counter(decision.precision for decision in plan.decisions if decision.op in WEIGHTED)
    return PreparedRetrieval(
        bundle=output,
        model_type=settings.model_type,
        dimension=settings.dimension,
        text_parameters=parameters[0],
        vision_parameters=parameters[1],
        tokenized=tokenized,
        text_parity=exported.parity,
        vision_parity=vision_parity,
        text_fp16=text_fp16,
        vision_fp16=vision_fp16,
        channels=channels,
        calibration_captions=scales.images + scales.held_back,
        method=scales.method_for(DEFAULT.name),
        trials=scales.trials,
        int8_layers=weighted[Precision.INT8],
        float_layers=sum(weighted.values()) - weighted[Precision.INT8],
        text_precision="int8" if settings.text == _INT8 else "fp16",
        text_bytes=_bytes(manifest, settings.text),
        vision_bytes=_bytes(manifest, settings.vision),
        gate=gate,
        canaries=canaries,
        warnings=tuple(_doubts(gate, options)),
        manifest=manifest,
    )


def _some(captions: Sequence[str], count: int) -> tuple[str, ...]:
    """At most so many, taken evenly: neighbours are often of one kind."""
    if count < 1:
        raise CalibrationError(f"{count} captions calibrate nothing", expected="1 or more")
    step = max(len(captions) / count, 1.0)
    return tuple(captions[int(place * step)] for place in range(min(count, len(captions))))


def _settings(towers: Towers, model: Path) -> RetrievalSettings:
    """Texts are padded with the tokenizer's token: SigLIP 2's config leaves it out, so that it has SigLIP's default."""
    described = towers.described
    return RetrievalSettings(
        model_type=described.model_type,
        dimension=described.dimension,
        vision=VISION_FP16,
        text=_INT8,
        context=described.context,
        padding=described.padding,
        pooling=described.pooling,
        eos_id=described.eos_id,
        pad_id=tokenizer_pad_id(model) if described.padding == "fixed" else described.pad_id,
        logit_scale=towers.logit_scale,
        logit_bias=towers.logit_bias,
    )


def _tokenizer(
    source: ModelSource, work: Path, texts: Sequence[str], settings: RetrievalSettings
) -> tuple[TextTokenizer, int]:
    """The device's tokenizer, proved equal to the workshop's, and on how many texts."""
    save_tokenizer(source.path, work)
    compared = prove_tokenizer(work, texts, settings, model=source.path)
    return TextTokenizer.open(work, settings), compared


def _json(preprocess: Preprocess) -> bytes:
    return json.dumps(preprocess.to_config(), indent=1).encode()


def _vision_fp16(work: Path, pixels: NDArray[np.float32], options: RetrievalOptions) -> TokenParity:
    model = load_onnx(work / VISION_FP32)
    runs = [{PIXELS: image} for image in np.split(pixels, len(pixels))]
    plan, parity = make_fp16(
        work / VISION_FP32,
        work / VISION_FP16,
        runs,
        lambda rules: plan_vision(model, rules=rules),
        threads=options.threads,
    )
    plan.save(work / VISION_PLAN)
    return parity


def _text_fp16(folder: Path, ids: Sequence[NDArray[np.int64]], options: RetrievalOptions) -> TokenParity:
    """What INT8 is held against, and what reads texts where that is refused."""
    model = load_onnx(folder / FP32)

    def plan_with(rules: tuple[Rule, ...]) -> PrecisionPlan:
        return plan_float(model, because=_KEPT, rules=rules)

    runs = [{IDS: text[None]} for text in ids]
    _, parity = make_fp16(folder / FP32, folder / FP16, runs, plan_with, threads=options.threads)
    return parity


def _samples(ids: Sequence[NDArray[np.int64]], work: Path) -> CaptionSamples:
    """Captions by the digest of their ids, so that equal ones are one."""
    named = {hashlib.sha256(text.astype("<i8").tobytes()).hexdigest()[:32]: text[None] for text in ids}
    return CaptionSamples(named, sha256_file(work / TOKENIZER))


def _plan_text(folder: Path, options: RetrievalOptions) -> PrecisionPlan:
    return plan_classifier(load_onnx(folder / FP32), rules=options.rules, weights=options.weights)


def _judge(
    work: Path, settings: RetrievalSettings, pairs: Pairs | None, options: RetrievalOptions, report: Progress
) -> RetrievalGate | None:
    """INT8 texts against FP16 images, beside FP16 texts against the same; None without pairs."""
    if pairs is None:
        return None
    advance = counter(report, "judge", len(pairs.images))
    settings.model_copy(update={"text": _HALF}).save(work / RETRIEVAL_SETTINGS)
    reference = open_two_tower(work, threads=options.threads)
    images = np.concatenate(list(_images(reference, pairs.images, advance)))
    texts = reference.text.embed(pairs.captions)
    settings.save(work / RETRIEVAL_SETTINGS)
    candidate = open_two_tower(work, threads=options.threads).text.embed(pairs.captions)
    figures = RETRIEVAL.compare(pairs, Embedded(texts, candidate, images))
    gate = decide_retrieval(figures, options.bounds)
    gate.save(work / GATE)
    return gate


def _images(model: TwoTowerModel, images: ImageSet, advance: Callable[[int], None]) -> Iterator[NDArray[np.float32]]:
    """Embeddings [n, dimension] of some images at a time."""
    items = images.items
    for start in range(0, len(items), _EMBEDDED):
        some = items[start : start + _EMBEDDED]
        yield model.image.embed([images.read(item) for item in some])
        advance(len(some))


def _pictures(images: Path, count: int) -> list[Image.Image]:
    """The first of a sample that can be read."""
    found: list[Image.Image] = []
    chosen = ImageSet.open(images).sample(2 * count)
    for item in chosen.items:
        if len(found) == count:
            break
        with suppress(ImageError):
            found.append(chosen.read(item))
    return found


def _drop(work: Path, settings: RetrievalSettings, options: RetrievalOptions) -> None:
    """What does not run leaves the bundle: the FP32 graphs, and the text graphs that were not chosen."""
    left = [] if options.keep_fp32 else [work / VISION_FP32, work / TEXT / FP32]
    left += [work / _HALF] if settings.text == _INT8 else sorted((work / TEXT).glob("model.int8.*.onnx"))
    for graph in left:
        for file in (graph, graph.with_name(f"{graph.name}.data")):
            file.unlink(missing_ok=True)


def _bytes(manifest: Manifest, name: str) -> int:
    return sum(file.size for file in manifest.files if file.name in (name, f"{name}.data"))


def _reads_int8(gate: RetrievalGate | None, options: RetrievalOptions) -> bool:
    return options.unjudged == "int8" if gate is None else gate.passed


def _doubts(gate: RetrievalGate | None, options: RetrievalOptions) -> Iterator[str]:
    if gate is None:
        kind = options.unjudged.upper()
        yield f"no pairs were given (--eval): what INT8 texts find was not judged, and texts are read in {kind}"
        return
    for objection in gate.objections:
        yield f"texts are read in FP16: {objection}"
