"""Images that are no image files: arrays, parquet, tars; and which images of COCO, YOLO and VOC trees count."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgeq.errors import ImageError
from edgeq.model.images.image_set import ImageSet
from edgeq.model.images.preprocess_flags import PreprocessFlags
from edgeq.model.images.stream import ImageStream


def pixels(count: int, height: int = 5, width: int = 7, channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(count).integers(0, 256, (count, height, width, channels), dtype=np.uint8)


def read(images: ImageSet) -> NDArray[np.uint8]:
    """All images, uint8 [n, H, W, 3]."""
    return np.stack([np.asarray(images.read(item)) for item in images.items])


def png(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def write(root: Path, *names: str) -> None:
    for place, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        data = png(np.full((2, 2, 3), place, np.uint8)) if name.endswith((".png", ".jpg")) else b"0 0.5 0.5 1 1"
        (root / name).write_bytes(data)


def save(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """An .npz file."""
    np.savez(path, **arrays)  # type: ignore[arg-type]


def test_arrays_of_every_layout_are_the_same_images(tmp_path: Path) -> None:
    wanted = pixels(12)
    np.save(tmp_path / "last.npy", wanted)
    np.save(tmp_path / "first.npy", wanted.transpose(0, 3, 1, 2))
    np.savez(tmp_path / "one.npz", images=wanted, labels=np.arange(12))
    np.savez_compressed(tmp_path / "small.npz", wanted)
    (tmp_path / "folder").mkdir()
    for index, image in enumerate(wanted):
        np.save(tmp_path / "folder" / f"{index:02d}.npy", image)
    for name in ("last.npy", "first.npy", "one.npz", "small.npz", "folder"):
        images = ImageSet.open(tmp_path / name, calibration=True)
        assert np.array_equal(read(images), wanted), name
        assert len(images.labels) == (12 if name == "one.npz" else 0)
        assert images.notes == ()


@pytest.mark.parametrize(
    ("key", "values", "wanted"),
    [
        ("labels", np.array([0, 1, 1, -1]), ["0", "1", "1", None]),
        ("y", np.array([[3], [3], [10], [3]], np.uint8), ["3", "3", "10", "3"]),
        ("target", np.array(["cat", "dog", "cat", "owl"]), ["cat", "dog", "cat", "owl"]),
        ("labels", np.arange(5), [None] * 4),  # of other images
        ("labels", np.ones((4, 3), np.int64), [None] * 4),  # several for each
        ("labels", np.ones(4, np.float32), [None] * 4),
        ("bounding_boxes", np.arange(4), [None] * 4),
        ("coarse_labels", np.arange(4), [None] * 4),  # somebody else's classes
        ("test_labels", np.arange(4), [None] * 4),
    ],
)
def test_classes_lie_beside_an_array(tmp_path: Path, key: str, values: NDArray[Any], wanted: list[str | None]) -> None:
    save(tmp_path / "one.npz", {"images": pixels(4), key: values})
    assert [item.label for item in ImageSet.open(tmp_path / "one.npz").items] == wanted


def test_each_split_of_arrays_has_its_own_classes(tmp_path: Path) -> None:
    labels = {"train_labels": np.array([[7], [8], [7]]), "test_labels": np.array([8, 9])}
    save(tmp_path / "med.npz", {"train_images": pixels(3), "test_images": pixels(2), **labels})
    found = {item.name: item.label for item in ImageSet.open(tmp_path / "med.npz").items}
    assert [label for name, label in found.items() if name.startswith("train/")] == ["7", "8", "7"]
    assert [label for name, label in found.items() if name.startswith("test/")] == ["8", "9"]
    with pytest.raises(ImageError, match="several splits") as caught:
        ImageSet.open(tmp_path / "med.npz", labelled=True)
    assert "give an archive of test alone" in str(caught.value)


def test_two_arrays_of_classes_say_nothing(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", images=pixels(4), labels=np.arange(4), y=np.arange(4)[::-1])
    assert ImageSet.open(tmp_path / "two.npz").labels == ()


def test_classes_that_numpy_would_unpickle_are_refused_or_left(tmp_path: Path) -> None:
    np.savez(tmp_path / "objects.npz", images=pixels(2), labels=np.array([{"a": 1}, None], object))
    assert ImageSet.open(tmp_path / "objects.npz").labels == ()


def test_labelled_arrays_are_labelled_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "labelled.npz", images=pixels(4), labels=np.array(["cat", "dog", "cat", "dog"]))
    assert ImageSet.open(tmp_path / "labelled.npz", labelled=True).labels == ("cat", "dog")
    np.savez(tmp_path / "bare.npz", images=pixels(4))
    with pytest.raises(ImageError):
        ImageSet.open(tmp_path / "bare.npz", labelled=True)


def test_grey_arrays_and_a_stream_of_them(tmp_path: Path) -> None:
    grey = pixels(3, channels=1)[:, :, :, 0]
    np.save(tmp_path / "grey.npy", grey)
    images = ImageSet.open(tmp_path / "grey.npy")
    assert np.array_equal(read(images), np.repeat(grey[:, :, :, np.newaxis], 3, axis=3))
    preprocess = PreprocessFlags(size=(5, 7), rescale_factor=1.0, channel_order="grey").apply(None)
    ((items, made),) = ImageStream(images, preprocess, batch_size=8)
    assert len(items) == 3
    assert np.array_equal(made[:, 0], grey.astype(np.float32))


def test_the_split_to_train_with_is_taken_from_an_archive_of_two(tmp_path: Path) -> None:
    np.savez(tmp_path / "mnist.npz", x_train=pixels(4), y_train=np.arange(4), x_test=pixels(2), y_test=np.arange(2))
    images = ImageSet.open(tmp_path / "mnist.npz", calibration=True)
    assert np.array_equal(read(images), pixels(4))
    assert images.notes == (f"of {tmp_path / 'mnist.npz'}, the 4 images in train/ are used, not test/ (2)",)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), "float32"),
        (np.zeros((2, 4, 4, 5), np.uint8), r"\[2, 4, 4, 5\]"),
        (np.array([object()] * 2), "cannot be read|object"),
        (np.zeros((1, 8, 0, 3), np.uint8), "0 x 8 pixels"),
    ],
)
def test_arrays_that_are_no_images_are_refused(value: NDArray[Any], words: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", value, allow_pickle=True)
    np.savez(tmp_path / "a.npz", value)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(ImageError, match=words):
            ImageSet.open(tmp_path / name)


def test_damaged_arrays_and_lying_headers_are_refused_before_they_are_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "cut.npy", pixels(3))
    cut(tmp_path / "cut.npy")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(  # a terabyte, in a file of a hundred bytes
        header, {"descr": "|u1", "fortran_order": False, "shape": (1_000_000, 1000, 1000, 3)}
    )
    (tmp_path / "lie.npy").write_bytes(header.getvalue())
    with zipfile.ZipFile(tmp_path / "lie.npz", "w") as archive:
        archive.writestr("a.npy", header.getvalue())
    (tmp_path / "text.npz").write_bytes(b"text")
    for name in ("cut.npy", "lie.npy", "lie.npz", "text.npz"):
        with pytest.raises(ImageError, match=name.split(".")[0]):
            ImageSet.open(tmp_path / name)


def parquet(path: Path, images: NDArray[np.uint8], labels: list[int] | None, *, features: bool = True) -> None:
    """As `datasets` writes it: a struct of bytes and path, and the names of the classes in the metadata."""
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as files

    columns = {"image": [{"bytes": png(image), "path": f"{index}.png"} for index, image in enumerate(images)]}
    if labels is not None:
        columns["label"] = labels  # type: ignore[assignment]
    table = pyarrow.table(columns)
    said = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    if features:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": said}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_table(table, path, row_group_size=3)


def test_parquet_of_a_hugging_face_dataset(tmp_path: Path) -> None:
    wanted = pixels(8)
    parquet(tmp_path / "data.parquet", wanted, [0, 1, 1, 0, 1, 0, -1, 1])
    images = ImageSet.open(tmp_path / "data.parquet")
    assert np.array_equal(read(images), wanted)
    assert [item.label for item in images.items] == ["cat", "dog", "dog", "cat", "dog", "cat", None, "dog"]
    parquet(tmp_path / "bare.parquet", wanted, None, features=False)
    assert np.array_equal(read(ImageSet.open(tmp_path / "bare.parquet", calibration=True)), wanted)


def test_splits_of_parquet_files_are_told_by_their_names(tmp_path: Path) -> None:
    for name, count in (("train-00000-of-00002", 2), ("train-00001-of-00002", 3), ("validation-00000-of-00001", 4)):
        parquet(tmp_path / "data" / f"{name}.parquet", pixels(count), [0, 1] * (count // 2) + [0] * (count % 2))
    images = ImageSet.open(tmp_path, calibration=True)
    assert len(images) == 5
    assert "the 5 images in data/train/ are used, not data/validation/ (4)" in images.notes[0]
    with pytest.raises(ImageError, match=r"several splits: train/ \(5\), validation/ \(4\)"):
        ImageSet.open(tmp_path, labelled=True)
    one = ImageSet.open(tmp_path / "data" / "validation-00000-of-00001.parquet", labelled=True)
    assert one.labels == ("cat", "dog")


def test_parquet_that_names_files_reads_only_those_below(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as files

    write(tmp_path, "set/a.png", "secret.png")
    rows = [{"bytes": None, "path": path} for path in ("a.png", "../secret.png", str(tmp_path / "secret.png"))]
    files.write_table(pyarrow.table({"image": rows}), tmp_path / "set" / "some.parquet")
    images = ImageSet.open(tmp_path / "set" / "some.parquet")
    assert images.read(images.items[0]).size == (2, 2)
    for item in images.items[1:]:
        with pytest.raises(ImageError, match="has no bytes"):
            images.read(item)


def test_parquet_that_is_damaged_or_without_images_is_refused(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as files

    files.write_table(pyarrow.table({"text": ["a"], "label": [1]}), tmp_path / "text.parquet")
    with pytest.raises(ImageError, match="no columns of images; its columns are text, label"):
        ImageSet.open(tmp_path / "text.parquet")
    parquet(tmp_path / "cut.parquet", pixels(2), None)
    cut(tmp_path / "cut.parquet")
    with pytest.raises(ImageError, match="no whole parquet file"):
        ImageSet.open(tmp_path / "cut.parquet")


def test_a_shard_of_a_webdataset(tmp_path: Path) -> None:
    wanted = pixels(3)
    with tarfile.open(tmp_path / "000.tar", "w") as archive:
        for index, image in enumerate(wanted):
            for name, data in ((f"{index:04d}.png", png(image)), (f"{index:04d}.cls", b"1")):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    images = ImageSet.open(tmp_path / "000.tar", calibration=True)
    assert np.array_equal(read(images), wanted)
    assert images.ignored == 3
    assert np.array_equal(read(ImageSet.open(tmp_path, calibration=True)), wanted)
    cut(tmp_path / "000.tar")
    (tmp_path / "000.tar").write_bytes((tmp_path / "000.tar").read_bytes()[:700])
    with pytest.raises(ImageError, match="cut short"):
        ImageSet.open(tmp_path / "000.tar")


@pytest.mark.parametrize(
    ("names", "used", "notes"),
    [
        (  # YOLO
            ("images/train/a.jpg", "images/train/b.jpg", "images/val/c.jpg", "labels/train/a.txt", "labels/val/c.txt"),
            ("images/train/a.jpg", "images/train/b.jpg"),
            ("the 2 images in images/train/ are used, not images/val/ (1)",),
        ),
        (  # YOLO, the other way round
            ("train/images/a.jpg", "train/labels/a.txt", "valid/images/b.jpg", "test/images/c.jpg"),
            ("train/images/a.jpg",),
            ("the 1 images in train/ are used, not valid/ (1), test/ (1)",),
        ),
        (  # COCO, with masks of its panoptic part
            ("train2017/1.jpg", "val2017/2.jpg", "annotations/panoptic_train2017/1.png", "annotations/x.json"),
            ("train2017/1.jpg",),
            ("1 images in", "the 1 images in train2017/ are used, not val2017/ (1)"),
        ),
        (  # Pascal VOC
            ("JPEGImages/1.jpg", "SegmentationClass/1.png", "Annotations/1.xml"),
            ("JPEGImages/1.jpg",),
            ("1 images in",),
        ),
        (("masks/1.jpg", "no masks/2.jpg"), ("masks/1.jpg", "no masks/2.jpg"), ()),  # two classes
        (("train/1.jpg", "bus/2.jpg"), ("bus/2.jpg", "train/1.jpg"), ()),  # vehicles
        (("val/1.jpg", "test/2.jpg"), ("val/1.jpg",), ("the 1 images in val/ are used, not test/ (1)",)),
    ],
)
def test_trees(names: tuple[str, ...], used: tuple[str, ...], notes: tuple[str, ...], tmp_path: Path) -> None:
    write(tmp_path, *names)
    images = ImageSet.open(tmp_path, calibration=True)
    assert tuple(item.name for item in images.items) == used
    assert len(images.notes) == len(notes)
    for told, wanted in zip(images.notes, notes, strict=True):
        assert wanted in told
