"""The quantization stage: an exported graph and scales to one INT8 graph for each backend."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import onnx

from edgeq.calibrate.scales import Scales
from edgeq.engine.registry import DEFAULT
from edgeq.errors import ArtifactError, CalibrationError, shell_word
from edgeq.files import sha256_file
from edgeq.model.graph.onnx_file import save_onnx
from edgeq.model.images.preprocess import Preprocess
from edgeq.plan.precision import PrecisionPlan
from edgeq.quantize.int8.pixels import pixel_input
from edgeq.quantize.int8.qdq import lower
from edgeq.quantize.int8.registry import LOWERINGS, USUAL, lowerings

__all__ = ["FP16", "FP16_PLAN", "PLAN", "check_scales", "made_graph", "quantize"]

PLAN = "plan.yaml"
FP16: Final = "model.fp16.onnx"
"""File name of the graph that takes their place where floating point was kept."""

FP16_PLAN: Final = "plan.fp16.yaml"
"""File name of its plan where an INT8 graph was kept beside it."""


def quantize(
    graph: Path,
    plan: PrecisionPlan,
    scales: Scales,
    preprocess: Preprocess | None,
    directory: Path,
    *,
    backend: str = DEFAULT.name,
) -> None:
    """Write the INT8 graphs and the plan into `directory`.

    Args:
        graph: the FP32 file that `scales` was made from.
        plan: for that graph.
        scales: from the calibration stage.
        preprocess: from an image to the graph's input; None where that is no image.
        directory: an existing one.
        backend: whose graph is made beside those that always are.

    Raises:
        CalibrationError: the scales are of another graph, or lack a tensor.
        QuantizeError: a graph made differs from the plan, or the backend runs a layer of it in floating point.
    """
    check_scales(graph, scales)
    model = onnx.load(graph)
    pixels = pixel_input(preprocess)
    made = lowerings(backend)
    for lowering in made:
        lowered = lower(model, plan, scales, lowering, pixels=pixels)
        save_onnx(lowering.types(lowered, lowering.planned(model, plan)), directory / lowering.file)
    plan.save(directory / PLAN)
    for lowering in made:
        lowering.check(directory / lowering.file, lowering.planned(model, plan))


def made_graph(directory: Path) -> Path:
    """The graph of a quantized directory or bundle that is held against FP32.

    It is the INT8 graph of the backend that was asked for, else of the usual one, or the FP16 graph.

    Raises:
        ArtifactError: there is none.
    """
    asked = [lowering.file for lowering in LOWERINGS if not lowering.always]
    found = [directory / name for name in (*asked, USUAL.file, FP16) if (directory / name).is_file()]
    if not found:
        raise ArtifactError(
            f"{directory} has no {USUAL.file}",
            expected="a directory made by edgeq quantize or edgeq prepare",
            next_step=f"edgeq quantize {shell_word(directory)} --scales SCALES -o QUANTIZED",
        )
    return found[0]


def check_scales(graph: Path, scales: Scales) -> None:
    """Raise CalibrationError unless `scales` were made from this FP32 file."""
    digest = sha256_file(graph)
    if scales.graph_sha256 != digest:
        raise CalibrationError(
            f"the scales were made for another graph than {graph}",
            expected=f"scales of the graph with SHA-256 {digest[:12]}…",
            causes=("the model was exported again after it was calibrated",),
            next_step="run edgeq calibrate again on this graph",
        )
