"""What INT8 makes of a network: top-1, speed and size of each way to quantize it, beside FP32.

Run it with `make bench-vit`; `benchmarks/README.md` tells what is measured and how.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.process import ROOT
from benchmarks.simulate.schemes import Bits
from benchmarks.simulated_vit import SimulatedRow, Simulation, markdown_table, simulate, simulated_table
from benchmarks.vit_figures import (
    CLOCKS,
    REFERENCE,
    OperatorTime,
    Pixels,
    Speed,
    interval,
    logits_of,
    measure_rounds,
    milliseconds_of,
    operator_times,
    paired,
    read_labelled,
    speed,
)
from benchmarks.vit_variants import INT8_GRAPH, RANDOM, VARIANTS, WIDTHS, Bed, Variant, chosen, export, write_random
from edgeq.files import atomic_write, sha256_file
from edgeq.model.checkpoint.source import ModelSource, open_model
from edgeq.model.images.image_set import ImageSet
from edgeq.pipeline.stages import parity_images
from edgeq.quality.tasks.classification import Classification

__all__ = ["Row", "main"]


@dataclass(frozen=True)
class Row:
    """One graph.

    Attributes:
        bytes: of the ONNX file.
        chosen: fold and ranges that edgeq settled on.
        speeds: one for each number of threads.
        top1: percent of the labelled images. This and the next four are None where nothing was labelled.
        difference, interval: points of top-1 more than FP32, and half of its 95 % interval, image by image.
        disagreement: percent of images to which FP32 gives another class.
        logit_error: ||INT8 - FP32|| / ||FP32|| over all logits.
    """

    name: str
    title: str
    bytes: int
    chosen: str
    speeds: tuple[Speed, ...]
    top1: float | None = None
    difference: float | None = None
    interval: float | None = None
    disagreement: float | None = None
    logit_error: float | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 2 where something that is needed is not there, or the flags contradict each other."""
    options = _settled(_parser().parse_args(arguments))
    problem = _problem(options)
    if problem:
        _say(problem)
        return 2
    if options.random:
        _once(options.model, partial(write_random, options.random))
    if not _same_settings(options):
        _say(f"{options.work} was made of another network or other images: give another --work, or remove it")
        return 2
    load = os.getloadavg()
    result, text = _measure(options)
    result |= {"load_before": load, "load_after": os.getloadavg()}
    print(f"{text}\n\nload average before and after: {load[0]:.2f}, {os.getloadavg()[0]:.2f}", flush=True)
    if options.json:
        atomic_write(options.json, (json.dumps(result, indent=1) + "\n").encode())
    return 0


