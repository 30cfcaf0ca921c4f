"""`--language`: NF4, INT4 by AWQ, INT8, and the choice between them by the user's questions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from bundles import ANSWER_TOKENS
from command import Edgeq
from networks import write_model
from PIL import Image
from talk import QUESTION

from edgeq.bundle.manifest import read_manifest
from edgeq.errors import InputError, ModelError
from edgeq.families.modules import read_vlm
from edgeq.pipeline.vlm import PreparedVlm, VlmOptions, prepare_vlm
from edgeq.pipeline.vlm_fit import plan_languages
from edgeq.pipeline.vlm_options import LANGUAGES
from edgeq.plan.memory import MemoryPlan
from edgeq.plan.precision import Precision, PrecisionPlan
from edgeq.runtime.vlm.model import open_vlm

PACKED = ("int4-awq", "int8")
WITH_TABLES = "int4-awq+embeddings"
LINEARS = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128)


def prepared(model: Path, photographs: Path, output: Path, **options: Any) -> PreparedVlm:
    given = {"threads": 1, "max_new_tokens": ANSWER_TOKENS, "device": "orin-nx-16gb", "context": 64, "canaries": 1}
    return prepare_vlm(
        model,
        photographs,
        output,
        questions=photographs / "questions.jsonl",
        options=VlmOptions(**{**given, **options}),
    )


@pytest.fixture(scope="module")
def packed(
    request: pytest.FixtureRequest,
    tiny_vlm_model: Path,
    tiny_photographs: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> PreparedVlm:
    language, _, embeddings = request.param.partition("+")
    output = tmp_path_factory.mktemp(language) / "bundle"
    return prepared(
        tiny_vlm_model, tiny_photographs, output, language=language, embeddings="int8" if embeddings else "fp16"
    )


@pytest.mark.parametrize("packed", [*PACKED, WITH_TABLES], indirect=True)
def test_a_bundle_in_integers(packed: PreparedVlm, tiny_photographs: Path) -> None:
    tables = packed.embeddings == "int8"
    assert packed.quantized_parameters == LINEARS + (2 * 96 * 64 if tables else 0)
    precision = LANGUAGES[packed.language]
    plan = PrecisionPlan.load(packed.bundle / "plan.yaml")
    wanted = {precision, Precision.FP16, *([Precision.INT8] if tables else [])}
    assert {d.precision for d in plan.decisions if d.component == "language"} == wanted
    assert {d.precision for d in plan.decisions if d.component == "head"} == {
        Precision.INT8 if tables else Precision.FP16
    }
    assert packed.quality is not None
    assert packed.quality.forced.kl.value < 0.01
    image = Image.open(next(tiny_photographs.glob("*/*.jpg"))).convert("RGB")
    assert len(open_vlm(packed.bundle, threads=1).ask(image, QUESTION, 3).token_ids) == 3


@pytest.mark.parametrize("packed", [*PACKED, WITH_TABLES], indirect=True)
def test_its_bytes_are_those_planned(packed: PreparedVlm) -> None:
    """Tensors alone: a file has a header besides."""
    from safetensors.torch import load_file

    memory = MemoryPlan.load(packed.bundle / "memory.json")
    planned = sum(part.bytes for part in memory.components if part.name not in ("vision", "connector"))
    tensors = load_file(packed.bundle / "language" / "model.safetensors").values()
    assert sum(tensor.numel() * tensor.element_size() for tensor in tensors) == planned


@pytest.mark.parametrize(("max_drop", "chosen"), [(100.0, "int4-awq"), (-100.0, "int8")])
def test_auto_takes_the_smallest_within_the_bound_else_the_nearest(
    max_drop: float, chosen: str, tiny_vlm_model: Path, tiny_photographs: Path, tmp_path: Path
) -> None:
    asked = (tiny_photographs / "questions.jsonl").read_text().splitlines()
    shutil.copytree(tiny_photographs, tmp_path / "asked")
    (tmp_path / "asked" / "questions.jsonl").write_text("\n".join(3 * asked) + "\n")
    made = prepared(tiny_vlm_model, tmp_path / "asked", tmp_path / "bundle", language="auto", max_drop=max_drop)
    assert made.chosen is not None
    assert made.language == made.chosen.language == chosen
    assert sorted(figures.language for figures in made.chosen.tried) == sorted(LANGUAGES)
    assert [figures.bytes for figures in made.chosen.tried] == sorted(figures.bytes for figures in made.chosen.tried)
    assert made.chosen.shown == (max_drop > 0)
    assert any("more questions decide it" in line for line in made.warnings) == (max_drop < 0)
    directories = {file.name.partition("/")[0] for file in read_manifest(made.bundle).files if "/" in file.name}
    assert {name for name in directories if name.startswith("language")} == {"language"}
    plan = PrecisionPlan.load(made.bundle / "plan.yaml")
    assert LANGUAGES[chosen] in {decision.precision for decision in plan.decisions}
    config = json.loads((made.bundle / "language" / "config.json").read_text())["quantization_config"]
    assert config["quant_method"] == "compressed-tensors"


def test_auto_without_questions_is_refused_at_once(
    edgeq: Edgeq, tiny_vlm_model: Path, tiny_photographs: Path, tmp_path: Path
) -> None:
    words = ("prepare", tiny_vlm_model, "--images", tiny_photographs, "-o", tmp_path / "bundle")
    found = edgeq(*words, "--language", "auto")
    assert found.status == 2
    assert "--eval" in found.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [{"language": "auto", "reference_answers": False}])
def test_auto_without_the_whole_model_is_refused(
    options: dict[str, Any], tiny_vlm_model: Path, tiny_photographs: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="the whole model's answers"):
        prepared(tiny_vlm_model, tiny_photographs, tmp_path / "bundle", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("packed", ["int8"], indirect=True)
def test_a_saved_plan_says_the_language(
    packed: PreparedVlm, tiny_vlm_model: Path, tiny_photographs: Path, tmp_path: Path
) -> None:
    plan = PrecisionPlan.load(packed.bundle / "plan.yaml")
    again = prepared(tiny_vlm_model, tiny_photographs, tmp_path / "again", plan=plan)
    assert again.language == "int8"
    with pytest.raises(InputError, match="stores the language model in int8"):
        prepared(tiny_vlm_model, tiny_photographs, tmp_path / "other", plan=plan, language="int4-awq")


@pytest.mark.parametrize("packed", [WITH_TABLES], indirect=True)
def test_a_saved_plan_says_the_embeddings(
    packed: PreparedVlm, tiny_vlm_model: Path, tiny_photographs: Path, tmp_path: Path
) -> None:
    described = read_vlm(tiny_vlm_model)
    saved = PrecisionPlan.load(packed.bundle / "plan.yaml")
    (again,) = plan_languages(described, VlmOptions(plan=saved)).values()
    assert again.decisions == saved.decisions
    floats = plan_languages(described, VlmOptions(language="int4-awq"))["int4-awq"]
    with pytest.raises(InputError, match="embeddings int8: the plan stores them in 16 bits"):
        prepared(tiny_vlm_model, tiny_photographs, tmp_path / "b", plan=floats, embeddings="int8")


@pytest.mark.parametrize("verb", ["plan", "prepare"])
def test_embeddings_in_int8_with_nf4_are_refused_at_once(
    verb: str, monkeypatch: pytest.MonkeyPatch, edgeq: Edgeq, tiny_vlm_model: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr("edgeq.families.modules._build", lambda *_: pytest.fail("work had begun"))
    images = () if verb == "plan" else ("--images", tmp_path)
    found = edgeq(verb, tiny_vlm_model, *images, "--embeddings", "int8", "-o", tmp_path / "out")
    assert found.status == 2
    assert "a checkpoint of bitsandbytes has no embedding in integers" in found.err
    assert "--language int4-awq --embeddings int8" in found.err
    assert list(tmp_path.iterdir()) == []


def test_auto_leaves_out_nf4_where_embeddings_are_int8(tiny_vlm_model: Path) -> None:
    plans = plan_languages(read_vlm(tiny_vlm_model), VlmOptions(language="auto", embeddings="int8"))
    assert list(plans) == ["int4-awq", "int8"]
    assert all("lm_head" in plan.layers(Precision.INT8) for plan in plans.values())


def test_auto_with_a_model_beyond_this_machine_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, tiny_vlm_model: Path, tiny_photographs: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr("edgeq.pipeline.vlm_reference._free", lambda: 1 << 20)
    monkeypatch.setattr("edgeq.pipeline.vlm.export_vision", lambda *_, **__: pytest.fail("work had begun"))
    with pytest.raises(ModelError, match="does not fit this machine's memory"):
        prepared(tiny_vlm_model, tiny_photographs, tmp_path / "bundle", language="auto")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("language", "precision"), [("int4-awq", "int4"), ("int8", "int8")])
def test_a_plan_by_itself_and_what_it_is_followed_by(
    language: str, precision: str, edgeq: Edgeq, tiny_vlm_model: Path, tiny_photographs: Path, tmp_path: Path
) -> None:
    words = ("plan", tiny_vlm_model, "--device", "orin-nx-16gb", "--context", 64)
    other = json.loads(edgeq(*words, "--json").out)
    found = edgeq(*words, "--language", language, "-o", tmp_path / "plan.yaml", "--json")
    assert found.status == 0
    planned = json.loads(found.out)
    assert {one["precision"] for one in planned["plan"]["decisions"] if one["component"] == "language"} == {
        precision,
        "fp16",
    }
    assert planned["memory"]["components"] != other["memory"]["components"]
    made = prepared(tiny_vlm_model, tiny_photographs, tmp_path / "b", plan=PrecisionPlan.load(tmp_path / "plan.yaml"))
    assert made.language == language


@pytest.mark.parametrize("option", ["--language", "--embeddings"])
def test_a_language_for_a_classifier_is_refused(option: str, edgeq: Edgeq, tmp_path: Path) -> None:
    found = edgeq("plan", write_model(tmp_path / "model"), option, "int8")
    assert found.status == 2
    assert "is not a vision-language model" in found.err
