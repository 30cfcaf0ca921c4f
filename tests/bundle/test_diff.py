"""What changed from one bundle to the next."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from packed import CONTENTS, make_bundle

from edgeq.bundle.diff import QUALITY, Change, ChangedFile, diff_bundles
from edgeq.bundle.errors import DigestError, ManifestError
from edgeq.bundle.needs import DeviceNeeds


def quality(top1: float, *latency: float) -> bytes:
    """Figures in the form of `quality.json`: values below others, and in lists."""
    told = {"version": "edgeq.quality/1", "answers": {"top1": top1}, "latency": [{"ms": ms} for ms in latency]}
    return json.dumps(told).encode()


def test_a_bundle_does_not_differ_from_itself(tmp_path: Path) -> None:
    contents = {**CONTENTS, QUALITY: quality(91.5, 2.0)}
    diff = diff_bundles(make_bundle(tmp_path / "a", contents), make_bundle(tmp_path / "b", contents))
    assert not any((diff.added, diff.removed, diff.changed, diff.facts, diff.figures))


def test_files(tmp_path: Path) -> None:
    before = make_bundle(tmp_path / "a", {"gone": b"1", "kept": b"22", "other": b"333", "same size": b"4444"})
    after = make_bundle(tmp_path / "b", {"kept": b"22", "other": b"55555", "same size": b"6666", "d/new": b"7"})
    diff = diff_bundles(before, after)
    assert [(file.name, file.size) for file in diff.added] == [("d/new", 1)]
    assert [(file.name, file.size) for file in diff.removed] == [("gone", 1)]
    assert diff.changed == (
        ChangedFile(name="other", size_before=3, size_after=5),
        ChangedFile(name="same size", size_before=4, size_after=4),
    )
    assert (diff.facts, diff.figures) == ((), ())


def test_what_the_manifests_say(tmp_path: Path) -> None:
    before = make_bundle(tmp_path / "a", labels=("cat", "dog"), allowed={"EQ107": "a trial"})
    after = make_bundle(
        tmp_path / "b",
        kind="vision-language",
        labels=("cat", "cow", "dog"),
        needs=DeviceNeeds(memory_bytes=5, compute_capability=("8.7",), tensorrt=">=10.3"),
    )
    assert set(diff_bundles(before, after).facts) == {
        Change(name="kind", before="classifier", after="vision-language"),
        Change(name="labels.1", before="dog", after="cow"),
        Change(name="labels.2", before=None, after="dog"),
        Change(name="allowed.EQ107", before="a trial", after=None),
        Change(name="needs.memory_bytes", before=None, after=5),
        Change(name="needs.compute_capability.0", before=None, after="8.7"),
        Change(name="needs.tensorrt", before="", after=">=10.3"),
    }


def test_quality_figures(tmp_path: Path) -> None:
    before = make_bundle(tmp_path / "a", {QUALITY: quality(91.5, 2.0, 30.0)})
    after = make_bundle(tmp_path / "b", {QUALITY: quality(91.25, 2.0)})
    assert diff_bundles(before, after).figures == (
        Change(name="answers.top1", before=91.5, after=91.25),
        Change(name="latency.1.ms", before=30.0, after=None),
    )


def test_figures_of_one_bundle_alone_are_not_compared(tmp_path: Path) -> None:
    diff = diff_bundles(make_bundle(tmp_path / "a"), make_bundle(tmp_path / "b", {**CONTENTS, QUALITY: quality(1.0)}))
    assert [file.name for file in diff.added] == [QUALITY]
    assert diff.figures == ()


def test_figures_that_are_none(tmp_path: Path) -> None:
    for number, content in enumerate((b"{", b"\xff", b"[" * 100_000)):
        bundle = make_bundle(tmp_path / str(number), {QUALITY: content})
        with pytest.raises(ManifestError, match="holds no quality figures"):
            diff_bundles(bundle, bundle)


def test_a_damaged_bundle_is_not_compared(tmp_path: Path) -> None:
    before, after = make_bundle(tmp_path / "a"), make_bundle(tmp_path / "b")
    (after / "plan.yaml").write_bytes(b"layers: {}\n")
    with pytest.raises(DigestError, match="b/plan"):
        diff_bundles(before, after)
