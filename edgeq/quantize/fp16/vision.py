"""The vision graph in FP16: what would overflow on photographs stays FP32; the result is proved token by token."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image

from edgeq.bundle.vision_report import VISION_FP16, VISION_FP32, GraphFiles, HalfReport, VisionReport
from edgeq.errors import QuantizeError
from edgeq.export.vision import Progress, graph_features
from edgeq.export.vision_pixels import ParityRun, read_runs
from edgeq.families.modules import load_config
from edgeq.families.registry import exportable
from edgeq.model.graph.onnx_file import load_onnx, save_onnx
from edgeq.plan.precision import QUANTIZED, Precision, PrecisionPlan, Rule
from edgeq.plan.rules import plan_vision
from edgeq.quality.token_parity import FP16_BOUND, Place, TokenParity, prove_tokens
from edgeq.quantize.fp16.convert import to_fp16
from edgeq.quantize.fp16.fp16_simulation import simulate_fp16
from edgeq.quantize.fp16.overflow_rules import overflow_rules

__all__ = ["VISION_PLAN", "quantize_vision"]

VISION_PLAN: Final = "vision.plan.yaml"


def quantize_vision(
    model: Path,
    directory: Path,
    photographs: Sequence[Image.Image],
    *,
    rules: Sequence[Rule] = (),
    threads: int | None = None,
    report: Progress | None = None,
) -> VisionReport:
    """Write `vision.fp16.onnx` and its plan into `directory`, beside the FP32 graph that it is made of.

    Args:
        model: the Hugging Face directory that was exported; its image processor is used.
        directory: as `edgeq.export.vision.export_vision` left it.
        photographs: real ones; overflow is looked for, and parity proved, on them.
        rules: asked before the built-in ones, FP16 and FP32 only. What would overflow is FP32 all the same.
        threads: of one operator.
        report: called as the stages go on.

    Returns:
        The report of the export, completed.

    Raises:
        ArtifactError: the FP32 graph is not there, or not the one that was proved.
        PlanError: one of `rules` matches or decides nothing.
        QuantizeError: a rule asks for INT8, or the graph made differs from its plan.
        ParityError: the FP16 graph computes NaN, infinity, or features too far from those of FP32.
    """
    say = report or (lambda _stage, _done, _total: None)
    exported = VisionReport.load(directory)
    config = load_config(model)
    vision_half = exportable(config["model_type"], config["vision_config"])
    runs = read_runs(model, vision_half, config, photographs)
    graph = load_onnx(directory / VISION_FP32)
    say("vision: overflow", 0, 0)
    plan = _plan(graph, runs, rules, threads)
    say("vision: fp16", 0, 0)
    half = to_fp16(graph, plan)
    del graph
    save_onnx(half, directory / VISION_FP16)
    plan.save(directory / VISION_PLAN)
    say("vision: fp16 proof", 0, 0)
    parity = _prove(directory, half, runs, threads)
    made = HalfReport(
        files=GraphFiles.of(directory / VISION_FP16),
        parity=parity,
        fp16_layers=len(plan.layers(Precision.FP16)),
        fp32_layers={d.layer: d.reason for d in plan.decisions if d.precision is Precision.FP32},
    )
    completed = exported.model_copy(update={"fp16": made})
    completed.save(directory)
    return completed


def _plan(
    graph: onnx.ModelProto, runs: Sequence[ParityRun], rules: Sequence[Rule], threads: int | None
) -> PrecisionPlan:
    """The plan under `rules`, and before them a rule for each layer that it would have in FP16 and that cannot be."""
    plan = plan_vision(graph, rules=rules)
    asked = sorted(decision.layer for decision in plan.decisions if decision.precision in QUANTIZED)
    if asked:
        raise QuantizeError(
            f"{len(asked)} layers of the vision graph are planned INT8, the first is {asked[0]}",
            expected="fp16 or fp32: INT8 needs calibrated scales",
        )
    found = overflow_rules(graph, [run.feeds for run in runs], plan, threads=threads)
    return plan_vision(graph, rules=(*found, *rules))


def _prove(directory: Path, half: onnx.ModelProto, runs: Sequence[ParityRun], threads: int | None) -> TokenParity:
    """The FP32 graph against the FP16 one with every FP16 tensor rounded; ONNX Runtime must run the file, too."""
    next(graph_features(directory / VISION_FP16, runs[:1], threads=threads))
    with tempfile.TemporaryDirectory() as folder:
        exact = Path(folder) / "rounded.onnx"
        save_onnx(simulate_fp16(half), exact)
        return prove_tokens(_pairs(directory / VISION_FP32, exact, runs, threads), bound=FP16_BOUND, made="FP16")


def _pairs(
    reference: Path, candidate: Path, runs: Sequence[ParityRun], threads: int | None
) -> Iterator[tuple[Place, NDArray[np.float32], NDArray[np.float32]]]:
    right = graph_features(reference, runs, threads=threads)
    made = graph_features(candidate, runs, threads=threads)
    for (place, wanted), (_, found) in zip(right, made, strict=True):
        yield place, wanted, found
