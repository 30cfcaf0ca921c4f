"""`preprocessor_config.json` of Hugging Face image processors, read into a Preprocess.

What a config leaves out has the default of its image processor's class (preprocess_defaults.py). A key that is not
known and is not off is refused: nobody can tell whether it changes the pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import Any

from edgeq.errors import ModelError
from edgeq.model.images.preprocess import Preprocess
from edgeq.model.images.preprocess_defaults import BILINEAR, DEFAULTS, OWN, SETTINGS, STEPS, WITHOUT_EFFECT

__all__ = ["read_preprocess"]

_WARPS_FROM = 384  # ConvNext: from this size on, images are warped to a square instead of cropped
_FLAGS = "give --mean, --std and --size instead, which replace the file"


def read_preprocess(config: Mapping[str, Any]) -> Preprocess:
    """Read what a `preprocessor_config.json` says, with the defaults of its image processor for what it leaves out.

    Raises:
        ModelError: a value is wrong, the image processor is not known, or a key changes the pixels in a way that is not
            understood.
    """
    processor = _processor(config)
    settings = _settings(config, processor)
    _refuse_unknown(config, processor)
    if not processor:
        _require(settings, ("do_resize", "do_rescale", "do_normalize"))
    flags = {step: _flag(settings, step) for step in STEPS}
    resize, crop = _geometry(settings, processor, flags)
    height, width = crop or (resize if isinstance(resize, tuple) else _own_size(settings))
    normalize, again = flags["do_normalize"], _flag(settings, "include_top")
    std = _channels(settings, "image_std") if normalize or again else ()
    mean = _channels(settings, "image_mean") if normalize else (0.0,) * len(std)
    return Preprocess(
        height,
        width,
        resize=resize,
        resample=_integer(settings, "resample") if flags["do_resize"] else BILINEAR,
        center_crop=crop is not None,
        scale=_number(settings, "rescale_factor") if flags["do_rescale"] else 1.0,
        rescale_offset=flags["do_rescale"] and _flag(settings, "rescale_offset"),
        mean=mean,
        std=std,
        include_top=normalize and again,
    )


def _settings(config: Mapping[str, Any], processor: str) -> dict[str, Any]:
    """What the config says over the processor's defaults; as in transformers, null takes a default away."""
    merged = {**DEFAULTS.get(processor, {"rescale_factor": 1 / 255}), **config}
    if merged.get("do_resize") is False and "size" not in config:
        merged["size"] = None  # the default is what to resize to; nobody said which size the images have
    return {key: value for key, value in merged.items() if value is not None}


def _processor(config: Mapping[str, Any]) -> str:
    """The class of the image processor without the endings of its variants; empty when the config does not say."""
    name = config.get("image_processor_type") or config.get("feature_extractor_type") or ""
    if not isinstance(name, str):
        raise ModelError(f"preprocessor_config.json: image_processor_type is {name!r}, expected a name")
    name = name.removesuffix("Fast").removesuffix("Pil").replace("FeatureExtractor", "ImageProcessor")
    if name and name not in DEFAULTS:
        raise ModelError(
            f"preprocessor_config.json: the image processor {name} is not known",
            expected=f"one of {', '.join(sorted(DEFAULTS))}",
            next_step=_FLAGS,
        )
    return name


def _refuse_unknown(config: Mapping[str, Any], processor: str) -> None:
    """Raise ModelError for a key which is set and not understood."""
    known = {*STEPS, *SETTINGS, *OWN.get(processor, ()), *WITHOUT_EFFECT}
    for key, value in config.items():
        if key not in known and value is not None and value is not False:
            raise ModelError(
                f"preprocessor_config.json: {key} is {value!r}, and what that does to the pixels is not known here",
                causes=(f"the model's {processor or 'image processor'} has a step which edgeq does not have",),
                next_step=_FLAGS,
            )


