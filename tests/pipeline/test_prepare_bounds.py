"""Photographs at full resolution decide before any work; a bound on tiles or pixels is in all that is made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image
from whole_vlms import write_whole_vlm

from edgeq.bundle.vlm_settings import VlmSettings
from edgeq.errors import GateError
from edgeq.files import read_json_object
from edgeq.pipeline.vlm import VlmOptions, prepare_vlm
from edgeq.plan.memory import MemoryPlan
from edgeq.runtime.vlm.model import load_vlm
from edgeq.runtime.vlm.prompt import Prompter

WIDE = (1600, 400)
"""Width and height: 4 tiles in a row, where so many are allowed."""


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number, size in enumerate([(60, 60), WIDE]):
        Image.new("RGB", size, (200, 60 * number, 30)).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize("name", ["idefics3", "internvl", "llava_next"])
def test_a_bound_on_tiles_is_in_the_bundle(name: str, photographs: Path, tmp_path: Path) -> None:
    source = write_whole_vlm(tmp_path / "model", name)
    before = {file.name: file.read_bytes() for file in source.iterdir()}
    options = VlmOptions(
        threads=1, max_new_tokens=2, canaries=1, reference_answers=False, max_tiles=2, device="orin-nx-16gb"
    )
    made = prepare_vlm(source, photographs, tmp_path / "bundle", options=options)
    assert {file.name: file.read_bytes() for file in source.iterdir()} == before
    unbounded = Prompter.open(source, VlmSettings.of(made.bundle)).pixels(Image.new("RGB", WIDE))
    vlm = load_vlm(made.bundle, threads=1)
    bounded = vlm.prompter.pixels(Image.new("RGB", WIDE))
    assert bounded.layout.pictures <= 3 < unbounded.layout.pictures
    assert len(bounded.feeds["pixel_values"]) == bounded.layout.pictures
    assert vlm.ask(Image.new("RGB", WIDE), "what is it?", 2).token_ids
    plan = MemoryPlan.load(made.bundle / "memory.json")
    assert (plan.caps, plan.image.tokens) == ({"tiles": 2}, bounded.layout.tokens)
    assert made.dearest.size == (WIDE[1], WIDE[0]) or name == "idefics3", "there every photograph is one tile"


def refused(source: Path, photographs: Path, tmp_path: Path, **options: object) -> GateError:
    """What stops it; nothing is left behind, and the only stage is the first."""
    stages: list[str] = []
    settings = VlmOptions(threads=1, **options)  # type: ignore[arg-type]
    with pytest.raises(GateError) as caught:
        prepare_vlm(
            source,
            photographs,
            tmp_path / "bundle",
            options=settings,
            progress=lambda stage, _done, _total: stages.append(stage),
        )
    assert stages == ["open"]
    assert not (tmp_path / "bundle").exists()
    return caught.value


def test_photographs_that_exceed_the_context_are_named_with_what_would_help(photographs: Path, tmp_path: Path) -> None:
    """Four pictures of 4 tokens in a frame of 2 are 18, and 32 are for text: 50 in all, with one picture 38."""
    source = write_whole_vlm(tmp_path / "model", "internvl")
    error = refused(source, photographs, tmp_path, device="orin-nx-16gb", context=40)
    assert error.what == "1.png, 400 x 1600 pixels, takes 18 tokens of model, which has a context of 40 tokens"
    assert error.next_step.startswith("--context 64; or --max-tiles 1")


def test_without_a_device_the_models_own_context_counts(photographs: Path, tmp_path: Path) -> None:
    source = write_whole_vlm(tmp_path / "model", "llava_next")
    config = read_json_object(source / "config.json")
    config["text_config"]["max_position_embeddings"] = 48
    (source / "config.json").write_text(json.dumps(config))
    error = refused(source, photographs, tmp_path)
    assert "which has a context of 48 tokens" in error.what
    assert "--context" not in error.next_step, "the model has no longer one"


def test_a_question_that_leaves_no_room(photographs: Path, tmp_path: Path) -> None:
    source = write_whole_vlm(tmp_path / "model", "llava")
    options: Mapping[str, object] = {"device": "orin-nx-16gb", "context": 100}
    error = refused(source, photographs, tmp_path, question="what is it? " * 8, **options)
    assert error.what.startswith("the longest question and ")
    assert "tokens, and the context is 100, answer included" in error.what
