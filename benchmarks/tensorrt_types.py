"""In which types TensorRT's graphs compute and write: INT8, FP16, FP32, before FP16 stood beside INT8 and now.

Run it with `make bench-tensorrt-types`; `benchmarks/README.md` tells what is measured and how.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from benchmarks.networks import IMAGENET, Network
from benchmarks.process import ROOT
from benchmarks.tools import Tool, quantized_by
from edgeq.calibrate.samples import ImageSamples
from edgeq.calibrate.scales import TensorRange
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.export.input_adapter import open_image_model
from edgeq.export.stage import FP32, export_model
from edgeq.lint.graph import LintGraph
from edgeq.lint.shares import computed_shares, written_shares
from edgeq.model.images.image_set import ImageSet
from edgeq.model.images.preprocess import Preprocess
from edgeq.model.images.preprocess_config import read_preprocess
from edgeq.pipeline.stages import Options, calibrate_graph, parity_images, planned_tensors
from edgeq.plan.rules import plan_classifier
from edgeq.quantize.fp16.fp16_simulation import simulate_fp16
from edgeq.quantize.int8.grid import Grid
from edgeq.quantize.int8.grids import signed_grids
from edgeq.quantize.int8.placement import Placement
from edgeq.quantize.int8.qdq import lower
from edgeq.quantize.int8.select import resolve
from edgeq.quantize.int8.tensorrt import LOWERING, TensorRtLowering

__all__ = ["Row", "main"]

_KINDS: Final = ("INT8", "FP16", "FP32")
_PAIRS: Final = ("QuantizeLinear", "DequantizeLinear")
_WEIGHTS: Final = Path(__file__).parent / "weights"
_CALIBRATION: Final = 32
_JUDGED: Final = 48
_NORMALIZING: Final = 24


class _Before(TensorRtLowering):
    """As it was: FP32 scales, pairs on the inputs of INT8 layers alone."""

    half_scales = False

    def also_reads(self, node: gs.Node) -> Sequence[gs.Variable]:  # noqa: ARG002
        return ()

    def grids(self, ranges: dict[str, TensorRange], placement: Placement) -> dict[str, Grid]:
        return signed_grids(ranges, placement)


@dataclass(frozen=True)
class Row:
    """One graph of one network.

    Attributes:
        network, graph: which.
        elements: percent of the activations' numbers that kernels write, by type.
        operators: percent of the operators on floating-point numbers, by type.
        casts: Cast nodes, and those directly behind an INT8 layer.
        error: ||logits - FP32's|| / ||FP32's||, run without optimizations, FP16 rounded where a kernel writes it.
    """

    network: str
    graph: str
    elements: dict[str, float]
    operators: dict[str, float]
    casts: tuple[int, int]
    error: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a table; 2 where data is not there."""
    options = _parser().parse_args(arguments)
    photographs = options.data.resolve() / "imagenet-sample" / "photos.zip"
    pictures = options.data.resolve() / "cifar10" / "test.zip"
    if not photographs.is_file() or not pictures.is_file():
        print(f"needed: {photographs} and {pictures}", file=sys.stderr)
        return 2
    rows: list[Row] = []
    for name, make in _NETWORKS.items():
        if options.only and name not in options.only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            source = make(Path(folder) / "source", photographs)
            images = pictures if source.parent == _WEIGHTS else photographs
            for row in _rows(name, source, images, Path(folder) / "made", options):
                print(_line(row), flush=True)
                rows.append(row)
        gc.collect()
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return 0


def _rows(name: str, source: Path, images: Path, work: Path, options: argparse.Namespace) -> list[Row]:
    work.mkdir()
    opened = open_image_model(source, preprocess=None)
    some = ImageSet.open(images)
    export_model(opened, work, parity_images(some, opened, 2), threads=options.threads)
    graph = work / FP32
    counted = some.sample(_CALIBRATION)
    asked = Options(method="mse", threads=options.threads)
    plan = plan_classifier(onnx.load(graph))
    samples = ImageSamples(counted, opened.preprocess)
    scales, _ = calibrate_graph(graph, plan, planned_tensors(graph, plan), samples, asked, lambda *_: None)
    plan = resolve(plan, scales, graph)
    model = onnx.load(graph)
    wide = lower(model, plan, scales, LOWERING)
    made = {
        "before: FP32 beside INT8": lower(model, plan, scales, _Before()),
        "FP16 beside INT8": LOWERING.types(wide, plan),
    }
    if options.modelopt:
        tool, output = Tool("modelopt", "modelopt_run", "max:fp16"), work / "modelopt.onnx"
        counts = {"count": _CALIBRATION, "threads": options.threads}
        made["ModelOpt, fp16"] = onnx.load(
            quantized_by(tool, options.modelopt, Network(work), images, output, **counts)
        )
    pixels = np.stack(
        [opened.preprocess(some.read(item)) for item in some.without(counted.items).sample(_JUDGED).items]
    )
    right = _logits(model, pixels, options.threads)
    rows = []
    for title, each in made.items():
        found = _logits(simulate_fp16(each), pixels, options.threads)
        error = float(np.linalg.norm(found - right) / np.linalg.norm(right))
        looked = LintGraph(each, graph)
        types = _shares(written_shares(looked)), _shares(computed_shares(looked))
        rows.append(Row(name, title, *types, _casts(each), error))
    return rows


