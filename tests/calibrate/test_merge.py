"""A calibration set split over runs: interrupted and resumed, or counted apart and merged."""

from __future__ import annotations

from pathlib import Path

import networks
import pictures
import pytest

from edgeq.calibrate.merge import merge_scales
from edgeq.calibrate.samples import ImageSamples
from edgeq.calibrate.scales import PackedHistogram, Scales
from edgeq.calibrate.stage import calibrate
from edgeq.errors import ArtifactError, CalibrationError
from edgeq.model.checkpoint.source import ModelSource
from edgeq.model.images.image_set import ImageSet
from edgeq.pipeline.stages import planned_tensors


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    return ImageSet.open(pictures.draw_pictures(tmp_path / "pictures", each=40))


@pytest.fixture
def model(tmp_path: Path, images: ImageSet) -> tuple[Path, ModelSource]:
    return networks.export_tiny(tmp_path, images)


def run(model: tuple[Path, ModelSource], images: ImageSet, checkpoint: Path | None = None) -> Scales:
    graph, source = model
    return calibrate(graph, planned_tensors(graph), ImageSamples(images, source.preprocess), checkpoint=checkpoint)[0]


def without_drift(scales: Scales) -> Scales:
    """A run in parts cannot tell the last tenth from the rest."""
    assert scales.drift is not None
    return scales.model_copy(update={"drift": None})


class StoppedError(Exception):
    """What a test raises in the middle of a run."""


def test_two_halves_merged_are_the_whole(model: tuple[Path, ModelSource], images: ImageSet) -> None:
    half = images.sample(len(images) // 2)
    parts = [(Path("a"), run(model, half)), (Path("b"), run(model, images.without(half.items)))]
    assert merge_scales(parts, "mse") == without_drift(run(model, images))


def test_an_image_in_both_parts_is_refused(model: tuple[Path, ModelSource], images: ImageSet) -> None:
    part = run(model, images.sample(10))
    with pytest.raises(CalibrationError, match="10 images are in more than one part"):
        merge_scales([(Path("a"), part), (Path("b"), part)], "mse")


def test_a_part_may_hold_the_same_picture_under_two_names(model: tuple[Path, ModelSource], images: ImageSet) -> None:
    first = images.items[0]
    copy = images.path / Path(first.name).with_name("copy.png")
    copy.write_bytes((images.path / first.name).read_bytes())
    twofold = ImageSet.open(images.path)
    half = twofold.without(images.items[1:])
    assert len(half) == 2
    parts = [(Path("a"), run(model, half)), (Path("b"), run(model, images.without([first])))]
    assert merge_scales(parts, "mse").images == len(twofold)


@pytest.mark.parametrize("field", ["graph_sha256", "preprocess_sha256"])
def test_parts_of_different_runs_are_refused(model: tuple[Path, ModelSource], images: ImageSet, field: str) -> None:
    part = run(model, images.sample(10))
    other = part.model_copy(update={field: "0" * 64, "image_digests": ()})
    with pytest.raises(CalibrationError, match=r"b and a were made with a different (graph|preprocessing)"):
        merge_scales([(Path("a"), part), (Path("b"), other)], "mse")


def test_a_part_without_histograms_is_refused(model: tuple[Path, ModelSource], images: ImageSet) -> None:
    part = run(model, images.sample(10))
    bare = {name: tensor.model_copy(update={"histogram": None}) for name, tensor in part.tensors.items()}
    other = part.model_copy(update={"tensors": bare, "image_digests": ()})
    with pytest.raises(ArtifactError, match="b holds no histograms"):
        merge_scales([(Path("a"), part), (Path("b"), other)], "mse")


def test_a_stopped_run_goes_on_where_it_was(model: tuple[Path, ModelSource], images: ImageSet, tmp_path: Path) -> None:
    graph, source = model
    checkpoint = tmp_path / "scales.json.partial"
    seen = 0

    def stop(count: int) -> None:
        nonlocal seen
        seen += count
        if seen >= 96:
            raise StoppedError

    tensors = planned_tensors(graph)
    with pytest.raises(StoppedError):
        calibrate(graph, tensors, ImageSamples(images, source.preprocess), checkpoint=checkpoint, advance=stop)
    saved = Scales.load(checkpoint)
    assert saved.images == 64
    told: list[int] = []
    scales, _ = calibrate(
        graph, tensors, ImageSamples(images, source.preprocess), checkpoint=checkpoint, advance=told.append
    )
    assert told[0] == 64
    assert sum(told) == len(images)
    assert scales == without_drift(run(model, images))


def test_a_checkpoint_of_another_run_is_refused(
    model: tuple[Path, ModelSource], images: ImageSet, tmp_path: Path
) -> None:
    run(model, images.sample(10)).model_copy(update={"graph_sha256": "0" * 64}).save(tmp_path / "c")
    with pytest.raises(CalibrationError, match="was left by a run on another graph"):
        run(model, images, tmp_path / "c")


@pytest.mark.parametrize(
    "counts", ["", "not base64!", "AAAA", PackedHistogram(exponent=0, counts="eJwDAAAAAAE=").counts]
)
def test_damaged_histograms_are_refused(counts: str) -> None:
    with pytest.raises(ArtifactError, match="damaged"):
        PackedHistogram(exponent=0, counts=counts).unpack(0.0, 1.0)
