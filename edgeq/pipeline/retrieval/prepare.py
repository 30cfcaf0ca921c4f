"""The main job for a two-tower model (CLIP, SigLIP): a bundle that reads texts in INT8 and sees in FP16.

Images are embedded once, and an index of them is asked for years: so the vision encoder stays FP16. Texts are read at
every question: so the text encoder is INT8, where the images that it finds are shown to be the same. Where they are
not, the layers that INT8 harms most are kept in floating point; where that does not do either, texts are FP16.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict

from edgeq.bundle.manifest import Manifest
from edgeq.bundle.retrieval_settings import RETRIEVAL_SETTINGS, TEXT, RetrievalSettings
from edgeq.bundle.vision_report import VISION_FP16, VISION_FP32
from edgeq.calibrate.captions import read_captions
from edgeq.calibrate.scales import Trial
from edgeq.engine.registry import DEFAULT
from edgeq.errors import ImageError, InputError
from edgeq.export.parity import Parity
from edgeq.export.stage import FP32, PREPROCESS
from edgeq.export.towers import PIXELS, Towers, export_text, export_vision, load_towers
from edgeq.families.two_tower import check_two_tower, encoder_notes
from edgeq.files import atomic_write, new_directory, sha256_file
from edgeq.model.checkpoint.source import open_model
from edgeq.model.graph.onnx_file import load_onnx
from edgeq.model.images.image_set import ImageSet
from edgeq.model.images.preprocess import Preprocess
from edgeq.model.images.preprocess_flags import PreprocessFlags
from edgeq.pipeline.finish import finish_bundle
from edgeq.pipeline.retrieval.decision import TEXT_INT8, decide_text, doubts
from edgeq.pipeline.retrieval.engines import describe_text_engine, describe_vision_engine, settle_text_engine
from edgeq.pipeline.retrieval.judge import Encoders
from edgeq.pipeline.retrieval.options import RetrievalOptions
from edgeq.pipeline.retrieval.text import quantize_text, text_samples
from edgeq.pipeline.retrieval.tokenizer import require_tokenizer
from edgeq.pipeline.stages import Progress, parity_images
from edgeq.pipeline.text_encoder import HALF, graph_bytes, half_precision, prove_tokens, some_captions, text_settings
from edgeq.plan.precision import Precision
from edgeq.plan.rules import WEIGHTED, plan_vision
from edgeq.quality.tasks.pairs import Pairs
from edgeq.quality.tasks.retrieval_gate import RetrievalGate
from edgeq.quality.token_parity import TokenParity
from edgeq.quantize.equalize.record import EqualizationRecord
from edgeq.quantize.fp16.make import make_fp16
from edgeq.quantize.fp16.vision import VISION_PLAN
from edgeq.quantize.search.layer_search import Search
from edgeq.runtime.retrieval.canaries import make_retrieval_canaries
from edgeq.runtime.retrieval.tokenizer import TOKENIZER

__all__ = ["PreparedRetrieval", "RetrievalOptions", "prepare_retrieval"]


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
        whole_int8: what was decided about a text encoder wholly in INT8, where another was judged after it.
        search: for layers of the text encoder to keep in floating point; None where INT8 was not refused as a whole, or
            no search was wanted.
        gate: what was decided at last, and the figures; None where there were no pairs to judge by.
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
    whole_int8: RetrievalGate | None
    search: Search | None
    gate: RetrievalGate | None
    canaries: int
    warnings: tuple[str, ...]
    manifest: Manifest

    @property
    def kept_layers(self) -> tuple[str, ...]:
        """Layers of the INT8 text encoder in the bundle that a search keeps in floating point."""
        if self.search is None or self.gate is None or not self.gate.passed:
            return ()
        return self.search.kept


def prepare_retrieval(
    model: str | Path,
    images: Path,
    captions: Path,
    output: Path,
    *,
    pairs: Path | None = None,
    preprocess: Preprocess | PreprocessFlags | None = None,
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
        preprocess: replaces the model's preprocessor_config.json; flags say single steps over it.
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
        _check_options(options, judged)
        pixels = parity_images(
            ImageSet.open(images, calibration=True).sample(options.photographs), source, options.photographs
        )
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
        samples = text_samples(ids, sha256_file(work / TOKENIZER))
        text = quantize_text(work / TEXT, exported, samples, ids[: options.photographs], options, report)
        encoders = Encoders(settings, tokenizer, source.preprocess, options.threads)
        known = ImageSet.open(images)
        gates, found = decide_text(work, encoders, judged, text, samples, known, pixels, options, report)
        gate = gates[-1] if gates else None
        reads_int8 = options.unjudged == "int8" if gate is None else gate.passed
        settings = settings.model_copy(update={"text": TEXT_INT8 if reads_int8 else HALF})
        settings.save(work / RETRIEVAL_SETTINGS)
        report("canaries", 0, 0)
        pictures = _pictures(known, options.canaries)
        canaries = make_retrieval_canaries(work, texts, pictures, count=options.canaries, threads=options.threads)
        settle_text_engine(work, settings)
        _drop(work, settings, options)
        manifest = finish_bundle(work, output.name, model, kind="retrieval")
    plan = text.plan if found is None else found.plan
    weighted = Counter(decision.precision for decision in plan.decisions if decision.op in WEIGHTED)
    return PreparedRetrieval(
        bundle=output,
        model_type=settings.model_type,
        dimension=settings.dimension,
        text_parameters=parameters[0],
        vision_parameters=parameters[1],
        tokenized=tokenized,
        text_parity=text.exported.parity,
        vision_parity=vision_parity,
        text_fp16=text_fp16,
        vision_fp16=vision_fp16,
        channels=text.channels,
        calibration_captions=text.scales.images + text.scales.held_back,
        method=text.scales.method_for(DEFAULT.name),
        trials=text.scales.trials,
        int8_layers=weighted[Precision.INT8],
        float_layers=sum(weighted.values()) - weighted[Precision.INT8],
        text_precision="int8" if settings.text == TEXT_INT8 else "fp16",
        text_bytes=graph_bytes(manifest, settings.text),
        vision_bytes=graph_bytes(manifest, VISION_FP16),
        whole_int8=gates[0] if len(gates) > 1 else None,
        search=None if found is None else found.search,
        gate=gate,
        canaries=canaries,
        warnings=(*doubts(gate, found, options.unjudged), *encoder_notes(source.config, size)),
        manifest=manifest,
    )


def _check_options(options: RetrievalOptions, judged: Pairs | None) -> None:
    if options.compare_int8_images and judged is None:
        raise InputError("INT8 images are compared on pairs, and none were given", next_step="give pairs with --eval")
    if not 0.0 <= options.max_float_share <= 100.0:
        raise InputError(f"{options.max_float_share:g} % of the bytes in floating point", expected="0 to 100")


def _settings(towers: Towers, model: Path) -> RetrievalSettings:
    """Those of both encoders; the text graph is to be INT8."""
    scale = {"logit_scale": towers.logit_scale, "logit_bias": towers.logit_bias}
    return text_settings(towers.described, model).model_copy(update={"vision": VISION_FP16, "text": TEXT_INT8, **scale})


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


def _pictures(images: ImageSet, count: int) -> list[Image.Image]:
    """The first of a sample that can be read."""
    found: list[Image.Image] = []
    chosen = images.sample(2 * count)
    for item in chosen.items:
        if len(found) == count:
            break
        with suppress(ImageError):
            found.append(chosen.read(item))
    return found


def _drop(work: Path, settings: RetrievalSettings, options: RetrievalOptions) -> None:
    """What does not run leaves the bundle: the FP32 graphs, and the text graphs that were not chosen."""
    left = [] if options.keep_fp32 else [work / VISION_FP32, work / TEXT / FP32]
    left += [work / HALF] if settings.text == TEXT_INT8 else sorted((work / TEXT).glob("model.int8.*.onnx"))
    for graph in left:
        for file in (graph, graph.with_name(f"{graph.name}.data")):
            file.unlink(missing_ok=True)
