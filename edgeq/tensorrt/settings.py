"""All that a TensorRT builder is told, as data: it can be read, kept and keyed on a machine without TensorRT.

| | implicit quantization, on request | explicit quantization, the default |
|---|---|---|
| network | weakly typed | `STRONGLY_TYPED` |
| flags for INT8 | `INT8`, `FP16`, `OBEY_PRECISION_CONSTRAINTS` | none |
| flags for FP16 | `FP16`, `OBEY_PRECISION_CONSTRAINTS` | none |
| layers | precision and output types are set | the graph's own types |
| output bindings | their types are set | the graph's own types |
| ranges | calibration cache or images, and what follows from them (`ranges`) | Q/DQ pairs in the graph |
| a second try | `PREFER_` in the place of `OBEY_` | none: there is no constraint to loosen |

`TF32` is cleared on both modes: TensorRT has it on from Ampere on, and a head that is planned FP32 would be multiplied
with 10 bits of mantissa.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

from edgeq.artifact import Artifact
from edgeq.device import PROFILES, probe
from edgeq.errors import ArtifactError, EngineError, GateError
from edgeq.families.base import AxisRange
from edgeq.plan.budget import BUILD_FACTOR, WORKSPACE_BYTES
from edgeq.tensorrt.inputs import BATCH, Binding, EngineGraph, EngineInputs
from edgeq.tensorrt.loading import QuantizationMode
from edgeq.tensorrt.precisions import BindingType, LayerPrecision

__all__ = [
    "Batch",
    "BuildSettings",
    "Calibration",
    "ShapeRange",
    "build_settings",
    "check_memory",
    "preferred",
    "usual_batch",
]

Batch = tuple[int, int, int]
"""Least, usual and largest number of pictures, or of texts, in one run."""

Calibration = Literal["none", "cache", "images"]
"""Where INT8 ranges come from; `none` where the graph has them, or needs none."""

_OBEY: Final = "OBEY_PRECISION_CONSTRAINTS"
_PREFER: Final = "PREFER_PRECISION_CONSTRAINTS"
_WEAK_FLAGS: Final[dict[str, tuple[str, ...]]] = {"int8": ("INT8", "FP16", _OBEY), "fp16": ("FP16", _OBEY)}
_CONSTRAINTS: Final = frozenset({_OBEY, _PREFER})
_PRECISIONS: Final = _CONSTRAINTS | {"INT8", "FP16", "BF16", "FP8"}


class ShapeRange(BaseModel):
    """The shapes that one input may have; kernels are chosen for `opt`.

    Attributes:
        input: its name.
        min, opt, max: every axis in order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: str
    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not len(self.min) == len(self.opt) == len(self.max):
            raise ValueError(f"{self.input}: the three shapes have different numbers of axes")
        if not all(
            1 <= least <= usual <= most for least, usual, most in zip(self.min, self.opt, self.max, strict=True)
        ):
            raise ValueError(f"{self.input}: not 1 <= min <= opt <= max on every axis")
        return self


