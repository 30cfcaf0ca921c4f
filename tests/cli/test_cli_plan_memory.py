"""`edgeq plan --device`: the memory table, the chart, and the exit status."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command import Edgeq, assert_refused

from edgeq.api.workshop.describe import Planned

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


def test_what_does_not_fit_ends_with_1_and_says_what_would(edgeq: Edgeq, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    done = edgeq("plan", LLAVA, "--device", "orin-nx-16gb", "--context", "8192")
    assert (done.status, done.err) == (1, "")
    assert "It does not fit Jetson Orin NX 16 GB by" in done.out
    assert "It would fit with context" in done.out
    none = edgeq("plan", GOLDEN / "llama-3.2-90b-vision", "--device", "orin-nx-16gb")
    assert none.status == 1
    assert "No single change would make it fit." in none.out


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
