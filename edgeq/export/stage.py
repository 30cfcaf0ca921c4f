"""The export stage: MODEL to a folded FP32 graph that was proved to compute the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, ValidationError

from edgeq.artifact import Versioned
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.errors import ArtifactError, ExportError, ModelError
from edgeq.export.fold import (
    KEPT_BY_PLAN,
    FoldReport,
    KeptBatchNorm,
    batchnorm_names,
    count_batchnorm,
    fold_batchnorm,
    require_folded,
)
from edgeq.export.image_input import channels_first, image_size, is_channels_last
from edgeq.export.opset import is_supported, to_supported_opset
from edgeq.export.parity import Network, Parity, measure_parity, prove_parity
from edgeq.export.rewrites.doubles import single_precision
from edgeq.export.rewrites.fixed_batch import fixed_batch, free_batch, with_dynamic_batch
from edgeq.export.simplify import simplify
from edgeq.export.torch_export import export_classifier
from edgeq.files import atomic_write, sha256_file
from edgeq.model.checkpoint.source import ModelSource
from edgeq.model.graph.components import name_nodes
from edgeq.model.graph.onnx_file import load_onnx, save_onnx
from edgeq.plan.precision import ChannelEqualization

__all__ = [
    "CONFIG",
    "EXPORT",
    "FP32",
    "PREPROCESS",
    "ExportReport",
    "export_model",
    "fold_graph",
    "open_graph",
    "replace_graph",
    "save_report",
]

FP32 = "model.fp32.onnx"
PREPROCESS = "preprocessor_config.json"
CONFIG = "config.json"
EXPORT = "export.json"


class ExportReport(Versioned):
    """What the export stage did and proved.

    Attributes:
        graph_sha256: of `model.fp32.onnx`.
        opset, ir_version: of that file.
        batchnorm_before, batchnorm_after: BatchNormalization nodes.
        folded: BatchNorm -> where it went, e.g. "after Conv conv1".
        kept: BatchNorm -> why it is still there.
        channel_affine: Mul, Add, Sub or Div by channel -> the layer that took it in.
        parity: the source against the file, on real images; where channels were rescaled, the file before that.
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
                next_step=f"edgeq export {directory} --images CALIB -o EXPORTED",
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

    Raises:
        ModelError: the model cannot be read or does not take such images.
        ExportError: it cannot be exported; with `strict`, a BatchNorm cannot be folded and was not named.
        ParityError: the graph made computes something else.
    """
    traced, reference = open_graph(source, directory, threads)
    _check_size(traced, source)
    model, folded = fold_graph(traced, fold=fold, keep_batchnorm=keep_batchnorm)
    if strict:
        require_folded(folded)
    _write(model, source, directory)
    network = _network(directory / FP32, threads)
    parity = prove_parity(reference, network, _single(images))
    _prove_batch(network, images)
    return save_report(directory, model, source.kind, folded, parity)


def save_report(
    directory: Path, model: onnx.ModelProto, source: Literal["onnx", "hf"], folded: FoldReport, parity: Parity
) -> ExportReport:
    """Write the report of a graph that was exported.

    Args:
        directory: with `model.fp32.onnx`.
        model: that graph.
        source: what it was exported from.
        folded: what became of its BatchNorms.
        parity: the source against the file.
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
    model: onnx.ModelProto, *, fold: bool = True, keep_batchnorm: tuple[str, ...] = ()
) -> tuple[onnx.ModelProto, FoldReport]:
    """The graph that is planned and quantized: dynamic batch, simplified, every node named, BatchNorm folded.

    Args:
        model: is not changed.
        fold: whether BatchNorm is folded.
        keep_batchnorm: names of those that stay.

    Raises:
        ExportError: the graph is not well formed, or `keep_batchnorm` names a node that is no BatchNorm.
    """
    batch, model = fixed_batch(model), single_precision(model)
    model = free_batch(name_nodes(simplify(with_dynamic_batch(model))), batch)
    if fold:
        model, report = fold_batchnorm(model, keep=keep_batchnorm)
        return simplify(model), report
    names = batchnorm_names(model)
    return model, FoldReport(len(names), len(names), (), tuple(KeptBatchNorm(name, KEPT_BY_PLAN) for name in names))


