"""Preprocessing said in single steps: each does what its name says, is written down, and is read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeq.errors import ModelError
from edgeq.model.checkpoint.source import open_model
from edgeq.model.images.preprocess import OWN_PROCESSOR, Preprocess
from edgeq.model.images.preprocess_config import read_preprocess
from edgeq.model.images.preprocess_flags import RESAMPLES, PreprocessFlags

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VIT = {"image_processor_type": "ViTImageProcessor", "size": 8, "image_mean": list(MEAN), "image_std": list(STD)}
PLAIN: dict[str, Any] = {"rescale_factor": 1.0}
"""Pixels as they are."""

WAYS: dict[str, dict[str, Any]] = {
    "bgr": {"mean": MEAN, "std": STD, "size": (8, 12), "channel_order": "bgr"},
    "bgr without normalization": {**PLAIN, "size": (8, 12), "channel_order": "bgr"},
    "grey": {"mean": (0.5,), "std": (0.25,), "size": (8, 12), "channel_order": "grey"},
    "0..255": {"mean": (123.7, 116.3, 103.5), "std": (58.4, 57.1, 57.4), "size": (8, 8), "rescale_factor": 1.0},
    "crop": {**PLAIN, "size": 16, "crop": (8, 12)},
    "exact size and crop": {**PLAIN, "size": (16, 20), "crop": (8, 12)},
    "crop_pct": {**PLAIN, "size": (224, 224), "crop_pct": 0.875},
    "letterbox": {**PLAIN, "size": (16, 20), "letterbox": "center"},
    "letterbox top left": {**PLAIN, "size": (16, 20), "letterbox": "top-left", "pad_value": 0},
    "lanczos": {**PLAIN, "size": (8, 8), "resample": RESAMPLES["lanczos"]},
}


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", WAYS)
def test_what_is_said_is_written_down_and_read_back(name: str) -> None:
    preprocess = PreprocessFlags(**WAYS[name]).apply(None)
    again = read_preprocess(json.loads(json.dumps(preprocess.to_config())))
    assert again == preprocess
    assert again.digest == preprocess.digest
    image = noise(37, 61)
    pixels = preprocess(image)
    assert np.array_equal(pixels, again(image))
    assert pixels.shape == (preprocess.channels, preprocess.height, preprocess.width)


def test_bgr_turns_the_channels_round_and_keeps_each_its_own_mean() -> None:
    rgb = PreprocessFlags(mean=MEAN, std=STD, size=(2, 3)).apply(None)
    bgr = PreprocessFlags(mean=MEAN, std=STD, size=(2, 3), channel_order="bgr").apply(None)
    image = Image.new("RGB", (3, 2), (255, 0, 51))
    red, green, blue = (1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0.2 - 0.406) / 0.225
    np.testing.assert_allclose(bgr(image)[:, 1, 2], [blue, green, red], rtol=1e-6)
    assert np.array_equal(bgr(noise(5, 7)), rgb(noise(5, 7))[::-1])
    assert np.array_equal(bgr.values, rgb.values[::-1])
    assert bgr.to_config()["image_processor_type"] == OWN_PROCESSOR  # transformers has no such, and says so
    assert bgr.to_config()["image_mean"] == list(MEAN)


def test_grey_is_itu_r_601_luma() -> None:
    grey = PreprocessFlags(**PLAIN, size=(1, 1), channel_order="grey").apply(None)
    image = Image.new("RGB", (1, 1), (10, 100, 200))
    # 0.299 * 10 + 0.587 * 100 + 0.114 * 200 = 84.49
    assert grey(image).tolist() == [[[84.0]]]
    assert grey(Image.new("RGB", (1, 1), (77, 77, 77))).tolist() == [[[77.0]]]


def test_pixels_stay_as_they_are_without_rescaling() -> None:
    image = noise(8, 8)
    plain = PreprocessFlags(**PLAIN, size=(8, 8)).apply(None)
    assert np.array_equal(plain(image), np.asarray(image).transpose(2, 0, 1).astype(np.float32))
    caffe = PreprocessFlags(**WAYS["0..255"]).apply(None)
    np.testing.assert_allclose(
        caffe(Image.new("RGB", (8, 8), (182, 59, 161)))[:, 0, 0],
        [(182 - 123.7) / 58.4, (59 - 116.3) / 57.1, (161 - 103.5) / 57.4],
        rtol=1e-6,
    )


def test_pixels_are_converted_to_those_of_another_scale_and_order() -> None:
    image, ways = noise(8, 12), ("bgr", "bgr without normalization")
    given = PreprocessFlags(mean=MEAN, std=STD, size=(8, 12)).apply(None)
    for other in (PreprocessFlags(**WAYS[name]).apply(None) for name in ways):
        assert np.array_equal(given.converted(given(image)[np.newaxis], other)[0], other(image))
        assert np.array_equal(other.converted(other(image)[np.newaxis], given)[0], given(image))


def test_crops_are_those_of_torchvision_and_timm() -> None:
    image = noise(400, 600)
    shorter = np.asarray(image.resize((384, 256), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    expected = shorter[:, 16:240, 80:304]  # (256 - 224) / 2 and (384 - 224) / 2
    ways: list[dict[str, Any]] = [{"size": 256, "crop": (224, 224)}, {"size": (224, 224), "crop_pct": 0.875}]
    for said in ways:
        preprocess = PreprocessFlags(**PLAIN, **said).apply(None)
        assert np.array_equal(preprocess(image), expected)
    # timm rounds 224 / 0.9 = 248.9 down
    assert PreprocessFlags(**PLAIN, size=(224, 224), crop_pct=0.9).apply(None).resize == 248


def test_timm_says_its_preprocessing_in_config_json(tmp_path: Path) -> None:
    said = {"input_size": [3, 224, 224], "crop_pct": 0.9, "interpolation": "bicubic", "mean": MEAN, "std": STD}
    (tmp_path / "model.onnx").write_bytes(b"not looked at")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit", "pretrained_cfg": said}))
    flags = PreprocessFlags(mean=MEAN, std=STD, size=(224, 224), crop_pct=0.9, resample=RESAMPLES["bicubic"])
    assert open_model(tmp_path).preprocess == flags.apply(None)
    squashed = {**said, "crop_mode": "squash", "crop_pct": 1.0}
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": squashed}))
    assert open_model(tmp_path).preprocess.resize == (224, 224)
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": {**said, "crop_mode": "border"}}))
    with pytest.raises(ModelError, match="crop_mode 'border'"):
        open_model(tmp_path)


@pytest.mark.parametrize(
    ("letterbox", "image", "inside", "top", "left"),
    [
        # 640 / 1000 = 0.64: 333 x 0.64 = 213.12; (640 - 213) // 2
        ("center", (333, 1000), (213, 640), 213, 0),
        # 640 / 480 = 4/3: 361 x 4/3 = 481.3; (640 - 481) // 2
        ("center", (480, 361), (640, 481), 0, 79),
        # 0.64 x 336 = 215.04, down; 0.64 x 337 = 215.68: rounded is 216, YOLOX takes 215
        ("center", (337, 1000), (216, 640), 212, 0),
        ("top-left", (337, 1000), (215, 640), 0, 0),
        ("center", (640, 640), (640, 640), 0, 0),
    ],
)
def test_letterbox_keeps_the_aspect_ratio(
    letterbox: Any, image: tuple[int, int], inside: tuple[int, int], top: int, left: int
) -> None:
    preprocess = PreprocessFlags(**PLAIN, size=(640, 640), letterbox=letterbox).apply(None)
    picture = noise(*image)
    pixels = preprocess(picture)
    height, width = inside
    expected = np.full((3, 640, 640), 114, np.float32)
    resized = picture.resize((width, height), Image.Resampling.BILINEAR)
    expected[:, top : top + height, left : left + width] = np.asarray(resized).transpose(2, 0, 1)
    assert np.array_equal(pixels, expected)


def test_flags_go_over_the_file() -> None:
    base = read_preprocess(VIT)
    assert PreprocessFlags().apply(VIT) == base
    bgr = PreprocessFlags(channel_order="bgr").apply(VIT)
    assert (bgr.channel_order, bgr.mean, bgr.std, bgr.resize) == ("bgr", base.mean, base.std, (8, 8))
    scaled = PreprocessFlags(rescale_factor=1.0, mean=(127.5,), std=(64.0,)).apply(VIT)
    assert (scaled.scale, scaled.mean, scaled.std) == (1.0, (127.5,) * 3, (64.0,) * 3)
    cropped = PreprocessFlags(size=256, crop=(224, 224), resample=3).apply(VIT)
    assert (cropped.resize, cropped.center_crop, cropped.height, cropped.resample) == (256, True, 224, 3)
    assert cropped.mean == base.mean
    whole = PreprocessFlags(mean=(0.5,) * 3, std=(0.5,) * 3, size=(4, 4)).apply({"image_processor_type": "Unheard"})
    assert whole == Preprocess.from_flags([0.5] * 3, [0.5] * 3, (4, 4))


def test_a_size_stands_in_for_a_shape_that_each_image_keeps() -> None:
    """What a camera of 3 to 4 gets from DETR's own rule is 800 x 1066: the size said gives the same pixels."""
    from test_preprocess import theirs

    config = {"image_processor_type": "DetrImageProcessor"}
    image = noise(600, 800)
    preprocess = PreprocessFlags(size=(800, 1066)).apply(config)
    assert np.array_equal(preprocess(image), theirs(config, image))


def test_one_mean_of_three_equal_ones_is_that_of_grey() -> None:
    halves = {"image_processor_type": "ViTImageProcessor", "size": 8}
    grey = PreprocessFlags(channel_order="grey").apply(halves)
    assert (grey.mean, grey.std, grey.channels) == ((0.5,), (0.5,), 1)
    with pytest.raises(ModelError, match=r"image_std is .*one number"):
        PreprocessFlags(channel_order="grey").apply(VIT)
    said = PreprocessFlags(channel_order="grey", mean=(0.1,), std=(0.3,)).apply(VIT)
    assert (said.mean, said.std) == ((0.1,), (0.3,))


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"size": (8, 8)},
        {"mean": MEAN, "size": (8, 8)},
        {"mean": MEAN, "std": STD},
        {"channel_order": "bgr"},
        {"rescale_factor": 1.0},
    ],
)
def test_without_a_file_the_values_are_asked_for(said: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not looked at")
    with pytest.raises(ModelError, match=r"no preprocessor_config\.json"):
        open_model(tmp_path, preprocess=PreprocessFlags(**said))
