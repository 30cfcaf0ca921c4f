"""The way back where INT8 texts are refused: layers that INT8 harms most in floating point, then FP16.

Equalizing channels comes before all that, with the calibration.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeq.bundle.retrieval_settings import TEXT
from edgeq.bundle.vision_report import VISION_FP16
from edgeq.calibrate.samples import CaptionSamples
from edgeq.model.images.image_set import ImageSet
from edgeq.pipeline.retrieval.images import int8_image_encoder
from edgeq.pipeline.retrieval.judge import Encoders, RetrievalJudge, embed_images
from edgeq.pipeline.retrieval.options import RetrievalOptions, UnjudgedText
from edgeq.pipeline.retrieval.text import QuantizedText, keep_text_layers
from edgeq.pipeline.search import Found
from edgeq.pipeline.stages import Progress, counter
from edgeq.pipeline.text_encoder import HALF
from edgeq.quality.tasks.pairs import Pairs
from edgeq.quality.tasks.retrieval_gate import RetrievalGate
from edgeq.quantize.int8.registry import USUAL

__all__ = ["GATE", "TEXT_INT8", "WHOLE_INT8", "decide_text", "doubts"]

TEXT_INT8: Final = f"{TEXT}/{USUAL.file}"

GATE: Final = "gate.json"
"""The decision that holds."""

WHOLE_INT8: Final = "gate.whole_int8.json"
"""The first of two decisions, where layers were kept in floating point after it."""

_SEARCHED_IMAGES: Final = 256
"""Images to calibrate on, at most, among which captions look while layers are searched."""

_FEWEST_CAPTIONS: Final = 2
"""Captions without which there is no standard error, and no search."""

_NAMED: Final = 3


def decide_text(
    work: Path,
    encoders: Encoders,
    pairs: Pairs | None,
    text: QuantizedText,
    samples: CaptionSamples,
    images: ImageSet,
    pixels: NDArray[np.float32],
    options: RetrievalOptions,
    report: Progress,
) -> tuple[list[RetrievalGate], Found | None]:
    """Judge INT8 texts, and keep layers in floating point where they are refused.

    Where too few pairs leave it open, no layers are searched: with those kept it would stay open.

    Args:
        work: with all graphs; gets the decisions, and other INT8 text graphs where layers were kept.
        encoders: open them.
        pairs: that are judged by; None judges nothing.
        text: how the INT8 graph was made.
        samples, images: captions and images to calibrate on: all that the search sees.
        pixels: of some of these images, float32 [n, 3, H, W].
        options: bounds, the share of bytes that may stay in floating point, INT8 images for comparison.
        report: told of the stages.

    Returns:
        What the gate decided: nothing without pairs, twice where layers were kept after the first. And what the search
        found, where there was one.

    Raises:
        ImageError: an image of a pair cannot be read.
        EngineError: a graph does not run.
        CalibrationError, QuantizeError, ParityError: INT8 images, or layers kept, cannot be made.
    """
    if pairs is None:
        return [], None
    compared = (
        int8_image_encoder(work, images, pixels, encoders, options, report) if options.compare_int8_images else None
    )
    seen = encoders.vision(work / VISION_FP16)
    judge = RetrievalJudge(pairs, encoders.text(work / HALF), seen, report, compared)
    gates, found = [judge.decide(encoders.text(work / TEXT_INT8), options.bounds)], None
    refused = gates[0].judged and not gates[0].passed
    if refused and options.max_float_share > 0 and len(samples) >= _FEWEST_CAPTIONS:
        some = images.sample(_SEARCHED_IMAGES)
        vectors = embed_images(seen, some, counter(report, "search: images", len(some)), skip=True)
        found = keep_text_layers(work / TEXT, text, samples, vectors, encoders, options, report)
        if found.search.kept:
            gates[0].save(work / WHOLE_INT8)
            gates.append(judge.decide(encoders.text(work / TEXT_INT8), options.bounds))
    gates[-1].save(work / GATE)
    return gates, found


def doubts(gate: RetrievalGate | None, found: Found | None, unjudged: UnjudgedText) -> Iterator[str]:
    """What a careful reader should know of a decision, a sentence each.

    Args:
        gate: the last one; None where nothing was judged.
        found: of the search; None without one.
        unjudged: how texts are read without a decision.
    """
    if gate is None:
        kind = unjudged.upper()
        yield f"no pairs were given (--eval): what INT8 texts find was not judged, and texts are read in {kind}"
        return
    for objection in gate.objections:
        yield f"texts are read in FP16: {objection}"
    if found is not None and not gate.passed:
        yield _unkept(found)


def _unkept(found: Found) -> str:
    """Why keeping layers did not help, and which INT8 harms most."""
    search, worst = found.search, [] if found.table is None else found.table.ranking()[:_NAMED]
    if search.kept:
        tried = f"nor do they find enough with {len(search.kept)} layers in floating point"
    elif search.chosen is None:
        tried = (
            f"no set of layers within {search.max_share:g} % of the bytes brings the drop that the calibration "
            f"captions let expect to {search.max_drop:g} points"
        )
    else:
        tried = "the calibration captions do not show what INT8 loses; give captions and images like those judged by"
    return f"{tried}; INT8 harms most: {', '.join(line.layer for line in worst)}"
