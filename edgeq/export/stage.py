"""The export stage: MODEL to a folded FP32 graph that was proved to compute the same."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, ValidationError

from edgeq.artifact import LaterFields, Versioned
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.engine.trial import trial_run
from edgeq.errors import ArtifactError, EngineError, ExportError, ModelError, shell_word
from edgeq.export.fold import (
    KEPT_BY_PLAN,
    FoldReport,
    KeptBatchNorm,
    batchnorm_names,
    count_batchnorm,
    fold_batchnorm,
    require_folded,
)
from edgeq.export.image_input import image_channels, image_size
from edgeq.export.input_adapter import InputAdapter, adapt_input
from edgeq.export.opset import is_supported, to_supported_opset
from edgeq.export.parity import BOUND, AllOutputs, Parity, measure_parity, prove_outputs
from edgeq.export.rewrites.answers import as_chosen, finish_outputs, select_outputs
from edgeq.export.rewrites.doubles import single_precision
from edgeq.export.rewrites.fixed_batch import fixed_batch, free_batch, with_dynamic_batch
from edgeq.export.rewrites.pads import keep_pads_before_pools
from edgeq.export.simplify import simplify
from edgeq.export.torch_export import OUTPUT, export_classifier
from edgeq.files import atomic_write, sha256_file
from edgeq.model.checkpoint.source import ModelSource
from edgeq.model.graph.answers import Expected, Outputs, choose_outputs
from edgeq.model.graph.complete import complete
from edgeq.model.graph.components import name_nodes
from edgeq.model.graph.external_data import stored_bytes
from edgeq.model.graph.onnx_file import load_onnx, save_onnx
from edgeq.model.graph.outline import load_outline
from edgeq.plan.precision import ChannelEqualization

__all__ = [
    "CONFIG",
    "EXPORT",
    "FP32",
    "PREPROCESS",
    "ExportReport",
    "OpenedGraph",
    "check_batch",
    "export_model",
    "fold_graph",
    "foresee_outputs",
    "open_graph",
    "replace_graph",
    "save_report",
]

FP32 = "model.fp32.onnx"
PREPROCESS = "preprocessor_config.json"
CONFIG = "config.json"
EXPORT = "export.json"
_IN_MEMORY = 1 << 30
"""Bytes of weights of a graph that is run from memory."""


class ExportReport(LaterFields, Versioned):
    """What the export stage did and proved.

    Attributes:
        graph_sha256: of `model.fp32.onnx`.
        opset, ir_version: of that file.
        batchnorm_before, batchnorm_after: BatchNormalization nodes.
        folded: BatchNorm -> where it went, e.g. "after Conv conv1".
        kept: BatchNorm -> why it is still there.
        channel_affine: Mul, Add, Sub or Div by channel -> the layer that took it in.
        parity: the source against the file, on real images; where channels were rescaled, the file before that. Of
            several outputs it is that of the worst.
        answers: the outputs that are the answer, which come first; not written where the graph has one alone.
        outputs: what was done to outputs of the source, by name; not written where nothing was.
        parities: of each output, where there are several; not written otherwise.
        names_classes: whether the config's class names are for the first output; not written where they are.
        channel_equalization: how channels were rescaled since (`edgeq.quantize.equalize.choose`).
        rescaled: the file before that against the file, on real images; None where no channel was rescaled.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal["edgeq.export/1"] = "edgeq.export/1"
    source: Literal["onnx", "hf"]
    graph_sha256: str
    opset: int
    ir_version: int
    batchnorm_before: int
    batchnorm_after: int
    folded: dict[str, str]
    kept: dict[str, str]
    channel_affine: dict[str, str] = Field(default_factory=dict)
    parity: Parity
    channel_equalization: ChannelEqualization = "none"
    rescaled: Parity | None = None
    answers: tuple[str, ...] = ()
    outputs: dict[str, str] = Field(default_factory=dict)
    parities: dict[str, Parity] = Field(default_factory=dict)
    names_classes: bool = True
    later: ClassVar[tuple[str, ...]] = ("answers", "outputs", "parities", "names_classes")

    @property
    def unfoldable(self) -> dict[str, str]:
        """Those of `kept` that nobody asked to keep."""
        return {name: reason for name, reason in self.kept.items() if reason != KEPT_BY_PLAN}

    @classmethod
    def load(cls, directory: Path) -> ExportReport:
        """Read the report of an exported directory, and check that the graph is the one that was proved.

        Raises:
            ArtifactError: there is no report, or the graph was changed since.
        """
        try:
            report = cls.model_validate_json((directory / EXPORT).read_bytes())
        except (OSError, ValidationError) as error:
            raise ArtifactError(
                f"{directory} was not made by edgeq export",
                expected=f"a directory with {FP32} and {EXPORT}",
                next_step=f"edgeq export {shell_word(directory)} --images CALIB -o EXPORTED",
            ) from error
        if not (directory / FP32).is_file() or sha256_file(directory / FP32) != report.graph_sha256:
            raise ArtifactError(
                f"{directory / FP32} is not the graph that {EXPORT} describes",
                causes=("it was changed or lost after the export",),
                next_step="run edgeq export again",
            )
        return report