def _pixels(images: Path, preprocess: Preprocess, count: int) -> NDArray[np.float32]:
    """Of the first images of a set, float32 [count, 3, H, W]."""
    some = ImageSet.open(images)
    return np.stack([preprocess(some.read(item)) for item in some.items[:count]])


def _logits(model: onnx.ModelProto, pixels: NDArray[np.float32], threads: int) -> NDArray[np.float32]:
    engine = OnnxRuntimeEngine(model.SerializeToString(), threads=threads, optimize=False, integers=False)
    answers = [next(iter(engine.run({engine.inputs[0]: image[None]}).values())) for image in pixels]
    return np.concatenate(answers).astype(np.float32)


def _shares(shares: dict[str, float]) -> dict[str, float]:
    return {kind: shares.get(kind, 0.0) for kind in _KINDS}


def _casts(model: onnx.ModelProto) -> tuple[int, int]:
    makers = {name: node for node in model.graph.node for name in node.output}
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    behind = 0
    for cast in casts:
        maker = makers.get(cast.input[0])
        while maker is not None and maker.op_type in ("Relu", "Clip"):
            maker = makers.get(maker.input[0])
        behind += maker is not None and any(makers[name].op_type == _PAIRS[1] for name in maker.input if name in makers)
    return len(casts), behind


def _line(row: Row) -> str:
    elements, layers = ("/".join(f"{part[kind]:.1f}" for kind in part) for part in (row.elements, row.operators))
    casts = f"{row.casts[0]} ({row.casts[1]})"
    return f"| {row.network} | {row.graph} | {elements} | {layers} | {casts} | {row.error:.4f} |"


def _settle(network: Any, pixels: NDArray[np.float32]) -> None:
    """Weights that keep numbers as large as they are from layer to layer (He), and BatchNorm's statistics of `pixels`.

    transformers draws EfficientNet's BatchNorm scales around 0 with a deviation of 0.02: behind eighty of them nothing
    is left that FP16 holds. Here they are 1, and the shifts 0.
    """
    import torch

    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
            module.reset_parameters()
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    with torch.no_grad():
        network.train()(torch.from_numpy(pixels))


def _drawn(config: str, network: str, **settings: Any) -> Callable[[Path, Path], Path]:
    """What writes a network of transformers with drawn weights into a directory, normalized by its own photographs."""

    def write(directory: Path, photographs: Path) -> Path:
        import torch
        import transformers

        directory.mkdir()
        steps = {
            "image_processor_type": "ViTImageProcessor",
            "size": {"height": 224, "width": 224},
            "do_rescale": True,
            "do_normalize": True,
            **IMAGENET,
        }
        (directory / "preprocessor_config.json").write_text(json.dumps(steps))
        torch.manual_seed(0)
        made = getattr(transformers, network)(getattr(transformers, config)(num_labels=1000, **settings))
        _settle(made, _pixels(photographs, read_preprocess(steps), _NORMALIZING))
        made.eval().save_pretrained(directory)
        return directory

    return write


_NETWORKS: Final = {
    "MobileNetV2, trained": lambda *_: _WEIGHTS / "mobilenet",
    "ViT, trained": lambda *_: _WEIGHTS / "vit",
    "ResNet-50": _drawn("ResNetConfig", "ResNetForImageClassification"),
    "EfficientNet-B0": _drawn(
        "EfficientNetConfig",
        "EfficientNetForImageClassification",
        width_coefficient=1.0,
        depth_coefficient=1.0,
        hidden_dim=1280,
        image_size=224,
        dropout_rate=0.0,
        drop_connect_rate=0.0,
    ),
    "ConvNeXt-T": _drawn("ConvNextConfig", "ConvNextForImageClassification", layer_scale_init_value=0.1),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--only", nargs="*", help="names of networks")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--modelopt", type=Path, help="a Python with nvidia-modelopt[onnx]; None leaves it out")
    parser.add_argument("--json", type=Path, help="write the rows there as well")
    return parser


if __name__ == "__main__":
    sys.exit(main())
