"""`edgeq plan`, plans and rules from files, and the guards at the command line."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from command import Edgeq, assert_refused
from networks import BATCHNORMS, tiny_network, write_model
from pictures import draw_pictures

from edgeq.api.workshop.describe import Planned
from edgeq.pipeline.classifier import Prepared
from edgeq.plan.guards import GUARDS
from edgeq.plan.precision import Precision, PrecisionPlan

pytestmark = pytest.mark.usefixtures("quick_latency")

RULES = """version: edgeq.rules/1
rules:
- {name: keep-depthwise, kind: depthwise*, precision: fp32, reason: to try it out}
"""


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    (tmp_path / "rules.yaml").write_text(RULES)
    return tmp_path / "rules.yaml"


def test_the_table_for_a_person(edgeq: Edgeq, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    done = edgeq("plan", tiny_model)
    assert (done.status, done.err) == (0, "")
    assert "fp32-head" in done.out
    assert "the head's error goes straight into the answer" in done.out


def test_in_json_every_layer_of_the_folded_graph_has_a_decision(edgeq: Edgeq, tiny_model: Path) -> None:
    done = edgeq("plan", tiny_model, "--json")
    assert (done.status, done.err) == (0, "")
    planned = Planned.model_validate_json(done.out)
    assert len(planned.plan.decisions) == len(tiny_network().graph.node) - BATCHNORMS
    assert (planned.guards, planned.changes) == (None, None)


def test_a_saved_plan_makes_the_bundle(
    edgeq: Edgeq, tiny_model: Path, tiny_pictures: Path, rules: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.yaml"
    assert edgeq("plan", tiny_model, "--rules", rules, "--add-scales", "separate", "-o", plan).status == 0
    done = edgeq("prepare", tiny_model, "--images", tiny_pictures, "--plan", plan, "-o", tmp_path / "b", "--json")
    assert done.status == 0, done.err
    prepared = Prepared.model_validate_json(done.out)
    assert (prepared.int8_layers, prepared.fp32_layers) == (2, 2)
    assert PrecisionPlan.load(tmp_path / "b" / "plan.yaml") == PrecisionPlan.load(plan)
    other = edgeq("prepare", tiny_model, "--images", tiny_pictures, "--rules", rules, "-o", tmp_path / "c")
    assert other.status == 0, other.err
    made = PrecisionPlan.load(tmp_path / "c" / "plan.yaml")
    assert made.decisions == PrecisionPlan.load(plan).decisions


def test_a_saved_plan_leaves_additions_in_floating_point(
    edgeq: Edgeq, tiny_model: Path, tiny_pictures: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.yaml"
    assert edgeq("plan", tiny_model, "--add-scales", "float", "-o", plan).status == 0
    done = edgeq("prepare", tiny_model, "--images", tiny_pictures, "--plan", plan, "-o", tmp_path / "b", "--json")
    assert done.status == 0, done.err
    assert Prepared.model_validate_json(done.out).float_additions == ("residual",)


def test_what_a_plan_keeps_is_kept(edgeq: Edgeq, tiny_model: Path, tiny_pictures: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    assert edgeq("plan", tiny_model, "--keep-batchnorm", "stem_bn", "-o", plan).status == 0
    done = edgeq("prepare", tiny_model, "--images", tiny_pictures, "--plan", plan, "-o", tmp_path / "b", "--json")
    assert done.status == 0, done.err
    prepared = Prepared.model_validate_json(done.out)
    assert list(prepared.export.kept) == ["stem_bn"]
    assert prepared.manifest.allowed == {"EQ102": "asked for with --keep-batchnorm, for comparison"}


def test_the_difference_of_two_plans(edgeq: Edgeq, tiny_model: Path, rules: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    assert edgeq("plan", tiny_model, "-o", plan).status == 0
    same = edgeq("plan", tiny_model, "--diff", plan)
    assert (same.status, same.out) == (0, "The two plans are equal.\n")
    other = edgeq("plan", tiny_model, "--rules", rules, "--diff", plan)
    assert "+ rule keep-depthwise\n" in other.out
    assert "~ depthwise: int8 (int8-weighted) -> fp32 (keep-depthwise)\n" in other.out
    assert "stem:" not in other.out


def test_a_plan_that_exists_is_not_written_over(edgeq: Edgeq, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("mine")
    assert_refused(edgeq("plan", tiny_model, "-o", tmp_path / "plan.yaml"), "exists already")
    assert (tmp_path / "plan.yaml").read_text() == "mine"


def test_a_plan_whose_decisions_were_edited_is_refused(
    edgeq: Edgeq, tiny_model: Path, tiny_pictures: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.yaml"
    assert edgeq("plan", tiny_model, "-o", plan).status == 0
    made = PrecisionPlan.load(plan)
    moved = made.decisions[0].model_copy(update={"precision": Precision.FP32})
    made.model_copy(update={"decisions": (moved, *made.decisions[1:])}).save(plan)
    done = edgeq("prepare", tiny_model, "--images", tiny_pictures, "--plan", plan, "-o", tmp_path / "b")
    assert done.status == 2
    assert "~ stem: fp32 (int8-weighted) -> int8 (int8-weighted)" in done.err
    assert not (tmp_path / "b").exists()


def test_a_rule_that_matches_nothing_names_what_is_near(edgeq: Edgeq, tiny_model: Path, rules: Path) -> None:
    rules.write_text(RULES.replace("depthwise*", "depth-wise convolution"))
    done = edgeq("plan", tiny_model, "--rules", rules)
    assert_refused(done, "the rule keep-depthwise matches no layer", "there is depthwise convolution")


@pytest.mark.parametrize("text", ["", "rules: []", "version: edgeq.rules/1\nrules: []", "[", "version: edgeq.rules/2"])
def test_a_file_that_holds_no_rules(edgeq: Edgeq, tiny_model: Path, rules: Path, text: str) -> None:
    rules.write_text(text)
    assert_refused(edgeq("plan", tiny_model, "--rules", rules), "rules.yaml is not a file of rules")


@pytest.mark.parametrize("flags", [("--weights", "per-tensor"), ("--no-fold",), ("--add-scales", "shared")])
def test_what_a_plan_settles_is_not_asked_for_twice(edgeq: Edgeq, flags: tuple[str, ...]) -> None:
    done = edgeq("prepare", "model", "--images", "images", "-o", "made", "--plan", "plan.yaml", *flags)
    assert_refused(done, "the plan settles that")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--allow", "EQ107"), "1 --allow and 0 --because"),
        (("--because", "so"), "0 --allow and 1 --because"),
        (("--allow", "EQ999", "--because", "so"), "there is no guard EQ999"),
        (("--allow", "EQ107", "--because", " "), "no reason is given"),
        (("--allow", "EQ107", "--because", "a", "--allow", "EQ107", "--because", "b"), "names a code twice"),
    ],
)
@pytest.mark.parametrize("given", [("plan",), ("prepare", "--images", "images", "-o", "made")])
def test_an_allowance_that_is_none(edgeq: Edgeq, given: tuple[str, ...], flags: tuple[str, ...], words: str) -> None:
    assert_refused(edgeq(*given, "model", *flags), words)


def test_few_images_stop_the_main_job_before_it_begins(edgeq: Edgeq, tiny_model: Path, tmp_path: Path) -> None:
    few = draw_pictures(tmp_path / "few", each=3)
    done = edgeq("prepare", tiny_model, "--images", few, "-o", tmp_path / "b")
    assert (done.status, done.out) == (1, "")
    assert "EQ107 only 9 calibration images" in done.err
    assert '--allow EQ107 --because "…"' in done.err
    assert not (tmp_path / "b").exists()
    because = ("--allow", "EQ107", "--because", "to try it out")
    done = edgeq("prepare", tiny_model, "--images", few, "-o", tmp_path / "b", *because, "--json")
    assert done.status == 0, done.err
    prepared = Prepared.model_validate_json(done.out)
    assert [finding.code for finding in prepared.guards] == ["EQ107"]
    assert prepared.manifest.allowed == {"EQ107": "to try it out"}
    assert PrecisionPlan.load(tmp_path / "b" / "plan.yaml").allowed == {"EQ107": "to try it out"}
    assert any(warning.startswith("EQ107 only 9 calibration images") for warning in prepared.warnings)


def test_evaluation_images_among_the_calibration_images(
    edgeq: Edgeq, tiny_model: Path, tiny_pictures: Path, tiny_answers: Path
) -> None:
    same = edgeq("plan", tiny_model, "--check", "--images", tiny_pictures, "--eval", tiny_pictures)
    assert same.status == 1
    assert "EQ108 102 evaluation images are calibration images" in same.err
    others = edgeq("plan", tiny_model, "--check", "--images", tiny_pictures, "--eval", tiny_answers)
    assert (others.status, others.out) == (0, f"All {len(GUARDS)} guards pass.\n")


def test_a_quantized_head_is_stopped_and_can_be_allowed(
    edgeq: Edgeq, tiny_model: Path, tiny_pictures: Path, rules: Path, tmp_path: Path
) -> None:
    rules.write_text(RULES.replace("kind: depthwise*, precision: fp32", "component: head, precision: int8"))
    given = ("prepare", tiny_model, "--images", tiny_pictures, "--rules", rules, "-o", tmp_path / "b", "--json")
    done = edgeq(*given)
    assert done.status == 1
    assert "EQ105 1 layers of the head in int8" in done.err
    done = edgeq(*given, "--allow", "EQ105", "--because", "measured")
    assert done.status == 0, done.err
    assert Prepared.model_validate_json(done.out).int8_layers == 4


def test_what_exists_for_comparison_allows_itself_and_warns(edgeq: Edgeq, tiny_model: Path) -> None:
    done = edgeq("plan", tiny_model, "--check", "--no-fold", "--weights", "per-tensor", "--json")
    assert done.status == 0, done.err
    guards = Planned.model_validate_json(done.out).guards
    assert guards is not None
    assert {finding.code: finding.because for finding in guards} == {
        "EQ102": "asked for with --no-fold, for comparison",
        "EQ103": "asked for with --weights per-tensor, for comparison",
    }
    assert done.err.count("warning:") == 2


def test_batchnorm_that_cannot_be_folded_is_found_by_the_check(edgeq: Edgeq, tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    model = tiny_network()
    (relu,) = (node for node in model.graph.node if node.name == "residual_relu")
    parameters = [f"stem_bn.{name}" for name in ("gamma", "beta", "mean", "var")]
    batchnorm = onnx.helper.make_node("BatchNormalization", [relu.input[0], *parameters], ["late"], name="late_bn")
    relu.input[0] = "late"  # between an addition and its activation there is nothing to fold it into
    index = list(model.graph.node).index(relu)
    model.graph.node.insert(index, batchnorm)
    onnx.save(model, tmp_path / "model" / "model.onnx")
    done = edgeq("plan", tmp_path / "model", "--check")
    assert done.status == 1
    assert "EQ102 1 BatchNormalization nodes are not folded, the first is late_bn" in done.err


def test_gptq_on_a_vision_transformer_is_stopped_before_the_export(edgeq: Edgeq, tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    config = {"patch_size": 16, "num_attention_heads": 2, "quantization_config": {"quant_method": "gptq"}}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    done = edgeq("plan", tmp_path / "model", "--check")
    assert done.status == 1
    assert "EQ106 config.json quantizes a vision transformer with gptq" in done.err


def test_scales_of_other_pixels_are_stopped(
    edgeq: Edgeq, tiny_model: Path, tiny_pictures: Path, tmp_path: Path
) -> None:
    exported, scales = tmp_path / "exported", tmp_path / "scales.json"
    assert edgeq("export", tiny_model, "--images", tiny_pictures, "-o", exported).status == 0
    assert edgeq("calibrate", exported, "--images", tiny_pictures, "-o", scales).status == 0
    config = json.loads((exported / "preprocessor_config.json").read_text())
    (exported / "preprocessor_config.json").write_text(json.dumps({**config, "image_mean": [0.4, 0.5, 0.5]}))
    done = edgeq("quantize", exported, "--scales", scales, "-o", tmp_path / "made")
    assert done.status == 1
    assert "EQ109 calibration saw other pixels than the network will" in done.err
    assert not (tmp_path / "made").exists()


def test_a_vision_language_model_from_its_config(edgeq: Edgeq, shared_data: Path) -> None:
    model = shared_data / "vlm-configs" / "smolvlm2-2.2b"
    done = edgeq("plan", model, "--check", "--json")
    assert (done.status, done.err) == (0, "")
    planned = Planned.model_validate_json(done.out)
    assert {d.component for d in planned.plan.decisions if d.precision is Precision.NF4} == {"language"}
    assert planned.guards == ()
