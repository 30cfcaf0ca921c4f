"""Photographs are counted by each family's own image processor, at full resolution, and compared with its rule."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from whole_vlms import WHOLE

from edgeq.errors import ImageError, ModelError
from edgeq.families.modules import read_vlm
from edgeq.families.registry import image_cost, runnable
from edgeq.model.images.image_processor import load_image_processor
from edgeq.model.images.image_set import ImageSet
from edgeq.plan.photographs import PhotographCount, count_photographs

SIZES = ((300, 225), (225, 300), (210, 210), (400, 90), (97, 311))
"""Widths and heights."""


def write_configs(directory: Path, name: str) -> Path:
    """A model's directory without its weights."""
    WHOLE[name].config().save_pretrained(directory)
    (directory / "preprocessor_config.json").write_text(json.dumps(WHOLE[name].processor))
    return directory


def draw(folder: Path, sizes: Sequence[tuple[int, int]] = SIZES) -> ImageSet:
    folder.mkdir()
    for number, size in enumerate(sizes):
        Image.new("RGB", size, (number, 90, 200)).save(folder / f"{number:03}.png")
    return ImageSet.open(folder)


def counted(model: Path, images: ImageSet) -> PhotographCount:
    return count_photographs(model, read_vlm(model), images)


@pytest.mark.parametrize("name", WHOLE)
def test_the_dearest_photograph_is_that_of_the_image_processor(name: str, tmp_path: Path) -> None:
    model, images = write_configs(tmp_path / "m", name), draw(tmp_path / "photographs")
    prompt, described, processor = runnable(read_vlm(model).model_type), read_vlm(model), load_image_processor(model)
    tokens = {}
    for item in images.items:
        given = processor(images=images.read(item), return_tensors="np", **prompt.processing(described.config))
        tokens[item.name] = prompt.layout(given, described.config).tokens
    found = counted(model, images)
    assert (found.photographs, found.looked_at, found.sizes, found.processed) == (5, 5, 5, 5)
    assert tokens[found.name] == max(tokens.values())
    assert found.tokens - image_cost(described, found.size).markers == max(tokens.values())


def test_a_processor_that_cuts_whatever_its_config_says(tmp_path: Path) -> None:
    """As InternVL is published: `crop_to_patches: false`, and InternVLProcessor sets it."""
    model = write_configs(tmp_path / "m", "internvl")
    assert json.loads((model / "preprocessor_config.json").read_text())["crop_to_patches"] is False
    assert counted(model, draw(tmp_path / "photographs", [(400, 90)])).tokens > 2 * 4


def test_the_config_that_transformers_prefers(tmp_path: Path) -> None:
    """Newer releases save the image processor's config within processor_config.json, which goes before the other."""
    model = write_configs(tmp_path / "m", "internvl")
    inside = {**WHOLE["internvl"].processor, "max_patches": 1}
    (model / "processor_config.json").write_text(json.dumps({"image_processor": inside}))
    assert counted(model, draw(tmp_path / "photographs", [(400, 90)])).tokens == 4 + 2
    (model / "preprocessor_config.json").unlink()
    assert counted(model, ImageSet.open(tmp_path / "photographs")).processed == 1


def test_a_processor_that_counts_otherwise(tmp_path: Path) -> None:
    model = write_configs(tmp_path / "m", "qwen2_vl")
    other = {**WHOLE["qwen2_vl"].processor, "patch_size": 28}
    (model / "preprocessor_config.json").write_text(json.dumps(other))
    with pytest.raises(ModelError, match=r"000.png, 225 x 300 pixels, becomes .* and edgeq's rule .* says") as caught:
        counted(model, draw(tmp_path / "photographs", [(300, 225)]))
    assert "of another model" in caught.value.causes[0]


def test_without_an_image_processor_the_rule_is_asked(tmp_path: Path) -> None:
    model = write_configs(tmp_path / "m", "llava_next")
    with_one = counted(model, draw(tmp_path / "photographs"))
    (model / "preprocessor_config.json").unlink()
    without = counted(model, ImageSet.open(tmp_path / "photographs"))
    assert (with_one.processed, without.processed) == (5, 0)
    assert (without.name, without.tokens) == (with_one.name, with_one.tokens)


def test_one_photograph_of_each_size_and_eight_sizes_at_most(tmp_path: Path) -> None:
    model = write_configs(tmp_path / "m", "llava_next")
    same = counted(model, draw(tmp_path / "same", [(120, 80)] * 20))
    assert (same.photographs, same.looked_at, same.sizes, same.processed) == (20, 20, 1, 1)
    many = counted(model, draw(tmp_path / "many", [(120 + number, 80) for number in range(12)]))
    assert (many.sizes, many.processed) == (12, 8)


def test_what_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    model = write_configs(tmp_path / "m", "llava")
    draw(tmp_path / "photographs", [(120, 80)])
    (tmp_path / "photographs" / "000a.png").write_bytes(b"no image")
    found = counted(model, ImageSet.open(tmp_path / "photographs"))
    assert (found.photographs, found.looked_at, found.processed) == (2, 1, 1)
    (tmp_path / "photographs" / "000.png").unlink()
    with pytest.raises(ImageError, match=r"no image of .* can be read, 1 were tried"):
        counted(model, ImageSet.open(tmp_path / "photographs"))


def test_a_family_whose_rule_is_not_known(tmp_path: Path) -> None:
    model = write_configs(tmp_path / "m", "llava")
    config = json.loads((model / "config.json").read_text())
    config |= {"model_type": "vipllava", "architectures": ["VipLlavaForConditionalGeneration"]}
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="how many tokens an image becomes in a vipllava model is not known"):
        counted(model, draw(tmp_path / "photographs"))


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "bmp", "tiff"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_sizes_from_headers_are_those_of_the_pixels(ending: str, orientation: int, tmp_path: Path) -> None:
    """Upright, of a file that is longer than what is looked at first."""
    pixels = np.random.default_rng(0).integers(0, 255, (300, 420, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    saving: dict[str, Any] = {} if ending == "bmp" else {"exif": exif}
    Image.fromarray(pixels).save(tmp_path / f"a.{ending}", **saving)
    images = ImageSet.open(tmp_path)
    (item,) = images.items
    decoded = images.read(item)
    assert images.size(item) == (decoded.height, decoded.width)


def test_a_long_header(tmp_path: Path) -> None:
    """Cameras write previews before the picture's size."""
    Image.new("RGB", (64, 32)).save(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    segment = b"\xff\xed" + (65_000).to_bytes(2, "big") + bytes(64_998)
    (tmp_path / "a.jpg").write_bytes(data[:2] + 6 * segment + data[2:])
    images = ImageSet.open(tmp_path)
    assert images.size(images.items[0]) == (32, 64)
