"""From a photograph to the network's input: the same steps in the same order as the model's own image processor.

The arithmetic follows the NumPy/Pillow image processors of Hugging Face transformers: Pillow resizes 8-bit pixels;
rescaling is done in float64 and rounded to float32; normalization is done in float32. `preprocess_config.py` reads
their `preprocessor_config.json`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeq.errors import ImageError, ModelError
from edgeq.model.images.decode import MAX_PIXELS

__all__ = ["MAX_EDGE", "Preprocess"]

MAX_EDGE = 8192
"""The largest height or width of a network's input that is believed."""

_RESAMPLES = (0, 1, 2, 3, 4, 5)  # nearest, Lanczos, bilinear, bicubic, box, Hamming


@dataclass(frozen=True)
class Preprocess:
    """The steps from an RGB image to float32 pixels [3, height, width].

    Attributes:
        height: of the result, in pixels.
        width: of the result, in pixels.
        resize: (height, width) to resize to, or the length of the shorter edge, or None: left as it is.
        resample: Pillow's filter for that, 0..5.
        center_crop: whether the middle `height` x `width` is cut out after resizing; zeros fill up a smaller image.
        scale: each pixel value (0..255) is multiplied by this.
        rescale_offset: then 1 is subtracted (EfficientNet).
        mean: then this is subtracted, per channel.
        std: then it is divided by this, per channel; both empty: no normalization.
        include_top: at last it is divided by `std` once more (EfficientNet).

    Raises:
        ModelError: a value is out of range.
    """

    height: int
    width: int
    resize: tuple[int, int] | int | None
    resample: int
    center_crop: bool
    scale: float
    rescale_offset: bool = False
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    include_top: bool = False

    def __post_init__(self) -> None:
        """Check every value."""
        edges = [self.height, self.width, *_edges(self.resize)]
        if not all(1 <= edge <= MAX_EDGE for edge in edges):
            raise ModelError(f"preprocessing has the sizes {edges}, expected 1..{MAX_EDGE} pixels")
        if self.include_top and not self.std:
            raise ModelError("preprocessing has include_top without a standard deviation")
        if self.resample not in _RESAMPLES:
            raise ModelError(f"preprocessing has resample {self.resample}, expected one of {_RESAMPLES}")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ModelError(f"preprocessing has rescale factor {self.scale}, expected a positive number")
        if self.std and not (len(self.std) == 3 and all(math.isfinite(value) and value > 0 for value in self.std)):
            raise ModelError(f"preprocessing has standard deviation {list(self.std)}, expected three positive numbers")
        if len(self.mean) != len(self.std) or not all(math.isfinite(value) for value in self.mean):
            raise ModelError(f"preprocessing has mean {list(self.mean)}, expected three finite numbers")

    @classmethod
    def from_flags(cls, mean: Sequence[float], std: Sequence[float], size: tuple[int, int]) -> Preprocess:
        """For a model without `preprocessor_config.json`: resize to `size` (bilinear), divide by 255, normalize.

        Args:
            mean: three numbers, for pixel values in 0..1.
            std: three numbers, likewise.
            size: (height, width) in pixels.

        Raises:
            ModelError: a value is out of range.
        """
        if len(mean) != 3 or len(std) != 3:
            raise ModelError(f"{len(mean)} means and {len(std)} standard deviations were given, expected three of each")
        height, width = size
        return cls(
            height,
            width,
            resize=(height, width),
            resample=int(Image.Resampling.BILINEAR),
            center_crop=False,
            scale=1 / 255,
            mean=tuple(float(value) for value in mean),
            std=tuple(float(value) for value in std),
        )

    def to_config(self) -> dict[str, Any]:
        """A `preprocessor_config.json` with every key spelled out.

        `edgeq.model.images.preprocess_config.read_preprocess` makes an equal value of it, transformers the same pixels.
        """
        plain = not self.rescale_offset and not self.include_top
        size = {"height": self.height, "width": self.width}
        config: dict[str, Any] = {
            "image_processor_type": "ViTImageProcessor" if plain else "EfficientNetImageProcessor",
            "do_resize": self.resize is not None,
            "size": _size_config(self.resize) or size,
            "resample": self.resample,
            "do_center_crop": self.center_crop,
            "crop_size": size,
            "do_rescale": True,
            "rescale_factor": self.scale,
            "do_normalize": bool(self.std),
        }
        if self.std:
            config |= {"image_mean": list(self.mean), "image_std": list(self.std)}
        if not plain:
            config |= {"rescale_offset": self.rescale_offset, "include_top": self.include_top}
        return config

    @property
    def digest(self) -> str:
        """The SHA-256 of the steps, in hexadecimal."""
        text = json.dumps(self.to_config(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """Pixels float32 [3, height, width] of one image.

        Raises:
            ImageError: it would have to be resized and the preprocessing does not, or it is too long and thin for that.
        """
        image = self._resized(image.convert("RGB"))
        pixels = np.asarray(image).transpose(2, 0, 1)
        if self.center_crop:
            pixels = _crop(pixels, self.height, self.width)
        return self._scaled(pixels)

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Height and width that the resizing step gives an image of this size."""
        if self.resize is None:
            return height, width
        return self.resize if isinstance(self.resize, tuple) else _shortest_edge((width, height), self.resize)

    def _resized(self, image: Image.Image) -> Image.Image:
        """The image in the size that the resizing step gives it."""
        if self.resize is None:
            if not self.center_crop and image.size != (self.width, self.height):
                raise ImageError(
                    f"an image has {image.width} x {image.height} pixels, the model takes {self.width} x {self.height} "
                    "and its preprocessing does not resize"
                )
            return image
        height, width = self.resized(*image.size)
        if height * width > MAX_PIXELS:
            raise ImageError(
                f"an image of {image.width} x {image.height} pixels would become {width} x {height}, too large"
            )
        return image.resize((width, height), Image.Resampling(self.resample))

    def _scaled(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Rescaled and normalized: each of the 256 values of a channel always becomes the same number."""
        return np.stack([values[channel] for values, channel in zip(self._values, pixels, strict=True)])

    @cached_property
    def _values(self) -> NDArray[np.float32]:
        """What 0..255 become, [3, 256]; rounded to float32 after each step as the image processors do."""
        result = np.tile((np.arange(256, dtype=np.float64) * self.scale).astype(np.float32), (3, 1))
        if self.rescale_offset:
            result -= 1
        if self.std:
            result = (result - _column(self.mean)) / _column(self.std)
        if self.include_top:
            result = result / _column(self.std)
        return result


def _size_config(resize: tuple[int, int] | int | None) -> dict[str, int] | None:
    """`size` for a resizing step; None when there is no such step."""
    if isinstance(resize, tuple):
        return {"height": resize[0], "width": resize[1]}
    return None if resize is None else {"shortest_edge": resize}


def _edges(resize: tuple[int, int] | int | None) -> tuple[int, ...]:
    """The lengths in a resizing step."""
    if resize is None:
        return ()
    return resize if isinstance(resize, tuple) else (resize,)


def _column(values: tuple[float, ...]) -> NDArray[np.float32]:
    """Per-channel values as [3, 1]."""
    return np.array(values, dtype=np.float32).reshape(3, 1)


def _shortest_edge(size: tuple[int, int], edge: int) -> tuple[int, int]:
    """(height, width) of an image of `size` (width, height) whose shorter edge becomes `edge`; rounded down."""
    width, height = size
    longer = int(edge * max(size) / min(size))
    return (longer, edge) if width <= height else (edge, longer)


def _crop(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The middle of [3, h, w] as [3, height, width]; zeros where the image is smaller."""
    missing = [(0, 0), *(_padding(have, want) for have, want in zip(pixels.shape[1:], (height, width), strict=True))]
    padded = np.pad(pixels, missing)
    top, left = (padded.shape[1] - height) // 2, (padded.shape[2] - width) // 2
    return padded[:, top : top + height, left : left + width]


def _padding(have: int, want: int) -> tuple[int, int]:
    """Zeros before and after an edge that is too short; an odd one goes before."""
    short = max(want - have, 0)
    return (short + 1) // 2, short // 2