def export_model(
    source: ModelSource,
    directory: Path,
    images: NDArray[np.float32],
    *,
    fold: bool = True,
    keep_batchnorm: tuple[str, ...] = (),
    strict: bool = False,
    threads: int | None = None,
    expected: Expected | None = None,
) -> ExportReport:
    """Write `model.fp32.onnx`, its configs and the report into `directory`.

    Args:
        source: an opened MODEL.
        directory: an existing one.
        images: real images for the proof, float32 [n, 3, H, W] as the model's preprocessing gives them.
        fold: fold BatchNorm; False leaves all of it, for comparison.
        keep_batchnorm: BatchNorm nodes that stay.
        strict: a BatchNorm that cannot be folded is an error; without it, it stays in floating point.
        threads: of one operator.
        expected: what is known of the answer; None knows the labels of its config.

    Raises:
        ModelError: the model cannot be read, does not take such images, or its outputs do not fit what is expected.
        ExportError: it cannot be exported; with `strict`, a BatchNorm cannot be folded and was not named.
        ParityError: the graph made computes something else.
    """
    opened = open_graph(source, directory, threads, expected=expected)
    _check_size(opened.model, source)
    model, folded = fold_graph(opened.model, fold=fold, keep_batchnorm=keep_batchnorm, outputs=opened.outputs)
    if strict:
        require_folded(folded)
    _write(model, source, directory)
    network, names = _network(directory / FP32, threads), opened.outputs.names
    listed = tuple(each.listed for each in opened.outputs.chosen)
    parities = prove_outputs(opened.reference, network, _single(images), names=names, listed=listed, bound=opened.bound)
    _prove_batch(network, images, listed)
    worst = max(parities, key=lambda parity: parity.relative)
    return save_report(directory, model, source.kind, folded, worst, _told(opened.outputs, parities))


def _told(outputs: Outputs, parities: tuple[Parity, ...]) -> dict[str, Any]:
    """What the report says of outputs."""
    several = len(outputs.chosen) > 1
    return {
        "answers": outputs.names[: outputs.answers] if several else (),
        "outputs": dict(outputs.changes),
        "parities": dict(zip(outputs.names, parities, strict=True)) if several else {},
        "names_classes": outputs.claims_labels,
    }


def save_report(
    directory: Path,
    model: onnx.ModelProto,
    source: Literal["onnx", "hf"],
    folded: FoldReport,
    parity: Parity,
    outputs: dict[str, Any] | None = None,
) -> ExportReport:
    """Write the report of a graph that was exported.

    Args:
        directory: with `model.fp32.onnx`.
        model: that graph.
        source: what it was exported from.
        folded: what became of its BatchNorms.
        parity: the source against the file.
        outputs: what the report says of its outputs, by field; None where it has one alone, as it came.
    """
    report = ExportReport(
        source=source,
        graph_sha256=sha256_file(directory / FP32),
        opset=next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")),
        ir_version=model.ir_version,
        batchnorm_before=folded.before,
        batchnorm_after=count_batchnorm(model),
        folded={fold.batchnorm: f"{fold.rule} {fold.into}" for fold in folded.folded},
        kept={kept.batchnorm: kept.reason for kept in folded.kept},
        channel_affine={fold.batchnorm: fold.into for fold in folded.channel_affine},
        parity=parity,
        **(outputs or {}),
    )
    atomic_write(directory / EXPORT, report.model_dump_json(indent=1).encode())
    return report


