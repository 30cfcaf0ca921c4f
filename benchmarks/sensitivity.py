"""edgeq's sensitivity table against a loop over onnxruntime's `quantize_static`: time, memory, and the order of layers.

Run it with `make bench-sensitivity`; `benchmarks/README.md` tells what is measured and how.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.networks import CIFAR, cifar_network
from benchmarks.process import ROOT, Run
from benchmarks.tools import Tool, run_tool

__all__ = ["kendall_tau", "main"]

OURS = Tool("edgeq", "edgeq_sensitivity_run", suffix=".json")
PEER = Tool("onnxruntime", "onnxruntime_sensitivity_run", suffix=".json")
WORST = 10
GIGABYTE = 10**9


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 where one of the two failed, 2 where the data are not there."""
    options = _parser().parse_args(arguments)
    options.data, options.cache = options.data.resolve(), options.cache.resolve()
    if not options.data.is_dir():
        _say(f"{options.data} is not there: it must hold cifar10 and cifar10-{options.network}")
        return 2
    load = os.getloadavg()[0]
    runs = [_run(tool, options) for tool in (OURS, PEER, OURS)]
    for run, _ in runs:
        if run.failure:
            _say(run.failure)
            return 1
    (before_it, _), (theirs, errors), (after_it, table) = runs
    figures = _compare((before_it, after_it), table, theirs, errors)
    figures |= {"images": options.images, "load_before": load, "load_after": os.getloadavg()[0]}
    print(json.dumps(figures, indent=1) if options.json else _text(figures), flush=True)
    return 0


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float:
    """Kendall's tau-a of two paired rankings: pairs in the same order less pairs in the other, over all pairs."""
    signs = [
        (a > b) - (a < b) if (c > d) else ((a < b) - (a > b) if c < d else 0)
        for (a, c), (b, d) in combinations(zip(first, second, strict=True), 2)
    ]
    return sum(signs) / len(signs)


def _run(tool: Tool, options: argparse.Namespace) -> tuple[Run, Any]:
    """One tool in a fresh process, and what it wrote."""
    _say(f"{options.network}: {tool.name}")
    network = cifar_network(options.network, options.data, options.cache)
    cifar, output = options.data / "cifar10", options.cache / f"sensitivity-{tool.name}{tool.suffix}"
    output.unlink(missing_ok=True)
    run = run_tool(
        Tool(tool.name, tool.module, str(cifar / "train.zip")),
        Path(sys.executable),
        network,
        cifar / "test.zip",
        output,
        count=options.images,
        threads=options.threads,
        memory_limit=int(options.memory_limit * GIGABYTE),
    )
    return run, None if run.failure else json.loads(output.read_text())


def _compare(
    ours: tuple[Run, Run], table: Mapping[str, Any], theirs: Run, errors: Mapping[str, float]
) -> dict[str, Any]:
    """Ratios of time, and the ten layers that are worst in the peer's table in both orders."""
    alone = {line["layer"]: line["alone"] for line in table["layers"]}
    worst = sorted(errors, key=lambda layer: errors[layer], reverse=True)[:WORST]
    tau = kendall_tau([errors[layer] for layer in worst], [alone[layer]["logit_error"] for layer in worst])
    return {
        "runs": [{"version": r.version, **r.seconds, "process": r.wall, "peak": r.peak} for r in (*ours, theirs)],
        "layers": {"edgeq": len(alone), "onnxruntime": len(errors)},
        "times_faster": theirs.seconds["model"] / mean(run.seconds["model"] for run in ours),
        "times_faster_process": theirs.wall / mean(run.wall for run in ours),
        "tau_of_ten_worst": tau,
        "worst": [
            {
                "layer": layer,
                "onnxruntime": errors[layer],
                "edgeq": alone[layer]["logit_error"],
                "edgeq_images": alone[layer]["images"],
            }
            for layer in worst
        ],
    }


def _text(figures: Mapping[str, Any]) -> str:
    runs = [
        f"{run['version']}: {run['model']:.1f} s for the table, {run['scales']:.1f} s for the ranges before it, "
        f"{run['process']:.1f} s the whole process, peak {run['peak'] / GIGABYTE:.2f} GB"
        for run in figures["runs"]
    ]
    worst = [
        f"  {line['layer']}: {line['onnxruntime']:.5f}, edgeq {line['edgeq']:.5f} on {line['edgeq_images']} images"
        for line in figures["worst"]
    ]
    table, process = figures["times_faster"], figures["times_faster_process"]
    return "\n".join(
        [
            *runs,
            f"edgeq's table is made {table:.1f} times faster; with imports and ranges {process:.1f} times",
            f"ten worst by onnxruntime's logit error on {figures['images']} images, edgeq's beside it:",
            *worst,
            f"Kendall tau of these ten: {figures['tau_of_ten_worst']:.2f}",
            f"load average before and after: {figures['load_before']:.2f}, {figures['load_after']:.2f}",
        ]
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks.sensitivity", description=__doc__)
    add: Callable[..., Any] = parser.add_argument
    add("--network", choices=CIFAR, default="resnet56")
    add("--data", type=Path, default=ROOT.parent / "shared" / "data", help="the images and networks")
    add("--cache", type=Path, default=ROOT / "out" / "bench", help="where exported networks are kept")
    add("--images", type=int, default=1000, help="of test.zip")
    add("--threads", type=int, default=2, help="processors that each tool may use")
    add("--memory-limit", type=float, default=8.0, help="GB beyond which a tool is stopped")
    add("--json", action="store_true", help="print one JSON object on stdout")
    return parser


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
