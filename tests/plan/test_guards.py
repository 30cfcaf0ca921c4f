"""Every guard: what trips it, what passes it, and what an allowance does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pictures import cut_short, draw_pictures, zip_folder

from edgeq.errors import GuardError, PlanError
from edgeq.model.images.image_set import ImageSet
from edgeq.plan.facts import Facts, image_facts, shared_images
from edgeq.plan.guards import GUARDS, check
from edgeq.plan.precision import Decision, Precision, PrecisionPlan, WeightGranularity

VLM: dict[str, Any] = {"vision_config": {"patch_size": 14}, "text_config": {}}
VIT: dict[str, Any] = {"model_type": "vit", "patch_size": 16, "num_attention_heads": 12}
CONVNEXT: dict[str, Any] = {"model_type": "convnext", "patch_size": 4}
GPTQ = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
AWQ = {"quantization_config": {"quant_method": "AWQ", "modules_to_not_convert": ["lm_head"]}}
AWQ_SPARING = {"quantization_config": {"quant_method": "awq", "modules_to_not_convert": ["model.visual", "lm_head"]}}
GPTQ_LANGUAGE = {"quantization_config": {"quant_method": "gptq", "block_name_to_quantize": "language_model.layers"}}
BNB = {"quantization_config": {"quant_method": "bitsandbytes"}}


def plan(
    component: str, precision: Precision, *, kind: str = "linear", weights: WeightGranularity = "per-channel"
) -> Facts:
    decision = Decision(layer="it", op="Any", component=component, kind=kind, precision=precision, rule="r", reason="s")
    return Facts(plan=PrecisionPlan(weights=weights, decisions=(decision,)))


TRIPPED = [
    ("EQ101", plan("vision", Precision.NF4)),
    ("EQ102", plan("backbone", Precision.FP32, kind="batchnorm")),
    ("EQ103", plan("backbone", Precision.INT8, kind="depthwise convolution", weights="per-tensor")),
    ("EQ104", plan("connector", Precision.NF4)),
    ("EQ104", plan("connector", Precision.INT8)),
    ("EQ105", plan("head", Precision.INT8)),
    ("EQ105", plan("head", Precision.NF4)),
    ("EQ106", Facts(config={**VIT, **GPTQ})),
    ("EQ106", Facts(config={**VLM, **AWQ})),
    ("EQ107", Facts(calibration_images=99)),
    ("EQ108", Facts(shared_images=("a.jpg",))),
    ("EQ109", Facts(calibration_preprocess="a", evaluation_preprocess="b")),
    ("EQ110", Facts(pixel_deviation=0.25 / 58.4)),  # mean and std of 0..255, pixels in 0..1
    ("EQ110", Facts(pixel_deviation=0.5 / 57.1)),  # likewise, black and white in halves
]
PASSED = [
    ("EQ101", plan("vision", Precision.INT8)),
    ("EQ101", plan("language", Precision.NF4)),
    ("EQ102", plan("backbone", Precision.INT8, kind="convolution")),
    ("EQ103", plan("backbone", Precision.INT8, kind="convolution")),
    ("EQ103", plan("backbone", Precision.FP32, kind="convolution", weights="per-tensor")),
    ("EQ104", plan("connector", Precision.FP16)),
    ("EQ105", plan("head", Precision.FP16)),
    ("EQ106", Facts(config={**VIT, **BNB})),
    ("EQ106", Facts(config={**CONVNEXT, **GPTQ})),
    ("EQ106", Facts(config={**VLM, **AWQ_SPARING})),
    ("EQ106", Facts(config={**VLM, **GPTQ_LANGUAGE})),
    ("EQ106", Facts(config={"quantization_config": "gptq"})),
    ("EQ107", Facts(calibration_images=100)),
    ("EQ108", Facts(shared_images=())),
    ("EQ109", Facts(calibration_preprocess="a", evaluation_preprocess="a")),
    ("EQ109", Facts(calibration_preprocess="a")),
    ("EQ110", Facts(pixel_deviation=0.25)),  # pixels in 0..1 as they are
]


def test_every_guard_is_tripped_once_and_passed_once() -> None:
    codes = [guard.code for guard in GUARDS]
    assert codes == [f"EQ{number}" for number in range(101, 111)]
    assert {code for code, _ in TRIPPED} == {code for code, _ in PASSED} == set(codes)


@pytest.mark.parametrize(("code", "facts"), TRIPPED)
def test_a_guard_says_no_and_how_to_pass_it(code: str, facts: Facts) -> None:
    with pytest.raises(GuardError) as caught:
        check(facts, {})
    assert re.findall(r"EQ\d\d\d", caught.value.what) == [code]
    assert f'--allow {code} --because "…"' in caught.value.next_step
    (guard,) = (guard for guard in GUARDS if guard.code == code)
    assert guard.why in str(caught.value)


@pytest.mark.parametrize(("code", "facts"), TRIPPED)
def test_a_guard_that_is_allowed_is_told(code: str, facts: Facts) -> None:
    (finding,) = check(facts, {code: "measured: no answer changed"})
    assert (finding.code, finding.because) == (code, "measured: no answer changed")
    assert finding.warning.endswith("(allowed: measured: no answer changed)")


@pytest.mark.parametrize(("_code", "facts"), PASSED)
def test_what_is_right_passes(_code: str, facts: Facts) -> None:
    assert check(facts, {}) == ()


def test_of_what_is_not_known_no_guard_speaks() -> None:
    assert check(Facts(), {}) == ()


def test_an_allowance_that_is_not_needed_says_nothing() -> None:
    assert check(Facts(calibration_images=500), {"EQ107": "few"}) == ()


def test_every_guard_that_says_no_is_listed() -> None:
    facts = Facts(calibration_images=3, shared_images=("a.jpg", "b.jpg"))
    with pytest.raises(GuardError) as caught:
        check(facts, {"EQ108": "on purpose"})
    assert "EQ108" not in str(caught.value)
    with pytest.raises(GuardError) as caught:
        check(facts, {})
    assert caught.value.next_step.count("--allow") == 2


@pytest.mark.parametrize("allowed", [{"EQ999": "why not"}, {"EQ107": "  "}])
def test_an_allowance_that_is_none(allowed: dict[str, str]) -> None:
    with pytest.raises(PlanError):
        check(Facts(), allowed)


def test_images_are_known_by_their_bytes(tmp_path: Path) -> None:
    """The same picture under another name, in a zip, is the same; another one under the same name is not."""
    folder = draw_pictures(tmp_path / "one", each=2)
    other = draw_pictures(tmp_path / "two", each=2, seed=1)
    (other / "red" / "holiday.jpg").write_bytes((folder / "blue" / "blue-001.jpg").read_bytes())
    zipped = ImageSet.open(zip_folder(other, tmp_path / "two.zip"))
    assert shared_images(ImageSet.open(folder), zipped) == ("red/holiday.jpg",)
    facts = image_facts(ImageSet.open(folder), zipped, {})
    assert (facts.calibration_images, facts.shared_images) == (6, ("red/holiday.jpg",))


def test_a_damaged_image_does_not_stop_the_look(tmp_path: Path) -> None:
    folder = draw_pictures(tmp_path / "one", each=2)
    cut_short(folder / "red" / "red-000.jpg")
    assert len(shared_images(ImageSet.open(folder), ImageSet.open(folder))) == 6
