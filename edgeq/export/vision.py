"""Vision encoder and connector of a vision-language model as one FP32 graph, proved on photographs.

`edgeq.quantize.fp16.vision` makes the FP16 graph of it and completes the report.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median_low
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeq.bundle.vision_report import TOKENS, VISION_FP16, VISION_FP32, GraphFiles, GraphTensor, VisionReport
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.errors import ExportError, first_line
from edgeq.export.late_weights import simplify_with_weights
from edgeq.export.tracing import trace
from edgeq.export.vision_module import VisionModule, load_vision_module
from edgeq.export.vision_pixels import ParityRun, read_runs
from edgeq.families.base import FEATURES, PIXELS, Arrays, AxisRange, VisionGraph, output_rows
from edgeq.model.graph.element_types import opset_of
from edgeq.model.graph.onnx_file import save_onnx
from edgeq.model.graph.tensors import name_nodes
from edgeq.quality.token_parity import FP32_BOUND, Place, prove_tokens

if TYPE_CHECKING:
    import onnx

__all__ = ["VISION_FP16", "VISION_FP32", "VisionReport", "export_vision", "graph_features"]

Progress = Callable[[str, int, int], None]
"""Called as (stage, done, total); total is 0 for a stage that is not counted."""

Features = NDArray[np.float32]
"""Of one run: the rows of all outputs, [rows, hidden]."""


def export_vision(
    model: Path,
    directory: Path,
    photographs: Sequence[Image.Image],
    *,
    threads: int | None = None,
    report: Progress | None = None,
) -> VisionReport:
    """Write `vision.fp32.onnx` and `vision.json` into `directory`.

    What the graph takes and gives is said by the model's family; most take pixels float32 [n, 3, H, W] and give
    features float32 [n, tokens, hidden], as they are put into the language model's input in the places of the image
    tokens. The language model's weights are not read.

    Args:
        model: a Hugging Face directory of a vision-language model, with its image processor's config.
        directory: an existing one.
        photographs: real ones for the proof, a handful.
        threads: of one operator.
        report: called as the stages go on.

    Raises:
        ModelError: the model or its image processor cannot be read.
        ExportError: its family cannot be exported, or its encoder does not take what its processor makes.
        ParityError: the graph computes something else than transformers does.
    """
    say = report or (lambda _stage, _done, _total: None)
    say("vision: load", 0, 0)
    vision_module = load_vision_module(model)
    runs = read_runs(model, vision_module.graph, vision_module.config, photographs)
    tokens, reference = 0, []
    for run in _counted(runs, "vision: reference", say):
        right = _run(model, vision_module, run)
        tokens = max(tokens, right[FEATURES].size // right[FEATURES].shape[-1])
        reference.append(output_rows(right))
    say("vision: export", 0, 0)
    vision_half, model_type, parameters = vision_module.graph, vision_module.model_type, vision_module.parameters
    outputs = {name: _free(vision_half, value.ndim) for name, value in right.items()}
    graph = _graph(model, vision_module, runs, outputs)
    del vision_module  # its weights are in the graph now
    save_onnx(graph, directory / VISION_FP32)
    found = graph_features(directory / VISION_FP32, _counted(runs, "vision: proof", say), threads=threads)
    pairs = ((place, wanted, values) for wanted, (place, values) in zip(reference, found, strict=True))
    feeds = runs[0].feeds
    made = VisionReport(
        model_type=model_type,
        inputs=tuple(_tensor(one.name, one.dtype, feeds[one.name].shape, one.free) for one in vision_half.inputs),
        outputs=tuple(_tensor(name, "float32", right[name].shape, free) for name, free in outputs.items()),
        image=feeds[PIXELS].shape[-3:] if vision_half.pictures else None,
        lengths=_lengths(vision_half, runs),
        image_tokens=tokens,
        hidden=reference[0].shape[1],
        opset=opset_of(graph),
        ir_version=graph.ir_version,
        parameters=parameters,
        fp32=GraphFiles.of(directory / VISION_FP32),
        parity=prove_tokens(pairs, bound=FP32_BOUND, made="the exported graph"),
    )
    made.save(directory)
    return made


def graph_features(
    graph: Path, runs: Iterator[ParityRun] | Sequence[ParityRun], *, threads: int | None = None
) -> Iterator[tuple[Place, Features]]:
    """What a vision graph computes, one run at a time: where that is, and float32 [rows, hidden] of all its outputs.

    Args:
        graph: ONNX file.
        runs: as the graph gets them.
        threads: of one operator.

    Raises:
        EngineError: ONNX Runtime refuses the graph, or it does not take these runs.
    """
    engine = OnnxRuntimeEngine(graph, threads=threads)
    for run in runs:
        yield (run.photograph, run.tile), output_rows(engine.run(run.feeds))


def _tensor(
    name: str, dtype: Literal["float32", "int64"], shape: Sequence[int], free: Mapping[int, str]
) -> GraphTensor:
    return GraphTensor(name=name, dtype=dtype, axes=tuple(free.get(axis, size) for axis, size in enumerate(shape)))


def _graph(
    model: Path, vision_module: VisionModule, runs: Sequence[ParityRun], outputs: Mapping[str, Mapping[int, str]]
) -> onnx.ModelProto:
    """The graph, traced on the smallest run; of pictures on two, so that none of their axes is taken for constant."""
    vision_half = vision_module.graph
    feeds = min(runs, key=lambda run: sum(array.size for array in run.feeds.values())).feeds
    if vision_half.pictures:
        feeds = {name: np.concatenate((array, array)) for name, array in feeds.items()}
    traced = trace(
        vision_module.module,
        feeds,
        source=model,
        inputs=vision_half.inputs,
        outputs=outputs,
        weights=False,
    )
    weights = {name: value.numpy() for name, value in vision_module.module.state_dict().items()}
    return name_nodes(simplify_with_weights(traced, weights))


def _free(vision_half: VisionGraph, rank: int) -> dict[int, str]:
    """The free axis of an output [..., tokens, hidden]: the pictures; else the tokens where an input has free axes."""
    if vision_half.pictures:
        return {0: "batch"}
    return {rank - 2: TOKENS} if any(given.free for given in vision_half.inputs) else {}


def _lengths(vision_half: VisionGraph, runs: Sequence[ParityRun]) -> dict[str, AxisRange]:
    """How long the free axes of these runs are, but for the batch of pictures, which is one here.

    The least is the greatest common divisor: some axes are a multiple of a number, such as the patches of a token.
    """
    found: dict[str, list[int]] = {}
    for run in runs:
        for name, length in vision_half.lengths(run.feeds).items():
            found.setdefault(name, []).append(length)
    return {name: (math.gcd(*all_), median_low(all_), max(all_)) for name, all_ in found.items()}


def _run(model: Path, vision_module: VisionModule, run: ParityRun) -> Arrays:
    """What transformers' own modules compute in one run."""
    import torch

    feeds = [run.feeds[given.name] for given in vision_module.graph.inputs]
    try:
        with torch.inference_mode():
            made = vision_module.module(*map(torch.from_numpy, feeds))
    except Exception as error:  # an encoder refuses a shape in its own words
        raise ExportError(
            f"the vision encoder in {model} does not take {_shapes(vision_module, feeds)}",
            causes=(first_line(error), "the image processor's config is another model's"),
        ) from error
    found = [value.numpy() for value in (made if isinstance(made, tuple) else (made,))]
    names = vision_module.graph.outputs(vision_module.config)
    pictures = vision_module.graph.pictures
    shapes = [list(value.shape) for value in found]
    if len(found) != len(names) or not all(_fits(shape, shapes[0][-1:], pictures=pictures) for shape in shapes):
        raise ExportError(
            f"the vision half of {model} gives {', '.join(map(str, shapes))}",
            expected=f"{', '.join(names)}, each {'[1, tokens, hidden]' if pictures else '[..., tokens, hidden]'}",
        )
    return dict(zip(names, found, strict=True))


def _fits(shape: Sequence[int], hidden: Sequence[int], *, pictures: bool) -> bool:
    """Whether an output has the form of features."""
    if len(shape) < 2 or list(shape[-1:]) != list(hidden):
        return False
    return not pictures or (len(shape) == 3 and shape[0] == 1)


def _shapes(vision_module: VisionModule, feeds: Sequence[NDArray[Any]]) -> str:
    """What one run was given, in words."""
    if vision_module.graph.pictures:
        return f"pictures of shape {list(feeds[0].shape[1:])}"
    names = [given.name for given in vision_module.graph.inputs]
    return ", ".join(f"{name} of shape {list(array.shape)}" for name, array in zip(names, feeds, strict=True))


def _counted(runs: Sequence[ParityRun], stage: str, say: Progress) -> Iterator[ParityRun]:
    for done, run in enumerate(runs):
        say(stage, done, len(runs))
        yield run