def replace_graph(
    directory: Path,
    report: ExportReport,
    model: onnx.ModelProto,
    channel_equalization: ChannelEqualization,
    parity: Parity,
) -> ExportReport:
    """Put a graph with rescaled channels in the place of the one exported, and say so in the report.

    Args:
        directory: of the report.
        report: of the graph that is there.
        model: computes the same.
        channel_equalization: what was done.
        parity: the graph that is there against `model`.
    """
    save_onnx(model, directory / FP32)
    digest = sha256_file(directory / FP32)
    revised = report.model_copy(
        update={"graph_sha256": digest, "channel_equalization": channel_equalization, "rescaled": parity}
    )
    atomic_write(directory / EXPORT, revised.model_dump_json(indent=1).encode())
    return revised


def fold_graph(
    model: onnx.ModelProto,
    *,
    fold: bool = True,
    keep_batchnorm: tuple[str, ...] = (),
    outputs: Outputs | None = None,
) -> tuple[onnx.ModelProto, FoldReport]:
    """The graph that is planned and quantized: dynamic batch, simplified, every node named, BatchNorm folded.

    Args:
        model: is not changed.
        fold: whether BatchNorm is folded.
        keep_batchnorm: names of those that stay.
        outputs: the forms that its outputs get; None leaves them.

    Raises:
        ExportError: the graph is not well formed, or `keep_batchnorm` names a node that is no BatchNorm.
    """
    batch, model = fixed_batch(model), single_precision(model)
    model = free_batch(name_nodes(simplify(with_dynamic_batch(model))), batch)
    if fold:
        model, report = fold_batchnorm(model, keep=keep_batchnorm)
        model = simplify(model)
    else:
        names = batchnorm_names(model)
        report = FoldReport(len(names), len(names), (), tuple(KeptBatchNorm(name, KEPT_BY_PLAN) for name in names))
    return finish_outputs(model, outputs) if outputs else model, report


@dataclass(frozen=True)
class OpenedGraph:
    """A model as a graph.

    Attributes:
        model: what is to be folded, planned and quantized: it takes float32 [batch, C, H, W], is in opset 17 or 18, and
            gives the outputs that were chosen.
        reference: the network that it must stay equal to: the file as it came, in its own opset, its outputs in the
            forms chosen.
        outputs: the choice.
        bound: the largest difference that counts as equal, as a part of an output's range.
    """

    model: onnx.ModelProto
    reference: AllOutputs
    outputs: Outputs
    bound: float


def foresee_outputs(source: ModelSource, expected: Expected | None = None) -> Outputs | None:
    """Which outputs a model's graph will be given, found in the first second: no weight is read.

    Args:
        source: an ONNX file or a checkpoint.
        expected: what is known of the answer; None knows the labels of its config.

    Returns:
        The choice; None where the file must be run first, cannot be read, or is still to be exported.

    Raises:
        ModelError: outputs and what is expected do not match, or match in several ways.
    """
    if source.onnx_path is None:
        return None
    try:
        model = load_outline(source.onnx_path)
        complete(model, source.onnx_path)
    except ModelError:  # reading it whole says more
        return None
    if not model.graph.output:
        return None
    outputs = choose_outputs(model, _expected(source, expected), _image(source))
    return outputs if outputs.settled else None


