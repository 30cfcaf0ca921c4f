"""The model card: listed and signed like any other file, and read by huggingface_hub as its own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from classifier_bundle import classifier_bundle
from huggingface_hub import ModelCard
from packed import make_bundle

from edgeq.bundle.manifest import read_manifest
from edgeq.bundle_report.card import CARD, model_card
from edgeq.bundle_report.contents import open_contents
from edgeq.quality.judge import Quality

if TYPE_CHECKING:
    from edgeq.pipeline.vlm import PreparedVlm

OLD = Path(__file__).resolve().parents[1] / "golden" / "bundles-0.1.0"
HOSTILE = "x\n---\nlicense: mit\n# <script>alert(1)</script> [a](http://a.invalid) ![b](http://b.invalid/c.png)"


def test_every_bundle_has_one_that_its_manifest_lists(tmp_path_factory: pytest.TempPathFactory) -> None:
    bundle = classifier_bundle(tmp_path_factory)
    assert CARD in {file.name for file in read_manifest(bundle).files}
    card = ModelCard.load(bundle / CARD)
    answers = Quality.load(bundle / "quality.json").answers
    assert answers is not None
    assert card.data.library_name == "edgeq"
    assert card.data.pipeline_tag == "image-classification"
    assert {"edgeq", "int8", "onnx"} <= set(card.data.tags)
    assert card.data.base_model is None  # a directory has no name on the hub
    quantized, reference = card.data.eval_results
    assert (quantized.metric_type, quantized.metric_value) == ("accuracy", round(answers.top1_candidate, 4))
    assert reference.metric_value == round(answers.top1_reference, 4)
    assert "## What is verified, and what is not" in card.text


def read(card: str) -> dict[str, Any]:
    """The front matter, as huggingface_hub reads it."""
    data: Any = ModelCard(card).data
    return dict(data.to_dict())


def test_a_vision_language_model_has_one(prepared_vlm: PreparedVlm) -> None:
    card = ModelCard.load(prepared_vlm.bundle / CARD)
    assert CARD in {file.name for file in prepared_vlm.manifest.files}
    assert card.data.pipeline_tag == "image-text-to-text"
    assert {"nf4", "fp16"} <= set(card.data.tags)


def test_a_hub_model_is_named_as_the_base(tmp_path: Path) -> None:
    contents = open_contents(OLD / "classifier")
    named = read(model_card(contents, "microsoft/resnet-18"))
    assert (named["base_model"], named["base_model_relation"]) == ("microsoft/resnet-18", "quantized")
    assert "base_model" not in read(model_card(contents, str(tmp_path)))
    assert "base_model" not in read(model_card(contents, Path("models/resnet")))


def test_nothing_hostile_gets_into_the_yaml_or_is_markup(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", labels=(HOSTILE, "b"), allowed={"EQ104": HOSTILE})
    text = model_card(open_contents(bundle), "a/b")
    front = yaml.safe_load(text.split("---\n")[1])
    assert set(front) == {"library_name", "pipeline_tag", "tags", "base_model", "base_model_relation"}
    assert read(text) == front
    body = text.split("---\n", 2)[2]
    assert "<script" not in body
    assert re.search(r"(?<!\\)\]\(", body) is None
    assert "\n# <" not in body