def _measure(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """The figures, and the same for a person; what --work holds already is neither made nor judged again."""
    threads = min(options.threads)
    images = ImageSet.open(options.calibration).sample(options.calibration_images)
    bed = Bed(options.work / REFERENCE, options.calibration, options.calibration_images, threads)
    _once(bed.exported, lambda made: export(options.model, made, images, threads=threads))
    variants = _asked(options, bed)
    graphs = {REFERENCE: bed.graph, **_made(options.work, bed, variants)}
    titles = {REFERENCE: "FP32", **{variant.name: variant.title for variant in variants}}
    source = open_model(bed.exported)
    answers = {} if options.random else _answers(options, graphs, source)
    image = parity_images(images, source, count=1)
    speeds = _speeds(options, graphs, image)
    rows = [_row(name, titles[name], graphs[name], speeds[name], answers.get(name)) for name in graphs]
    listed = options.operators if options.operators in graphs else list(graphs)[-1]
    operators = operator_times(graphs[listed], image, threads=threads)
    simulation = _simulation(options) if options.simulated and bed.is_transformer else None
    result: dict[str, Any] = {
        "network": options.random or options.model.name,
        "labelled_images": next((found.images for found in answers.values()), 0),
        "calibration_images": len(images),
        "backend": f"onnxruntime {onnxruntime.__version__} CPUExecutionProvider",
        "rows": [asdict(row) for row in rows],
        "operators": {"graph": listed, "threads": threads, "rows": [asdict(row) for row in operators]},
        "simulation": simulation and asdict(simulation),
    }
    profiled = f"{titles[listed]}, {_threads(threads)}, by ONNX Runtime's profiler:"
    parts = [_title(result), _rows_table(rows), profiled, _operators_table(operators)]
    return result, "\n\n".join([*parts, *([simulated_table(simulation)] if simulation else [])])


def _made(work: Path, bed: Bed, variants: Sequence[Variant]) -> dict[str, Path]:
    """The graph of each variant, by name."""
    for variant in variants:
        _once(work / variant.name, partial(variant.make, bed))
    return {variant.name: work / variant.name / INT8_GRAPH for variant in variants}


def _once(directory: Path, make: Callable[[Path], object]) -> None:
    """Make a directory unless it is there: each appears only when it is whole."""
    if not directory.exists():
        _say(f"making {directory.name}")
        directory.parent.mkdir(parents=True, exist_ok=True)
        make(directory)


def _asked(options: argparse.Namespace, bed: Bed) -> list[Variant]:
    """The variants that were asked for, in their order; by default all that make sense for the network."""
    if options.only:
        return [variant for variant in VARIANTS if variant.name in options.only]
    if options.random:
        return [variant for variant in VARIANTS if variant.name in RANDOM]
    transformer = bed.is_transformer
    return [variant for variant in VARIANTS if transformer or variant.everywhere]


def _answers(options: argparse.Namespace, graphs: Mapping[str, Path], source: ModelSource) -> dict[str, Classification]:
    """What each graph says of the labelled images, beside FP32; logits are kept in --work."""
    labelled = ImageSet.open(options.labelled, labelled=True).sample(options.test_images)
    pixels, truth = read_labelled(labelled, source)
    logits = {}
    for name, graph in graphs.items():
        kept = options.work / "logits" / f"{name}-{sha256_file(graph)[:16]}.npy"
        if not kept.exists():
            _say(f"judging {name}")
            kept.parent.mkdir(exist_ok=True)
            made = logits_of(graph, pixels, min(options.threads))
            atomic_write(kept, partial(np.save, arr=made))
        logits[name] = np.load(kept)
    return {name: paired(logits[REFERENCE], found, truth) for name, found in logits.items()}


def _speeds(options: argparse.Namespace, graphs: Mapping[str, Path], image: Pixels) -> dict[str, tuple[Speed, ...]]:
    found: dict[str, list[Speed]] = defaultdict(list)
    for threads in options.threads:
        clock = options.clock or ("processor" if threads == 1 else "wall")
        time_one = partial(milliseconds_of, image=image, threads=threads, seconds=options.seconds, clock=clock)
        setting = f"{_threads(threads)}, {clock} clock, blocks of {options.seconds:g} s"
        _say(f"timing: {setting}, {options.rounds} rounds")
        rounds = measure_rounds(graphs, time_one, options.work / "rounds.jsonl", setting, options.rounds)
        for name in graphs:
            found[name].append(speed(name, rounds, threads, clock))
    return {name: tuple(speeds) for name, speeds in found.items()}


def _simulation(options: argparse.Namespace) -> Simulation:
    """The simulated rows, kept in --work by their bits: schemes of the same bits share their searches."""
    images = ImageSet.open(options.calibration)
    labelled = ImageSet.open(options.labelled, labelled=True).sample(options.test_images)
    parts = []
    for width in options.simulated:
        kept = options.work / f"simulated-{width}.json"
        if not kept.exists():
            made = simulate(options.model, images, labelled, bits=[Bits(width, width)], say=_say)
            atomic_write(kept, json.dumps(asdict(made)).encode())
        parts.append(json.loads(kept.read_text()))
    rows = tuple(SimulatedRow(**row) for part in parts for row in part["rows"])
    return Simulation(parts[0]["images"], parts[0]["top1"], rows)


def _row(name: str, title: str, graph: Path, speeds: tuple[Speed, ...], found: Classification | None) -> Row:
    row = Row(name, title, graph.stat().st_size, chosen(graph.parent), speeds)
    if found is None:
        return row
    return Row(
        *(row.name, row.title, row.bytes, row.chosen, row.speeds),
        top1=found.top1_candidate,
        difference=0.0 - found.drop,
        interval=interval(found),
        disagreement=100.0 - found.agreement,
        logit_error=found.logit_error,
    )


def _title(result: Mapping[str, Any]) -> str:
    judged = result["labelled_images"]
    return (
        f"{result['network']}: {f'{judged} labelled images, ' if judged else ''}{result['calibration_images']} for "
        f"calibration; {result['backend']}; batch 1, medians of rounds"
    )


def _rows_table(rows: Sequence[Row]) -> str:
    judged = rows[0].top1 is not None
    heads = ["", *(["top-1", "to FP32 (95 %)", "other class", "logit error"] if judged else [])]
    for timed in rows[0].speeds:
        heads += [f"ms, {_threads(timed.threads)}, {timed.clock}", "times FP32's speed (rounds)"]
    return markdown_table([*heads, "MB", "fold, ranges"], [_cells(row) for row in rows])


def _cells(row: Row) -> list[str]:
    cells = [row.title]
    if row.top1 is not None:
        difference = f"{row.difference:+.2f} ± {row.interval:.2f}" if row.name != REFERENCE else "-"
        cells += [f"{row.top1:.2f}", difference, f"{row.disagreement:.2f} %", f"{row.logit_error:.4f}"]
    for timed in row.speeds:
        cells += [f"{timed.milliseconds:.3f}", f"{timed.ratio:.2f} ({timed.low:.2f} to {timed.high:.2f})"]
    return [*cells, f"{row.bytes / 1e6:.2f}", row.chosen]


def _operators_table(operators: Sequence[OperatorTime]) -> str:
    """Sums of the kinds, and each operator that computes in floating point."""
    whole = sum(row.milliseconds for row in operators)
    rows = []
    for kind in ("integer", "conversion", "shape", "float"):
        of_kind = [row for row in operators if row.kind == kind]
        each = of_kind if kind == "float" else []
        total = OperatorTime(f"all {kind}", kind, sum(row.nodes for row in of_kind), _sum(of_kind))
        for row in (total, *each):
            share = f"{100 * row.milliseconds / whole:.1f} %"
            rows.append([row.operator, str(row.nodes), f"{row.milliseconds:.3f}", share])
    return markdown_table(["operators", "nodes", "ms", "share"], rows)


def _sum(operators: Sequence[OperatorTime]) -> float:
    return sum(row.milliseconds for row in operators)


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def _settled(options: argparse.Namespace) -> argparse.Namespace:
    """With whole paths, and the defaults that depend on other flags."""
    name = options.random or options.model.name
    options.work = (options.work or ROOT / "out" / "bench-vit" / name).resolve()
    options.model = options.work / "source" if options.random else options.model.resolve()
    options.calibration = (options.photos if options.random else options.data / "train.zip").resolve()
    options.labelled = None if options.random else (options.data / "test.zip").resolve()
    options.calibration_images = options.calibration_images or (32 if options.random else 200)
    options.simulated = options.simulated if options.simulated != [] else [6]
    return options


def _problem(options: argparse.Namespace) -> str:
    """Why nothing can be measured, in a sentence."""
    needed = [options.calibration, *([] if options.random else [options.model, options.labelled])]
    missing = [str(path) for path in needed if not path.exists()]
    if missing:
        return f"{', '.join(missing)}: not there; benchmarks/README.md tells what is needed"
    if options.clock == "processor" and max(options.threads) > 1:
        return "--clock processor counts waiting threads too: it is for --threads 1"
    if options.simulated and options.random:
        return "--simulated asks what is right, which a network with --random weights does not know"
    return ""


def _same_settings(options: argparse.Namespace) -> bool:
    """Whether --work is of this network and these images; a new one is marked as such."""
    files = sorted(path for path in options.model.iterdir() if path.suffix in (".json", ".onnx", ".safetensors"))
    settings = {
        "network": {path.name: sha256_file(path) for path in files},
        "calibration": [str(options.calibration), options.calibration_images],
        "labelled": None if options.random else [str(options.labelled), options.test_images],
    }
    kept = options.work / "settings.json"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(kept, json.dumps(settings, indent=1).encode())
    return bool(json.loads(kept.read_text()) == settings)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks.vit", description=__doc__)
    add: Callable[..., Any] = parser.add_argument
    shared = ROOT.parent / "shared" / "data"
    names = [variant.name for variant in VARIANTS]
    add("--model", type=Path, default=ROOT / "benchmarks" / "weights" / "vit", help="a Hugging Face directory")
    add("--random", choices=sorted(WIDTHS), help="in its place: patches of 16, 224 x 224, random weights; speed alone")
    add("--data", type=Path, default=shared / "cifar10", help="directory with train.zip and test.zip")
    add("--photos", type=Path, default=shared / "imagenet-sample" / "photos.zip", help="calibration for --random")
    add("--test-images", type=int, default=5000, help="labelled ones, evenly over the classes")
    add("--calibration-images", type=int, help="default: 200; for --random 32")
    add("--only", nargs="+", choices=names, metavar="NAME", help=f"of {', '.join(names)}")
    add("--threads", type=int, nargs="+", default=[1], help="of one operator; latency is measured for each")
    add("--rounds", type=int, default=15, help="blocks of each graph")
    add("--seconds", type=float, default=0.3, help="length of a block")
    add("--clock", choices=CLOCKS, help="default: processor time for one thread, wall for more")
    add("--operators", choices=[REFERENCE, *names], metavar="NAME", default="default", help="list their times")
    add("--simulated", type=int, nargs="*", metavar="BITS", help="also what fewer bits would do; 6 by default")
    add("--work", type=Path, help="keeps what was made and measured; default: out/bench-vit/NETWORK")
    add("--json", type=Path, help="also write all figures there")
    return parser


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
