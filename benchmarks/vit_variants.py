"""INT8 graphs of one network, each made another way from the same FP32 graph and the same images.

Every variant is a directory with `model.int8.ort.onnx`; those of edgeq are the bundles that `edgeq prepare` makes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import onnx
import torch
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from transformers import ViTConfig, ViTForImageClassification

from benchmarks.networks import IMAGENET, SEED, SIDE
from benchmarks.peers.onnxruntime_run import METHODS
from benchmarks.peers.reader import Reader
from benchmarks.peers.task import Task
from edgeq.calibrate.scales import Scales
from edgeq.calibrate.stage import SCALES
from edgeq.export.stage import FP32, PREPROCESS, export_model
from edgeq.files import new_directory
from edgeq.model.checkpoint.source import open_model
from edgeq.model.graph.tensors import constant_names
from edgeq.model.images.image_set import ImageSet
from edgeq.pipeline.classifier import Options, prepare
from edgeq.pipeline.stages import parity_images
from edgeq.plan.guards import ENOUGH_IMAGES
from edgeq.plan.precision import PrecisionPlan, Scope
from edgeq.plan.rules import WEIGHTED, plan_classifier
from edgeq.quality.gate import GateBounds, is_gated, is_transformer
from edgeq.quality.latency import Timing
from edgeq.quantize.int8.registry import USUAL
from edgeq.quantize.int8.stage import PLAN

__all__ = ["INT8_GRAPH", "RANDOM", "VARIANTS", "Bed", "Variant", "chosen", "export", "write_random"]

INT8_GRAPH: Final = USUAL.file

ANY_GRAPH: Final = GateBounds(enforced=False)
"""Whatever a variant is worth, its INT8 graph is what is looked at here."""

NOT_TIMED: Final = Timing(rounds=1, block_seconds=0.0)
"""`prepare` times each graph once and that figure is not used: all variants are timed together later."""

WIDTHS: Final = {"vit-s": 384, "vit-b": 768}
"""Of ViT-S/16 and ViT-B/16: both have 12 layers, heads of 64 and four times the width in between."""


@dataclass(frozen=True)
class Bed:
    """What every variant is made from.

    Attributes:
        exported: a directory made by `export`.
        images: a folder or zip of calibration images, `count` of which are used.
        threads: of one operator.
    """

    exported: Path
    images: Path
    count: int
    threads: int

    @property
    def graph(self) -> Path:
        """FP32, with BatchNorm folded."""
        return self.exported / FP32

    @property
    def is_transformer(self) -> bool:
        """Whether there is attention in it, and INT8 layers."""
        plan = plan_classifier(onnx.load(self.graph))
        return is_gated(plan) and is_transformer(plan)


Make = Callable[[Bed, Path], None]
"""Fills a directory that does not exist yet."""


@dataclass(frozen=True)
class Variant:
    """One way to make an INT8 graph.

    Attributes:
        name: of its directory, and on the command line.
        title: in the table.
        everywhere: whether it makes sense without attention, too.
    """

    name: str
    title: str
    make: Make
    everywhere: bool = False


def export(model: Path, directory: Path, images: ImageSet, *, threads: int) -> None:
    """The FP32 graph that all variants start from, with its preprocessing and its config.

    Raises:
        ModelError: there is no model. ExportError: it cannot be exported.
    """
    source = open_model(model)
    with new_directory(directory) as work:
        export_model(source, work, parity_images(images, source), threads=threads)


def chosen(bundle: Path) -> str:
    """What `edgeq prepare` settled on: "FOLD, RANGES"; empty for what another tool made."""
    if not (bundle / PLAN).exists():
        return ""
    plan, scales = PrecisionPlan.load(bundle / PLAN), Scales.load(bundle / SCALES)
    return f"{plan.channel_equalization}, {scales.method_for('onnxruntime')}"


def _edgeq(
    bed: Bed,
    directory: Path,
    *,
    transformer: Scope = "linears",
    channel_equalization: str = "auto",
    method: str = "auto",
    float_adds: bool | None = None,
) -> None:
    few = {"EQ107": "the benchmark was told to take so many"} if bed.count < ENOUGH_IMAGES else {}
    options = Options(
        calibration_images=bed.count,
        method=method,
        float_adds=float_adds,
        transformer=transformer,
        channel_equalization=channel_equalization,
        gate=ANY_GRAPH,
        timing=NOT_TIMED,
        threads=bed.threads,
        allow=few,
    )
    prepare(bed.exported, bed.images, directory, options=options)


def _onnxruntime(
    bed: Bed,
    directory: Path,
    *,
    method: str,
    activations: Literal["u8", "s8"] = "u8",
    per_channel: bool = True,
    layers_alone: bool = False,
) -> None:
    """`quantize_static` of the graph as onnxruntime's own preprocessing leaves it.

    Args:
        method: a key of `METHODS`.
        activations: unsigned with a zero point, or signed and symmetric.
        per_channel: of the weights, which are signed and symmetric.
        layers_alone: only layers with weights, in place of every operator that it knows.
    """
    task = Task(bed.graph, bed.exported / PREPROCESS, bed.images, bed.count, bed.threads, method, directory)
    with new_directory(directory) as work, _quietly():
        ready = work / "preprocessed.onnx"
        quant_pre_process(bed.graph, ready)
        graph = onnx.load(ready)
        quantize_static(
            ready,
            work / INT8_GRAPH,
            Reader(task, graph.graph.input[0].name),
            quant_format=QuantFormat.QDQ,
            per_channel=per_channel,
            reduce_range=False,
            activation_type=QuantType.QUInt8 if activations == "u8" else QuantType.QInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=sorted(WEIGHTED) if layers_alone else None,
            nodes_to_exclude=_without_weights(graph) if layers_alone else [],
            calibrate_method=METHODS[method],
            extra_options={"ActivationSymmetric": activations == "s8", "WeightSymmetric": True},
        )
        ready.unlink()


def _without_weights(model: onnx.ModelProto) -> list[str]:
    """The products of two activations: attention."""
    constants = constant_names(model.graph)
    return [node.name for node in model.graph.node if node.op_type in WEIGHTED and node.input[1] not in constants]


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """onnxruntime's quantizer prints on stdout, and warns of each weight that has no channels."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        logging.disable(logging.NOTSET)


