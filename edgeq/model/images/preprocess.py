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
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeq.errors import ImageError, ModelError
from edgeq.model.images.decode import MAX_PIXELS
from edgeq.model.images.geometry import Fit, Pad, Resize, center_crop, edges, resized_size

__all__ = ["GREY", "MAX_EDGE", "OWN_PROCESSOR", "ChannelOrder", "Preprocess"]

MAX_EDGE = 8192
"""The largest height or width of a network's input that is believed."""

OWN_PROCESSOR: Final = "EdgeqImageProcessor"
"""What a config names where no image processor of transformers takes the same steps: transformers then refuses it."""

GREY: Final = "grey"

ChannelOrder = Literal["rgb", "bgr", "grey"]
"""What the network's channels are; grey is one channel, ITU-R 601 luma as Pillow's mode L has it."""

_COUNTED = {1: "one", 3: "three"}
_RESAMPLES = (0, 1, 2, 3, 4, 5)  # nearest, Lanczos, bilinear, bicubic, box, Hamming


@dataclass(frozen=True)
class Preprocess:
    """The steps from an RGB image to float32 pixels [C, height, width], C = 3, or 1 in grey.

    Attributes:
        height: of the result, in pixels.
        width: of the result, in pixels.
        resize: (height, width) to resize to, or the length of the shorter edge, or `Fit`, or None: left as it is.
        resample: Pillow's filter for that, 0..5.
        center_crop: whether the middle `height` x `width` is cut out after resizing; zeros fill up a smaller image.
        scale: each pixel value (0..255) is multiplied by this.
        rescale_offset: then 1 is subtracted (EfficientNet).
        mean: then this is subtracted, per channel: red, green, blue, whatever `channel_order`.
        std: then it is divided by this, per channel; both empty: no normalization.
        include_top: then it is divided by `std` once more (EfficientNet).
        channel_order: at last the channels are put into this order.
        pad: what fills up an image that is still smaller; None where there is none such.

    Raises:
        ModelError: a value is out of range.
    """

    height: int
    width: int
    resize: Resize
    resample: int
    center_crop: bool
    scale: float
    rescale_offset: bool = False
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    include_top: bool = False
    channel_order: ChannelOrder = "rgb"
    pad: Pad | None = None

    def __post_init__(self) -> None:
        """Check every value."""
        lengths = [self.height, self.width, *edges(self.resize)]
        if not all(1 <= length <= MAX_EDGE for length in lengths):
            raise ModelError(f"preprocessing has the sizes {lengths}, expected 1..{MAX_EDGE} pixels")
        if isinstance(self.resize, Fit) and self.pad is None:
            raise ModelError("preprocessing keeps the aspect ratio and fills up nothing: images would differ in shape")
        if self.pad is not None and self.pad.value not in (None, *range(256)):
            raise ModelError(f"preprocessing fills up with {self.pad.value}, expected a pixel value 0..255")
        if self.include_top and not self.std:
            raise ModelError("preprocessing has include_top without a standard deviation")
        if self.resample not in _RESAMPLES:
            raise ModelError(f"preprocessing has resample {self.resample}, expected one of {_RESAMPLES}")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ModelError(f"preprocessing has rescale factor {self.scale}, expected a positive number")
        count = self.channels
        if self.std and not (len(self.std) == count and all(math.isfinite(value) and value > 0 for value in self.std)):
            raise ModelError(
                f"preprocessing has standard deviation {list(self.std)}, expected {_COUNTED[count]} positive number"
                + "s" * (count > 1)
            )
        if len(self.mean) != len(self.std) or not all(math.isfinite(value) for value in self.mean):
            raise ModelError(
                f"preprocessing has mean {list(self.mean)}, expected {_COUNTED[count]} finite number"
                + "s" * (count > 1)
            )

    @property
    def channels(self) -> int:
        """Of the network's input: 3, or 1 in grey."""
        return 1 if self.channel_order == GREY else 3

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
        size = {"height": self.height, "width": self.width}
        config: dict[str, Any] = {
            "image_processor_type": self._processor_type(),
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
        if self.rescale_offset or self.include_top:
            config |= {"rescale_offset": self.rescale_offset, "include_top": self.include_top}
        if self.channel_order != "rgb":
            step = "do_convert_grayscale" if self.channel_order == GREY else "do_flip_channel_order"
            config[step] = True
        if isinstance(self.resize, Fit) and self.resize.nearest:
            config["size_rounding"] = "nearest"
        if isinstance(self.resize, Fit) and self.resize.multiple > 1:
            config["size_multiple"] = self.resize.multiple
        if self.pad is not None:
            config |= {"do_pad": True, "pad_size": size, "pad_position": "center" if self.pad.center else "top_left"}
            config |= {} if self.pad.value is None else {"constant_values": self.pad.value}
        return config

    def _processor_type(self) -> str:
        """The image processor of transformers that takes these steps, or edgeq's own name."""
        top = self.rescale_offset or self.include_top
        if self.pad is None and self.channel_order == "rgb":
            return "EfficientNetImageProcessor" if top else "ViTImageProcessor"
        if self.pad is None and self.channel_order == "bgr" and not self.std and not top:
            return "MobileViTImageProcessor"
        return OWN_PROCESSOR

    @property
    def digest(self) -> str:
        """The SHA-256 of the steps, in hexadecimal."""
        text = json.dumps(self.to_config(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """Pixels float32 [C, height, width] of one image.

        Raises:
            ImageError: it would have to be resized and the preprocessing does not, or it is too long and thin for that.
        """
        image = self._resized(image.convert("L" if self.channel_order == GREY else "RGB"))
        pixels = np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)
        if self.center_crop:
            pixels = center_crop(pixels, self.height, self.width)
        if self.pad is None:
            return self._scaled(pixels)
        if self.pad.value is None:
            return self.pad.fill(self._scaled(pixels), self.height, self.width, 0.0)
        return self._scaled(self.pad.fill(pixels, self.height, self.width, self.pad.value))

    def converted(self, pixels: NDArray[np.float32], other: Preprocess) -> NDArray[np.float32]:
        """Pixels that this preprocessing made as another makes them, which differs in numbers and order alone.

        Args:
            pixels: float32 [n, C, H, W].
            other: of the same geometry, and as many channels.

        Returns:
            float32 [n, C, H, W].
        """
        low = self.values[:, 0].astype(np.float64).reshape(-1, 1, 1)
        step = (self.values[:, 255].astype(np.float64).reshape(-1, 1, 1) - low) / 255
        stored = np.rint((pixels - low) / step).clip(0, 255).astype(np.uint8)
        if self.channel_order != other.channel_order:
            stored = stored[:, ::-1]
        return np.stack([other.values[channel][stored[:, channel]] for channel in range(self.channels)], axis=1)

    @cached_property
    def values(self) -> NDArray[np.float32]:
        """What the pixel values 0..255 become, [C, 256], in the network's order of channels."""
        return self._values[::-1] if self.channel_order == "bgr" else self._values

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Height and width that the resizing step gives an image of this size."""
        if self.resize is None:
            return height, width
        return resized_size((width, height), self.resize)

    def _resized(self, image: Image.Image) -> Image.Image:
        """The image in the size that the resizing step gives it."""
        if self.resize is None:
            if not self.center_crop and self.pad is None and image.size != (self.width, self.height):
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
        """Rescaled, normalized, in order: each of the 256 values of a channel always becomes the same number."""
        ordered = pixels[::-1] if self.channel_order == "bgr" else pixels
        return np.stack([values[channel] for values, channel in zip(self.values, ordered, strict=True)])

    @cached_property
    def _values(self) -> NDArray[np.float32]:
        """What 0..255 become, [C, 256]; rounded to float32 after each step as the image processors do."""
        result = np.tile((np.arange(256, dtype=np.float64) * self.scale).astype(np.float32), (self.channels, 1))
        if self.rescale_offset:
            result -= 1
        if self.std:
            result = (result - _column(self.mean)) / _column(self.std)
        if self.include_top:
            result = result / _column(self.std)
        return result


def _size_config(resize: Resize) -> dict[str, int] | None:
    """`size` for a resizing step; None when there is no such step."""
    if isinstance(resize, Fit):
        if resize.shortest is not None:
            return {"shortest_edge": resize.shortest, "longest_edge": resize.height}
        return {"max_height": resize.height, "max_width": resize.width}
    if isinstance(resize, tuple):
        return {"height": resize[0], "width": resize[1]}
    return None if resize is None else {"shortest_edge": resize}


def _column(values: tuple[float, ...]) -> NDArray[np.float32]:
    """Per-channel values as [C, 1]."""
    return np.array(values, dtype=np.float32).reshape(-1, 1)
