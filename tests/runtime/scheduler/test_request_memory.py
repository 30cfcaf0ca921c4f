"""What a request needs, against the memory plan of the same model and by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from edgeq.bundle.vlm_settings import VlmSettings
from edgeq.device import device_profile
from edgeq.errors import ArtifactError, InputError, ModelError
from edgeq.families.base import Layout
from edgeq.families.modules import VlmDescription, read_vlm
from edgeq.families.pictures import native_size
from edgeq.families.registry import image_cost
from edgeq.pipeline.vlm import PreparedVlm
from edgeq.plan.memory import MemoryPlan, plan_memory
from edgeq.runtime.scheduler.request_memory import (
    MemoryFigures,
    RequestMemory,
    read_memory_figures,
    request_memory,
    reserved_together,
)

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "vlm-configs"
EXPECTED: dict[str, Any] = json.loads((GOLDEN / "expected.json").read_text())
NX = device_profile("orin-nx-16gb")
PARTS = {
    "KV cache": "kv",
    "image features": "features",
    "prefill activations": "prefill",
    "image pixels": "vision",
    "vision activations": "vision",
}
"""The memory plan's lines, and where `RequestMemory` has them; a photograph is decoded before it is a request."""


def bundle_of(directory: Path, model: VlmDescription, config: dict[str, Any], *, context: int) -> Path:
    """What of a bundle says how large its requests are."""
    image = image_cost(model, native_size(model.vision))
    (directory / "language").mkdir(parents=True)
    (directory / "language/config.json").write_text(json.dumps(model.text))
    (directory / "config.json").write_text(json.dumps(config))
    VlmSettings(
        model_type=model.model_type,
        vision="vision.fp16.onnx",
        image_token="<image>",
        image_token_id=1,
        tokens=max(image.tokens // image.tiles, 1),
        context=context,
        stop=(2,),
    ).save(directory / "vlm.json")
    return directory


def golden(tmp_path: Path, name: str, context: int = 2048) -> Path:
    config = json.loads((GOLDEN / name / "config.json").read_text())
    return bundle_of(tmp_path / name, read_vlm(GOLDEN / name), config, context=context)


def planned(plan: MemoryPlan) -> dict[str, int]:
    found = dict.fromkeys(PARTS.values(), 0)
    for item in plan.phases[-1].items:
        if item.name in PARTS:
            found[PARTS[item.name]] += item.bytes
    return found


def asked(figures: MemoryFigures, prompt_tokens: int, new: int, *layouts: Layout) -> RequestMemory:
    return request_memory(figures, prompt_tokens, layouts, new)


@pytest.mark.parametrize("name", [*EXPECTED, "qwen3-vl-8b", "gemma3-4b", "internvl3-8b"])
def test_a_whole_context_needs_what_the_memory_plan_says(name: str, tmp_path: Path) -> None:
    """Tiles, cross-attention, deepstack and windows too: of an image of the encoder's own size."""
    plan = plan_memory(read_vlm(GOLDEN / name), NX, context=2048)
    figures = read_memory_figures(golden(tmp_path, name), read_vlm(GOLDEN / name).config)
    needs = asked(figures, 2048, 0, figures.picture)
    assert asdict(needs) == planned(plan)
    assert needs.alone == sum(planned(plan).values())


def test_a_cpu_encodes_in_float32(tmp_path: Path) -> None:
    bundle = golden(tmp_path, "llava-1.5-7b")
    device = NX.model_copy(update={"memory": "system", "widens_fp16": True})
    plan = plan_memory(read_vlm(GOLDEN / "llava-1.5-7b"), device, context=2048)
    figures = read_memory_figures(bundle, widens=True)
    assert asdict(asked(figures, 2048, 0, figures.picture)) == planned(plan)


def test_a_prepared_bundle_needs_what_its_own_memory_plan_says(prepared_vlm: PreparedVlm) -> None:
    """The bundle of the tiny LLaVA, planned for a context of 64 with one image of four tokens."""
    plan = MemoryPlan.load(prepared_vlm.bundle / "memory.json")
    figures = read_memory_figures(prepared_vlm.bundle)
    assert asdict(asked(figures, 64, 0, figures.picture)) == planned(plan)


def test_the_usual_image_is_the_one_that_was_planned_for(tmp_path: Path) -> None:
    """1080p: 33 x 37 tokens of four patches each within the processor's million pixels; else 448 x 448."""
    bundle = golden(tmp_path, "qwen2.5-vl-7b")
    assert read_memory_figures(bundle).picture == Layout(256, 1, 1024)
    plan = plan_memory(read_vlm(GOLDEN / "qwen2.5-vl-7b"), NX, image_size=(1080, 1920))
    plan.save(bundle / "memory.json")
    assert read_memory_figures(bundle).picture == Layout(plan.image.tokens, 1, 4 * plan.image.tokens)


def test_by_hand_for_llava_7b(tmp_path: Path) -> None:
    """600 tokens, 576 of them an image's, and 40 to be said: 640 tokens of 32 layers x 2 x 32 x 128 x 2 bytes."""
    figures = read_memory_figures(golden(tmp_path, "llava-1.5-7b"))
    assert figures.picture == Layout(576, 1, 577)
    needs = asked(figures, 600, 40, figures.picture)
    assert needs.kv == 640 * 524_288
    assert needs.features == 576 * 4096 * 2
    assert needs.prefill == asked(figures, 600, 0).prefill, "what is said later is not in the prompt"
    assert needs.vision == asked(figures, 577, 1, figures.picture).vision, "nor does it concern the encoder"
    assert needs.kept == needs.kv + needs.features


def test_by_hand_for_llama_11b(tmp_path: Path) -> None:
    """Eight layers keep 6,404 states, which are given in FP16; the image token keeps its embedding."""
    figures = read_memory_figures(
        golden(tmp_path, "llama-3.2-11b-vision"), read_vlm(GOLDEN / "llama-3.2-11b-vision").config
    )
    with_image, without = asked(figures, 100, 28, Layout(1, 1, 6432, (1, 4))), asked(figures, 100, 28)
    assert with_image.kv - without.kv == 6404 * 8 * 2 * 8 * 128 * 2
    assert (with_image.features, without.features) == (6404 * 4096 * 2, 0)
    assert with_image.prefill > without.prefill


def test_by_hand_for_qwen3_vl_8b(tmp_path: Path) -> None:
    """Four outputs of the graph for each place: features, and three that are added behind layers."""
    figures = read_memory_figures(golden(tmp_path, "qwen3-vl-8b"))
    assert asked(figures, 300, 1, Layout(196, 1, 784)).features == 4 * 196 * 4096 * 2


def test_an_answer_ends_where_the_context_does(tmp_path: Path) -> None:
    figures = read_memory_figures(golden(tmp_path, "llava-1.5-7b", context=700))
    assert asked(figures, 600, 10_000).kv == 700 * 524_288
    assert asked(figures, 800, 10_000).kv == 800 * 524_288, "too long for the model, which others say"


def test_without_an_image_the_encoder_rests(tmp_path: Path) -> None:
    needs = asked(read_memory_figures(golden(tmp_path, "llava-1.5-7b")), 20, 10)
    assert needs.features == needs.vision == 0
    assert needs.kv == 30 * 524_288


def test_pictures_of_an_image_are_encoded_in_one_pass_and_images_one_by_one(tmp_path: Path) -> None:
    """Each picture attends to itself only, so twice as many take twice as much."""
    figures = read_memory_figures(golden(tmp_path, "llava-1.5-7b"))
    small, large = Layout(576, 1, 577), Layout(1152, 2, 577)
    assert asked(figures, 2000, 1, large).vision == 2 * asked(figures, 2000, 1, small).vision
    both = asked(figures, 2000, 1, small, large)
    assert both.vision == asked(figures, 2000, 1, large).vision
    assert both.features == 3 * asked(figures, 2000, 1, small).features


def test_bytes_of_requests_together() -> None:
    assert reserved_together([]) == 0
    small, large = (
        RequestMemory(kv=1, features=2, prefill=30, vision=400),
        RequestMemory(kv=5, features=6, prefill=70, vision=80),
    )
    assert small.alone == 433
    assert reserved_together([small, large]) == 1 + 2 + 5 + 6 + 70 + 400


@pytest.mark.parametrize(("prompt", "image", "new"), [(-1, 0, 1), (10, 11, 1), (10, -1, 1), (10, 5, -1)])
def test_numbers_that_make_no_request(prompt: int, image: int, new: int) -> None:
    figures = MemoryFigures({}, {}, cache=None, context=1, picture=Layout(1, 1, 1))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="make no request"):
        request_memory(figures, prompt, (Layout(image, 1, 1),), new)


