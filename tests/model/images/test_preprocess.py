"""Preprocessing: the pixels of Hugging Face's image processors, and configs that must not be guessed at."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeq.errors import ImageError, ModelError
from edgeq.model.images.image_set import ImageSet
from edgeq.model.images.preprocess import Preprocess
from edgeq.model.images.preprocess_config import read_preprocess
from edgeq.model.images.preprocess_defaults import DEFAULTS, NOT_TAKEN

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

# The arithmetic is the same, operation by operation: with transformers 5.23 the pixels are equal bit for bit. 1e-6
# allows for another order of float32 roundings in another version: values reach 2.7, where one step is 2.4e-7.
TOLERANCE = 1e-6

CONFIGS: dict[str, dict[str, Any]] = {
    "vit defaults": {"image_processor_type": "ViTImageProcessor"},
    "vit fast": {"image_processor_type": "ViTImageProcessorFast", "size": {"height": 192, "width": 160}},
    "vit old": {"feature_extractor_type": "ViTFeatureExtractor", "size": 96, "resample": 0},
    "vit list": {"image_processor_type": "ViTImageProcessor", "size": [64, 96], "resample": 1},
    "vit no normalize": {"image_processor_type": "ViTImageProcessor", "do_normalize": False},
    "vit no rescale": {"image_processor_type": "ViTImageProcessor", "do_rescale": False},
    "vit null": {
        "image_processor_type": "ViTImageProcessor",
        "do_normalize": None,
        "do_center_crop": None,
        "do_pad": None,
    },
    "vit crop": {"image_processor_type": "ViTImageProcessor", "do_center_crop": True, "crop_size": 200, "resample": 5},
    "vit only crop": {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": False,
        "do_center_crop": True,
        "crop_size": 501,
    },
    "deit defaults": {"image_processor_type": "DeiTImageProcessor"},
    "deit old": {"feature_extractor_type": "DeiTFeatureExtractor", "size": 256, "crop_size": 225, "resample": 3},
    "clip defaults": {"image_processor_type": "CLIPImageProcessor"},
    "clip old": {
        "feature_extractor_type": "CLIPFeatureExtractor",
        "size": 336,
        "crop_size": 336,
        "do_convert_rgb": True,
    },
    "clip pads": {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 101}, "crop_size": 224},
    "siglip defaults": {"image_processor_type": "SiglipImageProcessor"},
    "bit defaults": {"image_processor_type": "BitImageProcessor"},
    "dinov2": {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": 256},
        "image_mean": MEAN,
        "image_std": STD,
    },
    "beit": {"image_processor_type": "BeitImageProcessor", "do_center_crop": True, "do_reduce_labels": False},
    "mobilenet v1": {"image_processor_type": "MobileNetV1ImageProcessor"},
    "mobilenet v2": {
        "feature_extractor_type": "MobileNetV2FeatureExtractor",
        "crop_size": {"height": 224, "width": 224},
    },
    "convnext 224": {
        "feature_extractor_type": "ConvNextFeatureExtractor",
        "size": 224,
        "crop_pct": 0.875,
        "resample": 3,
    },
    "convnext 384": {"image_processor_type": "ConvNextImageProcessor"},
    "resnet": {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}, "image_mean": MEAN},
    "efficientnet defaults": {"image_processor_type": "EfficientNetImageProcessor"},
    "efficientnet b0": {
        "image_processor_type": "EfficientNetImageProcessor",
        "size": {"height": 224, "width": 224},
        "resample": 0,
        "image_mean": MEAN,
        "image_std": [0.47853944, 0.4732864, 0.47434163],
        "rescale_offset": False,
        "include_top": True,
    },
    "efficientnet offset": {
        "image_processor_type": "EfficientNetImageProcessor",
        "rescale_offset": True,
        "rescale_factor": 1 / 127.5,
    },
    "efficientnet top": {"image_processor_type": "EfficientNetImageProcessor", "do_normalize": False},
    "levit": {"image_processor_type": "LevitImageProcessor"},
    "poolformer": {"image_processor_type": "PoolFormerImageProcessor", "crop_pct": 0.95},
    "poolformer square": {"image_processor_type": "PoolFormerImageProcessor", "size": {"height": 224, "width": 224}},
    "pvt": {"image_processor_type": "PvtImageProcessor"},
    "mobilevit defaults": {"image_processor_type": "MobileViTImageProcessor"},
    "mobilevit small": {
        "feature_extractor_type": "MobileViTFeatureExtractor",
        "crop_size": 256,
        "do_center_crop": True,
        "do_flip_channel_order": True,
        "resample": 2,
        "size": 288,
    },
    "mobilevit rgb": {"image_processor_type": "MobileViTImageProcessor", "do_flip_channel_order": False},
    "mobilevit normalize": {"image_processor_type": "MobileViTImageProcessor", "do_normalize": True},
    "segformer b0": {
        "feature_extractor_type": "SegformerFeatureExtractor",
        "do_reduce_labels": True,
        "resample": 2,
        "size": 512,
    },
    "segformer never crops": {
        "image_processor_type": "SegformerImageProcessor",
        "do_center_crop": True,
        "crop_size": 99,
    },
    "detr fixed": {
        "image_processor_type": "DetrImageProcessor",
        "format": "coco_detection",
        "size": {"height": 200, "width": 260},
    },
    "conditional detr fixed": {
        "image_processor_type": "ConditionalDetrImageProcessor",
        "size": {"height": 96, "width": 64},
        "pad_size": {"height": 96, "width": 64},
    },
    "deformable detr fixed": {
        "image_processor_type": "DeformableDetrImageProcessor",
        "size": {"height": 96, "width": 64},
        "pad_and_return_pixel_mask": False,
    },
    "rt-detr defaults": {"image_processor_type": "RTDetrImageProcessor"},
    "rt-detr pads": {
        "image_processor_type": "RTDetrImageProcessor",
        "size": {"max_height": 320, "max_width": 300},
        "do_pad": True,
        "do_normalize": True,
        "pad_size": {"height": 320, "width": 320},
    },
    "yolos pads": {
        "image_processor_type": "YolosImageProcessor",
        "size": {"shortest_edge": 200, "longest_edge": 333},
        "pad_size": {"height": 333, "width": 333},
    },
    "yolos old": {
        "feature_extractor_type": "YolosFeatureExtractor",
        "size": 200,
        "max_size": 300,
        "pad_size": {"height": 300, "width": 310},
    },
    "mask2former fixed": {
        "image_processor_type": "Mask2FormerImageProcessor",
        "size": {"height": 100, "width": 128},
        "num_labels": 3,
    },
    "maskformer fixed": {
        "image_processor_type": "MaskFormerImageProcessor",
        "size": {"height": 97, "width": 128},
        "size_divisor": 16,
    },
    "eomt": {"image_processor_type": "EomtImageProcessor", "do_pad": True},
    "dpt defaults": {"image_processor_type": "DPTImageProcessor"},
    "dpt multiple": {
        "image_processor_type": "DPTImageProcessor",
        "size": {"height": 300, "width": 200},
        "ensure_multiple_of": 32,
        "do_pad": True,
        "size_divisor": 50,
    },
    "sam": {"image_processor_type": "SamImageProcessor", "size": {"longest_edge": 255}, "pad_size": 256},
    "superpoint": {"image_processor_type": "SuperPointImageProcessor"},
    "blip": {"image_processor_type": "BlipImageProcessor"},
    "chinese clip": {"image_processor_type": "ChineseCLIPImageProcessor"},
    "flava": {"image_processor_type": "FlavaImageProcessor", "codebook_size": {"height": 112, "width": 112}},
    "owlvit": {"image_processor_type": "OwlViTImageProcessor"},
}
MODULES = {
    "MobileNetV1": "mobilenet_v1",
    "MobileNetV2": "mobilenet_v2",
    "ConditionalDetr": "conditional_detr",
    "DeformableDetr": "deformable_detr",
    "RTDetr": "rt_detr",
    "ChineseCLIP": "chinese_clip",
}


@pytest.fixture(scope="module")
def photos(shared_data: Path) -> list[Image.Image]:
    """Five photographs: the smallest, the largest, the widest, the tallest and one with odd edges."""
    images = ImageSet.open(shared_data / "imagenet-sample" / "photos.zip")
    read = [images.read(item) for item in images.items[:120]]
    picks = [
        min(read, key=lambda image: image.width * image.height),
        max(read, key=lambda image: image.width * image.height),
        max(read, key=lambda image: image.width / image.height),
        min(read, key=lambda image: image.width / image.height),
        next(image for image in read if image.width % 2 and image.height % 2),
    ]
    assert len({image.size for image in picks}) == 5
    return picks


def processor(config: dict[str, Any]) -> Any:
    """The Pillow processor of transformers for a config."""
    name = config.get("image_processor_type") or config["feature_extractor_type"]
    stem = name.removesuffix("Fast").replace("FeatureExtractor", "").replace("ImageProcessor", "")
    package = MODULES.get(stem, stem.lower())
    module = importlib.import_module(f"transformers.models.{package}.image_processing_pil_{package}")
    keys = {key: value for key, value in config.items() if not key.endswith("_type")}
    return getattr(module, f"{stem}ImageProcessorPil")(**keys)


def theirs(config: dict[str, Any], image: Image.Image) -> Any:
    """What the Pillow processor of transformers makes of an image."""
    return processor(config)(image, return_tensors="np")["pixel_values"][0]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_pixels_are_those_of_transformers(photos: list[Image.Image], name: str) -> None:
    pytest.importorskip("transformers")
    preprocess = read_preprocess(CONFIGS[name])
    for image in photos:
        pixels, expected = preprocess(image), theirs(CONFIGS[name], image)
        assert pixels.shape == np.asarray(expected).shape == (3, preprocess.height, preprocess.width)
        assert pixels.dtype == np.float32
        scale = max(1.0, float(np.abs(expected).max()) / 3)
        assert np.abs(pixels - expected).max() <= TOLERANCE * scale


def test_every_image_processor_of_a_vision_network_is_known_or_refused_with_the_reason() -> None:
    """Of those that transformers has for Pillow, which is what the device has."""
    pytest.importorskip("transformers")
    from transformers.models.auto import image_processing_auto, modeling_auto

    kinds = (
        *("IMAGE_CLASSIFICATION", "IMAGE_SEGMENTATION", "INSTANCE_SEGMENTATION", "SEMANTIC_SEGMENTATION"),
        *("UNIVERSAL_SEGMENTATION", "OBJECT_DETECTION", "DEPTH_ESTIMATION"),
    )
    models = {model for kind in kinds for model in getattr(modeling_auto, f"MODEL_FOR_{kind}_MAPPING_NAMES")}
    # a language model, and what has the transforms of a library of its own
    models -= {"shieldgemma2", "timm_wrapper"}
    names = {image_processing_auto.IMAGE_PROCESSOR_MAPPING_NAMES.get(model, {}).get("pil") for model in models}
    names = {name.removesuffix("Pil") for name in names if name}
    assert len(names) > 25
    assert names - set(DEFAULTS) - set(NOT_TAKEN) == set()
    for name in names & set(NOT_TAKEN):
        with pytest.raises(ModelError, match=rf"image_processor_type is {name}, which "):
            read_preprocess({"image_processor_type": name})


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_written_is_read_back_equal(name: str) -> None:
    preprocess = read_preprocess(CONFIGS[name])
    again = read_preprocess(json.loads(json.dumps(preprocess.to_config())))
    assert again == preprocess
    assert again.digest == preprocess.digest


@pytest.mark.parametrize("name", CONFIGS)
def test_what_transformers_writes_is_read_likewise(name: str) -> None:
    pytest.importorskip("transformers")
    assert read_preprocess(json.loads(processor(CONFIGS[name]).to_json_string())) == read_preprocess(CONFIGS[name])


@pytest.mark.parametrize("name", ["convnext 224", "efficientnet top", "clip old", "poolformer", "mobilevit small"])
def test_transformers_reads_a_written_config_likewise(photos: list[Image.Image], name: str) -> None:
    pytest.importorskip("transformers")
    preprocess = read_preprocess(CONFIGS[name])
    for image in photos[:2]:
        assert np.abs(preprocess(image) - theirs(preprocess.to_config(), image)).max() <= TOLERANCE


def test_digests_are_equal_exactly_where_the_steps_are() -> None:
    made = [read_preprocess(config) for config in CONFIGS.values()]
    assert all((one.digest == other.digest) == (one == other) for one in made for other in made)
    assert read_preprocess(CONFIGS["clip defaults"]) == read_preprocess(CONFIGS["bit defaults"])
    assert read_preprocess(CONFIGS["vit defaults"]) != read_preprocess(CONFIGS["pvt"])


def test_the_cifar_config_takes_32_by_32_only(shared_data: Path) -> None:
    config = json.loads((shared_data / "cifar10-resnet20" / "preprocessor_config.json").read_text())
    preprocess = read_preprocess(config)
    assert (preprocess.height, preprocess.width) == (32, 32)
    image = Image.new("RGB", (32, 32), (255, 0, 51))
    expected = [(1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    np.testing.assert_allclose(preprocess(image)[:, 5, 7], expected, rtol=1e-6)
    with pytest.raises(ImageError, match="33 x 32 pixels, the model takes 32 x 32"):
        preprocess(Image.new("RGB", (33, 32)))


def test_flags_resize_and_normalize() -> None:
    preprocess = Preprocess.from_flags(MEAN, STD, (20, 30))
    pixels = preprocess(Image.new("RGB", (77, 55), (255, 255, 255)))
    assert pixels.shape == (3, 20, 30)
    np.testing.assert_allclose(
        pixels[:, 0, 0], [(1 - mean) / std for mean, std in zip(MEAN, STD, strict=True)], rtol=1e-6
    )
    assert read_preprocess(preprocess.to_config()) == preprocess


@pytest.mark.parametrize(
    ("mean", "std", "size"),
    [
        ([0.5] * 3, [0.5, 0.0, 0.5], (8, 8)),
        ([0.5] * 3, [0.5, math.nan, 0.5], (8, 8)),
        ([math.nan, 0.5, 0.5], [0.5] * 3, (8, 8)),
        ([math.inf, 0.5, 0.5], [0.5] * 3, (8, 8)),
        ([0.5] * 2, [0.5] * 3, (8, 8)),
        ([0.5] * 3, [-0.5] * 3, (8, 8)),
        ([0.5] * 3, [0.5] * 3, (0, 8)),
        ([0.5] * 3, [0.5] * 3, (8, 10**6)),
    ],
)
def test_impossible_flags_are_refused(mean: list[float], std: list[float], size: tuple[int, int]) -> None:
    with pytest.raises(ModelError):
        Preprocess.from_flags(mean, std, size)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"image_mean": [0.5, float("nan"), 0.5]}, "mean"),
        ({"image_mean": [0.5, 0.5]}, "image_mean"),
        ({"image_mean": ["0.5"] * 3}, "image_mean"),
        ({"image_std": [0.5, 0, 0.5]}, "standard deviation"),
        ({"image_std": "half"}, "image_std"),
        ({"do_pad": True}, "do_pad"),
        ({"do_convert_grayscale": True}, "do_convert_grayscale"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order"),
        ({"image_processor_type": "DetrImageProcessor"}, "size.*shapes differ"),
        ({"image_processor_type": "YolosImageProcessor", "size": 512}, "size.*shapes differ"),
        (
            {
                "image_processor_type": "DetrImageProcessor",
                "size": {"shortest_edge": 80, "longest_edge": 100},
                "pad_size": {"height": 100, "width": 100},
            },
            "pad_size.*pixel_mask",
        ),
        ({"image_processor_type": "DPTImageProcessor", "keep_aspect_ratio": True}, "keep_aspect_ratio"),
        ({"image_processor_type": "EomtImageProcessor"}, "size.*shapes differ"),
        ({"image_processor_type": "EomtImageProcessor", "do_split_image": True}, "do_split_image"),
        ({"image_processor_type": "SuperPointImageProcessor", "do_grayscale": True}, "do_grayscale"),
        ({"image_processor_type": "GLPNImageProcessor"}, "size_divisor"),
        ({"image_processor_type": "ZoeDepthImageProcessorFast"}, "reflects the edges"),
        ({"image_processor_type": "EdgeqImageProcessor", "do_pad": True, "pad_size": 9, "constant_values": 256}, "256"),
        ({"crop_pct": 0.9}, "crop_pct"),
        ({"something_new": 1}, "something_new"),
        ({"size": {"shortest_edge": 224}}, "shorter edge"),
        ({"size": {"shortest_edge": 224, "longest_edge": 448}}, "size"),
        ({"size": {"height": 224}}, "size"),
        ({"size": {"height": 224, "width": True}}, "size"),
        ({"size": {"height": 224, "width": 0}}, "size"),
        ({"size": {"height": 224.5, "width": 224}}, "size"),
        ({"size": "224"}, "size"),
        ({"size": 100_000}, "sizes"),
        ({"resample": 6}, "resample"),
        ({"resample": None}, "resample"),
        ({"size": None}, "size"),
        ({"image_mean": None}, "image_mean"),
        ({"resample": "bilinear"}, "resample"),
        ({"do_resize": 1}, "do_resize"),
        ({"rescale_factor": 0}, "rescale_factor"),
        ({"rescale_factor": float("inf")}, "rescale_factor"),
        ({"rescale_factor": "1/255"}, "rescale_factor"),
        ({"do_center_crop": True}, "crop_size"),
        ({"do_center_crop": True, "crop_size": {"shortest_edge": 3}}, "crop_size"),
        ({"do_resize": False, "size": {"shortest_edge": 3}}, "neither resized nor cropped"),
        ({"image_processor_type": "Qwen2VLImageProcessor"}, "Qwen2VLImageProcessor is not known"),
        ({"image_processor_type": 7}, "image_processor_type"),
        ({"image_processor_type": "ConvNextImageProcessor", "size": {"height": 224, "width": 224}}, "shortest_edge"),
        ({"image_processor_type": "ConvNextImageProcessor", "size": 224, "crop_pct": 0}, "crop_pct"),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": 224, "do_center_crop": True, "crop_size": 9},
            "do_center_crop",
        ),
    ],
)
def test_a_config_that_is_wrong_or_not_understood_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelError, match=named):
        read_preprocess({"image_processor_type": "ViTImageProcessor", **change})


def test_a_config_without_a_type_must_say_everything() -> None:
    config: dict[str, Any] = {
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": MEAN,
        "image_std": STD,
    }
    with pytest.raises(ModelError, match="does not say size"):
        read_preprocess(config)
    complete = {**config, "size": 224, "resample": 2}
    assert read_preprocess(complete) == Preprocess.from_flags(MEAN, STD, (224, 224))
    with pytest.raises(ModelError, match="does not say do_resize, do_rescale, do_normalize"):
        read_preprocess({})


def test_sizes_that_the_config_must_give_are_not_taken_from_a_default() -> None:
    with pytest.raises(ModelError, match="does not say size"):
        read_preprocess({"image_processor_type": "ViTImageProcessor", "do_resize": False})


def test_a_very_long_image_is_refused_rather_than_blown_up() -> None:
    preprocess = read_preprocess(CONFIGS["clip defaults"])
    with pytest.raises(ImageError, match="too large"):
        preprocess(Image.new("RGB", (300_000, 1)))
