"""Preprocessing given step by step: over what a model's `preprocessor_config.json` says, or in its place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from PIL import Image

from edgeq.errors import ModelError
from edgeq.model.images.geometry import Fit, Pad
from edgeq.model.images.preprocess import GREY, ChannelOrder, Preprocess
from edgeq.model.images.preprocess_config import read_preprocess
from edgeq.model.images.preprocess_sizes import Geometry

__all__ = ["RESAMPLES", "Letterbox", "PreprocessFlags"]

RESAMPLES = {
    name: int(Image.Resampling[name.upper()])
    for name in ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
}
"""Pillow's filters by their names."""

Letterbox = Literal["center", "top-left"]

_UNCHANGED = ((None, None, None), (None, None, 1.0))
_ADD = "add --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --size 224 (with the model's own values)"


@dataclass(frozen=True)
class PreprocessFlags:
    """What is given of the preprocessing; None: not given, and left to the model's file.

    Where `mean`, `std` and `size` are all given, the file is not read: pixels are resized (bilinear), divided by 255
    and normalized, but for what else is given. Any of `size`, `crop`, `crop_pct` and `letterbox` says all of an image's
    geometry.

    Attributes:
        mean, std: red, green and blue, whatever `channel_order`, or one number for each; for pixels times
            `rescale_factor`.
        size: (height, width) that images are resized to, in pixels; with `crop`, a whole number is that of their
            shorter edge.
        crop: (height, width) that is then cut out of the middle; None cuts nothing. Of an odd rest the smaller half
            lies above and left, as transformers has it; torchvision rounds it to an even number.
        crop_pct: as timm's: the shorter edge becomes the side of `size` divided by this, and `size` is cut out.
        letterbox: keep the aspect ratio inside `size`, the image in the middle (edges rounded to the nearest pixel, as
            Ultralytics') or at the top left (rounded down, as YOLOX's), and fill up with `pad_value`.
        pad_value: of a pixel, 0..255.
        resample: Pillow's filter, 0..5.
        rescale_factor: pixels 0..255 are multiplied by it; 1 leaves them as they are.
        channel_order: of the network's channels.
        as_pixels: pixels are neither rescaled nor normalized, whatever the file says: the network takes 0..255.

    Raises:
        ModelError: they contradict each other.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: tuple[int, int] | int | None = None
    crop: tuple[int, int] | None = None
    crop_pct: float | None = None
    letterbox: Letterbox | None = None
    pad_value: int = 114
    resample: int | None = None
    rescale_factor: float | None = None
    channel_order: ChannelOrder | None = None
    as_pixels: bool = False

    def __post_init__(self) -> None:
        """Check that sizes are given in one way, and that pixels which stay as they are are not normalized."""
        if self.as_pixels and (self.mean, self.std, self.rescale_factor) not in _UNCHANGED:
            raise ModelError(
                "the network takes pixels as they are, and mean, std or rescale_factor were given",
                causes=("its input is uint8, so that what is done to pixels is inside it",),
                next_step="leave --mean, --std and --rescale-factor out",
            )
        ways = [
            name
            for name, value in (("crop", self.crop), ("crop_pct", self.crop_pct), ("letterbox", self.letterbox))
            if value is not None
        ]
        if len(ways) > 1:
            raise ModelError(f"{' and '.join(ways)} of the preprocessing are given, expected one of them")
        if ways and self.size is None:
            raise ModelError(f"{ways[0]} of the preprocessing is given without size")
        if self.crop_pct is not None and not 0 < self.crop_pct <= 1:
            raise ModelError(f"crop_pct of the preprocessing is {self.crop_pct}, expected a number up to 1, as timm's")

    def apply(self, config: Mapping[str, Any] | None, place: object = "the model") -> Preprocess:
        """The preprocessing.

        Args:
            config: of `preprocessor_config.json`; None where there is none.
            place: whose it is, for an error.

        Raises:
            ModelError: something is neither given nor in the file, is out of range, or is not understood.
        """
        base = self._from_flags(place) if config is None or self._is_whole else self._over(config)
        changes: dict[str, Any] = {}
        if self.rescale_factor is not None:
            changes |= {"scale": self.rescale_factor, "rescale_offset": False}
        if self.as_pixels:
            changes |= {"scale": 1.0, "rescale_offset": False, "mean": (), "std": (), "include_top": False}
        if self.resample is not None:
            changes["resample"] = self.resample
        return replace(base, **changes)

    @property
    def _is_whole(self) -> bool:
        return None not in (self.mean, self.std, self.size)

    def _from_flags(self, place: object) -> Preprocess:
        geometry = self._geometry()
        normalized = self.mean is not None and self.std is not None
        scaled = self.as_pixels or self.rescale_factor is not None
        pixels = self.mean is None and self.std is None and scaled  # as they are, or scaled
        if geometry is None or not (normalized or pixels):
            raise ModelError(
                f"{place} has no preprocessor_config.json: how images become the network's input is not known",
                expected="the file that came with the model, or the values it was trained with",
                next_step=_ADD,
            )
        order = self.channel_order or "rgb"
        return Preprocess(
            geometry.height,
            geometry.width,
            resize=geometry.resize,
            resample=RESAMPLES["bilinear"],
            center_crop=geometry.center_crop,
            scale=1 / 255,
            mean=_channels(self.mean, order),
            std=_channels(self.std, order),
            channel_order=order,
            pad=geometry.pad,
        )

    def _over(self, config: Mapping[str, Any]) -> Preprocess:
        """The file's steps, with those that are given in their place."""
        given = {
            key: list(value) for key, value in (("image_mean", self.mean), ("image_std", self.std)) if value is not None
        }
        normalizes: dict[str, Any] = {"do_normalize": True} if given else {}
        if self.as_pixels:
            normalizes = {"do_normalize": False, "include_top": False}
        return read_preprocess(
            {**config, **given, **normalizes}, geometry=self._geometry(), channel_order=self.channel_order
        )

    def _geometry(self) -> Geometry | None:
        """How images get their size; None where nothing is given."""
        if self.size is None:
            return None
        if self.crop is not None:
            return Geometry(*self.crop, self.size, True)
        height, width = (self.size, self.size) if isinstance(self.size, int) else self.size
        if self.crop_pct is not None:
            if height != width:
                raise ModelError(
                    f"crop_pct of the preprocessing is given with {height} x {width} pixels, expected a square",
                    next_step="give size and crop: what is resized to, and what is cut out of it",
                )
            return Geometry(height, width, math.floor(height / self.crop_pct), True)
        if self.letterbox is None:
            return Geometry(height, width, (height, width), False)
        centered = self.letterbox == "center"
        return Geometry(
            height, width, Fit(height, width, nearest=centered), False, Pad(self.pad_value, center=centered)
        )


def _channels(values: tuple[float, ...] | None, order: ChannelOrder) -> tuple[float, ...]:
    """One number for each channel."""
    count = 1 if order == GREY else 3
    return () if values is None else tuple(map(float, values * count if len(values) == 1 else values))
