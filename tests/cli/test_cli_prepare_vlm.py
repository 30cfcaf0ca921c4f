"""`edgeq prepare` given a vision-language model, and flags that are for the other kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import Edgeq, assert_refused

from edgeq.pipeline.vlm import PreparedVlm

QUICK = ("--threads", "1", "--max-new-tokens", "2")


def test_a_bundle_in_json_and_for_people(
    edgeq: Edgeq, tiny_vlm_model: Path, tiny_photographs: Path, tmp_path: Path
) -> None:
    questions = tiny_photographs / "questions.jsonl"
    given = ("prepare", tiny_vlm_model, "--images", tiny_photographs, "--eval", questions, *QUICK)
    done = edgeq(*given, "-o", tmp_path / "a", "--device", "orin-nx-16gb", "--context", "100")
    assert done.status == 0, done.err
    assert "on 3 photographs" in done.out
    assert "The whole model against the bundle, 2 questions" in done.out
    assert f"next: edgeq run {tmp_path / 'a'}" in done.out
    again = edgeq(*given, "-o", tmp_path / "b", "--json")
    prepared = PreparedVlm.model_validate_json(again.out)
    assert (prepared.memory, prepared.photographs) == (None, 3)
    assert json.loads((tmp_path / "a" / "vlm.json").read_text())["context"] == 100


def test_one_that_does_not_fit_ends_with_1(
    edgeq: Edgeq, tiny_vlm_model: Path, tiny_photographs: Path, tmp_path: Path
) -> None:
    given = ("prepare", tiny_vlm_model, "--images", tiny_photographs, "-o", tmp_path / "b")
    done = edgeq(*given, "--device", "orin-nano-8gb", "--context", "100000000")
    assert done.status == 1
    assert "does not fit Jetson Orin Nano 8 GB" in done.err
    assert "next: --context 128" in done.err, "what the model was made for"
    assert not (tmp_path / "b").exists()


def test_a_bound_that_the_family_does_not_have(
    edgeq: Edgeq, tiny_vlm_model: Path, tiny_photographs: Path, tmp_path: Path
) -> None:
    given = ("prepare", tiny_vlm_model, "--images", tiny_photographs, "-o", tmp_path / "b")
    assert_refused(edgeq(*given, "--max-tiles", "2"), "the tiles of an image cannot be bounded in a llava model")


def test_a_device_that_is_not_known(edgeq: Edgeq, tiny_vlm_model: Path, tiny_photographs: Path, tmp_path: Path) -> None:
    given = ("prepare", tiny_vlm_model, "--images", tiny_photographs, "-o", tmp_path / "b")
    assert_refused(edgeq(*given, "--device", "toaster"), "toaster is not a known device", "orin-nx-16gb")


@pytest.mark.parametrize("flags", [("--method", "mse"), ("--no-fold",), ("--size", "224"), ("--max-drop", "1")])
def test_flags_of_a_classifier(
    edgeq: Edgeq, tiny_vlm_model: Path, tiny_photographs: Path, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    given = ("prepare", tiny_vlm_model, "--images", tiny_photographs, "-o", tmp_path / "b")
    assert_refused(edgeq(*given, *flags), "is a vision-language model")


@pytest.mark.parametrize(
    "flags", [("--device", "orin-nx-16gb"), ("--no-reference-answers",), ("--keep-fp32",), ("--max-tiles", "2")]
)
def test_flags_of_a_vision_language_model(
    edgeq: Edgeq, tiny_model: Path, tiny_pictures: Path, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    given = ("prepare", tiny_model, "--images", tiny_pictures, "-o", tmp_path / "b")
    assert_refused(edgeq(*given, *flags), flags[0].removeprefix("--no-"), "is no vision-language model")


def test_questions_that_are_none(edgeq: Edgeq, tiny_vlm_model: Path, tiny_photographs: Path, tmp_path: Path) -> None:
    given = ("prepare", tiny_vlm_model, "--images", tiny_photographs, "-o", tmp_path / "b")
    assert_refused(edgeq(*given, "--eval", tmp_path / "q.jsonl"), "q.jsonl cannot be read")
    (tmp_path / "q.jsonl").write_text('{"image": "../a.jpg", "question": "what?"}\n')
    assert_refused(edgeq(*given, "--eval", tmp_path / "q.jsonl"), "q.jsonl, line 1")
    assert not (tmp_path / "b").exists()


def test_a_config_without_a_vision_part(edgeq: Edgeq, tiny_vlm_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "m"
    model.mkdir()
    config = json.loads((tiny_vlm_model / "config.json").read_text())
    del config["vision_config"]
    (model / "config.json").write_text(json.dumps(config))
    assert_refused(edgeq("prepare", model, "--images", tmp_path, "-o", tmp_path / "b"), "has no vision part")
