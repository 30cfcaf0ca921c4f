"""The image processors of Hugging Face transformers that are known here: defaults and keys.

Source: the attributes of the classes `...ImageProcessorPil` in transformers 5.23, `models/*/image_processing_pil_*.py`.
"""

from __future__ import annotations

from typing import Any

from PIL import Image

__all__ = ["BILINEAR", "DEFAULTS", "OWN", "SETTINGS", "STEPS", "WITHOUT_EFFECT"]

_IMAGENET = {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}
_HALVES = {"image_mean": (0.5, 0.5, 0.5), "image_std": (0.5, 0.5, 0.5)}
_CLIP = {
    "image_mean": (0.48145466, 0.4578275, 0.40821073),
    "image_std": (0.26862954, 0.26130258, 0.27577711),
}
BILINEAR, _BICUBIC = int(Image.Resampling.BILINEAR), int(Image.Resampling.BICUBIC)
_ALL_STEPS = {"do_resize": True, "do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 255}
_SQUARE_224 = {"height": 224, "width": 224}
_CROP_224 = {"size": {"shortest_edge": 224}, "crop_size": 224, "do_center_crop": True, "default_to_square": False}
_CROP_256 = {**_CROP_224, "size": {"shortest_edge": 256}}

DEFAULTS: dict[str, dict[str, Any]] = {
    "BeitImageProcessor": {**_ALL_STEPS, **_HALVES, "resample": _BICUBIC, "size": _SQUARE_224, "crop_size": 224},
    "BitImageProcessor": {**_ALL_STEPS, **_CLIP, **_CROP_224, "resample": _BICUBIC},
    "CLIPImageProcessor": {**_ALL_STEPS, **_CLIP, **_CROP_224, "resample": _BICUBIC},
    "ConvNextImageProcessor": {
        **_ALL_STEPS,
        **_HALVES,
        "resample": _BICUBIC,
        "size": {"shortest_edge": 384},
        "default_to_square": False,
        "crop_pct": 224 / 256,
    },
    "DeiTImageProcessor": {
        **_ALL_STEPS,
        **_HALVES,
        "resample": _BICUBIC,
        "size": {"height": 256, "width": 256},
        "crop_size": 224,
        "do_center_crop": True,
    },
    "EfficientNetImageProcessor": {
        **_ALL_STEPS,
        **_HALVES,
        "resample": _BICUBIC,
        "size": {"height": 346, "width": 346},
        "crop_size": 289,
        "include_top": True,
    },
    "LevitImageProcessor": {**_ALL_STEPS, **_IMAGENET, **_CROP_224, "resample": _BICUBIC},
    "MobileNetV1ImageProcessor": {**_ALL_STEPS, **_HALVES, **_CROP_256, "resample": BILINEAR},
    "MobileNetV2ImageProcessor": {**_ALL_STEPS, **_HALVES, **_CROP_256, "resample": BILINEAR},
    "PoolFormerImageProcessor": {**_ALL_STEPS, **_IMAGENET, **_CROP_224, "resample": _BICUBIC, "crop_pct": 0.9},
    "PvtImageProcessor": {**_ALL_STEPS, **_IMAGENET, "resample": _BICUBIC, "size": _SQUARE_224},
    "SiglipImageProcessor": {
        **_ALL_STEPS,
        **_HALVES,
        "resample": _BICUBIC,
        "size": _SQUARE_224,
        "default_to_square": False,
    },
    "Siglip2ImageProcessor": {**_ALL_STEPS, **_HALVES, "resample": BILINEAR, "patch_size": 16, "max_num_patches": 256},
    "ViTImageProcessor": {**_ALL_STEPS, **_HALVES, "resample": BILINEAR, "size": _SQUARE_224},
}

STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
SETTINGS = ("size", "resample", "crop_size", "rescale_factor", "image_mean", "image_std", "default_to_square")
OWN = {
    "ConvNextImageProcessor": ("crop_pct",),
    "PoolFormerImageProcessor": ("crop_pct",),
    "EfficientNetImageProcessor": ("rescale_offset", "include_top"),
    "Siglip2ImageProcessor": ("patch_size", "max_num_patches"),
}
WITHOUT_EFFECT = {  # on the pixels of one RGB image
    "_processor_class",
    "_valid_processor_keys",
    "data_format",
    "device",
    "disable_grouping",
    "do_convert_rgb",
    "do_reduce_labels",
    "feature_extractor_type",
    "image_processor_type",
    "input_data_format",
    "model_input_names",
    "pad_size",
    "processor_class",
    "reduce_labels",
    "return_tensors",
    "transformers_version",
    "use_fast",
}
