"""What a network is for, and how its outputs are read: found in what it says of itself and in what it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.errors import ModelError
from edgeq.export.stage import FP32
from edgeq.model.checkpoint.source import ModelSource
from edgeq.model.graph.onnx_file import load_onnx
from edgeq.model.graph.outline import load_outline
from edgeq.model.heads.seen import Seen, Shape, class_names
from edgeq.model.images.image_set import ImageSet
from edgeq.pipeline.stages import parity_images
from edgeq.quality.tasks.base import ImageTask
from edgeq.quality.tasks.registry import choose_task, recorded

if TYPE_CHECKING:
    import onnx

__all__ = ["choose_for", "fit_task", "refit_task"]

_RUN: Final = 4


def choose_for(source: ModelSource, task: str | None, head: str | None = None) -> tuple[ModelSource, ImageTask[Any]]:
    """The task of a network, as far as it can be known before any work; and the source with what its ONNX file says.

    Args:
        source: an opened MODEL.
        task: given with `--task`; None leaves it to the model.
        head: given with `--detector-head`; None leaves it to the outputs.

    Returns:
        The source, its config choosing that task by itself and naming the classes that the ONNX file names; the task.

    Raises:
        ModelError: there is no such task, the model says another, or the outputs are none that the task knows.
    """
    model = None if source.onnx_path is None else _outline(source.onnx_path)
    metadata = {} if model is None else {entry.key: entry.value for entry in model.metadata_props}
    chosen = choose_task(task, source.config, metadata)
    source = _with_names(replace(source, metadata=metadata, config=recorded(chosen, source.config)))
    if not chosen.understands:
        return source, chosen.fitted(_seen(source, {}, None), source.preprocess, head)
    shapes = {} if model is None else _shapes(model)
    declared = {name: shape for name, shape in shapes.items() if shape is not None}
    if not declared or len(declared) < len(shapes):  # it is found out when the network has run
        return source, chosen
    return source, chosen.fitted(_seen(source, declared, None), source.preprocess, head)


def fit_task(
    task: ImageTask[Any],
    source: ModelSource,
    graph: Path,
    images: NDArray[np.float32],
    *,
    head: str | None = None,
    threads: int | None = None,
) -> ImageTask[Any]:
    """A task fitted to what a graph gives for real images.

    Args:
        task: from `choose_for`.
        source: for its class names and preprocessing.
        graph: the FP32 file.
        images: float32 [n, 3, H, W]; the first four are run.
        head: given with `--detector-head`; None leaves it to the outputs.
        threads: of one operator.

    Raises:
        ModelError: the outputs are none that the task knows.
        EngineError: the graph does not run.
    """
    if not task.understands:
        return task
    engine = OnnxRuntimeEngine(graph, threads=threads)
    values = [engine.run({engine.inputs[0]: images[place : place + 1]}) for place in range(min(len(images), _RUN))]
    joined = {name: np.concatenate([one[name] for one in values]) for name in engine.outputs}
    shapes = {name: (None, *value.shape[1:]) for name, value in joined.items()}
    return task.fitted(_seen(source, shapes, joined), source.preprocess, head)


def refit_task(
    task: ImageTask[Any],
    source: ModelSource,
    directory: Path,
    images: ImageSet,
    *,
    head: str | None = None,
    threads: int | None = None,
) -> ImageTask[Any]:
    """A task as it was fitted when a directory was made; fitted to its FP32 graph where nothing of that was written.

    Args:
        task: from `choose_for`.
        source: of the directory.
        directory: with the FP32 graph, or a bundle.
        images: of which some are run.
        head: given with `--detector-head`; None leaves it to the directory.
        threads: of one operator.

    Raises:
        ModelError: the outputs are none that the task knows.
        ArtifactError: what was written is damaged.
    """
    known = task.recorded_in(directory, source.preprocess) if head is None else None
    if known is not None:
        return known
    some = parity_images(images, source, count=_RUN)
    return fit_task(task, source, directory / FP32, some, head=head, threads=threads)


def _outline(path: Path) -> onnx.ModelProto:
    """The graph without its weights; what cannot be read so is read as a whole, which says best what is wrong."""
    try:
        return load_outline(path)
    except ModelError:
        return load_onnx(path)


def _seen(source: ModelSource, shapes: Mapping[str, Shape], values: Mapping[str, NDArray[np.float32]] | None) -> Seen:
    made = source.preprocess
    return Seen(shapes, made.height, made.width, source.labels, source.metadata, values)


def _with_names(source: ModelSource) -> ModelSource:
    """With the class names of the ONNX file where the config has none."""
    names = class_names(source.metadata)
    if source.labels is not None or names is None:
        return source
    config = {**source.config, "id2label": {str(index): name for index, name in enumerate(names)}}
    return replace(source, labels=names, config=config)


def _shapes(model: onnx.ModelProto) -> dict[str, Shape | None]:
    """What a file says of its outputs; None for one of which it says no shape."""
    return {
        value.name: tuple(axis.dim_value or None for axis in value.type.tensor_type.shape.dim)
        if value.type.tensor_type.HasField("shape")
        else None
        for value in model.graph.output
    }
