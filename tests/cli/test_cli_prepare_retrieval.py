"""`edgeq prepare` and its neighbours given CLIP or SigLIP."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command import Edgeq, assert_refused
from PIL import Image
from two_towers import SENTENCES, write_two_tower

import edgeq as api
from edgeq.errors import ArtifactError, InputError
from edgeq.pipeline.retrieval.prepare import PreparedRetrieval

QUICK = ("--threads", "1", "--method", "minmax", "--channel-equalization", "none")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP model, four images with captions, texts to calibrate on."""
    found = tmp_path_factory.mktemp("clip")
    write_two_tower(found / "model", "clip")
    (found / "images").mkdir()
    generator, lines = np.random.default_rng(0), []
    for number in range(4):
        pixels = generator.integers(0, 256, (36, 40, 3), np.uint8)
        Image.fromarray(pixels).save(found / "images" / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "captions": [SENTENCES[number]]}))
    (found / "images" / "pairs.jsonl").write_text("\n".join(lines))
    (found / "captions.txt").write_text("\n".join(SENTENCES))
    return found


def given(folder: Path) -> tuple[str | Path, ...]:
    return ("prepare", folder / "model", "--images", folder / "images")


def test_a_bundle_for_people_and_in_json(edgeq: Edgeq, folder: Path, tmp_path: Path) -> None:
    texts = ("--captions", folder / "captions.txt")
    done = edgeq(*given(folder), *texts, "--eval", folder / "images" / "pairs.jsonl", *QUICK, "-o", tmp_path / "a")
    assert done.status == 0, done.err
    assert "recall@1 text -> image" in done.out
    assert "INT8 is not judged" in done.out
    assert "Texts are read in FP16, images in FP16" in done.out
    again = edgeq(*given(folder), *texts, *QUICK, "-o", tmp_path / "b", "--json")
    prepared = PreparedRetrieval.model_validate_json(again.out)
    assert (prepared.gate, prepared.calibration_captions) == (None, len(SENTENCES))
    assert "was not judged" in again.err


def test_python_embeds_texts_and_images(folder: Path, tmp_path: Path) -> None:
    made = api.prepare(
        folder / "model",
        folder / "images",
        tmp_path / "bundle",
        captions=folder / "captions.txt",
        options=api.RetrievalOptions(method="minmax", channel_equalization="none"),
        threads=1,
    )
    assert isinstance(made, api.PreparedRetrieval)
    with api.open_bundle(tmp_path / "bundle", kind="retrieval", threads=1) as bundle:
        texts = bundle.embed_texts(["a photo of a cat", "a tree"])
        one = bundle.embed_texts("a tree")
        images = bundle.embed([folder / "images" / "0.png", folder / "images" / "1.png"])
        assert (texts.shape, one.shape, images.shape) == ((2, 24), (24,), (2, 24))
        np.testing.assert_allclose(texts[1], one, atol=1e-6)
        np.testing.assert_allclose(bundle.embed(folder / "images" / "1.png"), images[1], atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1, atol=1e-6)
        with pytest.raises(ArtifactError, match="gives no classes"):
            bundle.classify(folder / "images" / "0.png")
        with pytest.raises(ArtifactError, match="answers no questions"):
            bundle.ask(folder / "images" / "0.png", "what?")
    with pytest.raises(ArtifactError, match="gives no classes"):
        api.open_bundle(tmp_path / "bundle", kind="classifier")
    with pytest.raises(InputError, match="captions"):
        api.prepare(folder / "model", folder / "images", tmp_path / "other")
    with pytest.raises(InputError, match="device"):
        api.prepare(
            folder / "model", folder / "images", tmp_path / "other", captions=folder / "captions.txt", device="x"
        )


@pytest.mark.parametrize("flags", [("--device", "orin-nx-16gb"), ("--max-drop", "1"), ("--task", "multilabel")])
def test_flags_of_other_models(edgeq: Edgeq, folder: Path, tmp_path: Path, flags: tuple[str, ...]) -> None:
    done = edgeq(*given(folder), "--captions", folder / "captions.txt", *flags, "-o", tmp_path / "b")
    assert_refused(done, flags[0], "is a model of a text and a vision encoder")


def test_texts_to_calibrate_on_are_needed(edgeq: Edgeq, folder: Path, tmp_path: Path) -> None:
    assert_refused(edgeq(*given(folder), "-o", tmp_path / "b"), "--captions", "calibrated on texts")


def test_captions_are_for_no_other_model(
    edgeq: Edgeq, tiny_vlm_model: Path, tiny_photographs: Path, folder: Path, tmp_path: Path
) -> None:
    asked = ("prepare", tiny_vlm_model, "--images", tiny_photographs, "--captions", folder / "captions.txt")
    assert_refused(edgeq(*asked, "-o", tmp_path / "b"), "--captions", "is a vision-language model")


def test_both_encoders_are_shown_and_planned_by_prepare(edgeq: Edgeq, folder: Path) -> None:
    done = edgeq("inspect", folder / "model", "--json")
    assert done.status == 0, done.err
    shown = json.loads(done.out)
    assert {part["name"].split(":")[0] for part in shown["components"]} == {"text", "vision"}
    kept = {(group["component"].split(":")[0], group["decision"]) for group in shown["groups"]}
    assert {("text", "int8"), ("vision", "fp16")} <= kept
    assert ("vision", "int8") not in kept
    assert_refused(edgeq("plan", folder / "model"), "each gets a plan of its own", "edgeq inspect")
