"""The distributions of a vision transformer's tensors, block by block, and what they make advisable."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

import numpy as np
import onnx
from pydantic import BaseModel, ConfigDict

from edgeq.artifact import Artifact
from edgeq.calibrate.histogram import Histogram
from edgeq.calibrate.observe import Observer
from edgeq.calibrate.scales import PackedHistogram
from edgeq.errors import CalibrationError
from edgeq.files import sha256_file
from edgeq.model.images.image_set import ImageSet
from edgeq.model.images.preprocess import Preprocess
from edgeq.model.images.stream import ImageStream
from edgeq.quantize.distributions.advice import Advice, Costs, advise
from edgeq.quantize.distributions.channels import ChannelHistogram
from edgeq.quantize.distributions.peaks import Peak, find_peaks
from edgeq.quantize.distributions.rounding import (
    folded_error,
    lost_share,
    twin_gelu_error,
    twin_softmax_error,
    uniform_error,
)
from edgeq.quantize.distributions.tensors import BlockTensor, TensorRole, find_tensors

__all__ = ["DISTRIBUTIONS", "Channels", "Distributions", "TensorDistribution", "measure_distributions"]

DISTRIBUTIONS_VERSION: Final = "edgeq.distributions/1"
DISTRIBUTIONS: Final = "distributions.json"

_NEAR_ONE: Final = 0.9
_BATCH: Final = 16


class Channels(BaseModel):
    """The ranges of a normalization's channels.

    Attributes:
        lowest, highest: of each channel.
        spread: the widest channel's range over the median one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    lowest: tuple[float, ...]
    highest: tuple[float, ...]
    spread: float


class TensorDistribution(BaseModel):
    """One tensor.

    Attributes:
        tensor, role, block, foldable: as in `BlockTensor`.
        minimum, maximum: of all values.
        near_zero: share of the values that one grid of 255 steps makes zero; of a softmax only.
        near_one: share of the values from 0.9 on; of a softmax only.
        negative: share of the values below zero.
        peaks: where values crowd, from the left to the right.
        channels: of a normalization only.
        costs: what eight bits cost it.
        advice: what to do.
        histogram: of its values.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tensor: str
    role: TensorRole
    block: int | None
    foldable: bool
    minimum: float
    maximum: float
    near_zero: float | None = None
    near_one: float | None = None
    negative: float
    peaks: tuple[Peak, ...]
    channels: Channels | None = None
    costs: Costs
    advice: Advice
    histogram: PackedHistogram


class Distributions(Artifact):
    """All tensors.

    Attributes:
        graph_sha256: of the FP32 graph.
        images: how many images were seen.
        blocks: transformer blocks.
        tensors: in the graph's order.
    """

    otherwise = "is not a file of distributions"
    made_by = "edgeq sensitivity --kind vit"

    version: Literal["edgeq.distributions/1"] = DISTRIBUTIONS_VERSION
    graph_sha256: str
    images: int
    blocks: int
    tensors: tuple[TensorDistribution, ...]

    def of_block(self, block: int) -> tuple[TensorDistribution, ...]:
        """The tensors of one block."""
        return tuple(tensor for tensor in self.tensors if tensor.block == block)


def measure_distributions(
    graph: Path,
    images: ImageSet,
    preprocess: Preprocess,
    *,
    threads: int | None = None,
    advance: Callable[[int], None] | None = None,
) -> tuple[Distributions, tuple[str, ...]]:
    """The distributions, and the names of the images that could not be read.

    The graph runs in ONNX Runtime, one image at a time, and memory does not grow with their number.

    Args:
        graph: the FP32 file of an exported directory.
        images: all of them are used.
        preprocess: from an image to the graph's input.
        threads: of one operator; None takes every processor there is.
        advance: called with the number of images just seen.

    Raises:
        ModelError: the graph has no attention.
        ImageError: too many images cannot be read.
        CalibrationError: a tensor holds NaN or infinity, or no image was seen.
    """
    found = find_tensors(onnx.load(graph, load_external_data=False))
    histograms = {tensor.tensor: ChannelHistogram() if tensor.role == "LayerNorm" else Histogram() for tensor in found}
    observer = Observer(graph, [*histograms], histograms=histograms, threads=threads)
    stream = ImageStream(images, preprocess, batch_size=_BATCH)
    seen = 0
    for items, pixels in stream:
        observer.add([item.name for item in items], pixels)
        seen += len(items)
        if advance:
            advance(len(items))
    if not seen:
        raise CalibrationError(f"no image of {images.path} was seen", next_step="give a folder or zip of images")
    distributions = Distributions(
        graph_sha256=sha256_file(graph),
        images=seen,
        blocks=1 + max(tensor.block for tensor in found if tensor.block is not None),
        tensors=tuple(_describe(tensor, histograms[tensor.tensor]) for tensor in found),
    )
    return distributions, tuple(image.name for image in stream.skipped)


def _describe(tensor: BlockTensor, histogram: Histogram) -> TensorDistribution:
    channels = _channels(histogram) if isinstance(histogram, ChannelHistogram) else None
    near_zero, lost = lost_share(histogram) if tensor.role == "softmax" else (None, None)
    costs = _costs(tensor, histogram, lost)
    bins = len(histogram.counts) // 2
    return TensorDistribution(
        tensor=tensor.tensor,
        role=tensor.role,
        block=tensor.block,
        foldable=tensor.foldable,
        minimum=histogram.minimum,
        maximum=histogram.maximum,
        near_zero=near_zero,
        near_one=_from(histogram, _NEAR_ONE) if tensor.role == "softmax" else None,
        negative=float(histogram.counts[:bins].sum() / histogram.total),
        peaks=find_peaks(histogram),
        channels=channels,
        costs=costs,
        advice=advise(tensor, costs),
        histogram=PackedHistogram.pack(histogram),
    )


def _costs(tensor: BlockTensor, histogram: Histogram, lost: float | None) -> Costs:
    twin = {"softmax": twin_softmax_error, "GELU": twin_gelu_error}.get(tensor.role)
    folded = None
    if isinstance(histogram, ChannelHistogram) and histogram.lowest is not None and histogram.highest is not None:
        folded = folded_error(histogram, histogram.lowest, histogram.highest)
    return Costs(
        uniform=uniform_error(histogram), twin=None if twin is None else twin(histogram), folded=folded, lost=lost
    )


def _channels(histogram: ChannelHistogram) -> Channels | None:
    if histogram.lowest is None or histogram.highest is None:
        return None
    ranges = histogram.highest.astype(np.float64) - histogram.lowest
    median = float(np.median(ranges))
    return Channels(
        lowest=tuple(histogram.lowest.tolist()),
        highest=tuple(histogram.highest.tolist()),
        spread=float(ranges.max()) / median if median > 0.0 else 1.0,
    )


def _from(histogram: Histogram, least: float) -> float:
    """Share of the values from `least` on, by the bins that begin there."""
    bins = len(histogram.counts) // 2
    begins = np.arange(-bins, bins) * histogram.width
    return float(histogram.counts[begins >= least].sum() / histogram.total)