def _ours(name: str, title: str, *, everywhere: bool = False, **choices: Any) -> Variant:
    return Variant(name, f"edgeq: {title}", partial(_edgeq, **choices), everywhere)


def _static(name: str, title: str, *, everywhere: bool = True, **settings: Any) -> Variant:
    return Variant(name, title, partial(_onnxruntime, **settings), everywhere)


_PLAIN: Final[dict[str, Any]] = {"channel_equalization": "none", "method": "mse"}
"""Without trials: so that the one technique that a row names is all that it shows."""

VARIANTS: Final = (
    _static("naive-tensor", "naive: min-max, per tensor", method="minmax", activations="s8", per_channel=False),
    _static("naive-channel", "naive: min-max, per channel", method="minmax", activations="s8"),
    _static("ort-minmax", "quantize_static: min-max", method="minmax"),
    _static("ort-percentile", "quantize_static: percentile", method="percentile"),
    _static("ort-entropy", "quantize_static: entropy", method="entropy"),
    _static(
        "ort-layers",
        "quantize_static: layers with weights alone, min-max",
        method="minmax",
        layers_alone=True,
    ),
    _static(
        "ort-layers-percentile",
        "quantize_static: layers with weights alone, percentile",
        method="percentile",
        layers_alone=True,
    ),
    _ours("ffn", "feed-forward alone", transformer="ffn", **_PLAIN),
    _ours("ffn-vo", "feed-forward, value and output", transformer="ffn-vo", **_PLAIN),
    _ours("linears", "all linear layers", **_PLAIN),
    _ours("repq", "all, RepQ-ViT's fold", channel_equalization="repq", method="mse"),
    _ours("smooth", "all, SmoothQuant's fold", channel_equalization="smooth", method="mse"),
    _ours("repq-smooth", "all, both folds", channel_equalization="repq-smooth", method="mse"),
    _ours("fold", "all, the fold that is best", channel_equalization="auto", method="mse"),
    _ours("ranges", "all, the ranges that are best", channel_equalization="none", method="auto"),
    _ours("search", "all, ranges searched by tensor", channel_equalization="none", method="search", float_adds=False),
    _ours("default", "what `prepare` makes by default", everywhere=True),
    _ours("default-search", "`prepare --method search`", everywhere=True, method="search"),
)

RANDOM: Final = ("ort-minmax", "ort-layers", "default")
"""What is made of a network that knows nothing, for its speed."""


def write_random(size: str, directory: Path) -> None:
    """A ViT with patches of 16 at 224 x 224 and random weights from a fixed seed: time does not depend on them.

    Args:
        size: a key of `WIDTHS`.
        directory: a Hugging Face directory to make.
    """
    width = WIDTHS[size]
    torch.manual_seed(SEED)
    network = ViTForImageClassification(
        ViTConfig(hidden_size=width, intermediate_size=4 * width, num_attention_heads=width // 64, num_labels=1000)
    )
    steps = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": SIDE, "width": SIDE},
        "do_rescale": True,
        "do_normalize": True,
        **IMAGENET,
    }
    with new_directory(directory) as work:
        network.save_pretrained(work)
        (work / PREPROCESS).write_text(json.dumps(steps, indent=1))
