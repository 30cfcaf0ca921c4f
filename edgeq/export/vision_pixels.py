"""Photographs as a vision graph is given them: with the model's own image processor, one run for each image or tile.

The processors of transformers that work on Pillow images and NumPy alone are used, so that torchvision is not needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeq.errors import ExportError, first_line
from edgeq.export.tracing import quiet
from edgeq.families.base import Arrays, Config, GraphInput, ImagePrompt, VisionGraph
from edgeq.families.registry import family_of
from edgeq.model.images.image_processor import load_image_processor

__all__ = ["ParityRun", "read_runs"]


@dataclass(frozen=True)
class ParityRun:
    """What goes through the graph at once: a photograph, or a tile of one where tiles know nothing of each other.

    Attributes:
        photograph: index of the photograph.
        tile: index in what the processor made of it; 0 where that goes through at once.
        feeds: an array for each input of the graph.
    """

    photograph: int
    tile: int
    feeds: Arrays


def read_runs(
    model: Path, graph: VisionGraph, config: Config, photographs: Sequence[Image.Image]
) -> tuple[ParityRun, ...]:
    """All that a model's image processor makes of some photographs, in their order.

    Args:
        model: a Hugging Face directory with preprocessor_config.json or processor_config.json.
        graph: of the model's family.
        config: the whole model's, with all defaults.
        photographs: at least one, of any size and mode.

    Raises:
        ModelError: the directory has no image processor that transformers knows.
        ExportError: there are no photographs, or the processor makes something else of them than the graph takes.
    """
    if not photographs:
        raise ExportError("there are no photographs to prove the vision graph on", expected="at least one")
    with quiet():
        processor = load_image_processor(model)
    runs = tuple(_runs(model, processor, graph, config, photographs))
    for given in graph.inputs:
        _check(model, given, [run.feeds[given.name] for run in runs])
    return runs


def _runs(
    model: Path, processor: Any, graph: VisionGraph, config: Config, photographs: Sequence[Image.Image]
) -> Iterator[ParityRun]:
    options = _processing(config)
    for index, photograph in enumerate(photographs):
        try:
            with quiet():
                given = processor(images=photograph.convert("RGB"), return_tensors="np", **options)
            feeds = graph.feeds(given, config)
        except Exception as error:  # a processor refuses an image in its own words
            raise ExportError(
                f"the image processor of {model} refuses photograph {index} ({photograph.width} x {photograph.height})",
                causes=(first_line(error),),
            ) from error
        if not graph.pictures:
            yield ParityRun(index, 0, feeds)
            continue
        for tile in range(len(feeds[graph.inputs[0].name])):
            one = slice(tile, tile + 1)
            yield ParityRun(index, tile, {name: np.ascontiguousarray(array[one]) for name, array in feeds.items()})


def _processing(config: Config) -> dict[str, Any]:
    """What the family's processor tells its image processor."""
    family = family_of(config["model_type"])
    prompt = None if family is None else family.prompt
    return dict(prompt.processing(config)) if isinstance(prompt, ImagePrompt) else {}


def _check(model: Path, given: GraphInput, arrays: Sequence[NDArray[Any]]) -> None:
    """An axis that is not free has one length, whatever the photograph's size."""
    shapes = {tuple(-1 if axis in given.free else size for axis, size in enumerate(array.shape)) for array in arrays}
    kinds = {str(array.dtype) for array in arrays}
    if len(shapes) != 1 or kinds != {given.dtype}:
        found = [[given.free.get(axis, size) for axis, size in enumerate(shape)] for shape in sorted(shapes)]
        raise ExportError(
            f"the image processor of {model} makes {given.name} of {len(shapes)} shapes: {found[:3]}, {sorted(kinds)}",
            expected=f"{given.dtype} of one shape but for its free axes, whatever the photograph's size",
            causes=("its config is another model's",),
        )