def open_graph(
    source: ModelSource, directory: Path, threads: int | None, *, expected: Expected | None = None
) -> OpenedGraph:
    """A model as a graph, with its answers found.

    Args:
        source: an ONNX file or a checkpoint.
        directory: where an exporter may put its file for a moment.
        threads: of one operator of the network; None takes every processor there is.
        expected: what is known of the answer; None knows the labels of its config.

    Raises:
        ModelError: the model cannot be read, or its outputs do not fit what is expected.
        ExportError: it cannot be exported.
        LimitError: one run of it takes more time or memory than any network's.
    """
    expected = _expected(source, expected)
    if source.onnx_path is None:
        return _exported(source, directory, expected)
    loaded = load_onnx(source.onnx_path)
    trial_run(source.onnx_path, (source.preprocess.channels, *_image(source)))
    model = keep_pads_before_pools(loaded)
    outputs = _chosen(model, expected, source, threads)
    model = select_outputs(model, outputs)
    adapted, adapter = adapt_input(model, take_normalization=source.takes_normalization)
    network = _as_exported(model, adapter, threads)
    model = adapted
    if not is_supported(model):  # shape arithmetic first: the converter knows fewer operators than ONNX Runtime
        model = to_supported_opset(simplify(model), source.onnx_path)
    return OpenedGraph(model, lambda pixels: as_chosen(network(pixels), outputs), outputs, adapter.bound)


def _exported(source: ModelSource, directory: Path, expected: Expected) -> OpenedGraph:
    """A checkpoint: its class names are for logits, and for no features."""
    size, raw = _image(source), directory / "model.traced.onnx"
    exported = export_classifier(source.path, raw, image_size=size, channels=source.preprocess.channels)
    model = keep_pads_before_pools(load_onnx(raw))
    raw.unlink()
    if model.graph.output[0].name != OUTPUT:
        expected = replace(expected, labels=None)
    outputs = choose_outputs(model, expected, size)
    if model.graph.output[0].name != OUTPUT:
        outputs = replace(outputs, claims_labels=False)
    return OpenedGraph(model, lambda pixels: as_chosen(exported.every_output(pixels), outputs), outputs, BOUND)


def _expected(source: ModelSource, expected: Expected | None) -> Expected:
    """What is expected; of a directory that was exported the answers that its report names, unless others are asked."""
    expected = expected or Expected(labels=len(source.labels) if source.labels else None)
    if expected.outputs or source.onnx_path is None or source.onnx_path.name != FP32:
        return expected
    try:
        return replace(expected, outputs=ExportReport.load(source.path).answers)
    except ArtifactError:  # it is a file of that name
        return expected


def _image(source: ModelSource) -> tuple[int, int]:
    return source.preprocess.height, source.preprocess.width


def _chosen(model: onnx.ModelProto, expected: Expected, source: ModelSource, threads: int | None) -> Outputs:
    """The choice, after a run where inference alone does not settle it."""
    outputs = choose_outputs(model, expected, _image(source))
    if outputs.settled:
        return outputs
    height, width = _image(source)
    adapter = adapt_input(model, take_normalization=source.takes_normalization)[1]
    network = _as_exported(model, adapter, threads)
    try:
        made = network(np.zeros((1, source.preprocess.channels, height, width), np.float32))
    except EngineError:  # it takes other images, of which more is said later
        return outputs
    shapes = {value.name: values.shape for value, values in zip(model.graph.output, made, strict=True)}
    return choose_outputs(model, expected, _image(source), measured=shapes)