def open_graph(source: ModelSource, directory: Path, threads: int | None) -> tuple[onnx.ModelProto, Network]:
    """The graph as it came, in opset 17 or 18, and the network that it must stay equal to: the file in its own opset.

    Args:
        source: an ONNX file or a checkpoint.
        directory: where an exporter may put its file for a moment.
        threads: of one operator of the network; None takes every processor there is.

    Raises:
        ModelError: the model cannot be read.
        ExportError: it cannot be exported.
    """
    if source.onnx_path is not None:
        model = load_onnx(source.onnx_path)
        last = is_channels_last(model)
        reference = _as_exported(_network(model.SerializeToString(), threads), fixed_batch(model) or 1, last)
        model = channels_first(model) if last else model
        if not is_supported(model):  # shape arithmetic first: the converter knows fewer operators than ONNX Runtime
            model = to_supported_opset(simplify(model), source.onnx_path)
        return model, reference
    size = (source.preprocess.height, source.preprocess.width)
    raw = directory / "model.traced.onnx"
    exported = export_classifier(source.path, raw, image_size=size)
    model = load_onnx(raw)
    raw.unlink()
    return model, exported.reference


def _network(model: Path | bytes, threads: int | None) -> Network:
    engine = OnnxRuntimeEngine(model, threads=threads)
    return lambda pixels: engine.run({engine.inputs[0]: pixels})[engine.outputs[0]]


def _as_exported(network: Network, batch: int, channels_last: bool) -> Network:
    """A network for one image [1, 3, H, W], whatever it was exported for.

    Args:
        network: as it came.
        batch: what it was exported for; it sees the same image in each place.
        channels_last: whether it takes [batch, H, W, 3].
    """

    def run(pixels: NDArray[Any]) -> NDArray[Any]:
        given = np.repeat(pixels, batch, axis=0)
        ordered = np.ascontiguousarray(given.transpose(0, 2, 3, 1)) if channels_last else given
        return network(ordered)[: len(pixels)]

    return run


def _single(images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """One image at a time: the source may have a fixed batch of one."""
    return [images[i : i + 1] for i in range(len(images))]


def _check_size(model: onnx.ModelProto, source: ModelSource) -> None:
    wanted = (source.preprocess.height, source.preprocess.width)
    for have, want in zip(image_size(model), wanted, strict=True):
        if have not in (None, want):
            raise ModelError(
                f"the graph takes images of {image_size(model)} pixels, the preprocessing makes {wanted}",
                causes=("preprocessor_config.json belongs to another model",),
                next_step="give the right size with --mean, --std and --size",
            )


def _write(model: onnx.ModelProto, source: ModelSource, directory: Path) -> None:
    save_onnx(model, directory / FP32)
    for name, content in ((PREPROCESS, source.preprocess.to_config()), (CONFIG, dict(source.config))):
        atomic_write(directory / name, json.dumps(content, indent=1, sort_keys=True).encode())


def _prove_batch(network: Network, images: NDArray[np.float32]) -> None:
    """Run three images at once: a fixed batch size hides in reshapes as well as in the input's shape.

    Args:
        network: that was proved with one image at a time.
        images: float32 [n, 3, H, W].
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
    alone = np.concatenate([network(image) for image in _single(three)])
    if together.shape != alone.shape:
        raise ExportError(f"the graph gives {list(together.shape)} for three images", expected=f"{list(alone.shape)}")
    parity = measure_parity(lambda _: alone, lambda _: together, [three])
    if not parity.holds:
        raise ExportError(
            "three images at once give other answers than each alone",
            expected=f"a difference of at most {parity.bound:g} of their range, not {parity.relative:.3g}",
            causes=("it was exported with a fixed batch size, and mixes images",),
            next_step="export it with a dynamic batch axis",
        )
