"""`edgeq sensitivity` on what the other verbs leave, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command import ALLOW_FLAGS, Edgeq, assert_refused, listing
from networks import write_model
from PIL import Image

from edgeq.cli import run
from edgeq.plan.precision import Precision, PrecisionPlan
from edgeq.quantize.search.layer_search import Search
from edgeq.quantize.search.sensitivity import Sensitivity

pytestmark = pytest.mark.usefixtures("quick_latency")

INT8 = ["stem", "depthwise", "pointwise"]


@pytest.fixture(scope="module")
def made(tiny_model: Path, tiny_pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `exported`, `scales.json` and `quantized`; not to be written to."""
    folder = tmp_path_factory.mktemp("made")
    exported, scales = folder / "exported", folder / "scales.json"
    for arguments in (
        ("export", tiny_model, "--images", tiny_pictures, "-o", exported),
        ("calibrate", exported, "--images", tiny_pictures, "-o", scales),
        ("quantize", exported, "--scales", scales, *ALLOW_FLAGS, "-o", folder / "quantized"),
    ):
        assert run([str(argument) for argument in arguments]) == 0
    return folder


@pytest.fixture
def quantized(made: Path) -> Path:
    return made / "quantized"


@pytest.fixture
def exported(made: Path) -> Path:
    return made / "exported"


@pytest.fixture
def scales(made: Path) -> Path:
    return made / "scales.json"


def test_a_quantized_directory(edgeq: Edgeq, quantized: Path, tiny_pictures: Path, tmp_path: Path) -> None:
    exactly = ("--precision", "0.001", "0.001")  # percent: no layer is sure before it has seen every image
    done = edgeq("sensitivity", quantized, "--images", tiny_pictures, *exactly, "-o", tmp_path / "out", "--json")
    assert done.status == 0, done.err
    table = Sensitivity.model_validate(json.loads(done.out))
    assert [line.layer for line in table.layers] == INT8
    assert {line.alone.images for line in table.layers} == {len(list(tiny_pictures.rglob("*.jpg")))}
    assert table.int8.top1 is not None
    assert Sensitivity.load(tmp_path / "out" / "sensitivity.json") == table
    assert (tmp_path / "out" / "sensitivity.svg").read_text().startswith("<?xml")
    with Image.open(tmp_path / "out" / "sensitivity.png") as picture:
        assert picture.format == "PNG"


def test_an_exported_directory_with_scales_says_the_same(
    edgeq: Edgeq, exported: Path, scales: Path, quantized: Path, tiny_pictures: Path
) -> None:
    first = edgeq("sensitivity", quantized, "--images", tiny_pictures, "--json")
    second = edgeq("sensitivity", exported, "--scales", scales, "--images", tiny_pictures, "--json")
    assert (first.status, second.status) == (0, 0), second.err
    assert first.out == second.out


def test_a_person_sees_a_table(edgeq: Edgeq, quantized: Path, tiny_pictures: Path, tmp_path: Path) -> None:
    done = edgeq("sensitivity", quantized, "--images", tiny_pictures, "-o", tmp_path / "out")
    assert done.status == 0, done.err
    for word in (*INT8, "Worst layers", "All INT8", "3 layers, each on", "sensitivity.svg"):
        assert word in done.out, word


def test_without_an_output_nothing_is_written(
    edgeq: Edgeq, quantized: Path, tiny_pictures: Path, tmp_path: Path
) -> None:
    before = listing(tmp_path)
    assert edgeq("sensitivity", quantized, "--images", tiny_pictures).status == 0
    assert listing(tmp_path) == before


def test_images_without_classes_give_no_top1(
    edgeq: Edgeq, quantized: Path, tiny_pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "flat").mkdir()
    for picture in tiny_pictures.rglob("*.jpg"):
        shutil.copy(picture, tmp_path / "flat")
    shutil.copytree(tiny_pictures / "red", tmp_path / "other" / "mauve")
    flat = edgeq("sensitivity", quantized, "--images", tmp_path / "flat", "--json")
    other = edgeq("sensitivity", quantized, "--images", tmp_path / "other", "--json")
    for done in (flat, other):
        assert done.status == 0, done.err
        assert json.loads(done.out)["int8"]["top1"] is None
    assert "no top-1" in other.err
    assert "no top-1" not in flat.err


def test_scales_must_be_given_and_fit(
    edgeq: Edgeq, exported: Path, scales: Path, tiny_pictures: Path, tmp_path: Path
) -> None:
    assert_refused(
        edgeq("sensitivity", exported, "--images", tiny_pictures), "has no scales.json", "next: edgeq calibrate"
    )
    other = write_model(tmp_path / "other", seed=1)
    assert edgeq("export", other, "--images", tiny_pictures, "-o", tmp_path / "another").status == 0
    done = edgeq("sensitivity", tmp_path / "another", "--scales", scales, "--images", tiny_pictures)
    assert_refused(done, "the scales were made for another graph", "edgeq calibrate")


def test_what_cannot_be_used_is_refused(edgeq: Edgeq, quantized: Path, tiny_pictures: Path, tmp_path: Path) -> None:
    given = ("sensitivity", quantized, "--images", tiny_pictures)
    assert_refused(edgeq(*given, "-o", quantized), "exists already")
    assert_refused(edgeq(*given, "--precision", "0", "10"), "--precision")
    assert_refused(edgeq("sensitivity", tmp_path / "nowhere", "--images", tiny_pictures), "nowhere")
    (tmp_path / "one").mkdir()
    shutil.copy(next(tiny_pictures.rglob("*.jpg")), tmp_path / "one")
    assert_refused(edgeq("sensitivity", quantized, "--images", tmp_path / "one"), "fewer than 2 images")


def test_a_search_leaves_a_plan_that_quantize_follows(
    edgeq: Edgeq, exported: Path, scales: Path, tiny_pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Stands in for top-1, which these pictures are too easy for: one layer in floating point at the least.
    monkeypatch.setattr("edgeq.quantize.search.layer_search._lost", lambda figures: (figures.logit_error, 0.0))
    whole = edgeq(*("sensitivity", exported, "--scales", scales, "--images", tiny_pictures, "--json"))
    bound = 0.8 * json.loads(whole.out)["int8"]["logit_error"]
    flags = ("--search", "--max-drop", bound, "--max-float-share", "100")
    done = edgeq(
        *("sensitivity", exported, "--scales", scales, "--images", tiny_pictures, *flags, "-o", tmp_path / "found")
    )
    assert done.status == 0, done.err
    assert "images that were not searched" in done.out
    kept = Search.load(tmp_path / "found" / "search.json").kept
    assert kept
    plan = tmp_path / "found" / "plan.yaml"
    made = edgeq(
        *("quantize", exported, "--scales", scales, "--plan", plan, *ALLOW_FLAGS, "-o", tmp_path / "quantized")
    )
    assert made.status == 0, made.err
    assert set(kept) <= PrecisionPlan.load(tmp_path / "quantized" / "plan.yaml").layers(Precision.FP16)


def test_a_search_needs_a_bound(edgeq: Edgeq, quantized: Path, tiny_pictures: Path) -> None:
    assert_refused(edgeq("sensitivity", quantized, "--images", tiny_pictures, "--search"), "--max-drop")
    assert_refused(edgeq("sensitivity", quantized, "--images", tiny_pictures, "--max-drop", "1"), "--search")
