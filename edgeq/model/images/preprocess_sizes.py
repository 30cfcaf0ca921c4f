"""How each image processor of Hugging Face gets images to one size: resizing, the crop, what fills up the rest.

A graph has one size. Where a config lets an image keep its own shape, it is refused by the name of its field.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, isqrt
from typing import Any, Final, NamedTuple

from edgeq.errors import ModelError
from edgeq.model.images.geometry import Fit, Pad, Resize
from edgeq.model.images.preprocess import OWN_PROCESSOR
from edgeq.model.images.preprocess_values import FLAGS, flag, integer, length, number, require, size

__all__ = ["Geometry", "read_geometry"]

_WARPS_FROM = 384  # ConvNext: from this size on, images are warped to a square instead of cropped
_LONGEST = 1333  # DETR and YOLOS: where `size` is a number and `max_size` is not said
_YOLOS_MULTIPLE = 16
_ONE_SIZE: Final = "give --size HEIGHTxWIDTH, which is then what every image is resized to, or --letterbox with it"

_DETECTORS: Final = frozenset(
    {"ConditionalDetr", "DeformableDetr", "Detr", "Mask2Former", "MaskFormer", "RTDetr", "Yolos"}
)
_MASKED: Final = _DETECTORS - {"RTDetr", "Yolos"}
"""Whose networks are told by `pixel_mask` what is padding; RT-DETR's and YOLOS' take it for a part of the image."""
_NEVER_CROP: Final = _DETECTORS | {"DPT", "Segformer"}


class Geometry(NamedTuple):
    """From an image of any size to one of `height` x `width` pixels.

    Attributes:
        resize: the resizing step; None where there is none.
        center_crop: whether the middle is cut out after it.
        pad: what fills up the rest; None where nothing is left to fill.
    """

    height: int
    width: int
    resize: Resize
    center_crop: bool
    pad: Pad | None = None


def read_geometry(settings: Mapping[str, Any], processor: str, *, resizes: bool, crops: bool) -> Geometry:
    """The steps of an image processor.

    Args:
        settings: the config over the processor's defaults.
        processor: its class; empty where the config does not say.
        resizes: `do_resize`.
        crops: `do_center_crop`.

    Raises:
        ModelError: a value is wrong, or images would differ in shape.
    """
    kind = processor.removesuffix("ImageProcessor")
    crop = _crop(settings) if crops and kind not in _NEVER_CROP else None
    if resizes and kind == "Siglip2":
        return _exact(_naflex(settings), crop)
    if resizes and kind == "DPT":
        return _dpt(settings)
    if kind in _DETECTORS or kind == "Sam" or processor == OWN_PROCESSOR:
        return _padded(settings, kind, resizes, crop)
    if resizes and kind == "Eomt":
        return _eomt(settings)
    return _exact(_resize(settings, kind) if resizes else None, crop, settings, kind)


def _exact(
    resize: tuple[int, int] | int | None,
    crop: tuple[int, int] | None,
    settings: Mapping[str, Any] | None = None,
    kind: str = "",
) -> Geometry:
    """Without padding: what comes out is the crop, or what is resized to, or what `size` says of images left alone."""
    if settings is not None and kind == "ConvNext" and resize is not None:
        resize, crop = _convnext(resize, number(settings, "crop_pct"), crop)
    if crop is not None:
        return Geometry(*crop, resize, True)
    if isinstance(resize, int):
        raise ModelError(
            "preprocessor_config.json: images are resized by their shorter edge and not cropped: their shapes differ",
            expected="size with height and width, or a center crop",
            next_step=_ONE_SIZE,
        )
    return Geometry(*(resize or _own_size(settings or {})), resize, False)


def _crop(settings: Mapping[str, Any]) -> tuple[int, int]:
    crop = size(settings, "crop_size", square=True)
    if isinstance(crop, int):
        raise ModelError(f"preprocessor_config.json: crop_size is {settings['crop_size']!r}, expected height and width")
    return crop


def _resize(settings: Mapping[str, Any], kind: str) -> tuple[int, int] | int:
    resize = size(settings, "size", square=settings.get("default_to_square", True) is True)
    if kind == "PoolFormer":
        return _poolformer(resize, number(settings, "crop_pct"))
    if kind == "Levit" and isinstance(resize, int):
        return int((256 / 224) * resize)
    return resize


def _convnext(
    resize: tuple[int, int] | int, crop_pct: float, crop: tuple[int, int] | None
) -> tuple[tuple[int, int] | int, tuple[int, int] | None]:
    """ConvNext's own rule: below 384 resize the shorter edge to size / crop_pct and crop; from there on warp."""
    if not isinstance(resize, int):
        raise ModelError("preprocessor_config.json: size has no shortest_edge, which ConvNextImageProcessor needs")
    if resize >= _WARPS_FROM:
        return (resize, resize), crop
    if crop is not None:
        raise ModelError(
            "preprocessor_config.json: do_center_crop is on, but ConvNextImageProcessor crops already", next_step=FLAGS
        )
    return int(resize / crop_pct), (resize, resize)


