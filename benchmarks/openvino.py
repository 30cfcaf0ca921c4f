"""edgeq's INT8 graphs in OpenVINO and in ONNX Runtime beside NNCF's model in OpenVINO: latency, and what they answer.

Run it with `make bench-openvino`; `benchmarks/README.md` tells what is measured and how.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.networks import SIDE, Network, cifar_network, random_resnet50
from benchmarks.process import ROOT
from benchmarks.tools import Tool, run_tool
from benchmarks.turns import Contender, Row, measure_latency
from edgeq.engine.registry import backend
from edgeq.model.images.image_set import ImageSet
from edgeq.model.images.preprocess_config import read_preprocess
from edgeq.model.images.stream import ImageStream

__all__ = ["main"]

NNCF = Tool("nncf", "nncf_run", "minmax", ".xml")
CIFAR_SIDE = 32
CIFAR_IMAGES, PHOTOGRAPHS = 500, 32
"""Images that both tools calibrate on; of ResNet-50 the time alone is looked at."""
MEMORY_LIMIT = 16 * 10**9
ANSWER_BATCH = 50


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 2 where data or NNCF are not there."""
    options = _parser().parse_args(arguments)
    data, cache = options.data.resolve(), options.cache.resolve()
    if not data.is_dir() or options.nncf is None or not os.access(options.nncf, os.X_OK):
        _say(f"needed: {data} with cifar10 and cifar10-resnet56, and --nncf PYTHON (see benchmarks/README.md)")
        return 2
    cifar, photographs = data / "cifar10" / "train.zip", data / "imagenet-sample" / "photos.zip"
    networks = (
        ("ResNet-56", cifar_network("resnet56", data, cache), cifar, CIFAR_IMAGES, CIFAR_SIDE),
        ("ResNet-50", random_resnet50(cache, photographs), photographs, PHOTOGRAPHS, SIDE),
    )
    rows: list[Row] = []
    answers: dict[str, tuple[float, float]] = {}
    for name, network, images, count, side in networks:
        contenders = _contenders(network, images, count, options.nncf, cache / f"openvino-{name.lower()}")
        if images == cifar:
            answers = _answers(network, contenders, data / "cifar10" / "test.zip", options.images)
        for threads in options.threads:
            for batch in options.batches:
                _say(f"{name}: {threads} threads, batch {batch}")
                rows += measure_latency(
                    name,
                    contenders,
                    threads=threads,
                    batch=batch,
                    side=side,
                    rounds=options.rounds,
                    seconds=options.seconds,
                )
    if options.json:
        print(json.dumps({"latency": [asdict(row) for row in rows], "answers": answers}, indent=1))
    else:
        print(_text(rows, answers))
    return 0


def _contenders(network: Network, images: Path, count: int, nncf: Path, work: Path) -> tuple[Contender, ...]:
    """Quantize with both tools, NNCF in its own environment; NNCF's is the last."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    scales, made, theirs = work / "scales.json", work / "int8", work / "nncf.xml"
    counted = ("--images", str(images), "--calibration-images", str(count))
    _edgeq("calibrate", str(network.directory), *counted, "-o", str(scales))
    _edgeq("quantize", str(network.directory), "--scales", str(scales), "--backend", "openvino", "-o", str(made))
    _say("NNCF quantizes")
    done = run_tool(NNCF, nncf, network, images, theirs, count=count, threads=2, memory_limit=MEMORY_LIMIT)
    if done.failure:
        raise RuntimeError(f"NNCF: {done.failure}")
    openvino, onnxruntime = backend("openvino"), backend("onnxruntime")
    return (
        Contender("edgeq in OpenVINO", openvino.name, made / openvino.graph),
        Contender("edgeq in ONNX Runtime", onnxruntime.name, made / onnxruntime.graph),
        Contender("NNCF in OpenVINO", openvino.name, theirs),
    )


def _edgeq(*arguments: str) -> None:
    allowed = ("--allow", "EQ107", "--because", "a benchmark of latency") if arguments[0] == "quantize" else ()
    command = [str(Path(sys.executable).with_name("edgeq")), *arguments, *allowed]
    subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)


def _answers(
    network: Network, contenders: Sequence[Contender], images: Path, count: int
) -> dict[str, tuple[float, float]]:
    """For each: percent of images with FP32's class, and ||INT8 - FP32|| / ||FP32|| of the logits."""
    preprocess = read_preprocess(json.loads(network.preprocess_config.read_text()))
    stream = ImageStream(ImageSet.open(images).sample(count), preprocess, batch_size=ANSWER_BATCH)
    batches = [pixels for _, pixels in stream]
    _say(f"answers to {count} images")
    reference = _logits(Contender("FP32", "onnxruntime", network.graph), batches)
    found = {}
    for contender in contenders:
        logits = _logits(contender, batches)
        same = float(np.mean(logits.argmax(axis=1) == reference.argmax(axis=1)))
        error = float(np.linalg.norm(logits - reference) / np.linalg.norm(reference))
        found[contender.title] = (100 * same, error)
    return found


def _logits(contender: Contender, batches: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    engine = backend(contender.backend).open(contender.graph)
    found = [engine.run({engine.inputs[0]: pixels})[engine.outputs[0]] for pixels in batches]
    return np.concatenate(found).astype(np.float64)


def _text(rows: Sequence[Row], answers: dict[str, tuple[float, float]]) -> str:
    titles = list(dict.fromkeys(row.contender for row in rows))
    heads = ["network", "threads", "batch", f"{titles[-1]}, ms", *(f"{title}, of that" for title in titles[:-1])]
    lines = [_line_of(heads), _line_of(["---"] * len(heads))]
    for start in range(0, len(rows), len(titles)):
        *others, base = rows[start : start + len(titles)]
        cells = [base.network, str(base.threads), str(base.batch), f"{base.milliseconds:.2f}"]
        lines.append(_line_of([*cells, *(_ratio(row) for row in others)]))
    lines += ["", "| ResNet-56 | same class as FP32 | logit error |", "|---|---|---|"]
    lines += [f"| {title} | {same:.2f} % | {error:.4f} |" for title, (same, error) in answers.items()]
    return "\n".join(lines)


def _ratio(row: Row) -> str:
    low, middle, high = row.ratio
    return f"{middle:.3f} ({low:.3f}-{high:.3f})"


def _line_of(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.openvino", description=__doc__)
    nncf = os.environ.get("NNCF_PYTHON")
    parser.add_argument("--nncf", type=Path, metavar="PYTHON", default=Path(nncf) if nncf else None)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--cache", type=Path, default=ROOT / "out" / "bench", help="exported networks are kept here")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=0.3, help="of one block; at least one run")
    parser.add_argument("--images", type=int, default=5000, help="labelled ones that are answered")
    parser.add_argument("--json", action="store_true")
    return parser


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
