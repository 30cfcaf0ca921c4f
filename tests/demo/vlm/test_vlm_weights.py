"""The vision-language model that ships is what its record says: small, in FP16, and as good as stated on new scenes."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

pytest.importorskip("torch", reason="the torch extra is not installed")
pytest.importorskip("transformers", reason="the torch extra is not installed")

from edgeq.demo.scenes import EVALUATION_SEED, SEED_RANGE
from edgeq.demo.vlm.score import score
from edgeq.demo.vlm.story import VLM_WEIGHTS
from edgeq.demo.vlm.tokens import build_processor
from edgeq.model.checkpoint.safetensors_header import read_safetensors_header

SCENES = 100
FRESH_SEED = EVALUATION_SEED + SEED_RANGE // 2
"""Scenes that neither training nor its record has looked at."""


def record() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((VLM_WEIGHTS / "training.json").read_text(encoding="utf-8"))
    return content


def test_the_files_are_small_enough_to_ship() -> None:
    assert sum(file.stat().st_size for file in VLM_WEIGHTS.iterdir()) < 12_000_000


def test_the_weights_are_as_many_as_stated_and_in_float16() -> None:
    header = read_safetensors_header(VLM_WEIGHTS / "model.safetensors")
    tensors = [entry for name, entry in header.items() if name != "__metadata__"]
    assert {entry["dtype"] for entry in tensors} == {"F16"}
    assert sum(math.prod(entry["shape"]) for entry in tensors) == record()["parameters"]


def test_the_tokenizer_is_the_one_that_the_code_builds() -> None:
    stored = json.loads((VLM_WEIGHTS / "tokenizer.json").read_text(encoding="utf-8"))
    assert stored["model"]["vocab"] == build_processor().tokenizer.get_vocab()


def test_the_stated_accuracy_holds_on_fresh_scenes() -> None:
    stated = record()["evaluation"]["report"]
    found = score(VLM_WEIGHTS, SCENES, FRESH_SEED)
    error = math.sqrt(stated * (1 - stated) / SCENES)
    assert abs(found.report - stated) <= 3.3 * error  # one in a thousand is further away
