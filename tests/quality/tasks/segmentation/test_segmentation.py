"""A class for each pixel: outputs of every form, masks as they are found, mIoU worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pictures import zip_folder
from PIL import Image

from edgeq.errors import EngineError, ImageError, ModelError
from edgeq.model.heads.masks import MaskHead, recognise_masks
from edgeq.model.heads.seen import Seen
from edgeq.model.images.preprocess import Preprocess
from edgeq.quality.tasks.segmentation.counts import PixelCounts, paired_error
from edgeq.quality.tasks.segmentation.masks import read_masks
from edgeq.quality.tasks.segmentation.task import SamePixelsTask, SegmentationTask

THREE = ("road", "sky", "tree")


def recognised(shapes: dict[str, Any], labels: Any = None, values: Any = None) -> MaskHead:
    return recognise_masks(Seen(shapes, 64, 96, labels, {}, values))


@pytest.mark.parametrize(
    ("shapes", "labels", "output", "channels", "last"),
    [
        ({"logits": (None, 3, 16, 24)}, THREE, "logits", 3, False),  # Segformer: a quarter of the size
        ({"logits": (1, 64, 96, 3)}, THREE, "logits", 3, True),
        ({"aux": (1, 21, 64, 96), "out": (1, 21, 64, 96)}, None, "out", 21, False),  # DeepLab
        ({"mask": (1, 1, 64, 96)}, None, "mask", 1, False),  # U-Net
        ({"mask": (1, 64, 96, 1)}, None, "mask", 1, True),
        ({"mask": (1, 1, 64, 96)}, ("background", "crack"), "mask", 1, False),
        ({"features": (1, 8, 4, 6), "logits": (1, 3, 64, 96)}, THREE, "logits", 3, False),
        ({"logits": (None, 3, None, None)}, THREE, "logits", 3, False),
    ],
)
def test_the_output_is_found(shapes: Any, labels: Any, output: str, channels: int, last: bool) -> None:
    head = recognised(shapes, labels)
    assert (head.output, head.channels, head.channels_last) == (output, channels, last)
    assert head.classes == max(channels, 2)


@pytest.mark.parametrize("shapes", [{"logits": (1, 1000)}, {"classes": (1, 64, 96)}, {"logits": (1, 5, 64, 96)}])
def test_what_gives_no_class_for_each_pixel_is_refused(shapes: Any) -> None:
    with pytest.raises(ModelError, match=f"no output gives each pixel a class: {next(iter(shapes))}"):
        recognised(shapes, THREE)


def test_probabilities_have_another_threshold_than_logits() -> None:
    values = np.array([[[[0.2, 0.7]]]], np.float32)
    head = recognise_masks(Seen({"mask": (1, 1, 1, 2)}, 1, 2, None, {}, {"mask": values}))
    assert head.threshold == 0.5
    assert [found.tolist() for found in head.class_maps(values)] == [[[0, 1]]]
    logits = recognise_masks(Seen({"mask": (1, 1, 1, 2)}, 1, 2, None, {}, {"mask": 9 * values - 4}))
    assert logits.threshold == 0.0
    assert [found.tolist() for found in logits.class_maps(9 * values - 4)] == [[[0, 1]]]


@pytest.mark.parametrize("last", [False, True])
def test_scores_are_brought_to_the_inputs_size(last: bool) -> None:
    """Two columns to four: 0 and 8 become 0, 2, 6, 8, held against a class that has 3 everywhere."""
    scores = np.array([[[0.0, 8.0]], [[3.0, 3.0]]], np.float32)[None]
    head = MaskHead(output="x", channels=2, height=2, width=4, channels_last=last)
    (found,) = head.class_maps(scores.transpose(0, 2, 3, 1) if last else scores)
    assert found.tolist() == [[1, 1, 0, 0]] * 2
    with pytest.raises(EngineError, match=r"\[1, 3, 1, 3\]"):
        list(head.class_maps(np.zeros((1, 3, 1, 3), np.float32)))


def write(path: Path, values: Any, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.array(values, np.uint8))
    if mode == "P":
        image = image.convert("P")
        image.putdata([value for row in values for value in row])
    (image if mode in (None, "P") else image.convert(mode)).save(path)


def masked(folder: Path, image: str = "images/a.jpg", mask: str = "masks/a.png", mode: str | None = None) -> Path:
    write(folder / image, np.zeros((2, 4, 3)))
    write(folder / mask, [[0, 1, 2, 255], [0, 0, 1, 1]], mode)
    return folder


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/a.jpg", "masks/a.png"),
        ("images/val/a.png", "annotations/val/a.png"),
        ("a.jpg", "labels/a.png"),
        ("a.jpg", "a.png"),
        ("JPEGImages/a.jpg", "SegmentationClass/a.png"),
    ],
)
def test_masks_are_found(tmp_path: Path, image: str, mask: str) -> None:
    found = read_masks(masked(tmp_path / "set", image, mask), 3)
    assert [item.name for item in found.images.items] == [image]
    assert found.truth[image].read().tolist() == [[0, 1, 2, 255], [0, 0, 1, 1]]
    assert found.values == {0, 1, 2, 255}
    zipped = read_masks(zip_folder(tmp_path / "set", tmp_path / "set.zip"), None)
    assert zipped.truth[image].read().shape == (2, 4)


@pytest.mark.parametrize("mode", ["P", "L"])
def test_an_indexed_png_holds_its_indices(tmp_path: Path, mode: str) -> None:
    assert read_masks(masked(tmp_path, mode=mode), 3).truth["images/a.jpg"].read()[0].tolist() == [0, 1, 2, 255]


def test_what_is_wrong_with_masks_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"masks/a\.png has the class 2, the model has 2"):
        read_masks(masked(tmp_path), 2)
    write(tmp_path / "images" / "b.jpg", np.zeros((2, 4, 3)))
    with pytest.raises(ImageError, match=r"1 of 2 images .* the first is images/b\.jpg"):
        read_masks(tmp_path, 3)
    write(tmp_path / "masks" / "b.png", np.zeros((4, 2)))
    with pytest.raises(ImageError, match=r"masks/b.png has 2 x 4 pixels"):
        read_masks(tmp_path, 3)
    write(tmp_path / "masks" / "b.png", np.zeros((2, 4, 3)))
    with pytest.raises(ImageError, match=r"masks/b.png is no mask: .* of mode RGB"):
        read_masks(tmp_path, 3)
    (tmp_path / "masks" / "b.png").write_bytes(b"no PNG")
    with pytest.raises(ImageError, match=r"masks/b.png cannot be read"):
        read_masks(tmp_path, 3)
    with pytest.raises(ImageError, match="has no masks"):
        read_masks(tmp_path / "images", 3)


def scores_of(classes: Any, channels: int = 3) -> NDArray[np.float32]:
    scores: NDArray[np.float32] = np.eye(channels, dtype=np.float32)[np.array(classes)].transpose(2, 0, 1)[None]
    return scores


def task(height: int = 2, width: int = 4, **more: Any) -> SegmentationTask:
    head = MaskHead(**{"output": "x", "channels": 3, "height": height, "width": width, **more})
    return SegmentationTask(head, Preprocess(height, width, (height, width), 0, center_crop=False, scale=1.0))


def test_mean_iou_by_hand(tmp_path: Path) -> None:
    """Truth 0 1 2 - / 0 0 1 1; FP32 is right but for one pixel of 1 that it takes for 0; INT8 says 0 everywhere."""
    examples = read_masks(masked(tmp_path), 3)
    tally = task().tally(examples, THREE, 3)
    ours, theirs = scores_of([[0, 1, 2, 0], [0, 0, 1, 0]]), scores_of(np.zeros((2, 4), int))
    tally.add(["images/a.jpg"], (ours,), (theirs,))
    figures: Any = tally.figures()
    assert (figures.images, figures.classes, figures.drop_standard_error) == (1, 3, None)
    assert figures.miou_reference == pytest.approx(100 * (3 / 4 + 2 / 3 + 1) / 3)
    assert figures.miou_candidate == pytest.approx(100 * (3 / 7 + 0 + 0) / 3)
    assert figures.accuracy_reference == pytest.approx(100 * 6 / 7)
    assert figures.accuracy_candidate == pytest.approx(100 * 3 / 7)
    assert figures.same == pytest.approx(100 * 4 / 7)


def test_black_and_white_masks_of_one_thing(tmp_path: Path) -> None:
    write(tmp_path / "images" / "a.jpg", np.zeros((1, 4, 3)))
    write(tmp_path / "masks" / "a.png", [[0, 255, 255, 0]])
    tally = task(1, 4, channels=1).tally(read_masks(tmp_path, None), None, 1)
    logits = np.array([[[[-1, 1, 1, -1]]]], np.float32)
    tally.add(["images/a.jpg"], (logits,), (logits,))
    assert tally.figures().headline().reference == 100.0


def test_a_crop_judges_what_it_shows(tmp_path: Path) -> None:
    """The middle two columns of four are seen: classes 1 and 2, 0 and 1."""
    examples = read_masks(masked(tmp_path), 3)
    cut = Preprocess(2, 2, None, 0, center_crop=True, scale=1.0)
    tally = SegmentationTask(MaskHead(output="x", channels=3, height=2, width=2), cut).tally(examples, THREE, 3)
    right = scores_of([[1, 2], [0, 1]])
    tally.add(["images/a.jpg"], (right,), (right,))
    assert tally.figures().headline().reference == 100.0


def test_the_error_of_a_drop_is_paired_and_certain() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = PixelCounts(3), PixelCounts(3)
    for _ in range(40):
        truth = rng.integers(0, 3, 200)
        said = np.where(rng.random(200) < rng.uniform(0.5, 1.0), truth, rng.integers(0, 3, 200))
        ours.add(truth, said)
        theirs.add(truth, np.where(rng.random(200) < 0.99, said, 0))
    assert paired_error(ours, ours) == 0.0
    error = paired_error(ours, theirs)
    assert error is not None
    assert error == paired_error(ours, theirs)
    assert 0.0 < error < 1.0  # one pixel of a hundred differs


def test_without_masks_fp32_stands_in_for_what_is_right() -> None:
    tally = SamePixelsTask(MaskHead(output="x", channels=3, height=1, width=4)).begin()
    tally.add(["0"], (scores_of([[0, 0, 1, 1]]),), (scores_of([[0, 0, 1, 0]]),))
    figures: Any = tally.figures()
    assert figures.same == pytest.approx(75.0)
    assert figures.mean_iou == pytest.approx(100 * (2 / 3 + 1 / 2) / 2)
    headline = figures.headline()
    assert headline.drop == pytest.approx(0.25)
    assert not headline.labelled
