"""`edgeq evaluate` of a bundle of CLIP: zero-shot classification."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import Edgeq, assert_refused
from pictures import draw_pictures
from retrieval_bundle import retrieval_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return retrieval_bundle(tmp_path_factory)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_pictures(tmp_path_factory.mktemp("zero-shot") / "pictures", each=2)


def test_a_bundle_alone_for_people_and_in_json(edgeq: Edgeq, bundle: Path, labelled: Path, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("red\ta red one\nblue\ngreen\nnobody\n")
    asked = ("evaluate", bundle, "--eval", labelled, "--classes", tmp_path / "classes.txt", "--threads", "1")
    done = edgeq(*asked)
    assert done.status == 0, done.err
    assert "4 classes, 1 templates, texts in FP16" in done.out
    assert "no other text encoder" in done.out
    found = json.loads(edgeq(*asked, "--json").out)
    assert (found["made"], found["reference"], found["figures"]["images"]) == ("FP16", None, 6)
    assert found["figures"]["low"] < found["figures"]["candidate"] + 1e-9 < found["figures"]["high"] + 2e-9


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("--classes", "red\nblue", "1 folders of"),
        ("--classes", "", "has no class names"),
        ("--templates", "a photo", "has no {}"),
    ],
)
def test_what_does_not_fit_is_refused(
    file: str, text: str, told: str, edgeq: Edgeq, bundle: Path, labelled: Path, tmp_path: Path
) -> None:
    (tmp_path / "given.txt").write_text(text)
    assert_refused(edgeq("evaluate", bundle, "--eval", labelled, file, tmp_path / "given.txt"), told)


def test_flags_belong_to_a_kind_of_bundle(edgeq: Edgeq, bundle: Path, labelled: Path, tmp_path: Path) -> None:
    (tmp_path / "given.txt").write_text("red\n")
    done = edgeq("evaluate", tmp_path, "--eval", labelled, "--classes", tmp_path / "given.txt")
    assert_refused(done, "--classes", "is no bundle of a text and a vision encoder")
    done = edgeq("evaluate", bundle, "--eval", labelled, "--task", "multilabel")
    assert_refused(done, "--task", "is a bundle of a text and a vision encoder")