def _naflex(settings: Mapping[str, Any]) -> tuple[int, int]:
    """The largest square that SigLIP 2's own rule makes of an image: as many whole patches as it may have."""
    require(settings, ("patch_size", "max_num_patches"))
    patch, most = (length(settings[key], key) for key in ("patch_size", "max_num_patches"))
    side = patch * isqrt(most)
    return side, side


def _poolformer(resize: tuple[int, int] | int, crop_pct: float) -> tuple[int, int] | int:
    """PoolFormer's own rule: everything is resized to size / crop_pct, a square by its shorter edge."""
    if isinstance(resize, tuple) and resize[0] != resize[1]:
        return int(resize[0] / crop_pct), int(resize[1] / crop_pct)
    return int((resize if isinstance(resize, int) else resize[0]) / crop_pct)


def _own_size(settings: Mapping[str, Any]) -> tuple[int, int]:
    """The size of images that are neither resized nor cropped: the config has to say it."""
    own = size(settings, "size", square=True)
    if isinstance(own, int):
        raise ModelError(
            "preprocessor_config.json: images are neither resized nor cropped, and size does not give height and width",
            next_step=FLAGS,
        )
    return own


def _dpt(settings: Mapping[str, Any]) -> Geometry:
    """DPT's own rule: whole multiples of a patch; padding to those of `size_divisor` is put around."""
    wanted = size(settings, "size", square=True)
    if isinstance(wanted, int):
        raise ModelError("preprocessor_config.json: size has no height and width, which DPTImageProcessor needs")
    if flag(settings, "keep_aspect_ratio"):
        raise _shapes_differ("keep_aspect_ratio", True)
    multiple = integer(settings, "ensure_multiple_of")
    height, width = (round(edge / multiple) * multiple for edge in wanted)
    if not flag(settings, "do_pad") or "size_divisor" not in settings:
        return Geometry(height, width, (height, width), False)
    divisor = length(settings["size_divisor"], "size_divisor")
    filled = ceil(height / divisor) * divisor, ceil(width / divisor) * divisor
    return Geometry(*filled, (height, width), False, Pad(None, center=True))


def _eomt(settings: Mapping[str, Any]) -> Geometry:
    """EoMT's own rule for one window: black is put below or beside it."""
    fit = _fit(settings, "Eomt")
    if isinstance(fit, Fit) and not flag(settings, "do_pad"):
        raise _shapes_differ("size", settings["size"])
    if not isinstance(fit, Fit) or fit.shortest != fit.height:
        raise ModelError(
            f"preprocessor_config.json: size is {settings['size']!r}", expected="shortest_edge and longest_edge, equal"
        )
    return Geometry(fit.height, fit.width, fit, False, Pad(0, center=False))


