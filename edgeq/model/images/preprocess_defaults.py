"""The image processors of Hugging Face transformers that are known here: defaults and keys.

Source: the attributes of the classes `...ImageProcessorPil` in transformers 5.23, `models/*/image_processing_pil_*.py`.
"""

from __future__ import annotations

from typing import Any

from PIL import Image

from edgeq.model.images.preprocess import OWN_PROCESSOR

__all__ = ["BILINEAR", "DEFAULTS", "NOT_TAKEN", "NO_NORMALIZATION", "OWN", "SETTINGS", "STEPS", "WITHOUT_EFFECT"]

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
_DETECTOR = {
    **_ALL_STEPS,
    **_IMAGENET,
    "resample": BILINEAR,
    "size": {"shortest_edge": 800, "longest_edge": 1333},
    "do_pad": True,
}
_CROP_256 = {**_CROP_224, "size": {"shortest_edge": 256}}

DEFAULTS: dict[str, dict[str, Any]] = {
    "BeitImageProcessor": {**_ALL_STEPS, **_HALVES, "resample": _BICUBIC, "size": _SQUARE_224, "crop_size": 224},
    "BitImageProcessor": {**_ALL_STEPS, **_CLIP, **_CROP_224, "resample": _BICUBIC},
    "BlipImageProcessor": {**_ALL_STEPS, **_CLIP, "resample": _BICUBIC, "size": {"height": 384, "width": 384}},
    "CLIPImageProcessor": {**_ALL_STEPS, **_CLIP, **_CROP_224, "resample": _BICUBIC},
    "ChineseCLIPImageProcessor": {**_ALL_STEPS, **_CLIP, **_CROP_224, "resample": _BICUBIC},
    "ConditionalDetrImageProcessor": _DETECTOR,
    "ConvNextImageProcessor": {
        **_ALL_STEPS,
        **_HALVES,
        "resample": _BICUBIC,
        "size": {"shortest_edge": 384},
        "default_to_square": False,
        "crop_pct": 224 / 256,
    },
    "DPTImageProcessor": {
        **_ALL_STEPS,
        **_HALVES,
        "resample": _BICUBIC,
        "size": {"height": 384, "width": 384},
        "ensure_multiple_of": 1,
        "keep_aspect_ratio": False,
        "do_pad": False,
    },
    "DeformableDetrImageProcessor": _DETECTOR,
    "DeiTImageProcessor": {
        **_ALL_STEPS,
        **_HALVES,
        "resample": _BICUBIC,
        "size": {"height": 256, "width": 256},
        "crop_size": 224,
        "do_center_crop": True,
    },
    "DetrImageProcessor": _DETECTOR,
    OWN_PROCESSOR: {},
    "EfficientNetImageProcessor": {
        **_ALL_STEPS,
        **_HALVES,
        "resample": _BICUBIC,
        "size": {"height": 346, "width": 346},
        "crop_size": 289,
        "include_top": True,
    },
    "EomtImageProcessor": {
        **_ALL_STEPS,
        **_IMAGENET,
        "resample": BILINEAR,
        "size": {"shortest_edge": 640, "longest_edge": 640},
        "do_pad": False,
    },
    "FlavaImageProcessor": {
        **_ALL_STEPS,
        **_CLIP,
        "resample": _BICUBIC,
        "size": _SQUARE_224,
        "crop_size": 224,
        "do_center_crop": True,
    },
    "LevitImageProcessor": {**_ALL_STEPS, **_IMAGENET, **_CROP_224, "resample": _BICUBIC},
    "Mask2FormerImageProcessor": {**_DETECTOR, "size_divisor": 32},
    "MaskFormerImageProcessor": {**_DETECTOR, "size_divisor": 32},
    "MobileNetV1ImageProcessor": {**_ALL_STEPS, **_HALVES, **_CROP_256, "resample": BILINEAR},
    "MobileNetV2ImageProcessor": {**_ALL_STEPS, **_HALVES, **_CROP_256, "resample": BILINEAR},
    "MobileViTImageProcessor": {
        **_ALL_STEPS,
        "resample": _BICUBIC,
        "size": {"shortest_edge": 224},
        "crop_size": 256,
        "do_center_crop": True,
        "default_to_square": False,
        "do_flip_channel_order": True,
    },
    "OwlViTImageProcessor": {
        **_ALL_STEPS,
        **_CLIP,
        "resample": _BICUBIC,
        "size": {"height": 768, "width": 768},
        "crop_size": 768,
    },
    "PoolFormerImageProcessor": {**_ALL_STEPS, **_IMAGENET, **_CROP_224, "resample": _BICUBIC, "crop_pct": 0.9},
    "PvtImageProcessor": {**_ALL_STEPS, **_IMAGENET, "resample": _BICUBIC, "size": _SQUARE_224},
    "RTDetrImageProcessor": {
        **_DETECTOR,
        "size": {"height": 640, "width": 640},
        "do_normalize": False,
        "do_pad": False,
    },
    "SamImageProcessor": {
        **_ALL_STEPS,
        **_IMAGENET,
        "resample": BILINEAR,
        "size": {"longest_edge": 1024},
        "do_pad": True,
        "pad_size": {"height": 1024, "width": 1024},
    },
    "SegformerImageProcessor": {
        **_ALL_STEPS,
        **_IMAGENET,
        "resample": BILINEAR,
        "size": {"height": 512, "width": 512},
    },
    "SiglipImageProcessor": {
        **_ALL_STEPS,
        **_HALVES,
        "resample": _BICUBIC,
        "size": _SQUARE_224,
        "default_to_square": False,
    },
    "Siglip2ImageProcessor": {**_ALL_STEPS, **_HALVES, "resample": BILINEAR, "patch_size": 16, "max_num_patches": 256},
    "SuperPointImageProcessor": {
        **_ALL_STEPS,
        "resample": BILINEAR,
        "size": {"height": 480, "width": 640},
        "do_normalize": False,
    },
    "ViTHybridImageProcessor": {**_ALL_STEPS, **_CLIP, **_CROP_224, "resample": _BICUBIC},
    "ViTImageProcessor": {**_ALL_STEPS, **_HALVES, "resample": BILINEAR, "size": _SQUARE_224},
    "YolosImageProcessor": _DETECTOR,
}

STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
SETTINGS = ("size", "resample", "crop_size", "rescale_factor", "image_mean", "image_std", "default_to_square")
_PADDING = ("do_pad", "pad_size", "pad_and_return_pixel_mask", "max_size")
OWN = {
    "ConditionalDetrImageProcessor": _PADDING,
    "ConvNextImageProcessor": ("crop_pct",),
    "DPTImageProcessor": ("ensure_multiple_of", "keep_aspect_ratio", "do_pad", "size_divisor"),
    "DeformableDetrImageProcessor": _PADDING,
    "DetrImageProcessor": _PADDING,
    OWN_PROCESSOR: (
        *("rescale_offset", "include_top", "do_flip_channel_order", "do_convert_grayscale"),
        *("do_pad", "pad_size", "pad_position", "constant_values", "size_rounding", "size_multiple"),
    ),
    "EfficientNetImageProcessor": ("rescale_offset", "include_top"),
    "EomtImageProcessor": ("do_pad",),
    "FlavaImageProcessor": (  # for its masks and its codebook, which see other copies of the image
        *("codebook_crop_size", "codebook_do_center_crop", "codebook_do_map_pixels", "codebook_do_normalize"),
        *("codebook_do_rescale", "codebook_do_resize", "codebook_image_mean", "codebook_image_std"),
        *("codebook_rescale_factor", "codebook_resample", "codebook_size", "input_size_patches"),
        *("mask_group_max_aspect_ratio", "mask_group_max_patches", "mask_group_min_aspect_ratio"),
        *("mask_group_min_patches", "total_mask_patches"),
    ),
    "Mask2FormerImageProcessor": (*_PADDING, "size_divisor"),
    "MaskFormerImageProcessor": (*_PADDING, "size_divisor"),
    "MobileViTImageProcessor": ("do_flip_channel_order",),
    "PoolFormerImageProcessor": ("crop_pct",),
    "RTDetrImageProcessor": _PADDING,
    "SamImageProcessor": ("do_pad", "pad_size"),
    "Siglip2ImageProcessor": ("patch_size", "max_num_patches"),
    "YolosImageProcessor": _PADDING,
}
NO_NORMALIZATION = frozenset({"MobileViTImageProcessor", "SuperPointImageProcessor"})
"""Which have no such step, whatever `do_normalize` says."""
NOT_TAKEN = {
    "DonutImageProcessor": "turns and shrinks images by their own shape (do_align_long_axis, do_thumbnail)",
    "GLPNImageProcessor": "rounds each image's own size down (size_divisor): their shapes differ",
    "ImageGPTImageProcessor": "makes color clusters of pixels (clusters)",
    "OneFormerImageProcessor": "makes a text of the task beside the pixels (class_info_file)",
    "Owlv2ImageProcessor": "pads before it resizes, with scipy's filters",
    "PerceiverImageProcessor": "crops before it resizes (crop_size)",
    "PromptDepthAnythingImageProcessor": "takes depths beside the image (prompt_depth)",
    "Swin2SRImageProcessor": "keeps each image's own size (size_divisor): their shapes differ",
    "TextNetImageProcessor": "rounds each image's own shape up (size_divisor): their shapes differ",
    "VitMatteImageProcessor": "takes a trimap beside the image",
    "VitPoseImageProcessor": "cuts persons out by boxes that are given (do_affine_transform)",
    "ZoeDepthImageProcessor": "reflects the edges before it resizes (do_pad), and resizes with torch",
}
"""Image processors whose steps are known and are not had here, with what it is."""
WITHOUT_EFFECT = {  # on the pixels of one RGB image
    "_processor_class",
    "_valid_processor_keys",
    "data_format",
    "device",
    "disable_grouping",
    "do_convert_annotations",
    "do_convert_rgb",
    "do_reduce_labels",
    "feature_extractor_type",
    "format",
    "ignore_index",
    "image_processor_type",
    "input_data_format",
    "mask_pad_size",
    "mask_size",
    "model_input_names",
    "num_labels",
    "pad_size",
    "processor_class",
    "reduce_labels",
    "return_tensors",
    "transformers_version",
    "use_fast",
}
