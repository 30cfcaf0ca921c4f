"""What the quantized networks answer: top-1, agreement with FP32 and logit error on labelled images."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.networks import Network
from benchmarks.process import Run
from benchmarks.speed import Budget
from benchmarks.tools import Interpreters, Tool, run_tool

__all__ = ["QualityRow", "Sets", "measure_quality"]

ANSWERS = Tool("answers", "answer_run")
PEERS = (
    Tool("onnxruntime", "onnxruntime_run", "percentile-u8", ".onnx"),
    Tool("onnxruntime", "onnxruntime_run", "percentile-u8-fp32head", ".onnx"),
    Tool("onnxruntime", "onnxruntime_run", "minmax-u8", ".onnx"),
    Tool("onnxruntime", "onnxruntime_run", "percentile-s8", ".onnx"),
    Tool("onnxruntime", "onnxruntime_run", "minmax-s8", ".onnx"),
    Tool("modelopt", "modelopt_run", "entropy", ".onnx"),
    Tool("modelopt", "modelopt_run", "max", ".onnx"),
    Tool("nncf", "nncf_run", "minmax", ".xml"),
)
UNSIGNED, SIGNED = "u8, as ONNX Runtime has them", "s8 symmetric, as TensorRT has them"
OPENVINO = "as OpenVINO has them"
GRAPHS = {"model.int8.ort.onnx": UNSIGNED, "model.int8.trt.onnx": SIGNED}
"""edgeq's two lowerings of one set of scales; both are run by ONNX Runtime here."""


@dataclass(frozen=True)
class Sets:
    """The images.

    Attributes:
        calibration: a folder or zip; `calibration_count` of them are used.
        labelled: a folder or zip with a folder for each class; `labelled_count` of them are used.
    """

    calibration: Path
    calibration_count: int
    labelled: Path
    labelled_count: int


@dataclass(frozen=True)
class QualityRow:
    """One quantized network.

    Attributes:
        activations: how they are quantized.
        top1, agreement: percent, of the labels and of FP32's classes.
        logit_error: ||INT8 - FP32|| / ||FP32|| over all logits.
        failure: why there are no figures.
    """

    network: str
    tool: str
    activations: str
    top1: float | None = None
    agreement: float | None = None
    logit_error: float | None = None
    failure: str = ""


@dataclass(frozen=True)
class _Answers:
    logits: NDArray[np.float64]
    labels: NDArray[np.str_]


def measure_quality(
    name: str,
    network: Network,
    sets: Sets,
    interpreters: Interpreters,
    scratch: Path,
    budget: Budget,
    *,
    say: Callable[[str], None],
) -> list[QualityRow]:
    """Quantize with every tool and setting that is there, and compare each with FP32.

    Args:
        name: of the network, for the table.
        scratch: a directory for what the tools make; emptied after each.
        say: called with a line before each tool.

    Raises:
        RuntimeError: the FP32 network itself gave no answers.
    """
    bench = _Bench(name, network, sets, interpreters, scratch, budget)
    say(f"{name}: FP32")
    reference = bench.answers(network.graph, Tool("edgeq", ""))
    if isinstance(reference, str):
        raise RuntimeError(f"the FP32 network gives no answers: {reference}")
    rows = [_compare(QualityRow(name, "FP32", "float32"), reference, reference)]
    for tool in interpreters.having([*edgeq_tools(), *PEERS]):
        say(f"{name}: {tool.title}")
        rows += bench.rows(tool, reference)
        shutil.rmtree(scratch, ignore_errors=True)
    return rows


def edgeq_tools() -> list[Tool]:
    """One for every method, and for `auto` where `edgeq prepare --method` offers it."""
    from edgeq.calibrate.thresholds import METHODS
    from edgeq.cli.workshop.prepare import command

    choices = next(parameter.type for parameter in command.params if parameter.name == "method")
    methods = dict.fromkeys([*METHODS, *getattr(choices, "choices", ())])
    return [Tool("edgeq", "edgeq_prepare_run", method) for method in methods]


@dataclass(frozen=True)
class _Bench:
    """One network and everything needed to judge its quantized forms."""

    name: str
    network: Network
    sets: Sets
    interpreters: Interpreters
    scratch: Path
    budget: Budget

    def rows(self, tool: Tool, reference: _Answers) -> Iterator[QualityRow]:
        """Quantize with `tool` and compare each graph that it makes."""
        output = self.scratch / f"result{tool.suffix}"
        made = self._run(tool, tool, self.network, self.sets.calibration, output, self.sets.calibration_count)
        for path, activations in _graphs(tool, output).items():
            row = QualityRow(self.name, tool.title, activations)
            answers = made.failure or self.answers(path, tool)
            yield _failed(row, answers) if isinstance(answers, str) else _compare(row, answers, reference)

    def answers(self, graph: Path, maker: Tool) -> _Answers | str:
        """What a graph says of the labelled images, or why it says nothing."""
        scored = _Scored(self.network.directory, graph)
        output = self.scratch / "answers.npz"
        runner = maker if graph.suffix == ".xml" else Tool("edgeq", "")
        run = self._run(ANSWERS, runner, scored, self.sets.labelled, output, self.sets.labelled_count)
        if run.failure:
            return run.failure
        with np.load(output) as saved:
            return _Answers(saved["logits"].astype(np.float64), saved["labels"])

    def _run(self, tool: Tool, runner: Tool, network: Network, images: Path, output: Path, count: int) -> Run:
        return run_tool(
            tool,
            self.interpreters.of(runner),
            network,
            images,
            output,
            count=count,
            threads=self.budget.threads,
            memory_limit=self.budget.memory_limit,
        )


@dataclass(frozen=True)
class _Scored(Network):
    """Another graph with the preprocessing of an exported directory."""

    scored: Path

    @property
    def graph(self) -> Path:
        """The graph that is run."""
        return self.scored


def _graphs(tool: Tool, output: Path) -> dict[Path, str]:
    """The graphs that a tool makes, and how their activations are quantized."""
    if tool.name == "edgeq":
        return {output / name: activations for name, activations in GRAPHS.items()}
    if tool.name == "nncf":
        return {output: OPENVINO}
    signed = tool.name == "modelopt" or "s8" in tool.setting
    return {output: SIGNED if signed else UNSIGNED}


def _failed(row: QualityRow, reason: str) -> QualityRow:
    return QualityRow(row.network, row.tool, row.activations, failure=reason)


def _compare(row: QualityRow, answers: _Answers, reference: _Answers) -> QualityRow:
    classes = np.unique(reference.labels)  # CIFAR-10's class numbers follow the order of its names
    answered = answers.logits.argmax(axis=1)
    error = np.linalg.norm(answers.logits - reference.logits) / np.linalg.norm(reference.logits)
    return QualityRow(
        row.network,
        row.tool,
        row.activations,
        top1=100.0 * float(np.mean(classes[answered] == reference.labels)),
        agreement=100.0 * float(np.mean(answered == reference.logits.argmax(axis=1))),
        logit_error=float(error),
    )
