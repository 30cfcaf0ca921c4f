"""From an image to the objects on it, or to a class for each of its pixels, as a bundle's head is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeq.engine import Engine
from edgeq.errors import EngineError
from edgeq.files import read_json_object
from edgeq.model.heads.boxes import Detections
from edgeq.model.heads.detector import Head, Limits
from edgeq.model.heads.masks import MaskHead
from edgeq.model.heads.settings import DETECTOR, SEGMENTER, DetectorSettings, SegmenterSettings
from edgeq.model.images.placement import Placement
from edgeq.model.images.preprocess import Preprocess
from edgeq.model.images.preprocess_config import read_preprocess

__all__ = ["LEAST_SCORE", "MASK_SIDE", "Detector", "PlacedImage", "Segmenter"]

LEAST_SCORE: Final = 0.01
"""What is less likely is never told."""

MASK_SIDE: Final = 2048
"""The longest side of a mask, in pixels: that of a larger image is smaller."""

_PREPROCESS: Final = "preprocessor_config.json"


@dataclass(frozen=True)
class PlacedImage:
    """An image as the network takes it.

    Attributes:
        pixels: float32 [3, height, width] of the input.
        placement: where the image lies in it.
    """

    pixels: NDArray[np.float32]
    placement: Placement


class Detector:
    """Objects on an image.

    Args:
        engine: of the graph.
        head: how its outputs are read.
        preprocess: from an image to its input.

    Raises:
        EngineError: the graph has other inputs or outputs.
    """

    def __init__(self, engine: Engine, head: Head, preprocess: Preprocess) -> None:
        _check_graph(engine, head.outputs)
        self._engine, self._head, self._preprocess = engine, head, preprocess

    @classmethod
    def of_bundle(cls, bundle: Path, engine: Engine) -> Detector:
        """As a bundle, which was checked already, says that it is read.

        Raises:
            ArtifactError, ModelError: its head or its preprocessing cannot be read.
            EngineError: the engine's graph is not the bundle's.
        """
        return cls(engine, DetectorSettings.load(bundle / DETECTOR).head, _preprocess_of(bundle))

    def pixels(self, image: Image.Image) -> PlacedImage:
        """The graph's input for an image (mode RGB); raises ImageError where it cannot be brought to its size."""
        return _placed(image, self._preprocess)

    def run(self, image: PlacedImage) -> Detections:
        """What is on the image, the likeliest first, in its own pixels; scores of `LEAST_SCORE` and more.

        Raises:
            EngineError: the engine fails, gives NaN or infinity, or something else than the head has.
        """
        outputs = _run(self._engine, image.pixels, self._head.outputs)
        (found,) = self._head.detect(outputs, Limits(score=LEAST_SCORE))
        return found.in_image(image.placement)


class Segmenter:
    """A class for each pixel of an image.

    Args:
        engine: of the graph.
        head: how its output is read.
        preprocess: from an image to its input.

    Raises:
        EngineError: the graph has other inputs or outputs.
    """

    def __init__(self, engine: Engine, head: MaskHead, preprocess: Preprocess) -> None:
        _check_graph(engine, (head.output,))
        self._engine, self._head, self._preprocess = engine, head, preprocess

    @classmethod
    def of_bundle(cls, bundle: Path, engine: Engine) -> Segmenter:
        """As `Detector.of_bundle`.

        Raises:
            ArtifactError, ModelError, EngineError: likewise.
        """
        return cls(engine, SegmenterSettings.load(bundle / SEGMENTER).head, _preprocess_of(bundle))

    def pixels(self, image: Image.Image) -> PlacedImage:
        """The graph's input for an image (mode RGB); raises ImageError where it cannot be brought to its size."""
        return _placed(image, self._preprocess)

    def run(self, image: PlacedImage) -> NDArray[np.uint16]:
        """The class of each pixel of the image, uint16 [height, width]; of fewer where a side is above `MASK_SIDE`.

        Raises:
            EngineError: the engine fails, gives NaN or infinity, or something else than the head has.
        """
        (found,) = self._head.class_maps(_run(self._engine, image.pixels, (self._head.output,))[0])
        rows, columns = image.placement.from_image(*found.shape)
        every = -(-max(len(rows), len(columns)) // MASK_SIDE)
        return found[rows[every // 2 :: every]][:, columns[every // 2 :: every]]


def _check_graph(engine: Engine, outputs: Sequence[str]) -> None:
    if len(engine.inputs) != 1 or not set(outputs) <= set(engine.outputs):
        raise EngineError(
            f"the graph has inputs {list(engine.inputs)} and outputs {list(engine.outputs)}",
            expected=f"one input, and the outputs {', '.join(outputs)}",
        )


def _preprocess_of(bundle: Path) -> Preprocess:
    return read_preprocess(read_json_object(bundle / _PREPROCESS))


def _placed(image: Image.Image, preprocess: Preprocess) -> PlacedImage:
    return PlacedImage(preprocess(image), Placement.of(preprocess, *image.size))


def _run(engine: Engine, pixels: NDArray[np.float32], outputs: Sequence[str]) -> tuple[NDArray[Any], ...]:
    found = engine.run({engine.inputs[0]: pixels[None]}, tuple(outputs))
    if not all(np.isfinite(values).all() for values in found.values()):
        raise EngineError("the graph gave NaN or infinity for this image")
    return tuple(found[name] for name in outputs)
