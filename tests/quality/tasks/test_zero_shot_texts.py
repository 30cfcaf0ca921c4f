"""Class names and templates: what is read, and what is refused with the line that is at fault."""

from __future__ import annotations

from pathlib import Path

import pytest
from pictures import draw_pictures

from edgeq.errors import InputError
from edgeq.model.images.image_set import ImageSet
from edgeq.quality.tasks import zero_shot
from edgeq.quality.tasks.zero_shot import ClassTexts


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    """One picture in each of `blue`, `green` and `red`."""
    return ImageSet.open(draw_pictures(tmp_path_factory.mktemp("classes") / "pictures", each=1), labelled=True)


def opened(images: ImageSet, folder: Path, classes: str | None = None, templates: str | None = None) -> ClassTexts:
    files: dict[str, Path | None] = {"classes": None, "templates": None}
    for name, text in (("classes", classes), ("templates", templates)):
        if text is not None:
            files[name] = folder / f"{name}.txt"
            (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return ClassTexts.open(images, **files)


def test_folders_are_names_where_nothing_is_given(images: ImageSet, tmp_path: Path) -> None:
    found = opened(images, tmp_path)
    assert found.names == ("blue", "green", "red")
    assert found.labels.tolist() == [0, 1, 2]
    assert found.texts() == ["a photo of a blue.", "a photo of a green.", "a photo of a red."]


def test_classes_keep_their_order_and_may_have_no_image(images: ImageSet, tmp_path: Path) -> None:
    found = opened(
        images, tmp_path, "\ufeffred\r\nnobody\n\nblue\tdeep {} blue\n green \t leaf green \n", "{}\n a {} {} \n{}\n"
    )
    assert found.names == ("red", "nobody", "deep {} blue", "leaf green")
    assert found.labels.tolist() == [2, 3, 0], "blue, green, red"
    assert found.templates == ("{}", "a {} {}")
    assert found.texts()[-2:] == ["leaf green", "a leaf green leaf green"]


@pytest.mark.parametrize(
    ("classes", "templates", "told"),
    [
        ("red\nblue", None, "1 folders of .* are no class of .*: green"),
        ("\n", None, "has no class names"),
        ("red\nblue\ngreen\nred", None, "line 4: red is there already"),
        ("red\nblue\tRED\ngreen", None, "two classes are called red"),
        ("green", None, "there is one class"),
        (None, "a photo of a {}.\na photo", "line 2 has no {}: a photo"),
        (None, "", "has no templates"),
        (None, "{}" + "x" * 5000, "line 1 is too long"),
        (None, "{}\n{} 1\n{} 2\n{} 3", "3 classes in 4 templates are 12 texts"),
    ],
)
def test_what_does_not_fit_is_told_with_its_line(
    classes: str | None,
    templates: str | None,
    told: str,
    images: ImageSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(zero_shot, "MAX_CLASS_TEXTS", 11)
    with pytest.raises(InputError, match=told):
        opened(images, tmp_path, classes, templates)


def test_files_that_are_none(images: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        ClassTexts.open(images, tmp_path / "missing.txt")
    with pytest.raises(InputError, match="is not a file"):
        ClassTexts.open(images, None, tmp_path)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(InputError, match="is not UTF-8: byte 3"):
        ClassTexts.open(images, tmp_path / "latin.txt")
