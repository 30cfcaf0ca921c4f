"""edgeq against its peers: time and memory of calibration, and what the quantized networks answer.

Run it with `make bench-calibration`; `benchmarks/README.md` tells what is measured and how.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.networks import CIFAR, cifar_network, random_resnet50
from benchmarks.process import ROOT
from benchmarks.speed import Budget, measure_speed
from benchmarks.tools import Interpreters

__all__ = ["main"]

IMPORTS = {"modelopt": "modelopt.onnx.quantization", "nncf": "nncf, openvino"}
PARTS = ("speed", "quality")
TOOLS = ("forward", "edgeq", "onnxruntime", *IMPORTS)
GIGABYTE = 10**9


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what was asked for and print it; 2 where the data are not there."""
    options = _parser().parse_args(arguments)
    options.data = options.data.resolve()
    options.cache = options.cache.resolve()
    if not options.data.is_dir():
        _say(f"{options.data} is not there: it must hold imagenet-sample, cifar10, cifar10-resnet20 and -resnet56")
        return 2
    options.cache.mkdir(parents=True, exist_ok=True)
    given = {tool: getattr(options, f"{tool}_python") for tool in IMPORTS}
    interpreters = Interpreters.find(given, IMPORTS).only(options.tools)
    for tool, reason in interpreters.missing.items():
        _say(f"{tool} is left out: {reason}")
    budget = Budget(options.threads, options.rounds, int(options.memory_limit * GIGABYTE))
    measure = {"speed": _speed, "quality": _quality}
    result: dict[str, Any] = {"missing": interpreters.missing, "threads": options.threads}
    for part in options.parts or PARTS:
        load = os.getloadavg()
        figures, text = measure[part](options, interpreters, budget)
        result[part] = {"load_before": load, "load_after": os.getloadavg(), **figures}
        table = f"{text}\nload average before and after: {load[0]:.2f}, {os.getloadavg()[0]:.2f}\n"
        print(table, flush=True, file=sys.stderr if options.json else sys.stdout)
    if options.json:
        print(json.dumps(result, indent=1))
    return 0


def _speed(options: argparse.Namespace, interpreters: Interpreters, budget: Budget) -> tuple[dict[str, Any], str]:
    from benchmarks.tables import further_images, speed_table

    photos = options.data / "imagenet-sample" / "photos.zip"
    network = random_resnet50(options.cache, photos)
    scratch = options.cache / "scratch"
    rows = measure_speed(network, photos, options.counts, interpreters, scratch, budget, say=_say)
    further = further_images(rows)
    lines = [
        f"{one['tool']}: {one['seconds']:.4f} s each further image, peak memory x {one['memory_ratio']:.2f} "
        f"({one['few']} to {one['many']} images)"
        for one in further
    ]
    title = "ResNet-50 at 224 x 224, seconds an image, images on disk to the result"
    text = "\n".join([title, speed_table(rows), "", *lines])
    return {"rows": [dataclasses.asdict(row) for row in rows], "further_images": further}, text


def _quality(options: argparse.Namespace, interpreters: Interpreters, budget: Budget) -> tuple[dict[str, Any], str]:
    from benchmarks.quality import Sets, measure_quality
    from benchmarks.tables import quality_table

    cifar = options.data / "cifar10"
    sets = Sets(cifar / "train.zip", options.calibration_images, cifar / "test.zip", options.test_images)
    rows = []
    for name in CIFAR:
        network = cifar_network(name, options.data, options.cache)
        rows += measure_quality(name, network, sets, interpreters, options.cache / "scratch", budget, say=_say)
    title = f"CIFAR-10, {sets.calibration_count} calibration images, {sets.labelled_count} test images"
    return {"rows": [dataclasses.asdict(row) for row in rows]}, f"{title}\n{quality_table(rows)}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks.calibration", description=__doc__)
    add: Callable[..., Any] = parser.add_argument
    add("parts", nargs="*", type=_part, metavar="{speed,quality}", help="default: both")
    add("--data", type=Path, default=ROOT.parent / "shared" / "data", help="the images and networks")
    add("--cache", type=Path, default=ROOT / "out" / "bench", help="where exported networks are kept")
    add("--counts", type=int, nargs="+", default=[50, 100, 200], help="numbers of images for speed")
    add("--calibration-images", type=int, default=500, help="for quality")
    add("--test-images", type=int, default=5000, help="for quality")
    add("--tools", nargs="+", choices=TOOLS, default=TOOLS, help="run these alone")
    add("--threads", type=int, default=2, help="processors that each tool may use")
    add("--rounds", type=int, default=3, help="how often the quick tools are run")
    add("--memory-limit", type=float, default=20.0, help="GB beyond which a tool is stopped")
    for tool in IMPORTS:
        variable = os.environ.get(f"{tool.upper()}_PYTHON")
        add(f"--{tool}-python", type=Path, default=variable and Path(variable), help=f"interpreter that has {tool}")
    add("--json", action="store_true", help="print one JSON object on stdout; the tables go to stderr")
    return parser


def _part(name: str) -> str:
    """A part's name: argparse would hold even an empty list against `choices`."""
    if name not in PARTS:
        raise argparse.ArgumentTypeError(f"{name} is neither speed nor quality")
    return name


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
