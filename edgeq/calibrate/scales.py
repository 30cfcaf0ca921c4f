"""The `edgeq.scales/1` artifact: for every tensor, the range that each method keeps."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable
from typing import ClassVar, Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from edgeq.artifact import Artifact
from edgeq.calibrate.corrections import LayerCorrection
from edgeq.calibrate.histogram import BINS, Histogram
from edgeq.calibrate.thresholds import METHODS, asymmetric_range, symmetric_amax
from edgeq.errors import ArtifactError, CalibrationError

__all__ = ["PackedHistogram", "Scales", "TensorRange", "TensorScale", "Trial"]

SCALES_VERSION: Final = "edgeq.scales/1"


class TensorRange(BaseModel):
    """What one method keeps of one tensor.

    Attributes:
        amax: largest magnitude, for a signed symmetric grid.
        low, high: ends of the range, for an unsigned grid.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    amax: float
    low: float
    high: float


class PackedHistogram(BaseModel):
    """A histogram as JSON.

    Attributes:
        exponent: as in `Histogram`.
        counts: its int64 counts, little endian, deflated (zlib), in base64.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    exponent: int | None
    counts: str

    @classmethod
    def pack(cls, histogram: Histogram) -> PackedHistogram:
        """Store the counts."""
        data = np.ascontiguousarray(histogram.counts, "<i8").tobytes()
        return cls(exponent=histogram.exponent, counts=base64.b64encode(zlib.compress(data, 6)).decode())

    def unpack(self, minimum: float, maximum: float) -> Histogram:
        """The histogram again; its extremes are kept beside it.

        Raises:
            ArtifactError: the counts are damaged.
        """
        size = 2 * BINS * 8
        try:
            data = zlib.decompressobj().decompress(base64.b64decode(self.counts, validate=True), size + 1)
            if len(data) != size:
                raise ValueError(f"{len(data)} bytes")
        except (ValueError, zlib.error) as error:
            raise ArtifactError("a histogram in the scales file is damaged", expected=f"{2 * BINS} counts") from error
        histogram = Histogram()
        histogram.exponent, histogram.minimum, histogram.maximum = self.exponent, minimum, maximum
        histogram.counts = np.frombuffer(data, "<i8").astype(np.int64)
        return histogram


class TensorScale(BaseModel):
    """One tensor's extremes, its range per method, its histogram and that one's SHA-256.

    Attributes:
        histogram: None where the ranges come from elsewhere, such as a TensorRT cache.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    minimum: float
    maximum: float
    ranges: dict[str, TensorRange]
    histogram_sha256: str
    histogram: PackedHistogram | None = None

    @classmethod
    def from_histogram(cls, histogram: Histogram, methods: Iterable[str] = METHODS) -> TensorScale:
        """Apply `methods` to `histogram`."""
        ranges = {}
        for method in methods:
            low, high = asymmetric_range(histogram, method)
            ranges[method] = TensorRange(amax=symmetric_amax(histogram, method), low=low, high=high)
        return cls(
            minimum=histogram.minimum,
            maximum=histogram.maximum,
            ranges=ranges,
            histogram_sha256=histogram.digest(),
            histogram=PackedHistogram.pack(histogram),
        )


class Trial(BaseModel):
    """What one choice did to the network's output on the images held back.

    Attributes:
        backend, method, shared_add: the choice.
        images: how many of those images it was run on.
        logit_error: ||INT8 - FP32|| / ||FP32|| over the logits of those images; of the worst field where there are
            several.
        agreement: percent of images on which both name the same class: the largest number stands in the same place.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: str
    method: str
    shared_add: bool
    images: int
    logit_error: float
    agreement: float


class Scales(Artifact):
    """What calibration hands over.

    Attributes:
        graph_sha256: SHA-256 of the FP32 ONNX file that was calibrated; scales fit no other.
        preprocess_sha256: digest of what the images went through, or the captions of a text encoder.
        images: how many images, or captions, were seen.
        image_digests: the first 32 hexadecimal digits of each image file's SHA-256, or of a caption's ids, sorted.
        method: the method asked for; `auto` chooses one for each backend.
        chosen: what it chose.
        shared_add: whether the two sides of a residual addition share a scale; None leaves that to the plan.
        float_adds: residual additions are in floating point.
        float_layers: layers with weights that are, and the percent of all multiplications that each is.
        held_back: images that `auto` judged by; they are not in the histograms.
        trials: every choice that was tried, in order.
        drift: median distance between the histograms of a tenth of the images and of the rest (`diagnose.distance`);
            None for scales that were merged or resumed.
        tensors: one entry for every tensor that needs a scale.
        corrections: of INT8 layers' weights and biases, by layer.
        uncorrected: layers of which something could not be corrected, and why; these two and `float_adds`,
            `float_layers`, `beyond_fp16` came later than version 1, and are not written where they are empty or False.
        beyond_fp16: layers that FP16 would break, and why: what they hold, or what they reached on some of the samples.
    """

    otherwise = "is not a scales file"
    made_by = "edgeq calibrate"

    version: Literal["edgeq.scales/1"] = SCALES_VERSION
    graph_sha256: str
    preprocess_sha256: str
    images: int
    image_digests: tuple[str, ...] = ()
    method: str
    chosen: dict[str, str] = Field(default_factory=dict)
    shared_add: bool | None = None
    float_adds: bool = False
    float_layers: dict[str, float] = Field(default_factory=dict)
    held_back: int = 0
    trials: tuple[Trial, ...] = ()
    drift: float | None = None
    tensors: dict[str, TensorScale]
    corrections: dict[str, LayerCorrection] = Field(default_factory=dict)
    uncorrected: dict[str, str] = Field(default_factory=dict)
    beyond_fp16: dict[str, str] = Field(default_factory=dict)
    later: ClassVar[tuple[str, ...]] = ("corrections", "uncorrected", "float_adds", "float_layers", "beyond_fp16")

    def method_for(self, backend: str) -> str:
        """The method whose ranges `backend` gets."""
        return self.chosen.get(backend, self.method)

    def range_of(self, tensor: str, backend: str) -> TensorRange:
        """The range of `tensor` for `backend`.

        Raises:
            CalibrationError: the tensor was not calibrated.
        """
        method = self.method_for(backend)
        try:
            return self.tensors[tensor].ranges[method]
        except KeyError:
            raise CalibrationError(
                f"tensor {tensor} has no {method} range",
                causes=("the scales were made for another graph or another plan",),
                next_step="run edgeq calibrate again on this graph",
            ) from None
