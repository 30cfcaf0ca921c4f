"""Canaries as they are made, and as they are read back: whatever is not what it says is refused."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from classifier_bundle import classifier_bundle
from networks import CLASSES, SIDE, tiny_network
from pictures import cut_short, draw_pictures, png_header
from PIL import Image

from edgeq.bundle.manifest import read_manifest, write_manifest
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.errors import ArtifactError, ImageError
from edgeq.model.images.image_set import ImageSet
from edgeq.model.images.preprocess import Preprocess
from edgeq.runtime.canary.canaries import CANARY_LIST, ClassCanaries
from edgeq.runtime.canary.canary_set import open_canaries
from edgeq.runtime.canary.class_canaries import CANARY_SIDE, COUNT, make_class_canaries
from edgeq.runtime.canary.files import MAX_NUMBERS, read_array, read_picture

if TYPE_CHECKING:
    from edgeq.pipeline.vlm import PreparedVlm

FP32, INT8 = "model.fp32.onnx", "model.int8.ort.onnx"


@pytest.fixture
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of the tiny network; not to be written to."""
    return classifier_bundle(tmp_path_factory)


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    """A copy that may be written to."""
    return shutil.copytree(made, tmp_path / "bundle")


def edited(bundle: Path, kind: Any = "classifier", **changes: Any) -> Path:
    """The bundle with other values in its list of canaries, and a manifest that lists it as it is."""
    path = bundle / CANARY_LIST
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    write_manifest(bundle, kind=kind, labels=CLASSES if kind == "classifier" else ())
    return bundle


def refused(bundle: Path, words: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        open_canaries(bundle)
    assert words in str(caught.value)


def test_a_classifiers_bundle_has_canaries_of_every_class(made: Path) -> None:
    names = {file.name for file in read_manifest(made).files}
    wanted = {CANARY_LIST, "canaries/fp32.npy", "canaries/int8.npy", *(f"canaries/{n}.png" for n in range(COUNT))}
    assert {name for name in names if name.startswith("canaries/")} == wanted
    colours = []
    for number in range(COUNT):
        with Image.open(made / "canaries" / f"{number}.png") as image:
            mean = np.asarray(image).mean(axis=(0, 1))
        colours.append(("red", "green", "blue")[int(mean.argmax())])
    assert sorted(Counter(colours).values()) == [2, 3, 3]  # 8 over 3 folders


def test_the_logits_are_those_of_both_graphs_on_what_the_png_holds(made: Path) -> None:
    opened = open_canaries(made)
    engines = [OnnxRuntimeEngine(made / name, threads=1) for name in (FP32, INT8)]
    for known in opened.known:
        assert known.feeds["pixel_values"].shape == (1, 3, SIDE, SIDE)
        assert known.same_pixels
        fp32, int8 = (engine.run(known.feeds)["logits"] for engine in engines)
        np.testing.assert_array_equal(known.reference, fp32)
        np.testing.assert_array_equal(known.int8, int8)
    assert (opened.graph, opened.reference_graph, opened.outputs) == (made / INT8, made / FP32, ("logits",))
    assert len(opened.known) == COUNT


def small_set(folder: Path, *images: Image.Image) -> ImageSet:
    folder.mkdir()
    for number, image in enumerate(images):
        image.save(folder / f"{number}.png")
    return ImageSet.open(folder)


def graphs(directory: Path) -> Path:
    """A directory with the same graph under both names."""
    directory.mkdir()
    for name in (FP32, INT8):
        (directory / name).write_bytes(tiny_network().SerializeToString())
    return directory


def preprocess(resize: tuple[int, int] | None = (SIDE, SIDE)) -> Preprocess:
    return Preprocess(SIDE, SIDE, resize=resize, resample=2, center_crop=resize is None, scale=1 / 255)


@pytest.mark.parametrize(("resize", "size"), [((SIDE, SIDE), (CANARY_SIDE, 512)), (None, (2000, 1000))])
def test_a_large_image_is_made_smaller_unless_its_size_matters(
    tmp_path: Path, resize: tuple[int, int] | None, size: tuple[int, int]
) -> None:
    images = small_set(tmp_path / "in", Image.new("RGB", (2000, 1000), "green"))
    make_class_canaries(graphs(tmp_path / "b"), images, preprocess(resize), fp32=FP32, int8=INT8, threads=1)
    with Image.open(tmp_path / "b" / "canaries" / "0.png") as image:
        assert image.size == size


def test_images_that_cannot_be_read_are_passed_over(tmp_path: Path) -> None:
    images = small_set(tmp_path / "in", *(Image.new("RGB", (9, 9), (20 * n, 0, 0)) for n in range(COUNT + 2)))
    for name in ("0.png", "5.png"):
        cut_short(tmp_path / "in" / name)
    made = make_class_canaries(graphs(tmp_path / "b"), images, preprocess(), fp32=FP32, int8=INT8, threads=1)
    assert len(made.canaries) == COUNT
    for item in images.items:
        (tmp_path / "in" / item.name).write_bytes(b"none")
    with pytest.raises(ImageError, match=r"no image in .* can be read"):
        make_class_canaries(graphs(tmp_path / "c"), images, preprocess(), fp32=FP32, int8=INT8, threads=1)


def test_a_bundle_without_canaries_says_what_to_do(bundle: Path) -> None:
    shutil.rmtree(bundle / "canaries")
    write_manifest(bundle)
    refused(bundle, "has no canaries")
    refused(bundle, "next: make the bundle again with edgeq prepare")


def test_a_changed_byte_is_seen_before_anything_is_read(bundle: Path) -> None:
    with (bundle / "canaries" / "fp32.npy").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ArtifactError):
        open_canaries(bundle)


