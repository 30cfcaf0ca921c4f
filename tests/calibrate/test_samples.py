"""What a network is calibrated on: images and captions through one seam."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pictures
import pytest
import text_towers
from numpy.typing import NDArray

from edgeq.calibrate.observe import with_outputs
from edgeq.calibrate.samples import CaptionSamples, ImageSamples
from edgeq.calibrate.scales import Scales
from edgeq.calibrate.stage import calibrate, hold_back
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.errors import CalibrationError, ImageError
from edgeq.model.images.image_set import ImageSet
from edgeq.model.images.preprocess import Preprocess
from edgeq.plan.rules import plan_classifier
from edgeq.quantize.int8.qdq import calibrated_tensors

PREPROCESS = Preprocess.from_flags((0.5,) * 3, (0.25,) * 3, (16, 16))
TOKENIZER = "1" * 64


@pytest.fixture
def images(tmp_path: Path) -> ImageSamples:
    return ImageSamples(ImageSet.open(pictures.draw_pictures(tmp_path / "pictures", each=30)), PREPROCESS)


def spoil(images: ImageSamples, place: int) -> str:
    name = images.names[place]
    (images.images.path / name).write_bytes(b"no picture")
    return name


def test_images_come_in_the_order_of_their_set_and_as_their_preprocessing_makes_them(images: ImageSamples) -> None:
    bad, skipped = spoil(images, 5), list[str]()
    found = dict(images.arrays(skipped))
    assert skipped == [bad]
    assert list(found) == [item.name for item in images.images.items if item.name != bad]
    item = images.images.items[7]
    np.testing.assert_array_equal(found[item.name], PREPROCESS(images.images.read(item))[np.newaxis])
    assert images.digest(item.name) == hashlib.sha256((images.images.path / item.name).read_bytes()).hexdigest()
    assert images.preprocess_sha256 == PREPROCESS.digest
    assert images.sizes == (16, 16)


def test_a_part_of_the_images_is_that_of_their_set(images: ImageSamples) -> None:
    part = images.sample(20, seed=3)
    assert part.images == images.images.sample(20, seed=3)
    assert images.without(part.names).images == images.images.without(part.images.items)


def test_unusable_images_are_a_share_of_the_whole_set(images: ImageSamples) -> None:
    few = images.without(images.names[4:])
    spoil(few, 0)
    assert len(dict(few.arrays([], total=len(images)))) == 3
    with pytest.raises(ImageError, match="1 of 4 images"):
        list(few.arrays([]))


def captions(count: int = 40) -> CaptionSamples:
    return CaptionSamples(text_towers.captions(count), TOKENIZER)


def test_captions_come_as_they_were_given() -> None:
    given = captions(5)
    skipped: list[str] = []
    assert [name for name, _ in given.arrays(skipped)] == list(given.names) == ["0000", "0001", "0002", "0003", "0004"]
    assert all(ids is given.ids[name] for name, ids in given.arrays(skipped))
    assert (skipped, len(given), given.preprocess, given.preprocess_sha256) == ([], 5, None, TOKENIZER)
    assert given.sizes == (max(ids.shape[1] for ids in given.ids.values()),)
    ids = given.ids["0002"]
    assert given.digest("0002") == hashlib.sha256(ids.tobytes()).hexdigest()


def test_a_sample_of_captions_does_not_depend_on_their_order_or_on_the_others() -> None:
    given = captions()
    turned = CaptionSamples(dict(reversed(list(given.ids.items()))), TOKENIZER)
    chosen = given.sample(10, seed=1)
    assert set(turned.sample(10, seed=1).names) == set(chosen.names) != set(given.sample(10, seed=2).names)
    assert set(given.without(chosen.names[:3]).sample(7, seed=1).names) == set(chosen.names[3:])
    assert given.sample(100).names == given.names
    with pytest.raises(CalibrationError, match="0 captions"):
        given.sample(0)


def test_up_to_64_captions_are_held_back() -> None:
    for count, expected in ((31, None), (40, 10), (400, 64)):
        given = captions(count)
        counted, held = hold_back(given, "auto")
        assert (None if held is None else len(held)) == expected
        assert sorted((*counted.names, *(() if held is None else held.names))) == sorted(given.names)


@pytest.mark.parametrize(
    "ids",
    [
        np.zeros((1, 4), np.int32),
        np.zeros((2, 4), np.int64),
        np.zeros(4, np.int64),
        np.zeros((1, 0), np.int64),
    ],
)
def test_ids_of_another_form_are_refused(ids: NDArray[np.int64]) -> None:
    with pytest.raises(CalibrationError, match="caption odd is"):
        CaptionSamples({"odd": ids}, TOKENIZER)


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    graph = tmp_path_factory.mktemp("tower") / "text.onnx"
    onnx.save(text_towers.clip_tower(), graph)
    return graph


def counted(tower: Path, samples: CaptionSamples, checkpoint: Path | None = None) -> Scales:
    model = onnx.load(tower)
    tensors = calibrated_tensors(model, plan_classifier(model))
    return calibrate(tower, tensors, samples, method="minmax", threads=2, checkpoint=checkpoint)[0]


def test_the_ranges_are_those_of_all_captions(tower: Path) -> None:
    given = captions()
    scales = counted(tower, given)
    assert (scales.images, scales.preprocess_sha256) == (len(given), TOKENIZER)
    assert scales.image_digests == tuple(sorted(given.digest(name)[:32] for name in given.names))
    names = list(scales.tensors)
    engine = OnnxRuntimeEngine(with_outputs(onnx.load(tower), names).SerializeToString(), threads=1)
    runs = [engine.run({"input_ids": ids}, names) for ids in given.ids.values()]
    for name, tensor in scales.tensors.items():
        assert tensor.minimum == pytest.approx(min(float(run[name].min()) for run in runs), rel=1e-5)
        assert tensor.maximum == pytest.approx(max(float(run[name].max()) for run in runs), rel=1e-5)


def test_neither_order_nor_an_interruption_changes_the_scales_of_captions(tower: Path, tmp_path: Path) -> None:
    given = captions(70)
    scales = counted(tower, given)
    assert counted(tower, CaptionSamples(dict(reversed(list(given.ids.items()))), TOKENIZER)) == scales
    checkpoint = tmp_path / "partial.json"
    counted(tower, given.without(given.names[64:]), checkpoint)  # it is saved after 64
    assert checkpoint.exists()
    assert counted(tower, given, checkpoint) == scales.model_copy(update={"drift": None})
