"""Bounds on an image's pixels or tiles reach the real image processor, and the rule follows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image
from whole_vlms import WHOLE

from edgeq.errors import InputError
from edgeq.families.base import Layout
from edgeq.families.modules import read_vlm
from edgeq.families.registry import cap, caps_of, image_cost, runnable
from edgeq.model.images.image_processor import load_image_processor
from edgeq.pipeline.vlm_processor import bounded_source

BOUNDS: Mapping[str, Mapping[str, int]] = {
    **{key: {"tiles": 4} for key in ("idefics3", "smolvlm")},
    **{key: {"tiles": 2} for key in ("internvl", "llava_next", "llava_onevision")},
    **{key: {"pixels": 56 * 56} for key in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")},
}
SIZES = ((300, 225), (210, 210), (400, 90), (97, 311))
"""Widths and heights."""


def write_configs(directory: Path, name: str, *, inside: bool = False) -> Path:
    """A model's directory without weights; its image processor's config in a file of its own or `inside` another."""
    WHOLE[name].config().save_pretrained(directory)
    (directory / "tokenizer.json").write_text("{}")
    given = dict(WHOLE[name].processor)
    file, content = (
        ("processor_config.json", {"image_processor": given}) if inside else ("preprocessor_config.json", given)
    )
    (directory / file).write_text(json.dumps(content))
    return directory


def layouts(directory: Path) -> list[Layout]:
    model = read_vlm(directory)
    prompt, processor = runnable(model.model_type), load_image_processor(directory)
    found = []
    for size in SIZES:
        given = processor(images=Image.new("RGB", size), return_tensors="np", **prompt.processing(model.config))
        found.append(prompt.layout(given, model.config))
    return found


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("name", BOUNDS)
def test_a_bound_reaches_processor_and_rule(name: str, inside: bool, tmp_path: Path) -> None:
    source, scratch = write_configs(tmp_path / "m", name, inside=inside), tmp_path / "scratch"
    scratch.mkdir()
    before, model = layouts(source), read_vlm(source)
    bounded = cap(model, BOUNDS[name])
    directory = bounded_source(source, model, bounded, scratch)
    after = layouts(directory)
    assert after != before
    again = read_vlm(directory)
    for (width, height), one in zip(SIZES, after, strict=True):
        for described in (bounded, again):
            cost = image_cost(described, (height, width))
            assert (cost.tokens, cost.sequences * cost.sequence) == (one.tokens, one.pictures * one.patches)
    assert layouts(source) == before, "the user's directory is as it was"
    assert (directory / "tokenizer.json").resolve() == source / "tokenizer.json"


@pytest.mark.parametrize("name", [name for name, bound in BOUNDS.items() if "tiles" in bound])
def test_no_more_tiles_than_that(name: str, tmp_path: Path) -> None:
    """And the small picture of the whole."""
    model = read_vlm(write_configs(tmp_path / "m", name))
    sides = range(20, 400, 30)
    for most in (2, 3, 4):
        costs = [image_cost(cap(model, {"tiles": most}), (height, width)) for height in sides for width in sides]
        assert max(cost.tiles for cost in costs) <= most + 1
    present = max(image_cost(model, (height, width)).tiles for height in sides for width in sides)
    loose = cap(model, {"tiles": 100})
    assert max(image_cost(loose, (height, width)).tiles for height in sides for width in sides) == present


def test_what_has_no_such_bound(tmp_path: Path) -> None:
    one_size = read_vlm(write_configs(tmp_path / "a", "llava"))
    with pytest.raises(InputError, match="the tiles of an image cannot be bounded in a llava model") as caught:
        cap(one_size, {"tiles": 2})
    assert "an image costs the same there" in caught.value.causes[0]
    qwen = read_vlm(write_configs(tmp_path / "b", "qwen2_vl"))
    with pytest.raises(InputError, match="tiles of an image cannot be bounded in a qwen2_vl model") as caught:
        cap(qwen, {"tiles": 2})
    assert caught.value.expected == "--max-pixels"
    assert (caps_of("llava"), caps_of("qwen2_vl"), caps_of("nothing")) == ((), ("pixels",), ())


def test_a_bound_below_what_the_model_can_do(tmp_path: Path) -> None:
    model = read_vlm(write_configs(tmp_path / "m", "llava_next"))
    with pytest.raises(InputError, match="an image of at most 1 tiles: no grid of at most 1 tiles") as caught:
        cap(model, {"tiles": 1})
    assert caught.value.next_step == "give a larger --max-tiles"


def test_without_a_bound_nothing_is_copied(tmp_path: Path) -> None:
    model = read_vlm(write_configs(tmp_path / "m", "internvl"))
    assert cap(model, {}) is model
    assert bounded_source(tmp_path / "m", model, model, tmp_path) == tmp_path / "m"
