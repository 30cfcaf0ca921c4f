"""A tiny vision-language model, pictures with questions, and the bundle of both; torch is loaded when asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pictures import draw_pictures

if TYPE_CHECKING:
    from edgeq.pipeline.vlm import PreparedVlm

ANSWER_TOKENS = 6


@pytest.fixture(scope="session")
def tiny_vlm_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MODEL directory with a tiny LLaVA that can be asked something; not to be written to."""
    from talk import chatty_vlm

    return chatty_vlm(tmp_path_factory.mktemp("given") / "vlm")


@pytest.fixture(scope="session")
def seeing_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MODEL directory with a tiny LLaVA whose features differ between images; not to be written to."""
    from vision_graphs import write_eyes

    return write_eyes(tmp_path_factory.mktemp("given") / "seeing")


@pytest.fixture(scope="session")
def tiny_photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures, and questions about two of them in questions.jsonl; not to be written to."""
    folder = draw_pictures(tmp_path_factory.mktemp("given") / "photographs", each=1, side=60)
    lines = (
        {"image": "red/red-000.jpg", "question": "what is it?", "answer": "a crack"},
        {"image": "blue/blue-000.jpg", "question": "is it blue?", "key_terms": ["blue"]},
    )
    (folder / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="session")
def prepared_vlm(tiny_vlm_model: Path, tiny_photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> PreparedVlm:
    """The bundle of the tiny LLaVA, judged by the two questions; not to be written to."""
    from edgeq.pipeline.vlm import VlmOptions, prepare_vlm

    return prepare_vlm(
        tiny_vlm_model,
        tiny_photographs,
        tmp_path_factory.mktemp("made") / "bundle",
        questions=tiny_photographs / "questions.jsonl",
        options=VlmOptions(threads=1, max_new_tokens=ANSWER_TOKENS, device="orin-nx-16gb", context=64),
    )
