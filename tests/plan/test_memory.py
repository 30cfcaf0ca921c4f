"""The memory plan against published figures, by hand, and at its borders."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from vlm import FAMILIES, write_vlm

from edgeq.device import DeviceProfile, device_profile
from edgeq.errors import ArtifactError, InputError, PlanError
from edgeq.families.modules import VlmDescription, read_vlm
from edgeq.families.registry import cap
from edgeq.model.graph.components import Component, Layer
from edgeq.plan.activations import fused_attention
from edgeq.plan.budget import Phase
from edgeq.plan.memory import MemoryPlan, plan_memory
from edgeq.plan.precision import Precision
from edgeq.plan.rules import plan_modules
from edgeq.plan.weights import LINEAR_KINDS, asymmetric, by_name, uniform

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "vlm-configs"
EXPECTED: dict[str, dict[str, Any]] = json.loads((GOLDEN / "expected.json").read_text())
NX = device_profile("orin-nx-16gb")


def model(name: str) -> VlmDescription:
    return read_vlm(GOLDEN / name)


def with_budget(size: int) -> DeviceProfile:
    """An Orin NX that has `size` bytes for the model."""
    return NX.model_copy(update={"total_bytes": size + NX.reserve_bytes})


def stored(phase: Phase) -> int:
    """What is in memory beside an image on its way through the encoder."""
    return sum(item.bytes for item in phase.items if item.name not in ("image pixels", "vision activations"))


def language_nf4(component: Component, layer: Layer) -> Precision:
    """As the published table counts: the cross-attention in NF4 too."""
    crossing = component.name == "cross-attention" and layer.kind in LINEAR_KINDS
    return Precision.NF4 if crossing else asymmetric(component, layer)


@pytest.mark.parametrize("name", EXPECTED)
def test_weights_within_half_a_percent_of_the_table(name: str) -> None:
    expected, read = EXPECTED[name], model(name)
    for double, key in ((True, "nf4_llm_only_GB"), (False, "nf4_llm_nodq_GB")):
        plan = plan_memory(read, NX, precision=language_nf4, double_quant=double)
        assert plan.weights_bytes == pytest.approx(expected[key] * 1e9, rel=0.005)
    plan = plan_memory(read, NX, precision=uniform(Precision.FP16))
    assert plan.weights_bytes == pytest.approx(expected["fp16_GB"] * 1e9, rel=1e-12)
    assert plan.parameters == expected["total"]


@pytest.mark.parametrize(("name", "millions"), [("llama-3.2-11b-vision", 336), ("llama-3.2-90b-vision", 3020)])
def test_the_rule_keeps_cross_attention_in_fp16(name: str, millions: int) -> None:
    """Each of its weights then takes 2 bytes and not 0.515869."""
    rule, table = plan_memory(model(name), NX), plan_memory(model(name), NX, precision=language_nf4)
    assert rule.weights_bytes - table.weights_bytes == pytest.approx(millions * 1e6 * (2 - 0.515869), rel=0.002)
    crossing = next(part for part in rule.components if part.name == "cross-attention")
    assert crossing.precisions == {Precision.FP16: 2 * crossing.parameters}


def test_int4_with_what_its_kernel_has_beside() -> None:
    """6,476.0 M weights in groups of 128: each has a 16-bit scale, and in the kernel a zero point as well."""

    def choose(component: Component, layer: Layer) -> Precision:
        return Precision.INT4 if asymmetric(component, layer) is Precision.NF4 else Precision.FP16

    plan = plan_memory(model("llava-1.5-7b"), NX, context=640, precision=choose)
    for phase in plan.phases[-2:]:  # loading and answering
        items = {item.name: item.bytes for item in phase.items}
        assert items["zero points"] == pytest.approx(6476.0e6 / 64, rel=1e-4)
    assert items["unpacked weights"] == 0
    assert items["language weights"] == pytest.approx(6476.0e6 * 0.515625, rel=1e-3)


def test_llava_13b_fits_an_orin_nx_asymmetric_and_not_in_fp16() -> None:
    plan = plan_memory(model("llava-1.5-13b"), NX, context=2048)
    assert plan.fits
    assert plan.spare_bytes > 0
    assert plan.changes == ()
    kv = next(item.bytes for item in plan.tightest.items if item.name == "KV cache")
    assert kv == 2048 * 819_200

    full = plan_memory(model("llava-1.5-13b"), NX, context=2048, precision=uniform(Precision.FP16))
    assert not full.fits
    assert "the weights alone take 26.70 GB" in full.reason
    assert [change.what for change in full.changes] == ["precision"]


def test_llama_90b_fits_no_orin_nx() -> None:
    plan = plan_memory(model("llama-3.2-90b-vision"), NX)
    assert not plan.fits
    assert plan.spare_bytes == NX.budget_bytes - plan.needed_bytes < 0
    assert plan.changes == (), "nothing alone helps"


def test_weights_that_fit_are_not_enough() -> None:
    plan = plan_memory(model("llava-1.5-13b"), NX, context=8192)
    assert not plan.fits
    assert plan.weights_bytes < NX.budget_bytes
    assert plan.reason.startswith("the weights take 7.87 GB and fit, the whole does not: with KV cache 6.71 GB")


def test_what_answering_takes_adds_up() -> None:
    """Two sequences of LLaVA-1.5-7B with two images each."""
    plan = plan_memory(model("llava-1.5-7b"), NX, context=1500, images=2, batch=2)
    items = {item.name: item.bytes for item in plan.phases[-1].items}
    assert plan.phases[-1].name == "answering"
    assert plan.phases[-1].bytes == sum(items.values())
    assert items["KV cache"] == 2 * 1500 * 524_288
    assert items["image features"] == 2 * 2 * 576 * 4096 * 2
    assert items["unpacked weights"] == 2 * 4096 * 11008
    assert plan.image.kv_bytes == 576 * 524_288
    parts = sum(size for name, size in items.items() if name.endswith(" weights") and name != "unpacked weights")
    assert parts == plan.weights_bytes


def test_graphs_of_decode_steps_keep_the_pool_of_the_largest_step() -> None:
    """LLaVA-1.5-7B: hidden 4096, feed-forward 11008, 32 heads of 128, 32,064 words, the context 1,500."""
    numbers = 4 * 4096 + 3 * 11008 + 2 * 128
    slot = 2 * numbers + 1500 * (32 * (2 + 4) + 2 * (1 + 2 + 2)) + 32064 * (2 + 4)
    segments = 22 * 2**20
    for batch, unpacked in ((2, 0), (4, 0), (5, 2 * 4096 * 11008)):
        plan = plan_memory(model("llava-1.5-7b"), NX, context=1500, batch=batch)
        graphs = {item.name: item for item in plan.phases[-1].items}["decode graphs"]
        assert graphs.bytes == batch * slot + unpacked + segments
        assert "not measured" in graphs.how


def test_without_a_gpu_there_are_no_graphs() -> None:
    plan = plan_memory(model("llava-1.5-7b"), NX.model_copy(update={"memory": "system"}), context=1500)
    assert "decode graphs" not in {item.name for phase in plan.phases for item in phase.items}


def test_cross_attention_keeps_its_own_cache() -> None:
    plan = plan_memory(model("llama-3.2-11b-vision"), NX, context=1000, images=2)
    items = {item.name: item.bytes for item in plan.phases[-1].items}
    assert items["KV cache"] == 1000 * 131_072 + 2 * 6404 * 32_768
    assert plan.image.kv_bytes == 131_072 + 6404 * 32_768


def test_without_an_image_the_engine_rests() -> None:
    items = {item.name: item.bytes for item in plan_memory(model("llava-1.5-7b"), NX, images=0).phases[-1].items}
    assert items["image features"] == 0
    assert not items.keys() & {"photograph", "image pixels", "vision activations"}


@pytest.mark.parametrize(("what", "step"), [("context", 64), ("batch", 1)])
def test_a_change_is_enough_and_the_next_larger_is_not(what: str, step: int) -> None:
    read = model("llava-1.5-7b")
    read = replace(read, text={**read.text, "max_position_embeddings": 8192})
    asked: dict[str, Any] = {"context": 8192, "images": 2, "batch": 4}
    plan = plan_memory(read, NX, **asked)
    assert {change.what for change in plan.changes} == {"context", "batch"}, "the images are in the context anyway"
    change = next(change for change in plan.changes if change.what == what)
    value = int(change.value.replace(",", ""))
    again = plan_memory(read, NX, **(asked | {what: value}))
    assert again.fits
    assert again.needed_bytes == change.needed_bytes
    assert not plan_memory(read, NX, **(asked | {what: value + step})).fits


def test_no_context_beyond_the_models_positions() -> None:
    read = model("llava-1.5-7b")
    assert read.text["max_position_embeddings"] == 2048
    changes = {change.what: change.value for change in plan_memory(read, NX, context=8192, images=2, batch=4).changes}
    assert changes["context"] == "2,048", "more would fit the memory"


def test_fewer_pixels_help_where_the_image_is_the_trouble() -> None:
    """8 megapixels: 10,092 tokens. The largest bound is enough, and 1,024 pixels more are not."""
    limits = {"min_pixels": 3136, "max_pixels": 12_845_056}
    read = replace(model("qwen2.5-vl-7b"), preprocessor=limits)
    asked: dict[str, Any] = {"context": 2048, "image_size": (2448, 3264)}
    plan = plan_memory(read, NX, **asked)
    found = {change.what: change.value for change in plan.changes}
    assert found.keys() == {"context", "max pixels", "image size"}
    most = int(found["max pixels"].replace(",", ""))
    assert plan_memory(cap(read, {"pixels": most}), NX, **asked).fits
    assert not plan_memory(cap(read, {"pixels": most + 1024}), NX, **asked).fits
    assert [change.flag for change in plan.changes] == [
        f"--context {found['context'].replace(',', '')}",
        f"--max-pixels {most}",
        f"--image-size {found['image size'].replace(' ', '')}",
    ]
    upright = plan_memory(read, NX, context=2048, image_size=(3264, 2448))
    sizes = {change.what: change.value.split(" x ") for change in upright.changes}["image size"]
    assert int(sizes[0]) > int(sizes[1]), "upright as the photograph is"


def test_images_that_do_not_fit_the_context() -> None:
    """2,340 tokens and 32 for text are 2,372; the next multiple of 64 is 2,432."""
    read = model("llava-1.6-mistral-7b")
    plan = plan_memory(read, NX, context=2048, image_size=(480, 640))
    assert not plan.fits
    assert plan.spare_bytes > 0
    assert plan.room == 2048 - 2340
    assert plan.reason == "the images alone take 2,340 tokens, more than the context of 2,048"
    values = {change.what: change.value for change in plan.changes}
    assert values.keys() == {"context", "max tiles", "image size"}
    assert (values["context"], values["image size"]) == ("2,432", "336 x 336")
    most = int(values["max tiles"])
    assert plan_memory(cap(read, {"tiles": most}), NX, image_size=(480, 640)).fits
    assert not plan_memory(cap(read, {"tiles": most + 1}), NX, image_size=(480, 640)).fits


@pytest.mark.parametrize(("left", "fits"), [(32, True), (31, False), (0, False)])
def test_text_needs_room_too(left: int, fits: bool) -> None:
    plan = plan_memory(model("llava-1.5-7b"), NX, context=576 + left)
    assert (plan.fits, plan.room) == (fits, left)
    assert fits or f"{left} are too few for chat template, question and answer" in plan.reason


def test_llama_11b_fits_with_fused_attention() -> None:
    """Its scores would be 2.65 GB; its mask of 6,432 x 6,432 numbers stays."""
    plan = plan_memory(model("llama-3.2-11b-vision"), NX)
    vision = next(item for item in plan.phases[-1].items if item.name == "vision activations")
    assert plan.fits
    assert 4 * 6432**2 < vision.bytes < 10**9
    assert "attention fused" in vision.how
    unfused = replace(
        model("llama-3.2-11b-vision"), vision={**model("llama-3.2-11b-vision").vision, "attention_heads": 4}
    )
    assert not fused_attention(unfused.vision), "heads of 320 numbers"


def test_changes_to_the_weights_leave_the_eyes_alone() -> None:
    read = model("llama-3.2-11b-vision")
    plan = plan_memory(read, with_budget(12_600_000_000), precision=uniform(Precision.FP16))
    assert [change.value for change in plan.changes] == ["asymmetric, and cross-attention NF4"]


def test_a_machine_without_a_gpu_builds_no_engine() -> None:
    plan = plan_memory(model("llava-1.5-7b"), NX.model_copy(update={"memory": "system"}))
    assert [phase.name for phase in plan.phases] == ["loading", "answering"]
    assert not any(item.name == "engine workspace" for phase in plan.phases for item in phase.items)


def test_a_cpu_holds_the_eyes_in_fp32() -> None:
    """As ONNX Runtime does: vision and connector take twice what they take on a device with FP16 kernels."""
    read = model("llava-1.5-7b")
    narrow, wide = (
        plan_memory(read, NX.model_copy(update={"memory": "system", "widens_fp16": widens})) for widens in (False, True)
    )
    vision_encoder = sum(part.bytes for part in narrow.components if part.name in ("vision", "connector"))
    for before, after in zip(narrow.phases, wide.phases, strict=True):
        assert stored(after) - stored(before) == vision_encoder
    assert wide.phases[-1].items[-1].bytes > narrow.phases[-1].items[-1].bytes, "and computes in FP32"
    assert wide.components == narrow.components


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_plan(tmp_path: Path, family: str) -> None:
    read = read_vlm(write_vlm(tmp_path / family, family))
    plan = plan_memory(read, NX, context=512)
    assert plan.fits
    assert plan.tied_head == read.tied_head
    assert plan.parameters == read.parameters


def test_a_plan_by_names() -> None:
    read = model("llava-1.5-7b")
    names = {layer.name: asymmetric(part, layer) for part in read.components for layer in part.layers}
    assert plan_memory(read, NX, precision=names) == plan_memory(read, NX)
    del names["lm_head"]
    with pytest.raises(PlanError, match="no precision for lm_head"):
        plan_memory(read, NX, precision=names)


@pytest.mark.parametrize("asked", [{"context": 0}, {"batch": 0}, {"images": -1}, {"image_size": (0, 5)}])
def test_a_request_that_is_none(asked: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        plan_memory(model("llava-1.5-7b"), NX, **asked)


def test_saved_and_read_back(tmp_path: Path) -> None:
    plan = plan_memory(model("llava-1.5-13b"), NX, context=9000)
    plan.save(tmp_path / "memory.json")
    assert MemoryPlan.load(tmp_path / "memory.json") == plan
    assert json.loads((tmp_path / "memory.json").read_text())["version"] == "edgeq.memory/1"


@pytest.mark.parametrize("text", ["", "{}", '{"version": "edgeq.memory/2"}', "[1]"])
def test_what_is_no_memory_plan(tmp_path: Path, text: str) -> None:
    (tmp_path / "memory.json").write_text(text)
    with pytest.raises(ArtifactError, match="is not a memory plan"):
        MemoryPlan.load(tmp_path / "memory.json")


def test_embeddings_in_int8_are_told_where_they_are_enough() -> None:
    """Qwen2.5-VL-7B in INT4: 1.09 GB less; beside NF4, whose checkpoints cannot hold them, they are no way out."""
    read = model("qwen2.5-vl-7b")
    plan = plan_modules(read.components, language=Precision.INT4)
    int4 = by_name({decision.layer: decision.precision for decision in plan.decisions})
    needed = plan_memory(read, NX, precision=int4).needed_bytes
    tight = with_budget(needed - 1_000_000_000)
    found = {change.what: change for change in plan_memory(read, tight, precision=int4).changes}
    assert found["embeddings"].flag == "--embeddings int8"
    assert found["embeddings"].needed_bytes <= tight.budget_bytes
    assert "embeddings" not in {change.what for change in plan_memory(read, tight).changes}
