"""A vision encoder in INT8, for a figure alone: what INT8 texts would find among INT8 images.

The index stays FP16. What is made here is thrown away once it has embedded the pairs' images.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeq.bundle.vision_report import VISION_FP32
from edgeq.calibrate.samples import ImageSamples
from edgeq.export.stage import FP32
from edgeq.model.graph.onnx_file import load_onnx, save_onnx
from edgeq.model.images.image_set import ImageSet
from edgeq.pipeline.retrieval.judge import Encoders
from edgeq.pipeline.retrieval.options import RetrievalOptions
from edgeq.pipeline.stages import Options, Progress, calibrate_graph, counter, planned_tensors
from edgeq.plan.rules import plan_classifier
from edgeq.quantize.equalize.stage import equalize_graph
from edgeq.quantize.int8.pixels import pixel_input
from edgeq.quantize.int8.qdq import lower
from edgeq.quantize.int8.registry import USUAL
from edgeq.quantize.int8.select import resolve
from edgeq.runtime.retrieval.encoders import ImageEncoder

__all__ = ["int8_image_encoder"]

_CALIBRATION_IMAGES: Final = 128


def int8_image_encoder(
    work: Path,
    images: ImageSet,
    proof: NDArray[np.float32],
    encoders: Encoders,
    options: RetrievalOptions,
    report: Progress,
) -> ImageEncoder:
    """Plan, equalize, calibrate and lower the vision encoder, as that of a classifier, for ONNX Runtime.

    Args:
        work: with the FP32 vision graph; nothing is left in it.
        images: to calibrate on; 128 of them are used.
        proof: pixels float32 [n, 3, H, W] that an equalized graph is compared on.
        encoders: opens it; has the preprocessing.
        options: method, weights, equalization, threads.
        report: told of the stages.

    Raises:
        ImageError: too many images cannot be read.
        CalibrationError, QuantizeError, ParityError: as for a classifier.
    """
    samples = ImageSamples(images.sample(_CALIBRATION_IMAGES), encoders.preprocess)
    with TemporaryDirectory(dir=work) as scratch:
        graph = Path(scratch) / FP32
        model, plan, _ = equalize_graph(
            work / VISION_FP32,
            plan_classifier(load_onnx(work / VISION_FP32), weights=options.weights),
            samples,
            np.split(proof, len(proof)),
            options.channel_equalization,
            threads=options.threads,
            begin=partial(counter, report, "INT8 images: fold"),
        )
        save_onnx(model, graph)
        del model
        calibration = Options(method=options.method, weights=options.weights, threads=options.threads)
        scales, _ = calibrate_graph(graph, plan, planned_tensors(graph, plan), samples, calibration, report)
        made = Path(scratch) / USUAL.file
        pixels = pixel_input(encoders.preprocess)
        save_onnx(lower(onnx.load(graph), resolve(plan, scales, graph), scales, USUAL, pixels=pixels), made)
        return encoders.vision(made)