def test_transformers_fills_in_what_the_config_leaves_out(tmp_path: Path) -> None:
    """A CLIP tower with every default (12 layers of 768, pictures of 224 in patches of 32), and its size left out."""
    model = read_vlm(GOLDEN / "llava-1.5-7b")
    config = json.loads((GOLDEN / "llava-1.5-7b/config.json").read_text())
    config["vision_config"] = {"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14}
    figures = read_memory_figures(bundle_of(tmp_path / "b", model, config, context=2048))
    assert (figures.vision["hidden_size"], figures.vision["num_attention_heads"]) == (768, 12)
    assert figures.picture.patches == 24 * 24 + 1


@pytest.mark.parametrize(
    ("file", "change", "error"),
    [
        ("vlm.json", None, ArtifactError),
        ("config.json", None, ModelError),
        ("config.json", {"vision_config": None}, ModelError),
        ("config.json", {"vision_config": {"model_type": "no such encoder"}}, ModelError),
        ("language/config.json", None, ModelError),
        ("language/config.json", {"num_hidden_layers": None}, ModelError),
        ("language/config.json", {"vocab_size": None}, ModelError),
        ("memory.json", {"request": None}, ArtifactError),
    ],
)
def test_what_is_missing_is_said_when_the_bundle_is_opened(
    file: str, change: dict[str, Any] | None, error: type[Exception], tmp_path: Path
) -> None:
    path = golden(tmp_path, "llava-1.5-7b") / file
    plan_memory(read_vlm(GOLDEN / "llava-1.5-7b"), NX).save(path.parent / "memory.json")
    if change is None:
        path.unlink()
    else:
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(error):
        read_memory_figures(tmp_path / "llava-1.5-7b")


def test_no_torch_is_needed(tmp_path: Path) -> None:
    bundle = golden(tmp_path, "llava-1.5-7b")
    code = (
        "import sys; [sys.modules.__setitem__(name, None) for name in ('torch', 'transformers', 'onnx')]\n"
        "from pathlib import Path\n"
        "from edgeq.runtime.scheduler import admission, budget, memory_watch\n"
        "from edgeq.runtime.scheduler.request_memory import read_memory_figures, request_memory\n"
        f"figures = read_memory_figures(Path({str(bundle)!r}))\n"
        "print(request_memory(figures, 600, (figures.picture,), 40).kv)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(640 * 524_288), done.stderr