def test_the_list_of_another_kind(bundle: Path) -> None:
    write_manifest(bundle, kind="vision-language")
    refused(bundle, "holds no canaries of a vision-language model")


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "edgeq.class-canaries/2"},
        {"fp32_logits": "../model.fp32.onnx"},
        {"int8": "/etc/passwd"},
        {"int8_logits": ".hidden"},
        {"canaries": []},
        {"canaries": [{"image": "0.png", "pixels_sha256": "0"}]},
        {"canaries": [{"image": "a/0.png\n", "pixels_sha256": "0" * 64}]},
        {"more": 1},
    ],
)
def test_a_list_that_lies(bundle: Path, changes: dict[str, Any]) -> None:
    refused(edited(bundle, **changes), "holds no canaries of a classifier")


def test_a_list_that_is_longer_than_its_logits(bundle: Path) -> None:
    listed = ClassCanaries.load(bundle / CANARY_LIST)
    canaries = [canary.model_dump() for canary in (*listed.canaries, listed.canaries[0])]
    refused(edited(bundle, canaries=canaries), f"fp32.npy has the shape [{COUNT}, 3]")


def test_logits_of_another_number_of_classes(bundle: Path) -> None:
    np.save(bundle / "canaries" / "int8.npy", np.zeros((COUNT, 4), np.float32))
    refused(edited(bundle), f"int8.npy has the shape [{COUNT}, 4]")


def test_a_missing_image(bundle: Path) -> None:
    (bundle / "canaries" / "3.png").unlink()
    refused(edited(bundle), "3.png cannot be used")


def test_other_pixels_than_in_the_workshop_are_noticed(bundle: Path) -> None:
    Image.new("RGB", (20, 20), "white").save(bundle / "canaries" / "1.png")
    same = [known.same_pixels for known in open_canaries(edited(bundle)).known]
    assert same == [True, False, *[True] * (COUNT - 2)]


def lying_header(path: Path) -> None:
    """A NumPy file of a few bytes that says it has 10^9 rows."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (10**9, 8)})
        file.write(b"\0" * 64)


def half(path: Path) -> None:
    np.save(path, np.ones((4, 4), np.float32))
    cut_short(path)


def archive(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=np.ones((2, 2), np.float32))


def sparse(path: Path) -> None:
    """A NumPy file as long as it says, without a byte on the disk, and longer than is read."""
    with path.open("wb") as file:
        shape = (MAX_NUMBERS // 8 + 1, 8)
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        file.truncate(file.tell() + 4 * shape[0] * shape[1])


ARRAYS: dict[str, Callable[[Path], object]] = {
    "missing": Path.exists,
    "no array": lambda path: path.write_bytes(b"no array"),
    "a claim": lying_header,
    "huge": sparse,
    "cut short": half,
    "an archive": archive,
    "a pickle": lambda path: np.save(path, np.array([[{}]], object), allow_pickle=True),
    "doubles": lambda path: np.save(path, np.ones((2, 2))),
    "big-endian": lambda path: np.save(path, np.ones((2, 2), ">f4")),
    "one axis": lambda path: np.save(path, np.ones(4, np.float32)),
    "empty": lambda path: np.save(path, np.ones((0, 4), np.float32)),
    "NaN": lambda path: np.save(path, np.array([[1, np.nan]], np.float32)),
    "infinity": lambda path: np.save(path, np.array([[1, np.inf]], np.float16)),
}


@pytest.mark.parametrize("lie", ARRAYS)
def test_numbers_that_are_none(tmp_path: Path, lie: str) -> None:
    path = tmp_path / "a.npy"
    ARRAYS[lie](path)
    with pytest.raises(ArtifactError, match=r"a\.npy"):
        read_array(path)


def test_numbers_are_read_as_they_are(tmp_path: Path) -> None:
    values = np.array([[0.5, -2], [65504, 0]], np.float16)
    np.save(tmp_path / "a.npy", values)
    found = read_array(tmp_path / "a.npy")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values.astype(np.float32))


@pytest.mark.parametrize("lie", ["missing", "cut short", "huge", "a directory"])
def test_an_image_that_is_none(tmp_path: Path, lie: str) -> None:
    path = tmp_path / "a.png"
    if lie == "huge":
        png_header(path, 60_000, 60_000)
    elif lie == "a directory":
        path.mkdir()
    elif lie == "cut short":
        draw_pictures(tmp_path / "p", each=1)
        shutil.copy(tmp_path / "p" / "red" / "red-000.jpg", path)
        cut_short(path)
    with pytest.raises(ArtifactError, match=r"the canary .*a\.png cannot be used"):
        read_picture(path)


def test_features_of_a_vision_language_model(prepared_vlm: PreparedVlm, tmp_path: Path) -> None:
    opened = open_canaries(prepared_vlm.bundle)
    assert [known.image for known in opened.known] == ["0.png", "1.png", "2.png"]
    assert all(known.reference.shape == (1, 4, 64) for known in opened.known)
    assert opened.graph.name == opened.reference_graph.name == "vision.fp16.onnx"
    other = shutil.copytree(prepared_vlm.bundle, tmp_path / "b")
    for shape, words in (((5, 64), "features of 4 image tokens"), ((4, 63), "each of 64 numbers")):
        np.save(other / "canaries" / "1.npy", np.ones(shape, np.float16))
        refused(edited(other, kind="vision-language"), words)
    refused(edited(other, kind="vision-language", canaries=[]), "has no canaries")
