"""Scales of several runs on different images into one: a calibration set can be split over machines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeq.calibrate.histogram import Histogram
from edgeq.calibrate.scales import Scales, TensorScale
from edgeq.errors import ArtifactError, CalibrationError

__all__ = ["merge_scales"]


def merge_scales(parts: Sequence[tuple[Path, Scales]], method: str) -> Scales:
    """The scales that one run over all the images would have given, to the bit.

    Args:
        parts: each file with what was read from it; two at least.
        method: whose ranges are used; `auto` needs images and cannot be asked for here.

    Raises:
        CalibrationError: the parts are of different graphs, preprocessing or tensors, or saw the same image.
        ArtifactError: a part has no histograms.
    """
    first_path, first = parts[0]
    for path, part in parts[1:]:
        _check_same(first_path, first, path, part)
    digests = [digest for _, part in parts for digest in part.image_digests]
    within = [digest for _, part in parts for digest in set(part.image_digests)]  # one part may hold a file twice
    twice = len(within) - len(set(within))
    if twice:
        raise CalibrationError(
            f"{twice} images are in more than one part",
            expected="every image in one part alone",
            next_step="calibrate the parts on different images",
        )
    tensors = {name: TensorScale.from_histogram(_merged(parts, name)) for name in first.tensors}
    return Scales(
        graph_sha256=first.graph_sha256,
        preprocess_sha256=first.preprocess_sha256,
        images=sum(part.images for _, part in parts),
        image_digests=tuple(sorted(digests)),
        method=method,
        tensors=tensors,
        beyond_fp16={layer: why for _, part in reversed(parts) for layer, why in part.beyond_fp16.items()},
    )


def _check_same(first_path: Path, first: Scales, path: Path, part: Scales) -> None:
    checks = {
        "graph": first.graph_sha256 == part.graph_sha256,
        "preprocessing": first.preprocess_sha256 == part.preprocess_sha256,
        "set of tensors": first.tensors.keys() == part.tensors.keys(),
    }
    for what, same in checks.items():
        if not same:
            raise CalibrationError(
                f"{path} and {first_path} were made with a different {what}",
                expected="parts of one calibration set, run on the same exported graph",
            )


def _merged(parts: Sequence[tuple[Path, Scales]], name: str) -> Histogram:
    whole = Histogram()
    for path, part in parts:
        tensor = part.tensors[name]
        if tensor.histogram is None:
            raise ArtifactError(
                f"{path} holds no histograms",
                causes=("its ranges come from a TensorRT cache",),
                expected="edgeq scales",
            )
        whole.merge(tensor.histogram.unpack(tensor.minimum, tensor.maximum))
    return whole