def _network(model: Path | bytes, threads: int | None) -> AllOutputs:
    engine = OnnxRuntimeEngine(model, threads=threads)

    def run(pixels: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        values = engine.run({engine.inputs[0]: pixels})
        return tuple(values[name] for name in engine.outputs)

    return run


def _as_exported(model: onnx.ModelProto, adapter: InputAdapter, threads: int | None) -> AllOutputs:
    """A network for one image [1, C, H, W], whatever it was exported for.

    Args:
        model: as it came; where it was exported for a batch, it sees the same image in each place.
        adapter: gives it its own type and layout.
        threads: of one operator.
    """
    network, batch = _network(model.SerializeToString(), threads), fixed_batch(model) or 1

    def run(pixels: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        made = network(np.repeat(adapter.raw(pixels), batch, axis=0))
        return made if batch == 1 else tuple(values[: len(pixels)] for values in made)

    return run


def _single(images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """One image at a time: the source may have a fixed batch of one."""
    return [images[i : i + 1] for i in range(len(images))]


def _check_size(model: onnx.ModelProto, source: ModelSource) -> None:
    channels = image_channels(model)
    if channels not in (None, source.preprocess.channels):
        raise ModelError(
            f"the graph takes images of {channels} channel{'s' * (channels != 1)}, the preprocessing makes "
            f"{source.preprocess.channels}",
            next_step="say --channel-order grey, or rgb or bgr",
        )
    wanted = (source.preprocess.height, source.preprocess.width)
    for have, want in zip(image_size(model), wanted, strict=True):
        if have not in (None, want):
            raise ModelError(
                f"the graph takes images of {image_size(model)} pixels, the preprocessing makes {wanted}",
                causes=("preprocessor_config.json belongs to another model",),
                next_step="give the right size with --size",
            )


def _write(model: onnx.ModelProto, source: ModelSource, directory: Path) -> None:
    save_onnx(model, directory / FP32)
    for name, content in ((PREPROCESS, source.preprocess.to_config()), (CONFIG, dict(source.config))):
        atomic_write(directory / name, json.dumps(content, indent=1, sort_keys=True).encode())


def _prove_batch(network: AllOutputs, images: NDArray[np.float32], listed: tuple[bool, ...] = ()) -> None:
    """Run three images at once: a fixed batch size hides in reshapes as well as in the input's shape.

    An output without a row for each image is left out; of a list of what was found, one image must be the same.

    Args:
        network: that was proved with one image at a time.
        images: float32 [n, 3, H, W].
        listed: of each output, whether it is such a list.
    """
    three = np.resize(images[:3], (3, *images.shape[1:]))
    try:
        together = network(three)
    except Exception as error:
        raise ExportError(
            "the graph does not run on a batch of three images",
            expected="a dynamic batch axis",
            causes=("it was exported with a fixed batch size", str(error).strip().splitlines()[-1][:300]),
            next_step="export it with a dynamic batch axis",
        ) from error
    singles = list(zip(*(network(image) for image in _single(three)), strict=True))
    rows = [place for place, parts in enumerate(singles) if all(part.shape[:1] == (1,) for part in parts)]
    alone = [np.concatenate(singles[place]) for place in rows]
    for place, parts in zip(rows, alone, strict=True):
        lists = place < len(listed) and listed[place]
        if together[place].shape != parts.shape and not lists:
            raise ExportError(
                f"the graph gives {list(together[place].shape)} for three images", expected=f"{list(parts.shape)}"
            )
        if together[place].shape != parts.shape:
            continue
        parity = _apart(parts, together[place], listed=lists)
        if not parity.holds:
            raise ExportError(
                "three images at once give other answers than each alone",
                expected=f"a difference of at most {parity.bound:g} of their range, not {parity.relative:.3g}",
                causes=("it was exported with a fixed batch size, and mixes images",),
                next_step="export it with a dynamic batch axis",
            )


def check_batch(opened: OpenedGraph, made: onnx.ModelProto, source: ModelSource) -> None:
    """Check an ONNX file against its preprocessing, and run it on three drawn images where it can be from memory.

    Args:
        opened: gives its outputs.
        made: the graph that `fold_graph` made of it.
        source: gives the size of an image.

    Raises:
        ModelError: it takes other images than the preprocessing makes.
        ExportError: three at once do not run, or give other answers than each alone.
    """
    _check_size(opened.model, source)
    if source.kind != "onnx" or stored_bytes(made) > _IN_MEMORY:
        return
    shape = (3, source.preprocess.channels, *_image(source))
    images = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    listed = tuple(each.listed for each in opened.outputs.chosen)
    _prove_batch(_network(made.SerializeToString(), None), images, listed)


def _apart(alone: NDArray[Any], together: NDArray[Any], *, listed: bool) -> Parity:
    """How far images at once are from each alone; of lists the image that is nearest: rounding may change some."""
    pieces = np.split(np.arange(len(alone)), len(alone) if listed else 1)
    parities = [_between(alone[piece], together[piece]) for piece in pieces]
    return min(parities, key=lambda parity: parity.relative)


def _between(right: NDArray[Any], made: NDArray[Any]) -> Parity:
    return measure_parity(lambda _: right, lambda _: made, [right])
