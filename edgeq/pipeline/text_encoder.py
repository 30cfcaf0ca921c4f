"""The main job for a text encoder alone (of CLIP, SigLIP or SigLIP 2): a bundle that embeds texts in FP16.

INT8 texts are kept where they are shown to find the same images, and here there are none to find. That texts find their
own vectors in FP16 would not show it. So texts stay FP16, and a warning tells why. The steps that the text encoder
of a whole model has as well are here, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from edgeq.bundle.manifest import Manifest
from edgeq.bundle.retrieval_settings import RETRIEVAL_SETTINGS, TEXT, RetrievalSettings
from edgeq.calibrate.captions import read_captions
from edgeq.errors import CalibrationError, InputError
from edgeq.export.parity import Parity
from edgeq.export.stage import FP32
from edgeq.export.towers import IDS, export_text, load_text_tower
from edgeq.families.two_tower import TwoTower, text_notes
from edgeq.files import new_directory, read_json_object
from edgeq.model.checkpoint.source import find_checkpoint
from edgeq.model.graph.onnx_file import load_onnx
from edgeq.pipeline.finish import finish_bundle
from edgeq.pipeline.retrieval.engines import TEXT_FP16_PLAN, describe_text_engine, settle_text_engine
from edgeq.pipeline.retrieval.options import RetrievalOptions
from edgeq.pipeline.retrieval.tokenizer import prove_tokenizer, require_tokenizer, save_tokenizer, tokenizer_pad_id
from edgeq.pipeline.stages import Progress
from edgeq.plan.precision import PrecisionPlan, Rule
from edgeq.plan.rules import plan_float
from edgeq.quality.token_parity import TokenParity
from edgeq.quantize.fp16.make import make_fp16
from edgeq.quantize.int8.stage import FP16
from edgeq.runtime.retrieval.canaries import make_retrieval_canaries
from edgeq.runtime.retrieval.tokenizer import TextTokenizer

__all__ = [
    "FLOAT_REASON",
    "HALF",
    "PreparedText",
    "graph_bytes",
    "half_precision",
    "prepare_text",
    "prove_tokens",
    "some_captions",
    "text_settings",
]

HALF: Final = f"{TEXT}/{FP16}"
"""The text graph in FP16, in a bundle."""

FLOAT_REASON: Final = "a text encoder in floating point, where INT8 was not shown to find the same images"
"""Why a layer of it is not INT8."""


class PreparedText(BaseModel):
    """Everything that was done and measured.

    Attributes:
        bundle: the directory made.
        dimension: of an embedding.
        text_parameters: numbers in the encoder, its projection included.
        tokenized: texts whose tokens were compared with transformers'.
        text_parity: the model against its FP32 graph.
        text_fp16: the FP32 graph against that in FP16.
        text_bytes: files of the graph that runs.
        canaries: texts in the bundle with what is to be seen on them.
        warnings: what a careful reader should know.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: Path
    model_type: str
    dimension: int
    text_parameters: int
    tokenized: int
    text_parity: Parity
    text_fp16: TokenParity
    text_bytes: int
    canaries: int
    warnings: tuple[str, ...]
    manifest: Manifest


