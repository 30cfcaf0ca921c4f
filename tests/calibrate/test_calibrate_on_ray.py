"""A calibration set counted by a real Ray cluster of two nodes, while actors and drivers die."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pictures import draw_pictures
from ray_cluster import actors, wait_for

from edgeq.api.workshop.stages import Calibrated, calibrate_model, export_model
from edgeq.calibrate import on_ray
from edgeq.calibrate.counts import Counts
from edgeq.calibrate.on_ray import OnRay
from edgeq.calibrate.samples import ImageSamples
from edgeq.calibrate.scales import Scales
from edgeq.cluster.connect import Cluster
from edgeq.errors import ImageError, InputError
from edgeq.export.stage import FP32
from edgeq.files import sha256_file
from edgeq.model.checkpoint.source import open_model
from edgeq.model.images.image_set import ImageSet
from edgeq.pipeline.stages import Progress, planned_tensors

pytest.importorskip("ray", reason="Ray is not installed: pip install 'edgeq[cluster]'")

HERE = Path(__file__).resolve().parent
PICTURES = 102


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_pictures: Path) -> Path:
    return export_model(tiny_model, tiny_pictures, tmp_path_factory.mktemp("exported") / "exported").directory


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, tiny_pictures: Path) -> Path:
    """As many as `tiny_pictures`, the first and the last of them damaged."""
    copy = shutil.copytree(tiny_pictures, tmp_path_factory.mktemp("some") / "pictures")
    for name in (names := sorted(copy.rglob("*.jpg")))[0], names[-1]:
        name.write_bytes(b"no image")
    return copy


@pytest.fixture(scope="module")
def here(exported: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Calibrated]:
    """What one process makes."""
    output = tmp_path_factory.mktemp("here") / "here.json"
    return output, calibrate_model(exported, images, output)


def on_cluster(
    address: str, exported: Path, images: Path, output: Path, progress: Progress | None = None, **options: Any
) -> Calibrated:
    return calibrate_model(exported, images, output, on="ray", address=address, actors=2, progress=progress, **options)


def test_an_actor_is_killed_and_the_scales_are_those_of_one_process(
    address: str, exported: Path, images: Path, here: tuple[Path, Calibrated], tmp_path: Path
) -> None:
    chance, killed, told = random.Random(5), list[int](), list[int]()

    def kill(stage: str, done: int, _total: int) -> None:
        if stage == "calibrate":
            told.append(done)
            if done and not killed:
                killed.append(chance.choice(actors()))
                os.kill(killed[0], signal.SIGKILL)

    there = on_cluster(address, exported, images, tmp_path / "there.json", kill)
    assert (tmp_path / "there.json").read_bytes() == here[0].read_bytes()
    assert there.skipped == here[1].skipped
    assert len(there.skipped) == 2
    assert len(killed) == 1
    # A quarter of 102 is held back to judge by, at most 64; of the rest each that can be read is counted once.
    held_back = PICTURES // 4
    unread = sum(name not in _held_back(exported, images) for name in there.skipped)
    assert told == sorted(set(told))
    assert told[-1] == PICTURES - held_back - unread
    assert len(told) - 1 >= 8  # four parts for each of two actors
    assert not actors()


def _held_back(exported: Path, images: Path) -> set[str]:
    """What `auto` judges by: a sample of its own seed."""
    return set(ImageSamples(ImageSet.open(images), open_model(exported).preprocess).sample(PICTURES // 4, seed=1).names)


def test_the_driver_is_killed_and_leaves_nothing_in_part(
    address: str, exported: Path, images: Path, here: tuple[Path, Calibrated], tmp_path: Path
) -> None:
    output = tmp_path / "out" / "scales.json"
    output.parent.mkdir()
    command = [sys.executable, *map(str, (HERE / "ray_calibration.py", address, exported, images, output))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        try:
            counted = int(driver.stdout.readline())
        finally:
            driver.kill()
    assert [path.name for path in output.parent.iterdir()] == ["scales.json.partial"]
    assert Scales.load(output.with_name("scales.json.partial")).images == counted
    wait_for(lambda: not actors())
    told = list[int]()
    on_cluster(
        address,
        exported,
        images,
        output,
        lambda stage, done, _: told.append(done) if stage == "calibrate" else None,
        resume=True,
    )
    assert told[:2] == [0, counted]
    assert [path.name for path in output.parent.iterdir()] == ["scales.json"]
    assert here[1].scales.drift is not None
    assert Scales.load(output) == here[1].scales.model_copy(update={"drift": None})  # as after any stop


def test_too_many_damaged_images_in_different_parts(address: str, exported: Path, images: Path, tmp_path: Path) -> None:
    """One of seventeen in each part: few for a part of a set of 102, too many for the set."""
    copy = shutil.copytree(images, tmp_path / "pictures")
    for path in sorted(copy.rglob("*.jpg"))[::17]:
        path.write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"[67] of 102 images in .*pictures cannot be used, that is more than 5%"):
        on_cluster(address, exported, copy, tmp_path / "scales.json", method="minmax")
    assert not (tmp_path / "scales.json").exists()


@pytest.mark.parametrize(
    ("differs", "match"),
    [
        ("graph", r"another graph on the node [\d.]+ \([0-9a-f]{8}\): its digest is [0-9a-f]{12}…, not 000000000000…"),
        ("images", r"\.jpg in .*fewer is not seen on the node [\d.]+ \([0-9a-f]{8}\)"),
        ("versions", r"the node [\d.]+ \([0-9a-f]{8}\) has onnxruntime [\d.]+, the driver 0\.1"),
    ],
)
def test_a_node_that_differs_is_named(
    address: str,
    exported: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    differs: str,
    match: str,
) -> None:
    graph, taken = exported / FP32, list[Counts]()
    samples = ImageSamples(ImageSet.open(images), open_model(exported).preprocess)
    place = draw_pictures(tmp_path / "fewer", each=2) if differs == "images" else images
    if differs == "versions":  # here alone: the nodes have processes of their own
        monkeypatch.setattr(on_ray, "version", lambda _package: "0.1")
    counting = OnRay(Cluster(address, 1), graph, planned_tensors(graph), place, samples.preprocess)
    digest = "0" * 64 if differs == "graph" else sha256_file(graph)
    with pytest.raises(InputError, match=match):
        counting(digest, samples, len(samples), None, taken.append, lambda _count: None)
    assert not taken


@pytest.mark.parametrize("cluster", [{"actors": 0}, {"cpus": 0}, {"stall_minutes": 0.0}])
def test_a_cluster_of_nothing_is_refused(cluster: dict[str, float]) -> None:
    with pytest.raises(InputError, match="one actor with one CPU or more"):
        Cluster(**cluster)  # type: ignore[arg-type]
