"""Photographs as the vision encoder is given them: with the model's own image processor, tile by tile.

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
from edgeq.model.images.image_processor import load_image_processor

__all__ = ["ParityPicture", "read_pictures"]


@dataclass(frozen=True)
class ParityPicture:
    """What goes through the encoder at once: a photograph, or a tile of one.

    Attributes:
        photograph: index of the photograph.
        tile: index in what the processor made of it; 0 where that is one picture.
        pixels: float32 [3, H, W].
    """

    photograph: int
    tile: int
    pixels: NDArray[np.float32]


def read_pictures(model: Path, photographs: Sequence[Image.Image]) -> tuple[ParityPicture, ...]:
    """Every picture that a model's image processor makes of some photographs, in their order.

    Args:
        model: a Hugging Face directory with preprocessor_config.json or processor_config.json.
        photographs: at least one, of any size and mode.

    Raises:
        ModelError: the directory has no image processor that transformers knows.
        ExportError: there are no photographs, or the processor makes no pictures of one size.
    """
    if not photographs:
        raise ExportError("there are no photographs to prove the vision graph on", expected="at least one")
    with quiet():
        processor = load_image_processor(model)
    pictures = tuple(_pictures(model, processor, photographs))
    shapes = {picture.pixels.shape for picture in pictures}
    if len(shapes) != 1 or any(len(shape) != 3 or shape[0] != 3 for shape in shapes):
        raise ExportError(
            f"the image processor of {model} makes pictures of {len(shapes)} shapes: {sorted(shapes)[:3]}",
            expected="pixels [3, height, width] of one size, whatever the photograph's size",
        )
    return pictures


def _pictures(model: Path, processor: Any, photographs: Sequence[Image.Image]) -> Iterator[ParityPicture]:
    for index, photograph in enumerate(photographs):
        try:
            with quiet():
                made = processor(images=photograph.convert("RGB"), return_tensors="np")["pixel_values"]
        except Exception as error:  # a processor refuses an image in its own words
            raise ExportError(
                f"the image processor of {model} refuses photograph {index} ({photograph.width} x {photograph.height})",
                causes=(first_line(error),),
            ) from error
        pixels = np.asarray(made, dtype=np.float32)
        for tile, picture in enumerate(pixels.reshape(-1, *pixels.shape[-3:])):
            yield ParityPicture(index, tile, np.ascontiguousarray(picture))
