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
from edgeq.errors import ImageError
from edgeq.export.parity import Parity
from edgeq.export.stage import FP32, PREPROCESS
from edgeq.export.towers import PIXELS, Towers, export_text, export_vision, load_towers
from edgeq.families.two_tower import check_two_tower, encoder_notes
from edgeq.files import atomic_write, new_directory, sha256_file
from edgeq.model.checkpoint.source import open_model
from edgeq.model.graph.onnx_file import load_onnx
from edgeq.model.images.image_set import ImageSet
from edgeq.model.images.preprocess import Preprocess
from edgeq.pipeline.retrieval_engines import describe_text_engine, describe_vision_engine, settle_text_engine
from edgeq.pipeline.retrieval_options import RetrievalOptions
from edgeq.pipeline.retrieval_tokenizer import require_tokenizer
from edgeq.pipeline.stages import Options, Progress, calibrate_graph, counter, parity_images, planned_tensors
from edgeq.pipeline.text_encoder import HALF, graph_bytes, half_precision, prove_tokens, some_captions, text_settings
from edgeq.plan.precision import Precision, PrecisionPlan
from edgeq.plan.rules import WEIGHTED, plan_classifier, plan_vision
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
from edgeq.quantize.int8.stage import quantize
from edgeq.runtime.retrieval.canaries import make_retrieval_canaries
from edgeq.runtime.retrieval.tokenizer import TOKENIZER
from edgeq.runtime.retrieval.two_tower import TwoTowerModel, open_two_tower

__all__ = ["GATE", "PreparedRetrieval", "RetrievalOptions", "prepare_retrieval"]

GATE = "gate.json"

_INT8 = f"{TEXT}/{USUAL.file}"
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
            judged, and texts stay in FP16.
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
        require_tokenizer(source.path)
        texts = some_captions(read_captions(captions), options.calibration_captions)
        judged = Pairs.open(pairs) if pairs else None
        pixels = parity_images(ImageSet.open(images).sample(options.photographs), source, options.photographs)
        size = (source.preprocess.height, source.preprocess.width)
        towers = load_towers(source.path, size)
        settings = _settings(towers, source.path)
        tokenizer, tokenized = prove_tokens(source.path, work, texts, settings)
        atomic_write(work / PREPROCESS, _json(source.preprocess))
        report("export", 0, 0)
        (work / TEXT).mkdir()
        ids = tokenizer.ids(texts)
        exported = export_text(towers, source.path, work / TEXT, ids[: options.photographs], threads=options.threads)
        vision_parity = export_vision(towers, source.path, work, pixels, threads=options.threads)
        parameters = (towers.text_parameters, towers.vision_parameters)
        del towers  # its weights are in the graphs now
        report("vision: fp16", 0, 0)
        vision_fp16 = _vision_fp16(work, pixels, options)
        report("text: fp16", 0, 0)
        text_fp16 = half_precision(work / TEXT, ids[: options.photographs], options)
        describe_text_engine(work, settings)
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
        settings = settings.model_copy(update={"text": _INT8 if gate is not None and gate.passed else HALF})
        settings.save(work / RETRIEVAL_SETTINGS)
        report("canaries", 0, 0)
        pictures = _pictures(images, options.canaries)
        canaries = make_retrieval_canaries(work, texts, pictures, count=options.canaries, threads=options.threads)
        settle_text_engine(work, settings)
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
        text_bytes=graph_bytes(manifest, settings.text),
        vision_bytes=graph_bytes(manifest, VISION_FP16),
        gate=gate,
        canaries=canaries,
        warnings=(*_doubts(gate), *encoder_notes(source.config, size)),
        manifest=manifest,
    )


def _settings(towers: Towers, model: Path) -> RetrievalSettings:
    """Those of both encoders; the text graph is to be INT8."""
    values = {"vision": VISION_FP16, "text": _INT8, "logit_scale": towers.logit_scale, "logit_bias": towers.logit_bias}
    return text_settings(towers.described, model).model_copy(update=values)


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
    describe_vision_engine(work)
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
    settings.model_copy(update={"text": HALF}).save(work / RETRIEVAL_SETTINGS)
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
    left += [work / HALF] if settings.text == _INT8 else sorted((work / TEXT).glob("model.int8.*.onnx"))
    for graph in left:
        for file in (graph, graph.with_name(f"{graph.name}.data")):
            file.unlink(missing_ok=True)


def _doubts(gate: RetrievalGate | None) -> Iterator[str]:
    if gate is None:
        yield "no pairs were given (--eval): what INT8 texts find was not judged, and texts are read in FP16"
        return
    for objection in gate.objections:
        yield f"texts are read in FP16: {objection}"
