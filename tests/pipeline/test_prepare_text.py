"""Text encoders alone, from a directory to a bundle that embeds texts and is served."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import transformers
from command import Edgeq, assert_refused
from numpy.typing import NDArray
from PIL import Image
from retrieval_bundle import text_bundle
from tensorrt_operators import refused
from two_towers import CONTEXT, SENTENCES, write_text_tower, write_two_tower

import edgeq as api
from edgeq.errors import ArtifactError, EngineError, InputError
from edgeq.pipeline.retrieval.tokenizer import require_tokenizer
from edgeq.runtime.retrieval.canaries import check_retrieval_canaries
from edgeq.runtime.retrieval.two_tower import open_two_tower

KINDS = ("CLIPTextModelWithProjection", "CLIPTextModel", "Siglip2TextModel")
TEXTS = ("A Photo of a CAT.", SENTENCES[3], "", "word " * 40)


@pytest.fixture(scope="module")
def captions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("captions") / "captions.txt"
    file.write_text("\n".join(SENTENCES))
    return file


@pytest.fixture(scope="module", params=KINDS)
def made(
    request: pytest.FixtureRequest, captions: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, api.PreparedText]:
    """A kind, its model and the bundle made of it."""
    folder = tmp_path_factory.mktemp("text")
    model = write_text_tower(folder / "model", request.param)
    prepared = api.prepare(model, None, folder / "bundle", captions=captions, threads=1)
    return request.param, model, prepared


def embedded(kind: str, model: Path, text: str) -> NDArray[np.float32]:
    """What transformers' own class gives; SigLIP's get texts of the whole context, without a mask."""
    tower = getattr(transformers, kind).from_pretrained(model, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    padding = "max_length" if "iglip" in kind else False
    ids = tokenizer([text], padding=padding, truncation=True, max_length=CONTEXT, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        out = tower(input_ids=ids)
    found = (out.text_embeds if kind.endswith("WithProjection") else out.pooler_output)[0].numpy()
    unit: NDArray[np.float32] = found / np.linalg.norm(found)
    return unit


def test_it_embeds_texts_as_the_model_does_and_no_images(made: tuple[str, Path, api.PreparedText]) -> None:
    kind, model, prepared = made
    two = open_two_tower(prepared.bundle, threads=1)
    for text in TEXTS:
        assert float(two.text.embed([text])[0] @ embedded(kind, model, text)) > 0.9999
    assert prepared.dimension == (32 if kind == "CLIPTextModel" else 24)
    assert two.settings.pad_id == {"Siglip2TextModel": 0}.get(kind, 1)
    assert check_retrieval_canaries(prepared.bundle, two).passed
    assert (two.vision, two.settings.vision, two.settings.logit_scale) == (None, None, None)
    with pytest.raises(InputError, match="a text encoder alone: it embeds texts, and no images"):
        _ = two.image
    assert sorted(file.name for file in prepared.manifest.files) == [
        *("README.md", "canaries/canaries.json", "canaries/texts.npy", "retrieval.json", "text/engine.json"),
        "text/export.json",
        *("text/model.fp16.onnx", "text/plan.yaml", "tokenizer.json"),
    ]
    assert refused(onnx.load(prepared.bundle / "text/model.fp16.onnx")) == [], "TensorRT takes it"


def test_nothing_is_claimed_of_it(made: tuple[str, Path, api.PreparedText]) -> None:
    kind, model, prepared = made
    assert "embeds texts in FP16" in prepared.warnings[0]
    cut = [note for note in prepared.warnings if note.startswith("CLIPTextModel ends before the projection")]
    assert len(cut) == (kind == "CLIPTextModel")
    if kind != "Siglip2TextModel":
        return
    seen, planned = api.inspect(model), api.plan_model(model)
    assert seen.notes == planned.notes == prepared.warnings
    assert {group.decision for group in seen.groups} <= {"fp16", "folded"}
    assert {decision.precision.value for decision in planned.plan.decisions} == {"fp16"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_bundle(tmp_path_factory)


def test_no_images_are_embedded_or_indexed_with_it(bundle: Path, tmp_path: Path) -> None:
    with api.open_bundle(bundle, kind="retrieval", threads=1) as opened:
        assert opened.embed_texts("a tree").shape == (24,)
        with pytest.raises(InputError, match="embeds texts, and no images"):
            opened.embed(Image.new("RGB", (8, 8)))
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError, match="embeds texts, and no images"):
        api.index_images(bundle, tmp_path / "images", tmp_path / "catalog")
    assert not (tmp_path / "catalog").exists()


def test_canaries_of_images_are_missed_where_they_belong(bundle: Path) -> None:
    """A list without images would pass any vision encoder."""
    model = open_two_tower(bundle, threads=1)
    seeing = open_two_tower(bundle, threads=1)
    object.__setattr__(seeing, "vision", object())
    check_retrieval_canaries(bundle, model).raise_if_failed()
    with pytest.raises(ArtifactError, match="names 0 images"):
        check_retrieval_canaries(bundle, seeing)


def test_on_the_command_line(edgeq: Edgeq, captions: Path, tmp_path: Path) -> None:
    model = write_text_tower(tmp_path / "model", "SiglipTextModel")
    asked = ("prepare", model, "-o", tmp_path / "bundle")
    assert_refused(edgeq(*asked), "--captions", "is a text encoder")
    assert_refused(edgeq(*asked, "--captions", captions, "--images", captions), "--images", "a text encoder alone")
    assert_refused(edgeq(*asked, "--captions", captions, "--method", "mse"), "--method", "which stays FP16")
    done = edgeq(*asked, "--captions", captions, "--threads", "1")
    assert done.status == 0, done.err
    assert "parameters in FP16" in done.out
    settings = open_two_tower(tmp_path / "bundle", threads=1).settings
    assert (settings.model_type, settings.padding, settings.pad_id) == ("siglip", "fixed", 1)
    assert "to have INT8 judged" in done.err.replace("\n", " ")
    whole = write_two_tower(tmp_path / "whole", "clip")
    assert_refused(edgeq("prepare", whole, "--captions", captions, "-o", tmp_path / "b"), "--images", "sees images")


def test_a_vision_encoder_alone_reads_no_captions(edgeq: Edgeq, captions: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip_vision_model"}))
    asked = ("prepare", tmp_path, "--images", tmp_path, "--captions", captions, "-o", tmp_path / "b")
    assert_refused(edgeq(*asked), "--captions", "a vision encoder alone, which reads no texts")


def test_siglips_own_tokenizer_asks_for_its_package_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "SiglipTokenizer"}')
    monkeypatch.setattr("edgeq.pipeline.retrieval.tokenizer.find_spec", lambda _: None)
    with pytest.raises(EngineError, match="the package sentencepiece is missing") as caught:
        require_tokenizer(tmp_path)
    assert caught.value.next_step == "pip install sentencepiece"
    monkeypatch.setattr("edgeq.pipeline.retrieval.tokenizer.find_spec", lambda _: object())
    for name in ("spiece.model", "tokenizer.json"):
        with pytest.raises(api.EdgeqError, match=f"has no {name}"):
            require_tokenizer(tmp_path)
        (tmp_path / name).write_bytes(b"")
    require_tokenizer(tmp_path)
