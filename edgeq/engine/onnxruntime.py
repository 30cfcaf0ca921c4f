"""ONNX Runtime: the backend that is always there."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from numpy.typing import NDArray

from edgeq.engine.base import EngineBackend
from edgeq.errors import EngineError, first_line

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["BACKEND", "STAND_IN", "OnnxRuntimeEngine", "default_threads", "executed_operators", "side_by_side"]

_TOGETHER = 2


def default_threads() -> int:
    """Threads of one operator: the processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def side_by_side(threads: int | None) -> tuple[int, int]:
    """How many images to run at once, each by itself, and the threads of one operator that leaves.

    Two images on half the threads each are quicker than one after the other on all. More than two would each hold
    another set of the network's tensors.
    """
    threads = threads or default_threads()
    together = min(threads, _TOGETHER)
    return together, threads // together


def executed_operators(model: Path) -> Counter[str]:
    """How often each operator runs once ONNX Runtime has fused the graph, without the choice of memory layouts.

    Raises:
        EngineError: ONNX Runtime refuses the graph.
    """
    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory() as directory:
        fused = Path(directory) / "fused.onnx"
        options = _session_options(1, optimize=True)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(fused)
        _open(model, options)
        graph = onnx.load(fused, load_external_data=False).graph
    return Counter(node.op_type for node in graph.node)


def _session_options(
    threads: int, *, optimize: bool, integers: bool = True, memory_pattern: bool = True, spinning: bool = True
) -> onnxruntime.SessionOptions:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_mem_pattern = memory_pattern
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if not integers:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return options


def _open(model: Path | bytes, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    import onnxruntime

    source = model if isinstance(model, bytes) else str(model)
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no base class but Exception
        name = "the graph" if isinstance(model, bytes) else str(model)
        raise EngineError(
            f"ONNX Runtime {onnxruntime.__version__} refuses {name}", causes=(first_line(error),)
        ) from error


class OnnxRuntimeEngine:
    """One ONNX Runtime session on the CPU.

    Args:
        model: an ONNX file, or a serialized ModelProto.
        threads: threads of one operator; the default is `default_threads()`.
        optimize: let ONNX Runtime fuse; False runs each node of the file as it is written.
        integers: let it fuse Q/DQ pairs into integer kernels; False computes them in floating point.
        memory_pattern: let it take the memory of a run in one block, laid out by the runs before; False holds less
            where several runs are under way together.
        spinning: let its threads wait busily for the next operator; False leaves the processors to others meanwhile.

    Raises:
        EngineError: ONNX Runtime refuses the graph.
    """

    def __init__(
        self,
        model: Path | bytes,
        *,
        threads: int | None = None,
        optimize: bool = True,
        integers: bool = True,
        memory_pattern: bool = True,
        spinning: bool = True,
    ) -> None:
        options = _session_options(
            threads or default_threads(),
            optimize=optimize,
            integers=integers,
            memory_pattern=memory_pattern,
            spinning=spinning,
        )
        self._session = _open(model, options)
        self.inputs = tuple(tensor.name for tensor in self._session.get_inputs())
        self.outputs = tuple(tensor.name for tensor in self._session.get_outputs())

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """As `Engine.run`.

        Raises:
            EngineError: the run failed, or a name or shape does not fit the graph.
        """
        names = list(self.outputs if outputs is None else outputs)
        if not names:  # ONNX Runtime takes an empty list for all of them
            return {}
        try:
            values = self._session.run(names, dict(feeds))
        except Exception as error:
            raise EngineError("ONNX Runtime failed while running the graph", causes=(first_line(error),)) from error
        return dict(zip(names, values, strict=True))


def _open_graph(
    model: Path | bytes,
    *,
    threads: int | None = None,
    batch: int | None = None,  # noqa: ARG001
) -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(model, threads=threads)


def _open_pairs(
    model: Path | bytes,
    *,
    threads: int | None = None,
    batch: int | None = None,  # noqa: ARG001
) -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(model, threads=threads, integers=False, optimize=False)


def _version() -> str:
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__} CPUExecutionProvider"


def _facts() -> dict[str, Any]:
    import onnxruntime

    return {"onnxruntime": onnxruntime.__version__, "providers": onnxruntime.get_available_providers()}


BACKEND: Final = EngineBackend(
    name="onnxruntime",
    title="ONNX Runtime",
    package="onnxruntime",
    extra="device",
    graph="model.int8.ort.onnx",
    open=_open_graph,
    version=_version,
    facts=_facts,
)

STAND_IN: Final = replace(
    BACKEND, open=_open_pairs, version=lambda: f"{_version()}, Q/DQ pairs computed in floating point"
)
"""Runs a Q/DQ graph that was made for another backend, where that is not at hand: every layer rounds where its pairs
say, and what the backend's own kernels do besides is not seen. Nothing is fused: ONNX Runtime's own optimizations move
pairs and Casts of a graph with FP16 beside INT8, and twice the error of ResNet-56 was seen with them."""