def _require(settings: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    """Raise ModelError when one of the keys is missing."""
    missing = [key for key in keys if key not in settings]
    if missing:
        raise ModelError(f"preprocessor_config.json does not say {', '.join(missing)}", next_step=_FLAGS)


def _geometry(
    settings: Mapping[str, Any], processor: str, flags: Mapping[str, bool]
) -> tuple[tuple[int, int] | int | None, tuple[int, int] | None]:
    """The resizing step, and the crop (height, width) or None."""
    crop = _size(settings, "crop_size", square=True) if flags["do_center_crop"] else None
    if isinstance(crop, int):
        raise ModelError(f"preprocessor_config.json: crop_size is {settings['crop_size']!r}, expected height and width")
    if not flags["do_resize"]:
        return None, crop
    if processor == "Siglip2ImageProcessor":
        return _naflex(settings), crop
    resize = _size(settings, "size", square=settings.get("default_to_square", True) is True)
    if processor == "ConvNextImageProcessor":
        return _convnext(resize, _number(settings, "crop_pct"), crop)
    if processor == "PoolFormerImageProcessor":
        resize = _poolformer(resize, _number(settings, "crop_pct"))
    if processor == "LevitImageProcessor" and isinstance(resize, int):
        resize = int((256 / 224) * resize)
    if isinstance(resize, int) and crop is None:
        raise ModelError(
            "preprocessor_config.json: images are resized by their shorter edge and not cropped: their shapes differ",
            expected="size with height and width, or a center crop",
            next_step=_FLAGS,
        )
    return resize, crop


def _convnext(
    size: tuple[int, int] | int, crop_pct: float, crop: tuple[int, int] | None
) -> tuple[tuple[int, int] | int, tuple[int, int] | None]:
    """ConvNext's own rule: below 384 resize the shorter edge to size / crop_pct and crop; from there on warp."""
    if not isinstance(size, int):
        raise ModelError("preprocessor_config.json: size has no shortest_edge, which ConvNextImageProcessor needs")
    if size >= _WARPS_FROM:
        return (size, size), crop
    if crop is not None:
        raise ModelError(
            "preprocessor_config.json: do_center_crop is on, but ConvNextImageProcessor crops already", next_step=_FLAGS
        )
    return int(size / crop_pct), (size, size)


def _naflex(settings: Mapping[str, Any]) -> tuple[int, int]:
    """The largest square that SigLIP 2's own rule makes of an image: as many whole patches as it may have."""
    _require(settings, ("patch_size", "max_num_patches"))
    patch, most = (_length(settings[key], key) for key in ("patch_size", "max_num_patches"))
    side = patch * isqrt(most)
    return side, side


def _poolformer(size: tuple[int, int] | int, crop_pct: float) -> tuple[int, int] | int:
    """PoolFormer's own rule: everything is resized to size / crop_pct, a square by its shorter edge."""
    if isinstance(size, tuple) and size[0] != size[1]:
        return int(size[0] / crop_pct), int(size[1] / crop_pct)
    return int((size if isinstance(size, int) else size[0]) / crop_pct)


def _own_size(settings: Mapping[str, Any]) -> tuple[int, int]:
    """The size of images that are neither resized nor cropped: the config has to say it."""
    size = _size(settings, "size", square=True)
    if isinstance(size, int):
        raise ModelError(
            "preprocessor_config.json: images are neither resized nor cropped, and size does not give height and width",
            next_step=_FLAGS,
        )
    return size


def _size(settings: Mapping[str, Any], key: str, *, square: bool) -> tuple[int, int] | int:
    """A size as (height, width), or as the length of the shorter edge; `square` says which a bare number is."""
    _require(settings, (key,))
    value = settings[key]
    if isinstance(value, list | tuple) and len(value) == 2:
        return _length(value[0], key), _length(value[1], key)
    if isinstance(value, Mapping):
        given = {name: length for name, length in value.items() if length is not None}
        if set(given) == {"height", "width"}:
            return _length(given["height"], key), _length(given["width"], key)
        if set(given) == {"shortest_edge"}:
            return _length(given["shortest_edge"], key)
        raise ModelError(
            f"preprocessor_config.json: {key} is {dict(value)}",
            expected="height and width, or shortest_edge",
            next_step=_FLAGS,
        )
    length = _length(value, key)
    return (length, length) if square else length


def _length(value: object, key: str) -> int:
    """A whole number of pixels."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ModelError(f"preprocessor_config.json: {key} has {value!r}, expected a whole number of pixels")
    return value


def _flag(settings: Mapping[str, Any], key: str) -> bool:
    """A switch; off when it is not there."""
    value = settings.get(key, False)
    if not isinstance(value, bool):
        raise ModelError(f"preprocessor_config.json: {key} is {value!r}, expected true or false")
    return value


def _integer(settings: Mapping[str, Any], key: str) -> int:
    """A whole number."""
    _require(settings, (key,))
    value = settings[key]
    if isinstance(value, bool) or not isinstance(value, int):
        raise ModelError(f"preprocessor_config.json: {key} is {value!r}, expected a whole number")
    return value


def _number(settings: Mapping[str, Any], key: str) -> float:
    """A positive, finite number."""
    _require(settings, (key,))
    value = settings[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ModelError(f"preprocessor_config.json: {key} is {value!r}, expected a positive number")
    return float(value)


def _channels(settings: Mapping[str, Any], key: str) -> tuple[float, ...]:
    """Three numbers, one per channel; a single one stands for all three. Their range is checked by Preprocess."""
    _require(settings, (key,))
    value = settings[key]
    values = list(value) if isinstance(value, list | tuple) else [value] * 3
    if len(values) != 3 or any(isinstance(one, bool) or not isinstance(one, int | float) for one in values):
        raise ModelError(f"preprocessor_config.json: {key} is {value!r}, expected three numbers")
    return tuple(float(one) for one in values)
