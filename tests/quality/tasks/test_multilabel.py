"""Labels from folders and CSV files, and figures worked out by hand."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from labels import LABELS, labelled_by_csv, write_csv
from numpy.typing import NDArray
from pictures import draw_pictures, zip_folder

from edgeq.errors import EngineError, ImageError, InputError
from edgeq.model.images.image_set import ImageSet
from edgeq.quality.tasks import multilabel
from edgeq.quality.tasks.base import Examples
from edgeq.quality.tasks.multilabel import MultiLabel, MultiLabelTask, average_precision, mean_precision

TASK = MultiLabelTask()


def plain_precision(right: NDArray[np.bool_], scores: NDArray[np.float32]) -> float:
    """Average precision straight from its definition: (R_k - R_(k-1)) P_k over every distinct threshold."""
    total, before = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        said = scores >= threshold
        recall = (right & said).sum() / right.sum()
        total += (recall - before) * (right & said).sum() / said.sum()
        before = recall
    return float(total)


def tallied(
    truth: list[tuple[str, ...]], reference: list[list[float]], candidate: list[list[float]], labels: tuple[str, ...]
) -> MultiLabel:
    names = [str(number) for number in range(len(truth))]
    images = cast(ImageSet, names)  # of which only the number is asked
    folder = Examples(images, dict(zip(names, map(frozenset, truth), strict=True)))
    tally = TASK.tally(folder, labels, len(labels))
    tally.add(names, (np.array(reference, np.float32),), (np.array(candidate, np.float32),))
    found = tally.figures()
    assert isinstance(found, MultiLabel)
    return found


def test_average_precision_of_scikit_learns_own_example() -> None:
    right, scores = np.array([False, False, True, True]), np.array([0.1, 0.4, 0.35, 0.8], np.float32)
    whole, without = average_precision(right, scores)
    # Ranked: right, wrong, right, wrong. Precision at the two right ones 1 and 2/3, each with half of the recall.
    assert whole == pytest.approx((1 + 2 / 3) / 2)
    # Without the third or the second nothing wrong is before anything right; without the fourth: wrong, right, wrong.
    assert without == pytest.approx([5 / 6, 1.0, 1.0, 1 / 2])


def test_equal_scores_are_one_threshold() -> None:
    right, scores = np.array([True, False, False, True]), np.array([1, 1, 1, 0], np.float32)
    # One of three at the first threshold, two of four at the second, each with half of the recall.
    assert average_precision(right, scores)[0] == pytest.approx((1 / 3 + 2 / 4) / 2)
    assert average_precision(np.array([True]), np.zeros(1, np.float32))[0] == 1.0


def test_the_mean_is_over_labels_that_occur() -> None:
    right = np.array([[True, False], [False, False]])
    scores = np.array([[0.0, 9.0], [1.0, 0.0]], np.float32)
    whole, without = mean_precision(right, scores)
    assert whole == pytest.approx(1 / 2)
    assert math.isnan(without[0]), "no label is left without the first image"
    assert without[1] == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_without_each_image_as_if_it_had_not_been_there(seed: int) -> None:
    rng = np.random.default_rng(seed)
    right = rng.random((23, 5)) < (0.5, 0.2, 0.1, 0.9, 0.0)
    right[:, 2] = False
    right[4, 2] = True  # the only image of its label
    scores = np.round(rng.normal(size=(23, 5)), 1).astype(np.float32)  # many are equal

    def plain(kept: NDArray[np.int64]) -> float:
        there = right[kept].any(axis=0)
        return float(np.mean([plain_precision(right[kept][:, k], scores[kept][:, k]) for k in np.flatnonzero(there)]))

    whole, without = mean_precision(right, scores)
    everything = np.arange(len(right))
    assert whole == pytest.approx(plain(everything))
    assert without == pytest.approx([plain(np.delete(everything, one)) for one in everything])


def test_figures_by_hand() -> None:
    reference = [[-2.0], [-1.0], [1.0], [2.0]]
    candidate = [[-0.275], [0.025], [-0.025], [0.425]]  # ranked as scikit-learn's example
    found = tallied([(), (), ("a",), ("a",)], reference, candidate, ("a",))
    assert (found.images, found.labels, found.map_reference) == (4, 1, 100.0)
    assert found.map_candidate == pytest.approx(100 * 5 / 6)
    assert found.drop == pytest.approx(100 / 6)
    # Without each image the drop is 1/6, 0, 0, 1/2: mean 1/6, squares around it 0, 1/36, 1/36, 1/9; 3/4 of their sum.
    assert found.drop_standard_error == pytest.approx(100 * math.sqrt(3 / 4 * 1 / 6))
    # The candidate says yes to the second and the fourth: one right, one wrong, one missed.
    assert (found.micro_f1_reference, found.micro_f1_candidate) == (100.0, 50.0)
    assert found.same_labels == 50.0
    assert found.logit_error == pytest.approx(math.sqrt((1.725**2 + 2 * 1.025**2 + 1.575**2) / 10), rel=1e-6)
    assert found.headline().drop == found.drop
    assert found.rows()[0] == ("mAP", "100.00 %", "83.33 %", "-16.67 ± 35.36 points")


def test_a_standard_error_that_cannot_be_told_is_left_out() -> None:
    found = tallied([("a",), ()], [[1.0], [0.0]], [[0.0], [1.0]], ("a",))
    assert (found.drop, found.drop_standard_error) == (50.0, None)
    assert found.rows()[0][3] == "-50.00 points"


def test_what_cannot_be_judged_is_an_error() -> None:
    with pytest.raises(ImageError, match="no labelled image"):
        tallied([(), ()], [[1.0], [0.0]], [[1.0], [0.0]], ("a",))
    with pytest.raises(EngineError, match="INT8 network gave NaN"):
        tallied([("a",)], [[1.0]], [[math.nan]], ("a",))
    with pytest.raises(ImageError, match="1 of 1 labels are no class of the model: b"):
        tallied([("b",)], [[1.0]], [[1.0]], ("a",))


def test_too_many_logits_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    labelled_by_csv(tmp_path / "set", each=4)
    monkeypatch.setattr(multilabel, "MAX_SCORES", 30)  # 12 images, 3 labels
    with pytest.raises(ImageError, match="too many to judge"):
        TASK.open(tmp_path / "set", LABELS)


def test_a_csv_in_the_set_or_beside_it_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = labelled_by_csv(tmp_path / "set", each=4)
    wanted = {name: frozenset(labels) for name, labels in truth.items()}
    inside = TASK.open(tmp_path / "set", LABELS)
    assert (len(inside), inside.truth) == (12, wanted)
    archive = zip_folder(tmp_path / "set", tmp_path / "all.zip")
    assert TASK.open(archive, LABELS).truth == wanted
    shutil.move(tmp_path / "set" / "labels.csv", tmp_path / "set.csv")
    assert TASK.open(tmp_path / "set", None).truth == wanted
    monkeypatch.chdir(tmp_path / "set")
    assert TASK.open(Path(), None).truth == wanted
    without = zip_folder(tmp_path / "set", tmp_path / "set.zip")
    assert TASK.open(without, LABELS).truth == wanted
    shutil.copy(tmp_path / "set.csv", tmp_path / "set" / "labels.csv")
    with pytest.raises(InputError, match="two files of labels"):
        TASK.open(tmp_path / "set", LABELS)


def test_a_column_for_each_label_says_the_same(tmp_path: Path) -> None:
    truth = labelled_by_csv(tmp_path / "set", each=4)
    lines = [f"{name},{','.join(str(int(label in labels)) for label in LABELS)}" for name, labels in truth.items()]
    text = "\r\n".join(["\ufeffimage," + ",".join(LABELS), "", *lines])
    (tmp_path / "set" / "labels.csv").write_text(text, encoding="utf-8", newline="")
    assert TASK.open(tmp_path / "set", LABELS).truth == {name: frozenset(labels) for name, labels in truth.items()}


def test_an_image_in_several_folders_has_all_their_labels(tmp_path: Path) -> None:
    folder = draw_pictures(tmp_path / "set", each=2)
    shutil.copy(folder / "red" / "red-000.jpg", folder / "blue" / "red-000.jpg")
    shutil.copy(folder / "red" / "red-001.jpg", folder / "green" / "other-name.jpg")
    found = TASK.open(folder, LABELS)
    assert [item.name for item in found.images.items] == [
        "blue/blue-000.jpg",
        "blue/blue-001.jpg",
        "blue/red-000.jpg",
        "green/green-000.jpg",
        "green/green-001.jpg",
        "green/other-name.jpg",
    ]
    assert found.truth["blue/red-000.jpg"] == {"blue", "red"}
    assert found.truth["green/other-name.jpg"] == {"green", "red"}
    assert found.truth["blue/blue-000.jpg"] == {"blue"}


def test_one_name_for_different_images_is_refused(tmp_path: Path) -> None:
    folder = draw_pictures(tmp_path / "set", each=2)
    shutil.copy(folder / "red" / "red-000.jpg", folder / "blue" / "blue-000.jpg")
    shutil.move(folder / "green" / "green-000.jpg", folder / "red" / "blue-000.jpg")
    with pytest.raises(ImageError, match="the same name and other bytes"):
        TASK.open(folder, LABELS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("image,labels\n", "gives no image a label"),
        ("image,labels\na.jpg,\nb.jpg,\n", "gives no image a label"),
        ("image,red\na.jpg,0\nb.jpg,0\n", "gives no image a label"),
        ("name,labels\na.jpg,red\n", "begins with 'name,labels'"),
        ("image;labels\na.jpg;red\n", "begins with"),
        ("image,labels\na.jpg,red\nc.jpg,red\n", "line 3: there is no image c.jpg"),
        ("image,labels\na.jpg,red\n", "1 of 2 images are not in"),
        ("image,labels\na.jpg,red\na.jpg,blue\n", "line 3: a.jpg is there already"),
        ("image,labels\na.jpg,red;red\nb.jpg,\n", "has the label red twice"),
        ("image,red,red\na.jpg,1,1\nb.jpg,0,0\n", "has the column red twice"),
        ("image,red\na.jpg,yes\nb.jpg,0\n", "line 2: 'yes' stands in a label's column"),
        ("image,labels\na.jpg,red,blue\nb.jpg,\n", "line 2: 3 cells, the first line has 2"),
        ("image,labels\na.jpg,mauve\nb.jpg,\n", "1 of 1 labels of .* are no class of the model: mauve"),
        ("image,red,mauve\na.jpg,1,0\nb.jpg,0,0\n", "1 of 2 labels of .* are no class of the model: mauve"),
        ("image,labels\na.jpg,red|blue\nb.jpg,\n", r"no class of the model: red\|blue"),
        ('image,labels\na.jpg,"red\n', "line 2"),
    ],
)
def test_a_csv_that_cannot_be_used_is_refused(text: str, words: str, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    drawn = draw_pictures(tmp_path / "drawn", each=1)
    folder.mkdir()
    shutil.copy(drawn / "red" / "red-000.jpg", folder / "a.jpg")
    shutil.copy(drawn / "blue" / "blue-000.jpg", folder / "b.jpg")
    (folder / "labels.csv").write_text(text)
    with pytest.raises(InputError, match=words):
        TASK.open(folder, LABELS)


def test_a_csv_that_is_no_text_or_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = labelled_by_csv(tmp_path / "set", each=1)
    (tmp_path / "set" / "labels.csv").write_bytes(b"image,labels\n\xff\xfe")
    with pytest.raises(InputError, match="is not UTF-8: byte 13"):
        TASK.open(tmp_path / "set", LABELS)
    path = write_csv(tmp_path / "set" / "labels.csv", truth)
    monkeypatch.setattr(multilabel, "MAX_CSV_BYTES", path.stat().st_size)
    assert len(TASK.open(tmp_path / "set", LABELS)) == 3
    monkeypatch.setattr(multilabel, "MAX_CSV_BYTES", path.stat().st_size - 1)
    with pytest.raises(InputError, match="too long for labels"):
        TASK.open(tmp_path / "set", LABELS)
