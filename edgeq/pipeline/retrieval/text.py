"""The text encoder of a two-tower model: FP16, INT8, and INT8 with some layers in floating point."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeq.calibrate.samples import CaptionSamples
from edgeq.calibrate.scales import Scales
from edgeq.calibrate.stage import SCALES
from edgeq.export.stage import FP32, ExportReport
from edgeq.model.graph.onnx_file import load_onnx
from edgeq.pipeline.retrieval.judge import Encoders
from edgeq.pipeline.retrieval.options import RetrievalOptions
from edgeq.pipeline.search import Found, save_found
from edgeq.pipeline.stages import Options, Progress, calibrate_graph, counter, planned_tensors
from edgeq.plan.precision import PrecisionPlan
from edgeq.plan.rules import plan_classifier
from edgeq.quality.tasks.first_images import FirstImages, compare_first_images
from edgeq.quantize.equalize.record import EqualizationRecord
from edgeq.quantize.equalize.stage import equalize_channels
from edgeq.quantize.int8.select import resolve
from edgeq.quantize.int8.stage import quantize
from edgeq.quantize.search.bounds import SearchBounds
from edgeq.quantize.search.layer_search import keep_layers, search, worst_first
from edgeq.quantize.search.sensitivity import measure_sensitivity

__all__ = ["CaptionEvaluation", "QuantizedText", "keep_text_layers", "quantize_text", "text_samples"]

_RANKING_CAPTIONS: Final = 128
"""Captions at most that tell which layers matter; most layers are sure of their place after 48."""

_PART: Final = 0.2
"""The part of the gate's bound that the search allows. Among the images that are searched later lie more that are near
each other than among those to calibrate on, and the judge's own doubt takes some tenths of a point."""


@dataclass(frozen=True)
class QuantizedText:
    """An INT8 text encoder.

    Attributes:
        exported: the report of the FP32 graph, with its channels as they are now.
        plan: of every layer.
        scales: that it was made with.
        channels: how they were rescaled; None where nothing was looked at.
    """

    exported: ExportReport
    plan: PrecisionPlan
    scales: Scales
    channels: EqualizationRecord | None


def text_samples(ids: Sequence[NDArray[np.int64]], tokenizer_sha256: str) -> CaptionSamples:
    """Captions by the digest of their ids, so that equal ones are one.

    Args:
        ids: int64 [length] each.
        tokenizer_sha256: digest of what made them.
    """
    named = {hashlib.sha256(text.astype("<i8").tobytes()).hexdigest()[:32]: text[None] for text in ids}
    return CaptionSamples(named, tokenizer_sha256)


def quantize_text(
    folder: Path,
    exported: ExportReport,
    samples: CaptionSamples,
    proof: Sequence[NDArray[np.int64]],
    options: RetrievalOptions,
    report: Progress,
) -> QuantizedText:
    """Equalize, calibrate and quantize a text encoder.

    Args:
        folder: with the FP32 graph, which is replaced where its channels are rescaled; gets the INT8 graphs, plan and
            scales.
        exported: its report.
        samples: captions to calibrate on.
        proof: some of them, int64 [length] each, that an equalized graph is compared on.
        options: method, rules, weights, equalization, threads.
        report: told of the stages.

    Raises:
        PlanError: the rules do not fit the graph, or an equalization was asked for that is exact nowhere.
        CalibrationError: a tensor gets no scale.
        QuantizeError: a graph made differs from the plan.
    """
    plan = plan_classifier(load_onnx(folder / FP32), rules=options.rules, weights=options.weights)
    exported, plan, channels = equalize_channels(
        folder,
        exported,
        plan,
        samples,
        [text[None] for text in proof],
        options.channel_equalization,
        threads=options.threads,
        begin=partial(counter, report, "fold"),
    )
    graph = folder / FP32
    calibration = Options(method=options.method, weights=options.weights, threads=options.threads)
    scales, _ = calibrate_graph(graph, plan, planned_tensors(graph, plan), samples, calibration, report)
    plan = resolve(plan, scales, graph)
    scales.save(folder / SCALES)
    report("quantize", 0, 0)
    quantize(graph, plan, scales, None, folder)
    return QuantizedText(exported, plan, scales, channels)


class CaptionEvaluation:
    """Captions, and which images the FP32 text encoder puts first for them.

    Args:
        model: the FP32 graph.
        samples: the captions.
        images: embeddings to look among, float32 [n, dimension].
        encoders: open text graphs.
    """

    def __init__(
        self, model: onnx.ModelProto, samples: CaptionSamples, images: NDArray[np.float32], encoders: Encoders
    ) -> None:
        self._ids = [text[0] for text in samples.ids.values()]
        self._images, self._encoders = images, encoders
        self._reference = self._embed(model)

    def figures(self, graph: onnx.ModelProto) -> FirstImages:
        """What another graph puts first."""
        scale = self._encoders.settings.logit_scale
        assert scale is not None, "a text encoder alone is not judged"
        return compare_first_images(self._reference, self._embed(graph), self._images, scale)

    def _embed(self, graph: onnx.ModelProto) -> NDArray[np.float32]:
        return self._encoders.text(graph.SerializeToString()).embed_ids(self._ids)


def keep_text_layers(
    folder: Path,
    text: QuantizedText,
    samples: CaptionSamples,
    images: NDArray[np.float32],
    encoders: Encoders,
    options: RetrievalOptions,
    report: Progress,
) -> Found:
    """Search the fewest layers of a refused INT8 text encoder to keep in floating point, and write its graphs again.

    No pair is looked at: a set is judged by what calibration captions put first among calibration images
    (`edgeq.quality.tasks.first_images`).

    Args:
        folder: with the FP32 graph; gets the search, the table of layers and, where layers were found, new INT8 graphs
            and their plan.
        text: what was refused.
        samples: captions.
        images: embeddings to look among, float32 [n, dimension].
        encoders: open text graphs.
        options: the gate's bound, the share of bytes that may stay in floating point, threads.
        report: told of the stages.

    Returns:
        With the plan of what lies in `folder` now. `search.kept` is empty where no set within the share would do, or
        where the captions show no loss that layers could be kept against.
    """
    model = onnx.load(folder / FP32)
    some = samples.sample(_RANKING_CAPTIONS)
    table, _ = measure_sensitivity(model, text.plan, text.scales, some, threads=options.threads, report=report)
    most = _PART * options.bounds.max_drop
    made = search(
        model,
        text.plan,
        text.scales,
        worst_first(table),
        CaptionEvaluation(model, samples, images, encoders),
        SearchBounds(most, max_share=options.max_float_share),
        advance=counter(report, "search", 0),
    )
    plan = keep_layers(model, text.plan, made.kept, beyond_fp16=text.scales.beyond_fp16)
    del model
    if made.kept:
        report("quantize", 0, 0)
        quantize(folder / FP32, plan, text.scales, None, folder)
    found = Found(plan, made, table)
    save_found(found, folder)
    return found