class BuildSettings(Artifact):
    """What a builder is told.

    Attributes:
        encoder: whose engine it is, in a bundle with several; empty otherwise.
        graph: name of the ONNX that is parsed, below the bundle.
        graph_sha256: of that file, in hexadecimal.
        quantization, quantization_reason: which one, and why in a sentence for a person.
        tensorrt: release that builds, such as `10.3.0`; None where it is not known yet.
        network_flags, builder_flags: names in NetworkDefinitionCreationFlag and BuilderFlag.
        cleared_flags: builder flags that are on by default and are taken away.
        layers: what each layer shall compute in. Set with implicit quantization; on both, the engine is compared with
            them.
        casts: names of the graph's Cast nodes.
        output_types: binding -> its type. Set with implicit quantization, compared on the explicit one.
        profile: the ranges of the inputs with a free axis; empty where every shape is fixed. Where an input has several
            of them, each is of an optimization profile of its own (`profiles`).
        workspace_bytes: limit of the builder's workspace pool.
        calibration: where INT8 ranges come from.
        peak_bytes: bound of the memory that the process takes while it builds.
    """

    otherwise: ClassVar[str] = "does not say how an engine is built"

    version: Literal["edgeq.engine-build/1"] = "edgeq.engine-build/1"
    encoder: str = ""
    graph: str
    graph_sha256: str
    quantization: QuantizationMode
    quantization_reason: str
    tensorrt: str | None
    network_flags: tuple[str, ...]
    builder_flags: tuple[str, ...]
    cleared_flags: tuple[str, ...] = ("TF32",)
    layers: tuple[LayerPrecision, ...]
    casts: tuple[str, ...] = ()
    output_types: dict[str, BindingType]
    profile: tuple[ShapeRange, ...]
    workspace_bytes: int = Field(ge=1)
    calibration: Calibration
    peak_bytes: int = Field(ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        flags = set(self.builder_flags)
        if flags >= _CONSTRAINTS:
            raise ValueError("precision constraints are either obeyed or preferred, not both")
        if flags & set(self.cleared_flags):
            raise ValueError("a flag is set and cleared")
        if self.quantization == "explicit" and (flags & _PRECISIONS or self.calibration != "none"):
            raise ValueError("a strongly typed network takes no precision flag and no calibration")
        if ("STRONGLY_TYPED" in self.network_flags) != (self.quantization == "explicit"):
            raise ValueError("a network is strongly typed with explicit quantization, and only there")
        if len({count for count in Counter(each.input for each in self.profile).values() if count > 1}) > 1:
            raise ValueError("inputs have different numbers of optimization profiles")
        return self

    @property
    def prefers(self) -> bool:
        """Whether precisions are preferred: what cannot be kept is left, and the engine is not refused for it."""
        return _PREFER in self.builder_flags

    def preferring(self) -> Self | None:
        """The same with precisions that are preferred; None where none are obeyed, as in a strongly typed network."""
        flags = preferred(self.builder_flags)
        return None if flags is None else self.model_copy(update={"builder_flags": flags})

    @property
    def profiles(self) -> tuple[tuple[ShapeRange, ...], ...]:
        """Each optimization profile: a range for every input with a free axis. One at least, which may be empty."""
        found: dict[str, list[ShapeRange]] = {}
        for each in self.profile:
            found.setdefault(each.input, []).append(each)
        count = max(map(len, found.values()), default=1)
        return tuple(
            tuple(ranges[number if len(ranges) > 1 else 0] for ranges in found.values()) for number in range(count)
        )


def preferred(builder_flags: Sequence[str]) -> tuple[str, ...] | None:
    """Builder flags with precisions that are preferred in the place of obeyed; None where none are obeyed."""
    if _OBEY not in builder_flags:
        return None
    return tuple(_PREFER if flag == _OBEY else flag for flag in builder_flags)


def usual_batch(inputs: EngineInputs, *, images: int = 1) -> Batch:
    """The bundle's own, or from one picture to all pictures of `images` images, one image being the usual case."""
    return inputs.ranges.get(BATCH, (1, inputs.pictures, inputs.pictures * max(images, 1)))


def build_settings(
    inputs: EngineInputs,
    quantization: QuantizationMode,
    because: str,
    *,
    tensorrt: str | None = None,
    batch: Batch | None = None,
    calibration: Literal["cache", "images"] = "cache",
    workspace_bytes: int = WORKSPACE_BYTES,
    encoder: str = "",
    runtime_bytes: int = PROFILES["orin-nx-16gb"].runtime_bytes,
) -> BuildSettings:
    """What to tell the builder of a bundle's engine on one quantization.

    Args:
        inputs: what the bundle says of its graphs: an INT8 classifier or an FP16 vision encoder.
        quantization: with `because`, as `edgeq.tensorrt.loading.choose_quantization` gives them.
        because: a sentence for a person.
        tensorrt: release that will build, if it is known.
        batch: pictures in one run; `usual_batch` where it is None. A calibrator's batches have the usual one. The
            lengths of other free axes are the bundle's.
        calibration: where the ranges of an INT8 engine come from with implicit quantization.
        workspace_bytes: limit of the builder's workspace; on a device with one memory it comes out of the same memory.
        encoder: whose engine it is, in a bundle with several.
        runtime_bytes: what the process takes beside the build: CUDA's context, TensorRT, Python.

    Raises:
        ArtifactError: the bundle has no graph for this quantization, or one with a free axis whose lengths are unknown.
        EngineError: `batch` is not in order, or not what a graph with a fixed batch takes.
    """
    graph = _graph(inputs, quantization)
    weak = quantization == "implicit"
    if batch is not None:
        _check_batch(batch, graph.inputs)
    return BuildSettings(
        encoder=encoder,
        graph=graph.file,
        graph_sha256=graph.sha256,
        quantization=quantization,
        quantization_reason=because,
        tensorrt=tensorrt,
        network_flags=() if weak else ("STRONGLY_TYPED",),
        builder_flags=_WEAK_FLAGS[inputs.precision] if weak else (),
        layers=_without_half(graph) if quantization == "explicit" and inputs.precision == "int8" else graph.layers,
        casts=graph.casts,
        output_types={output.name: output.dtype for output in graph.outputs},
        profile=_profile(graph.inputs, {**inputs.ranges, BATCH: batch or usual_batch(inputs)}, inputs.buckets),
        workspace_bytes=workspace_bytes,
        calibration=calibration if weak and inputs.precision == "int8" else "none",
        peak_bytes=BUILD_FACTOR * graph.weight_bytes + workspace_bytes + runtime_bytes,
    )


def check_memory(settings: BuildSettings, free_bytes: int | None = None) -> None:
    """Refuse a build that would not fit: out of memory, Linux kills the process without a word.

    Args:
        settings: of the build.
        free_bytes: what the process may take; None asks this machine (`edgeq.device.probe`).

    Raises:
        GateError: it is less than the bound of the build's memory; both are named.
        InputError: this machine's memory cannot be read.
    """
    free = probe().budget_bytes if free_bytes is None else free_bytes
    if settings.peak_bytes > free:
        raise GateError(
            f"building the engine of {settings.graph} may take {_gigabytes(settings.peak_bytes)}, "
            f"and {_gigabytes(free)} are free",
            expected=f"{BUILD_FACTOR} x the graph's weights + the workspace of "
            f"{_gigabytes(settings.workspace_bytes)} + the runtime",
            causes=("something else is in memory: a desktop, a language model, a camera pipeline",),
            next_step="stop what is not needed, or give a smaller workspace",
        )


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.2f} GB"


