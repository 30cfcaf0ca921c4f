"""The part of `edgeq calibrate` that writes and reads TensorRT calibration caches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgeq.calibrate.scales import Scales
from edgeq.calibrate.tensorrt_scales import cache_from_scales, scales_from_cache
from edgeq.cli.flags import PATH
from edgeq.files import require_new
from edgeq.model.checkpoint.source import open_model
from edgeq.model.graph.outline import load_outline
from edgeq.plan.rules import plan_classifier
from edgeq.tensorrt.calibration_cache import CalibrationCache
from edgeq.tensorrt.version import Version, version_of

if TYPE_CHECKING:
    import onnx

__all__ = ["check_trt_flags", "read_trt_cache", "trt_cache_options", "write_trt_cache"]

F = TypeVar("F", bound=Callable[..., Any])


def _version(_context: click.Context, _parameter: click.Parameter, text: str | None) -> Version | None:
    return None if text is None else version_of(text)


_OPTIONS = (
    click.option("--trt-cache", type=PATH, help="A TensorRT calibration cache to make; it must not exist."),
    click.option(
        "--trt-version",
        callback=_version,
        metavar="VERSION",
        help="With --trt-cache: the TensorRT that will read it, such as 10.3.0.",
    ),
    click.option("--from-trt-cache", type=PATH, help="Take the ranges from this cache instead of --images."),
)


def trt_cache_options(function: F) -> F:
    """--trt-cache FILE (Path | None), --trt-version (Version | None) and --from-trt-cache FILE (Path | None)."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def check_trt_flags(
    *,
    images: Path | None,
    output: Path,
    trt_cache: Path | None,
    trt_version: Version | None,
    from_trt_cache: Path | None,
) -> None:
    """Refuse flags that do not go together, before any work is done.

    Args:
        images: of --images; None where it was not given, as for all flags but -o.
        output: the scales that would be written.
        trt_cache: calibration cache that would be written.
        trt_version: the TensorRT that it is for.
        from_trt_cache: calibration cache that the scales are read from.

    Raises:
        click.UsageError: one of a pair is missing, two exclude each other, or two outputs have one name.
        OutputError: the cache to be made exists.
    """
    if (trt_cache is None) != (trt_version is None):
        raise click.UsageError("--trt-cache and --trt-version belong together: give both")
    if from_trt_cache is not None and (images is not None or trt_cache is not None):
        raise click.UsageError("--from-trt-cache takes the place of --images, and cannot be used with --trt-cache")
    if trt_cache is None:
        return
    if trt_cache.absolute() == output.absolute():
        raise click.UsageError("--trt-cache and -o name the same file")
    require_new(trt_cache)


def write_trt_cache(path: Path, version: Version, graph: Path, scales: Scales) -> CalibrationCache:
    """Write the cache of a calibrated graph, and return it.

    Both sides of an INT8 addition, and both ends of a layer that computes nothing, get one scale, as in ONNX Runtime's
    Q/DQ graph.

    Args:
        path: the file to make.
        version: of the TensorRT that will read it.
        graph: the exported FP32 file.
        scales: of `edgeq.pipeline.stages.observed_tensors(graph)`.

    Raises:
        CalibrationError, ArtifactError: a range or a name cannot be written.
        OutputError: the place cannot be written.
    """
    cache = cache_from_scales(scales, version, groups=_one_grid(load_outline(graph)))
    cache.save(path)
    return cache


def read_trt_cache(path: Path, exported: Path) -> Scales:
    """Scales of an exported directory, from a cache that was made for its FP32 graph.

    Raises:
        ArtifactError: the directory or the cache is not what it should be.
        CalibrationError: tensors of the plan are missing in the cache.
    """

    import onnx

    from edgeq.export.stage import FP32, ExportReport
    from edgeq.quantize.int8.qdq import calibrated_tensors

    report = ExportReport.load(exported)
    cache = CalibrationCache.load(path)
    model = onnx.load(exported / FP32)
    return scales_from_cache(
        cache,
        model,
        calibrated_tensors(model, plan_classifier(model)),
        graph_sha256=report.graph_sha256,
        preprocess_sha256=open_model(exported).preprocess.digest,
    )


def _one_grid(model: onnx.ModelProto) -> list[frozenset[str]]:
    """Sets of tensors on one scale in ONNX Runtime's Q/DQ graph."""

    from edgeq.quantize.int8.qdq import placement_of
    from edgeq.quantize.int8.registry import USUAL

    placement = placement_of(model, plan_classifier(model), USUAL)
    return placement.groups()
