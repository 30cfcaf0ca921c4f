"""Vision encoder and connector of a vision-language model as one FP32 graph, proved on photographs.

`edgeq.quantize.fp16.vision` makes the FP16 graph of it and completes the report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeq.bundle.vision_report import FEATURES, PIXELS, VISION_FP16, VISION_FP32, GraphFiles, VisionReport
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.errors import ExportError, first_line
from edgeq.export.late_weights import simplify_with_weights
from edgeq.export.tracing import OPSET, trace
from edgeq.export.vision_module import VisionModule, load_vision_module
from edgeq.export.vision_pixels import ParityPicture, read_pictures
from edgeq.model.graph.onnx_file import save_onnx
from edgeq.model.graph.tensors import name_nodes
from edgeq.quality.token_parity import FP32_BOUND, Place, prove_tokens

if TYPE_CHECKING:
    import onnx

__all__ = ["VISION_FP16", "VISION_FP32", "VisionReport", "export_vision", "graph_features"]

Progress = Callable[[str, int, int], None]
"""Called as (stage, done, total); total is 0 for a stage that is not counted."""

Features = NDArray[np.float32]
"""Of one picture, [tokens, hidden]."""


def export_vision(
    model: Path,
    directory: Path,
    photographs: Sequence[Image.Image],
    *,
    threads: int | None = None,
    report: Progress | None = None,
) -> VisionReport:
    """Write `vision.fp32.onnx` and `vision.json` into `directory`.

    The graph takes pixels float32 [n, 3, H, W] and gives features float32 [n, tokens, hidden], as they are put into the
    language model's input in the places of the image tokens. The language model's weights are not read.

    Args:
        model: a Hugging Face directory of a vision-language model, with its image processor's config.
        directory: an existing one.
        photographs: real ones for the proof, a handful.
        threads: of one operator.
        report: called as the stages go on.

    Raises:
        ModelError: the model or its image processor cannot be read.
        ExportError: its family cannot be exported, or its encoder does not take the pictures that its processor makes.
        ParityError: the graph computes something else than transformers does.
    """
    say = report or (lambda _stage, _done, _total: None)
    say("vision: load", 0, 0)
    vision_module = load_vision_module(model)
    pictures = read_pictures(model, photographs)
    reference = [_run(model, vision_module, picture) for picture in _counted(pictures, "vision: reference", say)]
    say("vision: export", 0, 0)
    graph = _graph(model, vision_module, pictures[0].pixels.shape)
    model_type, parameters = vision_module.model_type, vision_module.parameters
    del vision_module  # its weights are in the graph now
    save_onnx(graph, directory / VISION_FP32)
    found = graph_features(directory / VISION_FP32, _counted(pictures, "vision: proof", say), threads=threads)
    pairs = ((place, right, made) for right, (place, made) in zip(reference, found, strict=True))
    made = VisionReport(
        model_type=model_type,
        image=pictures[0].pixels.shape,
        image_tokens=reference[0].shape[0],
        hidden=reference[0].shape[1],
        opset=OPSET,
        ir_version=graph.ir_version,
        parameters=parameters,
        fp32=GraphFiles.of(directory / VISION_FP32),
        parity=prove_tokens(pairs, bound=FP32_BOUND, made="the exported graph"),
    )
    made.save(directory)
    return made


def graph_features(
    graph: Path, pictures: Iterator[ParityPicture] | Sequence[ParityPicture], *, threads: int | None = None
) -> Iterator[tuple[Place, Features]]:
    """What a vision graph computes of each picture, one at a time: where that is, and float32 [tokens, hidden].

    Args:
        graph: ONNX file.
        pictures: as the encoder gets them.
        threads: of one operator; None takes every processor there is.

    Raises:
        EngineError: ONNX Runtime refuses the graph, or it does not take these pictures.
    """
    engine = OnnxRuntimeEngine(graph, threads=threads)
    for picture in pictures:
        made = engine.run({PIXELS: picture.pixels[None]})[FEATURES]
        yield (picture.photograph, picture.tile), made[0]


def _graph(model: Path, vision_module: VisionModule, image: tuple[int, ...]) -> onnx.ModelProto:
    traced = trace(vision_module.module, image, source=model, inputs=PIXELS, outputs=FEATURES, weights=False)
    weights = {name: value.numpy() for name, value in vision_module.module.state_dict().items()}
    return name_nodes(simplify_with_weights(traced, weights))


def _run(model: Path, vision_module: VisionModule, picture: ParityPicture) -> Features:
    """What transformers' own modules compute of one picture."""
    import torch

    try:
        with torch.inference_mode():
            features: Features = vision_module.module(torch.from_numpy(picture.pixels[None])).numpy()
    except Exception as error:  # an encoder refuses a shape in its own words
        raise ExportError(
            f"the vision encoder in {model} does not take pictures of shape {list(picture.pixels.shape)}",
            causes=(first_line(error), "the image processor's config is another model's"),
        ) from error
    if features.ndim != 3 or len(features) != 1:
        raise ExportError(f"the vision half of {model} gives {list(features.shape)}", expected="[1, tokens, hidden]")
    found: Features = features[0]
    return found


def _counted(pictures: Sequence[ParityPicture], stage: str, say: Progress) -> Iterator[ParityPicture]:
    for done, picture in enumerate(pictures):
        say(stage, done, len(pictures))
        yield picture
