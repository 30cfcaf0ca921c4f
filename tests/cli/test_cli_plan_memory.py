"""`edgeq plan --device`: the memory table, the chart, and the exit status."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers
from command import Edgeq, assert_refused
from PIL import Image

from edgeq.api.workshop.describe import Planned
from edgeq.device import PROFILES

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "vlm-configs"
EXPECTED: dict[str, dict[str, Any]] = json.loads((GOLDEN / "expected.json").read_text())
LLAVA = GOLDEN / "llava-1.5-13b"


def test_llava_13b_fits_an_orin_nx(edgeq: Edgeq, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    done = edgeq("plan", LLAVA, "--device", "orin-nx-16gb", "--context", "2048", "--images", "1", "--batch", "1")
    assert (done.status, done.err) == (0, "")
    assert "13,351,494,656 parameters, 7.87 GB of weights" in done.out
    assert "An image of 336 x 336 takes 576 tokens; a token takes 819,200 bytes of KV cache." in done.out
    assert "It fits Jetson Orin NX 16 GB with" in done.out


def test_ceilings_stand_below_the_memory(edgeq: Edgeq, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each mode of the device has a line, in a terminal of 80 columns; none where its modes are not known."""
    monkeypatch.setenv("COLUMNS", "80")
    asked = ("plan", GOLDEN / "llava-1.5-7b", "--context", "640", "--device")
    done = edgeq(*asked, "orin-nx-16gb")
    rows = [line.split() for line in done.out.partition("by power mode")[2].splitlines()]
    lines = {row[0]: row for row in rows if row}
    assert lines["40W"] == ["40W", "8", "x", "1,173", "102.4", "19.2", "26.0", "memory", "1,484", "19"]
    assert lines["25W"] == ["25W", "8", "x", "408", "102.4", "6.7", "9.9", "issue", "516", "56"]
    assert "not measured: nothing reaches it" in done.out
    planned = Planned.model_validate_json(edgeq(*asked, "orin-nx-16gb", "--json").out)
    assert [one.mode.name for one in planned.ceilings] == ["MAXN_SUPER", "40W", "25W", "15W", "10W"]
    assert "ceilings" not in json.loads(edgeq(*asked, "this-machine", "--json").out)


@pytest.mark.parametrize("verb", ["plan", "prepare"])
def test_the_help_lists_the_devices(edgeq: Edgeq, verb: str) -> None:
    shown = "".join(edgeq(verb, "--help").out.split())
    assert "".join(f"{name}," for name in PROFILES) + "this-machine." in shown


