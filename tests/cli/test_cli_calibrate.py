"""What `edgeq calibrate` can do beyond one plain run: merge, resume, TensorRT caches, and what it says of the set."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from command import Edgeq, assert_refused, listing
from pictures import draw_pictures

from edgeq.calibrate.scales import Scales
from edgeq.export.stage import FP32
from edgeq.extras import install_command
from edgeq.pipeline.stages import planned_tensors
from edgeq.tensorrt.calibration_cache import CalibrationCache


@pytest.fixture
def exported(edgeq: Edgeq, tiny_model: Path, tiny_pictures: Path, tmp_path: Path) -> Path:
    assert edgeq("export", tiny_model, "--images", tiny_pictures, "-o", tmp_path / "exported").status == 0
    return tmp_path / "exported"


def pictures(folder: Path, seed: int) -> Path:
    return draw_pictures(folder, each=17, seed=seed)


def test_merging_two_parts_needs_no_images(edgeq: Edgeq, exported: Path, tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        images = pictures(tmp_path / name, seed)
        done = edgeq("calibrate", exported, "--images", images, "--method", "mse", "-o", tmp_path / f"{name}.json")
        assert done.status == 0, done.err
    parts = [tmp_path / "a.json", tmp_path / "b.json"]
    done = edgeq("calibrate", "--merge", *parts, "-o", tmp_path / "all.json", "--method", "percentile")
    assert done.status == 0, done.err
    merged = Scales.load(tmp_path / "all.json")
    assert merged.images == sum(Scales.load(part).images for part in parts)
    assert merged.method == "percentile"
    done = edgeq("quantize", exported, "--scales", tmp_path / "all.json", "-o", tmp_path / "quantized")
    assert done.status == 0, done.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--merge", "a.json"), "two scales files or more"),
        (("exported", "more", "--images", "x"), "one EXPORTED directory"),
        (("--merge", "a.json", "b.json", "--on", "ray"), "--on ray is for --images"),
        (("exported",), "--images, or ranges with --from-trt-cache"),
        (("exported", "--images", "x", "--trt-cache", "c"), "--trt-cache and --trt-version belong together"),
    ],
)
def test_flags_that_do_not_fit_are_usage_errors(
    edgeq: Edgeq, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    done = edgeq("calibrate", *arguments, "-o", tmp_path / "scales.json")
    assert done.status == 2
    assert words in " ".join(done.err.split())
    assert listing(tmp_path) == []


def test_resume_goes_on_and_leaves_no_checkpoint(edgeq: Edgeq, exported: Path, tmp_path: Path) -> None:
    first, rest = pictures(tmp_path / "all" / "first", 0), pictures(tmp_path / "all" / "rest", 1)
    half, whole = tmp_path / "half.json", tmp_path / "whole.json"
    assert edgeq("calibrate", exported, "--images", first, "--method", "mse", "-o", half).status == 0
    # What an interrupted run leaves behind has the form of scales of the images seen so far.
    half.rename(tmp_path / "whole.json.partial")
    arguments = ("--images", first.parent, "--method", "mse")
    done = edgeq("calibrate", exported, *arguments, "--resume", "-o", whole)
    assert done.status == 0, done.err
    assert not (tmp_path / "whole.json.partial").exists()
    assert edgeq("calibrate", exported, *arguments, "-o", tmp_path / "fresh.json").status == 0
    resumed, fresh = Scales.load(whole), Scales.load(tmp_path / "fresh.json")
    assert resumed == fresh.model_copy(update={"drift": None})
    assert resumed.images == len(list(rest.rglob("*.jpg"))) * 2


def test_a_cache_for_tensorrt_and_back(edgeq: Edgeq, exported: Path, tiny_pictures: Path, tmp_path: Path) -> None:
    cache, scales, back = tmp_path / "model.cache", tmp_path / "scales.json", tmp_path / "back.json"
    flags = ("--trt-cache", cache, "--trt-version", "10.3.0")
    done = edgeq("calibrate", exported, "--images", tiny_pictures, "--method", "mse", *flags, "-o", scales)
    assert done.status == 0, done.err
    written = CalibrationCache.load(cache)
    assert cache.read_bytes().startswith(b"TRT-100300-EntropyCalibration2\n")
    names = [name for name, _ in written.scales]
    assert set(planned_tensors(exported / FP32)) < set(names)
    done = edgeq("calibrate", exported, "--from-trt-cache", cache, "-o", back)
    assert done.status == 0, done.err
    read = Scales.load(back)
    assert read.method == "trt-cache"
    for name, scale in written.scales:
        if name in read.tensors:
            assert read.range_of(name, "tensorrt").amax == pytest.approx(127 * scale)
    assert edgeq("quantize", exported, "--scales", back, "-o", tmp_path / "quantized").status == 0


def test_a_cluster_that_is_not_there(
    edgeq: Edgeq, exported: Path, tiny_pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With and without Ray; nothing is written."""
    before = listing(tmp_path)
    asked = ("calibrate", exported, "--images", tiny_pictures, "-o", tmp_path / "s.json", "--resume", "--on", "ray")
    if find_spec("ray") is not None:
        assert_refused(edgeq(*asked, "--address", "127.0.0.1:1"), "no Ray cluster can be used at 127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "ray", None)
    assert_refused(edgeq(*asked), install_command("cluster"))
    assert listing(tmp_path) == before


def test_tensorrt_11_takes_no_cache(edgeq: Edgeq, exported: Path, tiny_pictures: Path, tmp_path: Path) -> None:
    before = listing(tmp_path)
    flags = ("--trt-cache", tmp_path / "c", "--trt-version", "11.0.0")
    done = edgeq("calibrate", exported, "--images", tiny_pictures, *flags, "-o", tmp_path / "scales.json")
    assert_refused(done, "11", "model.int8.trt.onnx")
    assert listing(tmp_path) == before


def test_auto_tells_what_won(edgeq: Edgeq, exported: Path, tmp_path: Path) -> None:
    images = pictures(tmp_path / "images", 0)
    done = edgeq("calibrate", exported, "--images", images, "-o", tmp_path / "scales.json", "--json")
    assert done.status == 0, done.err
    told = json.loads(done.out)
    assert told["held_back"] == len(list(images.rglob("*.jpg"))) // 4
    assert set(told["chosen"]) == {"onnxruntime", "tensorrt"}
    assert len(told["trials"]) == 9
