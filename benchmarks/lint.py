"""What `edgeq lint` says of the graphs that quantizers write: edgeq's, ModelOpt's, onnxruntime's.

Run it with `make bench-lint`; `benchmarks/README.md` tells what is measured and how.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import onnx

from benchmarks.networks import Network
from benchmarks.process import ROOT
from benchmarks.tools import Tool, quantized_by
from edgeq.calibrate.samples import ImageSamples
from edgeq.export.input_adapter import open_image_model
from edgeq.export.stage import FP32, export_model
from edgeq.lint.report import FileFindings
from edgeq.lint.run import lint_file
from edgeq.model.graph.onnx_file import save_onnx
from edgeq.model.images.image_set import ImageSet
from edgeq.pipeline.stages import Options, calibrate_graph, parity_images, planned_tensors
from edgeq.plan.rules import plan_classifier
from edgeq.quantize.int8.qdq import lower
from edgeq.quantize.int8.registry import USUAL
from edgeq.quantize.int8.select import resolve
from edgeq.quantize.int8.tensorrt import LOWERING

__all__ = ["main"]

_WEIGHTS: Final = Path(__file__).parent / "weights"
_IMAGES: Final = 16
_ONNXRUNTIME: Final = {
    "onnxruntime, defaults": "default",
    "onnxruntime, unsigned": "minmax-u8",
    "onnxruntime, signed": "minmax-s8",
    "onnxruntime, as for TensorRT": "tensorrt",
    "onnxruntime, dynamic": "dynamic",
}
_MODELOPT: Final = {"ModelOpt, fp32": "max", "ModelOpt, fp16": "max:fp16"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each graph; 2 where data is not there."""
    options = _parser().parse_args(arguments)
    data = options.data.resolve()
    pictures = data / "cifar10" / "test.zip"
    if not pictures.is_file():
        print(f"needed: {pictures}", file=sys.stderr)
        return 2
    networks = {
        "ResNet-20": data / "cifar10-resnet20",
        "MobileNetV2": _WEIGHTS / "mobilenet",
        "ViT": _WEIGHTS / "vit",
    }
    for name, source in networks.items():
        if options.only and name not in options.only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            for title, file in _made(source, pictures, Path(folder), options).items():
                print(_line(name, title, lint_file(file)), flush=True)
    return 0


def _made(source: Path, images: Path, work: Path, options: argparse.Namespace) -> dict[str, Path]:
    """The graphs by who wrote them, all from one FP32 graph and the same images."""
    opened, some = open_image_model(source, preprocess=None), ImageSet.open(images)
    export_model(opened, work, parity_images(some, opened, 2), threads=options.threads)
    graph = work / FP32
    plan = plan_classifier(onnx.load(graph))
    samples = ImageSamples(some.sample(_IMAGES), opened.preprocess)
    asked = Options(method="minmax", threads=options.threads)
    scales, _ = calibrate_graph(graph, plan, planned_tensors(graph, plan), samples, asked, lambda *_: None)
    plan, model = resolve(plan, scales, graph), onnx.load(graph)
    found = {"FP32": graph}
    for title, lowering in (("edgeq, for TensorRT", LOWERING), ("edgeq, for ONNX Runtime", USUAL)):
        found[title] = work / f"{lowering.backend.name}.onnx"
        save_onnx(lowering.types(lower(model, plan, scales, lowering), plan), found[title])
    peers = {title: (Tool("onnxruntime", "onnxruntime_run", it), sys.executable) for title, it in _ONNXRUNTIME.items()}
    if options.modelopt:
        peers |= {title: (Tool("modelopt", "modelopt_run", it), options.modelopt) for title, it in _MODELOPT.items()}
    for title, (tool, python) in peers.items():
        output = work / f"{tool.module}.{tool.setting.replace(':', '-')}.onnx"
        counts = {"count": _IMAGES, "threads": options.threads}
        found[title] = quantized_by(tool, Path(python), Network(work), images, output, **counts)
    return found


def _line(network: str, title: str, found: FileFindings) -> str:
    levels = Counter(each.level for each in found.findings)
    rules = Counter(f"{each.rule} {each.name}" for each in found.findings if each.level != "note")
    said = ", ".join(f"{rule} {count}" for rule, count in sorted(rules.items())) or "nothing"
    columns = (("INT8", "UINT8"), ("FP16",), ("FP32",))
    types = "/".join(f"{sum(found.written.get(kind, 0.0) for kind in kinds):.1f}" for kinds in columns)
    return f"| {network} | {title} | {levels['error']}, {levels['warning']} | {said} | {types} |"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--only", nargs="*", help="names of networks")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--modelopt", type=Path, help="a Python with nvidia-modelopt[onnx]; None leaves it out")
    return parser


if __name__ == "__main__":
    sys.exit(main())
