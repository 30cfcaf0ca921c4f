"""`preprocessor_config.json` of Hugging Face image processors, read into a Preprocess.

What a config leaves out has the default of its image processor's class (preprocess_defaults.py). A key that is not
known and is not off is refused: nobody can tell whether it changes the pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeq.errors import ModelError
from edgeq.model.images.preprocess import GREY, ChannelOrder, Preprocess
from edgeq.model.images.preprocess_defaults import (
    BILINEAR,
    DEFAULTS,
    NO_NORMALIZATION,
    NOT_TAKEN,
    OWN,
    SETTINGS,
    STEPS,
    WITHOUT_EFFECT,
)
from edgeq.model.images.preprocess_sizes import Geometry, read_geometry
from edgeq.model.images.preprocess_values import FLAGS, channels, flag, integer, number, require

__all__ = ["read_preprocess"]


def read_preprocess(
    config: Mapping[str, Any], *, geometry: Geometry | None = None, channel_order: ChannelOrder | None = None
) -> Preprocess:
    """Read what a `preprocessor_config.json` says, with the defaults of its image processor for what it leaves out.

    Args:
        config: the file's content.
        geometry: stands in for what the file says of sizes; None takes the file's.
        channel_order: stands in for the file's; None takes the file's.

    Raises:
        ModelError: a value is wrong, the image processor is not known, or a key changes the pixels in a way that is not
            understood.
    """
    processor = _processor(config)
    settings = _settings(config, processor)
    _refuse_unknown(config, processor)
    if not processor:
        require(settings, ("do_resize", "do_rescale", "do_normalize"))
    steps = {step: flag(settings, step) for step in STEPS}
    if geometry is None:
        geometry = read_geometry(settings, processor, resizes=steps["do_resize"], crops=steps["do_center_crop"])
    order = channel_order or _channel_order(settings, processor)
    count = 1 if order == GREY else 3
    normalize = steps["do_normalize"] and processor not in NO_NORMALIZATION
    again = flag(settings, "include_top")
    std = channels(settings, "image_std", count) if normalize or again else ()
    mean = channels(settings, "image_mean", count) if normalize else (0.0,) * len(std)
    return Preprocess(
        geometry.height,
        geometry.width,
        resize=geometry.resize,
        resample=integer(settings, "resample") if steps["do_resize"] else BILINEAR,
        center_crop=geometry.center_crop,
        scale=number(settings, "rescale_factor") if steps["do_rescale"] else 1.0,
        rescale_offset=steps["do_rescale"] and flag(settings, "rescale_offset"),
        mean=mean,
        std=std,
        include_top=normalize and again,
        channel_order=order,
        pad=geometry.pad,
    )


def _settings(config: Mapping[str, Any], processor: str) -> dict[str, Any]:
    """What the config says over the processor's defaults; as in transformers, null takes a default away."""
    merged = {**DEFAULTS.get(processor, {"rescale_factor": 1 / 255}), **config}
    if "pad_and_return_pixel_mask" in config and "do_pad" not in config:  # the name before
        merged["do_pad"] = config["pad_and_return_pixel_mask"]
    if merged.get("do_resize") is False and "size" not in config:
        merged["size"] = None  # the default is what to resize to; nobody said which size the images have
    return {key: value for key, value in merged.items() if value is not None}


def _processor(config: Mapping[str, Any]) -> str:
    """The class of the image processor without the endings of its variants; empty when the config does not say."""
    name = config.get("image_processor_type") or config.get("feature_extractor_type") or ""
    if not isinstance(name, str):
        raise ModelError(f"preprocessor_config.json: image_processor_type is {name!r}, expected a name")
    name = name.removesuffix("Fast").removesuffix("Pil").replace("FeatureExtractor", "ImageProcessor")
    if name in NOT_TAKEN:
        raise ModelError(
            f"preprocessor_config.json: image_processor_type is {name}, which {NOT_TAKEN[name]}", next_step=FLAGS
        )
    if name and name not in DEFAULTS:
        raise ModelError(
            f"preprocessor_config.json: the image processor {name} is not known",
            expected=f"one of {', '.join(sorted(DEFAULTS))}",
            next_step=FLAGS,
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
                next_step=FLAGS,
            )


def _channel_order(settings: Mapping[str, Any], processor: str) -> ChannelOrder:
    """Grey, or blue before red, where the image processor has such a step."""
    own = OWN.get(processor, ())
    if "do_convert_grayscale" in own and flag(settings, "do_convert_grayscale"):
        return "grey"
    return "bgr" if "do_flip_channel_order" in own and flag(settings, "do_flip_channel_order") else "rgb"