def _padded(settings: Mapping[str, Any], kind: str, resizes: bool, crop: tuple[int, int] | None) -> Geometry:
    """Detectors, SAM, and edgeq's own: exactly one size, or the aspect ratio kept and `pad_size` filled up."""
    fit = _fit(settings, kind) if resizes else None
    fills = flag(settings, "do_pad") and "pad_size" in settings
    if not fills:
        if isinstance(fit, Fit):
            raise _shapes_differ("size", settings["size"])
        return _exact(fit, crop, settings)
    filled = size(settings, "pad_size", square=True)
    if isinstance(filled, int):
        raise ModelError(f"preprocessor_config.json: pad_size is {settings['pad_size']!r}, expected height and width")
    if fit == filled:
        return Geometry(*filled, fit, False)
    if kind in _MASKED:
        raise ModelError(
            f"preprocessor_config.json: pad_size is {settings['pad_size']!r}: {kind} is told by a pixel_mask what was "
            "filled up, and a graph here takes pixels alone",
            expected="size with height and width, so that nothing is filled up",
            next_step=_ONE_SIZE,
        )
    value = settings.get("constant_values")
    return Geometry(
        *filled,
        fit,
        crop is not None,
        Pad(None if value is None else integer(settings, "constant_values"), _is_centered(settings)),
    )


def _is_centered(settings: Mapping[str, Any]) -> bool:
    position = settings.get("pad_position", "top_left")
    if position not in ("center", "top_left"):
        raise ModelError(f"preprocessor_config.json: pad_position is {position!r}, expected center or top_left")
    return bool(position == "center")


def _fit(settings: Mapping[str, Any], kind: str) -> tuple[int, int] | int | Fit:
    """`size`, which may keep the aspect ratio."""
    require(settings, ("size",))
    value = settings["size"]
    given = {name: each for name, each in value.items() if each is not None} if isinstance(value, Mapping) else {}
    nearest = settings.get("size_rounding") == "nearest"
    multiple = _YOLOS_MULTIPLE if kind == "Yolos" else length(settings.get("size_multiple", 1), "size_multiple")
    if set(given) == {"shortest_edge", "longest_edge"}:
        longest = length(given["longest_edge"], "size")
        fit = Fit(longest, longest, length(given["shortest_edge"], "size"), multiple)
    elif set(given) == {"max_height", "max_width"}:
        fit = Fit(length(given["max_height"], "size"), length(given["max_width"], "size"), nearest=nearest)
    elif set(given) == {"longest_edge"} and kind == "Sam":
        longest = length(given["longest_edge"], "size")
        fit = Fit(longest, longest, nearest=True)
    elif not isinstance(value, Mapping | list | tuple) and kind in _DETECTORS:
        longest = length(settings.get("max_size", _LONGEST), "max_size")
        fit = Fit(longest, longest, length(value, "size"), multiple)
    else:
        resize = size(settings, "size", square=kind == "")
        if kind in _DETECTORS and isinstance(resize, int):
            raise _shapes_differ("size", value)
        return _divisible(resize, settings, kind)
    return fit


def _divisible(resize: tuple[int, int] | int, settings: Mapping[str, Any], kind: str) -> tuple[int, int] | int:
    """Mask2Former and MaskFormer: rounded up to whole multiples."""
    divisor = settings.get("size_divisor", 0)
    if kind not in ("Mask2Former", "MaskFormer") or not divisor or isinstance(resize, int):
        return resize
    divisor = length(divisor, "size_divisor")
    return ceil(resize[0] / divisor) * divisor, ceil(resize[1] / divisor) * divisor


def _shapes_differ(key: str, value: object) -> ModelError:
    """The error for images that keep their own shape."""
    return ModelError(
        f"preprocessor_config.json: {key} is {value!r}: each image keeps its aspect ratio, and their shapes differ",
        expected="one size, which the graph takes",
        next_step=_ONE_SIZE,
    )