def prepare_text(
    model: str | Path,
    captions: Path,
    output: Path,
    *,
    options: RetrievalOptions | None = None,
    progress: Progress | None = None,
) -> PreparedText:
    """Make a bundle of a text encoder that was saved alone.

    Args:
        model: a Hugging Face directory with weights, or a Hugging Face id, which is downloaded.
        captions: texts like those that will be embedded, a text file or JSON lines; the graphs are proved on them.
        output: the bundle's directory; it must not exist, and exists only once all has succeeded.
        options: see `RetrievalOptions`; what is about INT8 and images has no effect.
        progress: called as the stages go on.

    Raises:
        InputError: rules are given.
        EdgeqError: any other of them; nothing is left behind then.
    """
    options = options or RetrievalOptions()
    report = progress or (lambda _stage, _done, _total: None)
    if options.rules:
        raise InputError(f"{model} is a text encoder alone, which stays FP16: rules have no effect on it")
    with new_directory(output) as work:
        report("open", 0, 0)
        source = find_checkpoint(model)
        require_tokenizer(source)
        texts = some_captions(read_captions(captions), options.calibration_captions)
        tower = load_text_tower(source)
        settings = text_settings(tower.described, source)
        tokenizer, tokenized = prove_tokens(source, work, texts, settings)
        report("export", 0, 0)
        (work / TEXT).mkdir()
        ids = tokenizer.ids(texts)[: options.photographs]
        exported = export_text(tower, source, work / TEXT, ids, threads=options.threads)
        parameters = tower.text_parameters
        del tower  # its weights are in the graph now
        report("text: fp16", 0, 0)
        parity = half_precision(work / TEXT, ids, options)
        describe_text_engine(work, settings)
        settle_text_engine(work, settings)
        settings.save(work / RETRIEVAL_SETTINGS)
        report("canaries", 0, 0)
        canaries = make_retrieval_canaries(work, texts, (), count=options.canaries, threads=options.threads)
        if not options.keep_fp32:
            for name in (FP32, f"{FP32}.data"):
                (work / TEXT / name).unlink(missing_ok=True)
        manifest = finish_bundle(work, output.name, model, kind="retrieval")
    return PreparedText(
        bundle=output,
        model_type=settings.model_type,
        dimension=settings.dimension,
        text_parameters=parameters,
        tokenized=tokenized,
        text_parity=exported.parity,
        text_fp16=parity,
        text_bytes=graph_bytes(manifest, settings.text),
        canaries=canaries,
        warnings=text_notes(read_json_object(source / "config.json")),
        manifest=manifest,
    )


def some_captions(captions: Sequence[str], count: int) -> tuple[str, ...]:
    """At most so many, taken evenly: neighbours are often of one kind.

    Raises:
        CalibrationError: none are to be taken.
    """
    if count < 1:
        raise CalibrationError(f"{count} captions calibrate nothing", expected="1 or more")
    step = max(len(captions) / count, 1.0)
    return tuple(captions[int(place * step)] for place in range(min(count, len(captions))))


def text_settings(described: TwoTower, model: Path) -> RetrievalSettings:
    """Those of a text encoder in FP16, without a vision encoder.

    Texts are padded with the tokenizer's token: SigLIP 2's config leaves it out, so that it has SigLIP's default.

    Args:
        described: what the config says.
        model: with the tokenizer.

    Raises:
        ModelError: the tokenizer cannot be used, or has no token to pad with.
    """
    return RetrievalSettings(
        model_type=described.model_type,
        dimension=described.dimension,
        vision=None,
        text=HALF,
        context=described.context,
        padding=described.padding,
        pooling=described.pooling,
        eos_id=described.eos_id,
        pad_id=tokenizer_pad_id(model) if described.padding == "fixed" else described.pad_id,
        logit_scale=None,
    )


def prove_tokens(
    model: Path, work: Path, texts: Sequence[str], settings: RetrievalSettings
) -> tuple[TextTokenizer, int]:
    """The device's tokenizer, proved equal to the workshop's, and on how many texts.

    Args:
        model: with the tokenizer as it came.
        work: the bundle's directory, where the device's is written.
        texts: that matter to the model.
        settings: of the model.

    Raises:
        ModelError: there is no tokenizer that can be used, or a text gets other tokens.
    """
    save_tokenizer(model, work)
    compared = prove_tokenizer(work, texts, settings, model=model)
    return TextTokenizer.open(work, settings), compared


def half_precision(folder: Path, ids: Sequence[NDArray[np.int64]], options: RetrievalOptions) -> TokenParity:
    """Write the text graph in FP16: what INT8 is held against, and what reads texts where that is not shown to do.

    Args:
        folder: with the FP32 graph.
        ids: of real texts, int64 [length] each: overflow is looked for on them, and parity proved.
        options: how many threads.

    Raises:
        ParityError: the FP16 graph computes NaN, infinity, or embeddings too far from those of FP32.
    """
    model = load_onnx(folder / FP32)

    def plan_with(rules: tuple[Rule, ...]) -> PrecisionPlan:
        return plan_float(model, because=FLOAT_REASON, rules=rules)

    runs = [{IDS: text[None]} for text in ids]
    plan, parity = make_fp16(folder / FP32, folder / FP16, runs, plan_with, threads=options.threads)
    plan.save(folder / TEXT_FP16_PLAN)
    return parity


def graph_bytes(manifest: Manifest, name: str) -> int:
    """The length of a graph in a bundle, its weights beside it included."""
    return sum(file.size for file in manifest.files if file.name in (name, f"{name}.data"))
