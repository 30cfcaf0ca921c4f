"""`pretrained_cfg` of timm's config.json, as a `preprocessor_config.json` says it.

timm writes no file of its own for that. Its transforms for evaluation: the shorter edge to `input_size` / `crop_pct`,
or with `squash` both edges; `input_size` out of the middle; 0..1; `mean` and `std`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from PIL import Image

from edgeq.errors import ModelError
from edgeq.model.images.preprocess_values import FLAGS, length, number

__all__ = ["from_timm"]

_PCT: Final = 0.875
"""timm's own default."""


def from_timm(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The preprocessing of a `config.json`; None where timm says nothing in it.

    Raises:
        ModelError: a value is wrong, or images are cut in a way that is not understood.
    """
    said = config.get("pretrained_cfg")
    if not isinstance(said, Mapping) or "input_size" not in said:
        return None
    shape = said["input_size"]
    if not isinstance(shape, list | tuple) or len(shape) != 3:
        raise ModelError(f"config.json: input_size of pretrained_cfg is {shape!r}", expected="channels, height, width")
    height, width = (length(edge, "input_size") for edge in shape[1:])
    pct = number({"crop_pct": said.get("crop_pct") or _PCT}, "crop_pct")
    mode = said.get("crop_mode") or "center"
    if mode not in ("center", "squash") or (mode == "center" and height != width):
        raise ModelError(
            f"config.json: pretrained_cfg has crop_mode {mode!r} for {height} x {width} pixels: that is not known here",
            next_step=FLAGS,
        )
    name = str(said.get("interpolation") or "bilinear").upper()
    if name not in Image.Resampling.__members__:
        raise ModelError(f"config.json: pretrained_cfg has interpolation {said['interpolation']!r}", next_step=FLAGS)
    squashed = {"height": math.floor(height / pct), "width": math.floor(width / pct)}
    return {
        "image_processor_type": "ViTImageProcessor",
        "size": squashed if mode == "squash" else {"shortest_edge": math.floor(height / pct)},
        "resample": int(Image.Resampling[name]),
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "image_mean": said.get("mean"),
        "image_std": said.get("std"),
    }