def test_what_does_not_fit_ends_with_1_and_says_what_would(edgeq: Edgeq, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    done = edgeq("plan", LLAVA, "--device", "orin-nx-16gb", "--context", "8192")
    assert (done.status, done.err) == (1, "")
    assert "It does not fit Jetson Orin NX 16 GB by" in done.out
    assert "It would fit with context" in done.out
    none = edgeq("plan", GOLDEN / "llama-3.2-90b-vision", "--device", "orin-nx-16gb")
    assert none.status == 1
    assert "No single change would make it fit." in none.out


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number, size in enumerate([(640, 480), (4032, 3024)]):
        Image.new("RGB", size, (number, 9, 200)).save(folder / f"{number}.jpg")
    return folder


@pytest.fixture
def qwen(tmp_path: Path) -> Path:
    """Qwen2.5-VL-7B as it is published: an image keeps its size up to 12.8 megapixels."""
    model = Path(shutil.copytree(GOLDEN / "qwen2.5-vl-7b", tmp_path / "qwen"))
    limits = {"image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 3136, "max_pixels": 12_845_056}
    (model / "preprocessor_config.json").write_text(json.dumps(limits))
    return model


def test_photographs_are_counted_by_the_models_own_processor(
    edgeq: Edgeq, qwen: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """12 megapixels are 108 x 144 tokens of 28 x 28 pixels."""
    monkeypatch.setenv("COLUMNS", "200")
    given = ("plan", qwen, "--device", "orin-nx-16gb", "--images", photographs)
    done = edgeq(*given)
    assert (done.status, done.err) == (1, "")
    assert "Of 2 photographs in 2 sizes, 1.jpg (3024 x 4032) takes most, 15,554 tokens; 2 of them through" in done.out
    assert "the images alone take 15,554 tokens, more than the context of 2,048" in done.out
    flag = done.out.partition("(--max-pixels ")[2].partition(")")[0]
    bounded = edgeq(*given, "--max-pixels", flag)
    assert (bounded.status, bounded.err) == (0, "")
    assert f"Bounded to {int(flag):,} pixels an image." in bounded.out
    assert edgeq(*given, "--max-pixels", str(int(flag) + 1024)).status == 1


def test_photographs_without_a_device(edgeq: Edgeq, qwen: Path, photographs: Path) -> None:
    done = edgeq("plan", qwen, "--images", photographs, "--max-pixels", "1000000", "--json")
    planned = Planned.model_validate_json(done.out)
    assert (planned.memory, planned.parameters) == (None, EXPECTED["qwen2.5-vl-7b"]["total"])
    assert planned.photographs is not None
    assert planned.photographs.tokens < 1_000_000 / 28**2
    assert "8,292,166,656 parameters, 6.90 GB of weights." in edgeq("plan", qwen).out


def test_an_image_processor_that_is_not_there_is_said(edgeq: Edgeq, tmp_path: Path) -> None:
    """Qwen3-VL's published config allows thirteen times the pixels of the default."""
    shutil.copytree(GOLDEN / "qwen3-vl-8b", tmp_path / "model")
    asked = ("plan", tmp_path / "model", "--device", "orin-nx-16gb", "--image-size", "1080x1920")
    assert "There is no image processor's config beside the model" in edgeq(*asked).out
    published = {"image_processor_type": "Qwen2VLImageProcessor", "patch_size": 16, "merge_size": 2}
    size = {"shortest_edge": 65536, "longest_edge": 16777216}
    (tmp_path / "model" / "preprocessor_config.json").write_text(json.dumps({**published, "size": size}))
    done = edgeq(*asked)
    assert "no image processor's config" not in done.out
    assert "An image of 1080 x 1920 takes 2,040 tokens" in done.out


def test_what_is_not_done_with_a_family_is_said(edgeq: Edgeq, tmp_path: Path) -> None:
    transformers.Qwen3_5Config().save_pretrained(tmp_path)
    done = edgeq("plan", tmp_path)
    assert done.status == 0
    assert "edgeq does not know the family qwen3_5: it counts parameters and bytes, but no tokens of an" in done.out


def test_in_json_with_a_chart(edgeq: Edgeq, tmp_path: Path) -> None:
    chart = tmp_path / "chart.svg"
    given = ("--images", "2", "--batch", "3", "--image-size", "480x640", "--waterfall", chart, "--json")
    done = edgeq("plan", LLAVA, "--device", "agx-orin-64gb", *given)
    assert done.status == 0
    memory = Planned.model_validate_json(done.out).memory
    assert memory is not None
    request = memory.request
    assert (request.images, request.batch, request.image_size, request.context) == (2, 3, (480, 640), 2048)
    assert memory.parameters == EXPECTED["llava-1.5-13b"]["total"]
    assert chart.read_bytes().startswith(b"<?xml")


def test_rules_change_what_is_needed(edgeq: Edgeq, tmp_path: Path) -> None:
    """Without NF4 the language model's linear layers take 2 bytes a parameter, and 26.7 GB fit no Orin NX."""
    rules = tmp_path / "rules.yaml"
    rules.write_text(
        "version: edgeq.rules/1\nrules:\n"
        '- {name: all-fp16, component: language, precision: fp16, reason: "to see what it takes"}\n'
    )
    done = edgeq("plan", LLAVA, "--device", "orin-nx-16gb", "--rules", rules, "--json")
    assert done.status == 1
    memory = Planned.model_validate_json(done.out).memory
    assert memory is not None
    assert memory.weights_bytes == 2 * EXPECTED["llava-1.5-13b"]["total"]
    assert [change.what for change in memory.changes] == ["precision"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--device", "toaster"), "toaster is not a known device"),
        (("--device", "orin-nx-16gb", "--images", "photos"), "photos does not exist"),
        (("--device", "orin-nx-16gb", "--image-size", "big"), "--image-size big"),
        (("--device", "orin-nx-16gb", "--image-size", "0x5"), "has no tokens"),
        (("--device", "orin-nx-16gb", "--check"), "--check and --device"),
        (("--context", "100"), "--context is for --device"),
        (("--waterfall", "a.svg"), "--waterfall is for --device"),
        (("--images", "1"), "--images 1: how many are in a sequence is for --device"),
        (("--eval", "folder"), "--eval is for --check"),
        (("--max-tiles", "2"), "tiles of an image cannot be bounded in a llava model"),
        (("--max-pixels", "0"), "--max-pixels"),
    ],
)
def test_what_cannot_be_asked(edgeq: Edgeq, arguments: tuple[str, ...], words: str) -> None:
    assert_refused(edgeq("plan", LLAVA, *arguments), words)


def test_a_classifier_has_no_memory_plan(edgeq: Edgeq, tiny_model: Path) -> None:
    assert_refused(edgeq("plan", tiny_model, "--device", "orin-nx-16gb"), "is not a vision-language model")