def _graph(inputs: EngineInputs, quantization: QuantizationMode) -> EngineGraph:
    if quantization not in inputs.graphs:
        raise ArtifactError(
            f"the bundle has no graph for {quantization} quantization",
            expected=f"one for it; there is one for: {', '.join(inputs.graphs)}",
            next_step="prepare the bundle again, or take the other quantization mode",
        )
    return inputs.graphs[quantization]


def _without_half(graph: EngineGraph) -> tuple[LayerPrecision, ...]:
    """What a Q/DQ graph computes in: FP32 beside its pairs in bundles of the first release, whatever was planned."""
    if graph.casts or graph.half:
        return graph.layers
    half = [layer for layer in graph.layers if layer.precision == "float16"]
    wide = {layer.name: layer.model_copy(update={"precision": "float32", "outputs": ()}) for layer in half}
    return tuple(wide.get(layer.name, layer) for layer in graph.layers)


def _check_batch(batch: Batch, inputs: Sequence[Binding]) -> None:
    least, usual, most = batch
    if not 1 <= least <= usual <= most:
        raise EngineError(f"{least}, {usual} and {most} pictures in one run", expected="1 <= min <= opt <= max")
    for given in inputs:
        first = given.shape[0] if given.shape else BATCH
        if first != BATCH and {least, usual, most} != {first}:
            raise EngineError(
                f"{given.name} takes {first} pictures at once, and {least} to {most} were asked for"
                if isinstance(first, int)
                else f"{given.name} takes one image at once, of any number of {first}",
                next_step="export the graph with a dynamic batch axis"
                if isinstance(first, int)
                else "leave the batch out: the bundle says how large an image may be",
            )


def _profile(
    inputs: Sequence[Binding], ranges: Mapping[str, AxisRange], buckets: Mapping[str, Sequence[AxisRange]]
) -> tuple[ShapeRange, ...]:
    """A range for each input with a free axis, or one for each bucket of the axis that has some."""
    named = [(name, each) for name, several in buckets.items() for each in several]
    alternatives = [{**ranges, name: each} for name, each in named] or [dict(ranges)]
    free = [given for given in inputs if not all(isinstance(axis, int) for axis in given.shape)]
    return tuple(
        _range(given, chosen)
        for given in free
        for chosen in (alternatives if buckets.keys() & set(given.shape) else alternatives[:1])
    )


def _range(given: Binding, ranges: Mapping[str, AxisRange]) -> ShapeRange:
    axes: list[AxisRange] = []
    for axis in given.shape:
        if isinstance(axis, int):
            axes.append((axis, axis, axis))
        elif axis is not None and axis in ranges:
            axes.append(ranges[axis])
        else:
            raise ArtifactError(
                f"{given.name} has a free axis beside its batch, of which no lengths are known: {list(given.shape)}"
            )
    least, usual, most = zip(*axes, strict=True)
    return ShapeRange(input=given.name, min=least, opt=usual, max=most)
