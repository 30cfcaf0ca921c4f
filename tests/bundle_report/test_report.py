"""The report of a bundle: every figure is the artifact's, nothing hostile is alive, old bundles are read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from classifier_bundle import classifier_bundle
from packed import make_bundle
from parsed_page import Element, parse_page
from square_detector import detector_place

import edgeq
from edgeq.bundle.errors import DigestError, UnsignedError
from edgeq.bundle.keys import KeyPair
from edgeq.bundle.manifest import Manifest, read_manifest, write_manifest
from edgeq.bundle_report.card import CARD
from edgeq.bundle_report.words import LONGEST, shown
from edgeq.errors import OutputError
from edgeq.plan.memory import MemoryPlan
from edgeq.quality.judge import Quality
from edgeq.quality.tasks.answer_figures import VlmQuality
from edgeq.quality.tasks.classification import ChangedAnswer

OLD = Path(__file__).resolve().parents[1] / "golden" / "bundles-0.1.0"
HOSTILE = "</td></title><script>alert(1)</script><img src=http://a.invalid/x onerror=alert(1)>"
SECTIONS = ["model", "plan", "memory", "figures", "changed", "layers", "canaries", "guards", "verified", "versions"]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier_bundle(tmp_path_factory)


def page_of(bundle: Path, tmp_path: Path, beside: Path | None = None, images: Path | None = None) -> Element:
    return parse_page(edgeq.report(bundle, tmp_path / "report.html", beside=beside, images=images).read_text())


def section(page: Element, name: str) -> Element:
    return next(each for each in page.all("section") if each.attributes["id"] == name)


def rows(element: Element) -> list[list[str]]:
    return [[cell.text for cell in row.all("td")] for row in element.all("tr") if row.all("td")]


def change(bundle: Path, name: str, content: str, **manifest: object) -> None:
    """Another content of a file, and a manifest that lists it: what somebody hostile can do."""
    (bundle / name).write_text(content)
    told = read_manifest_unchecked(bundle)
    known = {"kind": told.kind, "labels": told.labels, "allowed": told.allowed, "task": told.task}
    write_manifest(bundle, **{**known, **manifest})  # type: ignore[arg-type]


def read_manifest_unchecked(bundle: Path) -> Manifest:
    return Manifest.model_validate_json((bundle / "manifest.json").read_bytes())


def test_it_says_what_the_artifacts_say(classifier: Path, tmp_path: Path) -> None:
    page = page_of(classifier, tmp_path)
    quality = Quality.load(classifier / "quality.json")
    assert quality.answers is not None
    assert [each.attributes["id"] for each in page.all("section")] == SECTIONS
    top1 = next(row for row in rows(section(page, "figures")) if row[0] == "top-1")
    assert top1[1:3] == [f"{quality.answers.top1_reference:.2f} %", f"{quality.answers.top1_candidate:.2f} %"]
    layers = rows(section(page, "plan").all("details")[-1])
    assert len(layers) == len(edgeq.PrecisionPlan.load(classifier / "plan.yaml").decisions)
    listed = rows(section(page, "versions").all("details")[0])
    manifest = read_manifest(classifier)
    assert listed == [[file.name, f"{file.size:,}", file.sha256] for file in manifest.files]
    assert [file.name for file in manifest.files if file.name == CARD] == [CARD]
    pictures = section(page, "canaries").all("img")
    assert len(pictures) == 8
    assert {each.attributes["src"][:23] for each in pictures} == {"data:image/jpeg;base64,"}
    guards = rows(section(page, "guards"))
    assert [(row[0], row[3]) for row in guards] == list(manifest.allowed.items())


def test_the_interval_is_that_of_the_standard_error(tmp_path: Path) -> None:
    """95 % of a normal distribution lie within 1.96 standard errors."""
    bundle = shutil.copytree(OLD / "classifier", tmp_path / "bundle")
    quality = Quality.load(bundle / "quality.json")
    assert quality.answers is not None
    told = quality.answers.model_copy(update={"drop": 1.0, "drop_standard_error": 0.5})
    change(bundle, "quality.json", quality.model_copy(update={"answers": told}).model_dump_json())
    assert "1.00 points (95 %: 0.02 to 1.98)" in section(page_of(bundle, tmp_path), "figures").text


@pytest.mark.parametrize("kind", ["classifier", "vlm"])
def test_old_bundles_are_read(kind: str, tmp_path: Path) -> None:
    page = page_of(OLD / kind, tmp_path)
    assert [each.attributes["id"] for each in page.all("section")] == SECTIONS
    assert "could not be read" not in section(page, "verified").text
    assert "not checked, no key was given" in section(page, "versions").text
    checked = parse_page(edgeq.report(OLD / kind, tmp_path / "checked.html", keys=[OLD / "old.public.pem"]).read_text())
    assert "which was checked" in section(checked, "versions").text


def test_a_vision_language_model(tmp_path: Path) -> None:
    page = page_of(OLD / "vlm", tmp_path)
    quality, memory = VlmQuality.load(OLD / "vlm" / "quality.json"), MemoryPlan.load(OLD / "vlm" / "memory.json")
    changed = rows(section(page, "changed"))
    assert [(row[0], row[2], row[3]) for row in changed] == [
        (each.image, each.reference, each.candidate) for each in quality.divergences
    ]
    items = rows(section(page, "memory").all("details")[0])
    assert len(items) == sum(len(phase.items) for phase in memory.phases)
    drawn = next(each for each in section(page, "memory").all("svg") if each.attributes.get("role") == "img")
    bars = drawn.all("rect")
    reach = float(bars[-1].attributes["x"]) + float(bars[-1].attributes["width"])
    scale = float(bars[0].attributes["width"]) / memory.device.reserve_bytes
    whole = memory.needed_bytes + memory.device.reserve_bytes
    assert reach == pytest.approx(float(bars[0].attributes["x"]) + scale * whole, abs=2.0)


def test_a_detector_is_shown_side_by_side(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    bundle = detector_place(tmp_path_factory) / "bundle"
    page = page_of(bundle, tmp_path)
    drawn = section(page, "changed").all("img")
    assert len(drawn) == len(list((bundle / "compared").iterdir())) == 4
    assert "a detector" in section(page, "model").text


def test_changed_answers_are_shown_with_both(classifier: Path, tmp_path: Path) -> None:
    """The image comes from the folder that is given; of one that is not in it only the names are told."""
    bundle = shutil.copytree(classifier, tmp_path / "bundle")
    quality = Quality.load(bundle / "quality.json")
    assert quality.answers is not None
    named = (
        ChangedAnswer(image="red/red-000.jpg", reference="red", candidate="blue", right="red"),
        ChangedAnswer(image="lost.jpg", reference="green", candidate="red", right="blue"),
    )
    answers = quality.answers.model_copy(update={"changed": named, "agreement": 90.0})
    change(bundle, "quality.json", quality.model_copy(update={"answers": answers}).model_dump_json())
    page = section(page_of(bundle, tmp_path, images=classifier.parent / "pictures"), "changed")
    assert [each.attributes["alt"] for each in page.all("img")] == ["red/red-000.jpg: blue instead of red"]
    assert rows(page) == [["red/red-000.jpg", "red", "blue", "red"], ["lost.jpg", "green", "red", "blue"]]


def test_two_bundles_beside_each_other(classifier: Path, tmp_path: Path) -> None:
    page = page_of(classifier, tmp_path, beside=OLD / "classifier")
    ours, theirs = (Quality.load(each / "quality.json").answers for each in (classifier, OLD / "classifier"))
    assert ours is not None
    assert theirs is not None
    top1 = next(row for row in rows(section(page, "figures")) if row[0] == "top-1")
    assert top1[1] == f"{ours.top1_reference:.2f} %"
    assert top1[4] == f"{theirs.top1_reference:.2f} %"
    assert len(rows(section(page, "plan"))) > 0
    same = parse_page(edgeq.report(classifier, tmp_path / "same.html", beside=classifier).read_text())
    assert "plan.yaml is the same in both." in section(same, "plan").text
    assert "0 files differ" in section(same, "files").text
    assert "differs" not in section(same, "facts").text


def test_memory_of_two_is_compared(tmp_path: Path) -> None:
    other = shutil.copytree(OLD / "vlm", tmp_path / "other")
    memory = MemoryPlan.load(other / "memory.json")
    device = memory.device.model_copy(update={"total_bytes": 2 * memory.device.total_bytes})
    change(other, "memory.json", memory.model_copy(update={"device": device, "needed_bytes": 7}).model_dump_json())
    page = section(page_of(OLD / "vlm", tmp_path, beside=other), "memory")
    assert len(page.all("svg")) == 2 + 6  # two charts, and what their looks stand for
    whole = rows(page)[-1]
    assert (whole[0], whole[2]) == ("all of it", "0.0 kB")


def test_nothing_hostile_is_alive(classifier: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(classifier, tmp_path / "bundle")
    labels = (HOSTILE, "b\u202egnp", "c" * 100_000)
    config = json.dumps({"architectures": [HOSTILE], "model_type": HOSTILE})
    change(bundle, "config.json", config, labels=labels, allowed={"EQ104": HOSTILE, HOSTILE: HOSTILE})
    text = edgeq.report(bundle, tmp_path / "report.html").read_text()
    page = parse_page(text)
    assert page.all("script", "iframe", "object", "embed", "link", "form", "base") == []
    assert [name for each in page.walk() for name in each.attributes if name.startswith("on")] == []
    linked = [each.attributes[name] for each in page.walk() for name in ("src", "href") if name in each.attributes]
    assert {value[:1] if value.startswith("#") else value[:5] for value in linked} <= {"#", "data:"}
    assert HOSTILE in page.text.replace("  ", " ")
    assert "\u202e" not in text
    assert "c" * (LONGEST + 1) not in text
    assert len(text) < 1_000_000
    markdown = edgeq.report(bundle, tmp_path / "report.md").read_text()
    assert "<script" not in markdown
    assert "<img" not in markdown
    assert "\\/\\/a.invalid" in markdown


def test_an_artifact_of_another_form_is_named_and_the_rest_is_told(classifier: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(classifier, tmp_path / "bundle")
    change(bundle, "quality.json", '{"version": "edgeq.quality/99"}')
    page = page_of(bundle, tmp_path)
    assert "quality.json could not be read" in section(page, "verified").text
    assert len(section(page, "canaries").all("img")) == 8


def test_a_bundle_of_nothing_has_a_report(tmp_path: Path) -> None:
    page = page_of(make_bundle(tmp_path / "bundle"), tmp_path)
    assert [each.attributes["id"] for each in page.all("section")] == SECTIONS
    assert "plan.yaml could not be read" in section(page, "verified").text


def test_a_damaged_bundle_is_refused_and_nothing_is_written(classifier: Path, ours: KeyPair, tmp_path: Path) -> None:
    bundle = shutil.copytree(classifier, tmp_path / "bundle")
    with pytest.raises(UnsignedError):
        edgeq.report(bundle, tmp_path / "report.html", keys=[ours.public])
    data = bytearray((bundle / "scales.json").read_bytes())
    data[5] ^= 1
    (bundle / "scales.json").write_bytes(data)
    with pytest.raises(DigestError):
        edgeq.report(bundle, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("name", ["report.pdf", "report", "bundle/report.html"])
def test_a_report_goes_where_it_harms_nothing(name: str, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    with pytest.raises(OutputError):
        edgeq.report(bundle, tmp_path / name)
    read_manifest(bundle)


def test_what_cannot_be_seen_is_told() -> None:
    assert shown("a\u202eb\nc\x00") == "a\\u202eb c\\u0000"
    assert shown("ab" * 10, most=3) == "aba … (17 more characters)"
