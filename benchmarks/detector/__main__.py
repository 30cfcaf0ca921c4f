"""What INT8 makes of a detector's boxes: mAP of edgeq's graphs and of its peers' beside FP32.

Run it with `make bench-detector`; `benchmarks/README.md` tells what is measured and how.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx

from benchmarks.detector.export import WEIGHTS, export
from benchmarks.detector.graph import last_nodes
from benchmarks.detector.labelled import Outputs, compare, write_scenes
from benchmarks.detector.scenes import CALIBRATION_SEED, EVALUATION_SEED
from benchmarks.networks import Network
from benchmarks.peers.task import END
from benchmarks.process import ROOT
from benchmarks.simulated_vit import markdown_table
from benchmarks.tools import Interpreters, Tool, run_tool
from benchmarks.vit_variants import NOT_TIMED
from benchmarks.vit_variants import export as fold
from edgeq.engine.registry import backend
from edgeq.model.images.image_set import ImageSet
from edgeq.pipeline.classifier import Options, Prepared, prepare
from edgeq.quality.tasks.detection.task import Detection

__all__ = ["main"]

_ANSWERS: Final = Tool("answers", "answer_run", "unlabelled")
_PEERS: Final = (
    Tool("onnxruntime", "onnxruntime_run", "default", ".onnx"),
    Tool("onnxruntime", "onnxruntime_run", "percentile-u8", ".onnx"),
    *(
        Tool("onnxruntime", "onnxruntime_run", f"{method}-u8-fp32end", ".onnx")
        for method in ("minmax", "percentile", "entropy")
    ),
    Tool("nncf", "nncf_run", "minmax", ".xml"),
    Tool("nncf", "nncf_run", "mixed", ".xml"),
    Tool("nncf", "nncf_run", "mixed-fp32end", ".xml"),
)
_EDGEQ: Final = {"onnxruntime": "edgeq, ONNX Runtime's graph", "tensorrt": "edgeq, TensorRT's graph"}
_MEMORY_LIMIT: Final = 8 * 10**9


@dataclass(frozen=True)
class Row:
    """One graph.

    Attributes:
        figures: beside FP32.
        failure: why there are no figures.
    """

    title: str
    figures: Detection | None = None
    failure: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 2 where the network or a package is not there."""
    options = _parser().parse_args(arguments)
    options.work = options.work.resolve()
    if not (options.model / "model.safetensors").exists():
        _say(f"{options.model} has no weights: make them with python -m benchmarks.detector.train")
        return 2
    result, text = _measure(options)
    print(text)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def _measure(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """The figures, and the same for a person; what --work holds already is not made again."""
    work: Path = options.work
    calibration, evaluation = work / "calibration", work / "evaluation"
    _once(calibration, partial(write_scenes, seed=CALIBRATION_SEED, count=options.calibration_images))
    _once(evaluation, partial(write_scenes, seed=EVALUATION_SEED, count=options.images))
    network = _network(options, calibration)
    graphs = dict(_graphs(options, network, calibration))
    _say(f"FP32: {options.images} images")
    reference = _outputs(options, network, network.graph, evaluation)
    if isinstance(reference, str):
        raise RuntimeError(f"the FP32 network gives no answers: {reference}")
    base = compare(evaluation, reference, reference)
    rows = list(_rows(options, network, graphs, evaluation, reference))
    result = {
        "calibration_images": options.calibration_images,
        "fp32": base.model_dump(),
        "rows": [{"title": row.title, "failure": row.failure, **_dumped(row)} for row in rows],
    }
    title = (
        f"{base.images} scenes with {base.objects} defects, {options.calibration_images} for calibration; "
        f"FP32 gives {base.found_again.detections} detections above {base.found_again.threshold:g}"
    )
    heads = ["", "mAP 50:95", "to FP32 (standard error)", "mAP 50", "to FP32", "found again", "new"]
    first = ["FP32", f"{base.map_reference:.2f}", "-", f"{base.map50_reference:.2f}", "-", "-", "-"]
    return result, f"{title}\n\n{markdown_table(heads, [first, *map(_cells, rows)])}"


def _dumped(row: Row) -> dict[str, Any]:
    return row.figures.model_dump() if row.figures else {}


def _network(options: argparse.Namespace, calibration: Path) -> Network:
    """The exported and folded FP32 graph, with the names of its last nodes beside it."""
    source, folded = options.work / "source", options.work / "fp32"
    _once(source, partial(export, options.model))
    images = ImageSet.open(calibration).sample(options.calibration_images)
    _once(folded, lambda made: fold(source, made, images, threads=options.threads))
    network = Network(folded)
    (folded / END).write_text(json.dumps(last_nodes(onnx.load(network.graph))))
    return network


def _graphs(options: argparse.Namespace, network: Network, calibration: Path) -> Iterator[tuple[str, Path | str]]:
    """Every INT8 graph by its title, or why there is none."""
    bundle = options.work / "edgeq"
    _once(bundle, lambda made: _say(_told(_prepare(options, calibration, made))))
    for name, title in _EDGEQ.items():
        yield title, bundle / backend(name).graph
    imports = {"nncf": "nncf"}
    interpreters = Interpreters.find({"nncf": options.nncf}, imports)
    for reason in interpreters.missing.values():
        _say(f"left out: {reason}")
    for tool in interpreters.having(_PEERS):
        output = options.work / "peers" / f"{tool.name}-{tool.setting}{tool.suffix}"
        if not output.exists():
            _say(tool.title)
            done = run_tool(
                tool,
                interpreters.of(tool),
                network,
                calibration,
                output,
                count=options.calibration_images,
                threads=options.threads,
                memory_limit=_MEMORY_LIMIT,
            )
            if done.failure:
                yield tool.title, done.failure
                continue
        yield tool.title, output


def _prepare(options: argparse.Namespace, calibration: Path, bundle: Path) -> Prepared:
    """The main job as a user runs it: with nothing said about heads, layers or methods, and without labels."""
    said = Options(
        calibration_images=options.calibration_images,
        allow={"EQ107": "the benchmark says how many images each tool gets"},
        threads=options.threads,
        timing=NOT_TIMED,
        task="detection",
    )
    return prepare(options.work / "source", calibration, bundle, options=said)


def _told(made: Prepared) -> str:
    """What edgeq settled on."""
    layers = f"{made.int8_layers} layers in INT8, {made.fp16_layers + made.fp32_layers} in floating point"
    return "\n".join([f"edgeq: {made.method}, {layers}", *(f"  {warning}" for warning in made.warnings)])


def _rows(
    options: argparse.Namespace,
    network: Network,
    graphs: Mapping[str, Path | str],
    evaluation: Path,
    reference: Outputs,
) -> Iterator[Row]:
    for title, graph in graphs.items():
        _say(f"judging {title}")
        outputs = graph if isinstance(graph, str) else _outputs(options, network, graph, evaluation)
        if isinstance(outputs, str):
            yield Row(title, failure=outputs)
        else:
            yield Row(title, compare(evaluation, reference, outputs))


@dataclass(frozen=True)
class _Scored(Network):
    """Another graph with the preprocessing of the FP32 one."""

    scored: Path

    @property
    def graph(self) -> Path:
        """The graph that is run."""
        return self.scored


def _outputs(options: argparse.Namespace, network: Network, graph: Path, evaluation: Path) -> Outputs | str:
    """What a graph gives for the evaluation images in order, or why it gives nothing."""
    saved = options.work / "outputs" / f"{graph.parent.name}-{graph.stem}.npz"
    if not saved.exists():
        python = options.nncf if graph.suffix == ".xml" else Path(sys.executable)
        scored = _Scored(network.directory, graph)
        done = run_tool(
            _ANSWERS,
            python,
            scored,
            evaluation,
            saved,
            count=options.images,
            threads=options.threads,
            memory_limit=_MEMORY_LIMIT,
        )
        if done.failure:
            return done.failure
    with np.load(saved) as held:
        outputs: Outputs = held["logits"][np.argsort(held["names"])]
    return outputs


def _once(path: Path, make: Callable[[Path], object]) -> None:
    """Make a directory unless it is there: each appears only when it is whole."""
    if not path.exists():
        _say(f"making {path.name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        make(path)


def _cells(row: Row) -> list[str]:
    found = row.figures
    if found is None:
        return [row.title, row.failure, *[""] * 5]
    return [
        row.title,
        f"{found.map_candidate:.2f}",
        f"{0.0 - found.drop:+.2f} ({found.drop_standard_error or 0.0:.2f})",
        f"{found.map50_candidate:.2f}",
        f"{found.map50_candidate - found.map50_reference:+.2f}",
        f"{found.found_again.found_again:.1f} %",
        f"{100 * found.found_again.new:.1f} %",
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detector", description=__doc__)
    nncf = os.environ.get("NNCF_PYTHON")
    parser.add_argument("--model", type=Path, default=WEIGHTS, help="directory made by benchmarks.detector.train")
    parser.add_argument("--nncf", type=Path, metavar="PYTHON", default=Path(nncf) if nncf else None)
    parser.add_argument("--images", type=int, default=1000, help="that are judged by")
    parser.add_argument("--calibration-images", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--work", type=Path, default=ROOT / "out" / "bench-detector", help="kept; remove it for new ones"
    )
    parser.add_argument("--json", type=Path, help="a file for every figure")
    return parser


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
