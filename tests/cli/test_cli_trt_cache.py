"""TensorRT calibration caches from the command line: flags, a cache of a real graph, and scales from it."""

from __future__ import annotations

from pathlib import Path

import click
import onnx
import pytest
from command import Edgeq

from edgeq.calibrate.samples import ImageSamples
from edgeq.calibrate.scales import Scales
from edgeq.calibrate.stage import calibrate
from edgeq.calibrate.tensorrt_scales import activation_tensors, cache_from_scales
from edgeq.cli.workshop.trt_cache import (
    check_trt_flags,
    read_trt_cache,
    trt_cache_options,
    write_trt_cache,
)
from edgeq.errors import ArtifactError, CalibrationError, InputError, OutputError
from edgeq.export.stage import FP32
from edgeq.model.checkpoint.source import open_model
from edgeq.model.images.image_set import ImageSet
from edgeq.pipeline.stages import observed_tensors
from edgeq.tensorrt.calibration_cache import CalibrationCache

RELEASE = (10, 3, 0)
OUTPUT = Path("scales.json")


@pytest.fixture
def exported(edgeq: Edgeq, tiny_model: Path, tiny_pictures: Path, tmp_path: Path) -> Path:
    """A directory made by `edgeq export`."""
    done = edgeq("export", tiny_model, "--images", tiny_pictures, "-o", tmp_path / "exported")
    assert done.status == 0, done.err
    return tmp_path / "exported"


@pytest.fixture
def scales(exported: Path, tiny_pictures: Path) -> Scales:
    """Scales of every activation."""
    tensors = observed_tensors(exported / FP32)
    images = ImageSet.open(tiny_pictures)
    return calibrate(
        exported / FP32, tensors, ImageSamples(images, open_model(exported).preprocess), method="minmax", threads=1
    )[0]


def parse(*arguments: str) -> dict[str, object]:
    """What the options make of a command line."""
    found: dict[str, object] = {}

    @click.command()
    @trt_cache_options
    def command(**values: object) -> None:
        found.update(values)

    command.main(list(arguments), standalone_mode=False)
    return found


def test_options() -> None:
    assert parse() == {"trt_cache": None, "trt_version": None, "from_trt_cache": None}
    assert parse("--trt-cache", "a", "--trt-version", "10.16.1.11", "--from-trt-cache", "b") == {
        "trt_cache": Path("a"),
        "trt_version": (10, 16, 1),
        "from_trt_cache": Path("b"),
    }


def test_a_version_that_is_none() -> None:
    with pytest.raises(InputError, match="'ten' is not a TensorRT version"):
        parse("--trt-version", "ten")


@pytest.mark.parametrize(
    ("images", "trt_cache", "version", "source", "words"),
    [
        ("images", "made", None, None, "--trt-cache and --trt-version belong together"),
        ("images", None, RELEASE, None, "--trt-cache and --trt-version belong together"),
        ("images", None, None, "cache", "takes the place of --images"),
        (None, "made", RELEASE, "cache", "cannot be used with --trt-cache"),
        ("images", "scales.json", RELEASE, None, "name the same file"),
    ],
)
def test_flags_that_do_not_go_together(
    images: str | None,
    trt_cache: str | None,
    version: tuple[int, int, int] | None,
    source: str | None,
    words: str,
) -> None:
    with pytest.raises(click.UsageError) as refused:
        check_trt_flags(
            images=None if images is None else Path(images),
            output=OUTPUT,
            trt_cache=None if trt_cache is None else Path(trt_cache),
            trt_version=version,
            from_trt_cache=None if source is None else Path(source),
        )
    assert words in refused.value.message


def test_a_cache_that_exists_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "made").write_bytes(b"")
    with pytest.raises(OutputError, match="made exists already"):
        check_trt_flags(
            images=tmp_path, output=OUTPUT, trt_cache=tmp_path / "made", trt_version=RELEASE, from_trt_cache=None
        )


def test_flags_that_go_together(tmp_path: Path) -> None:
    check_trt_flags(images=tmp_path, output=OUTPUT, trt_cache=None, trt_version=None, from_trt_cache=None)
    check_trt_flags(
        images=tmp_path, output=OUTPUT, trt_cache=tmp_path / "new", trt_version=RELEASE, from_trt_cache=None
    )
    check_trt_flags(images=None, output=OUTPUT, trt_cache=None, trt_version=None, from_trt_cache=tmp_path / "cache")


def test_a_cache_has_every_activation_and_one_scale_around_an_addition(
    exported: Path, scales: Scales, tmp_path: Path
) -> None:
    cache = write_trt_cache(tmp_path / "made.cache", RELEASE, exported / FP32, scales)
    assert CalibrationCache.load(tmp_path / "made.cache") == cache
    graph = onnx.load(exported / FP32)
    written = dict(cache.scales)
    assert tuple(written) == activation_tensors(graph)
    (add,) = (node for node in graph.graph.node if node.op_type == "Add")
    amax = [scales.range_of(name, "tensorrt").amax for name in add.input]
    assert amax[0] != amax[1]
    assert [written[name] for name in add.input] == pytest.approx([max(amax) / 127] * 2, rel=1e-7)
    (relu,) = (node for node in graph.graph.node if node.op_type == "Relu" and node.input[0] == add.output[0])
    assert written[relu.output[0]] == pytest.approx(scales.range_of(relu.output[0], "tensorrt").amax / 127, rel=1e-7)


def test_scales_from_a_cache_make_int8_graphs(edgeq: Edgeq, exported: Path, scales: Scales, tmp_path: Path) -> None:
    write_trt_cache(tmp_path / "made.cache", RELEASE, exported / FP32, scales)
    read = read_trt_cache(tmp_path / "made.cache", exported)
    assert (read.graph_sha256, read.preprocess_sha256) == (scales.graph_sha256, scales.preprocess_sha256)
    read.save(tmp_path / "scales.json")
    done = edgeq("quantize", exported, "--scales", tmp_path / "scales.json", "-o", tmp_path / "quantized")
    assert done.status == 0, done.err


def test_the_signed_graph_is_the_same_by_way_of_a_cache(
    edgeq: Edgeq, exported: Path, scales: Scales, tmp_path: Path
) -> None:
    cache_from_scales(scales, RELEASE).save(tmp_path / "made.cache")
    scales.save(tmp_path / "direct.json")
    read_trt_cache(tmp_path / "made.cache", exported).save(tmp_path / "read.json")
    for name in ("direct", "read"):
        done = edgeq("quantize", exported, "--scales", tmp_path / f"{name}.json", "-o", tmp_path / name)
        assert done.status == 0, done.err
    made = [(tmp_path / name / "model.int8.trt.onnx").read_bytes() for name in ("direct", "read")]
    assert made[0] == made[1]


def test_a_cache_cut_behind_a_line_lacks_tensors(exported: Path, scales: Scales, tmp_path: Path) -> None:
    write_trt_cache(tmp_path / "made.cache", RELEASE, exported / FP32, scales)
    lines = (tmp_path / "made.cache").read_bytes().splitlines(keepends=True)
    (tmp_path / "cut.cache").write_bytes(b"".join(lines[:3]))
    with pytest.raises(CalibrationError, match="the cache lacks"):
        read_trt_cache(tmp_path / "cut.cache", exported)


def test_what_is_no_exported_directory(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="was not made by edgeq export"):
        read_trt_cache(tmp_path / "any.cache", tmp_path)
