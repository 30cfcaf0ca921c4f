"""ONNX Runtime: the backend that is always there. On the CPU; `edgeq.engine.execution_providers` puts it on a GPU."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from numpy.typing import NDArray

from edgeq.engine.base import EngineBackend
from edgeq.errors import EngineError, first_line

if TYPE_CHECKING:
    import onnx
    import onnxruntime

__all__ = [
    "BACKEND",
    "CPU",
    "STAND_IN",
    "ExecutionProvider",
    "OnnxRuntimeEngine",
    "default_threads",
    "executed_operators",
    "fused_graph",
    "side_by_side",
]

_TOGETHER = 2
_RECORD: Final = "session.record_ep_graph_assignment_info"


@dataclass(frozen=True)
class ExecutionProvider:
    """What ONNX Runtime runs a graph's nodes with.

    Attributes:
        name: ONNX Runtime's, such as `CUDAExecutionProvider`.
        options: its provider options; values as text.
        behind: what runs the nodes that it does not take, the first that takes them; the CPU stands behind all.
    """

    name: str
    options: Mapping[str, str] = field(default_factory=dict)
    behind: tuple[ExecutionProvider, ...] = ()

    def listed(self) -> list[tuple[str, dict[str, str]]]:
        """As `InferenceSession` takes them."""
        return [(each.name, dict(each.options)) for each in (self, *self.behind)]


CPU: Final = ExecutionProvider("CPUExecutionProvider")


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
        _open(model, options, CPU)
        graph = onnx.load(fused, load_external_data=False).graph
    return Counter(node.op_type for node in graph.node)


def fused_graph(model: bytes) -> onnx.ModelProto:
    """What ONNX Runtime makes of a graph on this processor: fused and in its own layouts, for its `optimize=False`.

    Constants keep their names, save those that it computes anew. It is for this machine and this release alone.

    Raises:
        EngineError: ONNX Runtime refuses the graph.
    """
    import onnx

    with tempfile.TemporaryDirectory() as directory:
        fused = Path(directory) / "fused.onnx"
        options = _session_options(1, optimize=True, memory_pattern=False)
        options.add_session_config_entry("session.disable_prepacking", "1")  # it is not run
        options.optimized_model_filepath = str(fused)
        _open(model, options, CPU, disabled=("ConstantSharing",))
        return onnx.load(fused)


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


def _open(
    model: Path | bytes,
    options: onnxruntime.SessionOptions,
    provider: ExecutionProvider,
    *,
    disabled: Sequence[str] = (),
) -> onnxruntime.InferenceSession:
    import onnxruntime

    source = model if isinstance(model, bytes) else str(model)
    name = "the graph" if isinstance(model, bytes) else str(model)
    try:
        without = {"disabled_optimizers": list(disabled)} if disabled else {}
        session = onnxruntime.InferenceSession(
            source, options, providers=provider.listed(), enable_fallback=0, **without
        )
    except Exception as error:  # ONNX Runtime's exceptions share no base class but Exception
        on = "" if provider.name == CPU.name else f" on {provider.name}"
        raise EngineError(
            f"ONNX Runtime {onnxruntime.__version__} refuses {name}{on}", causes=(first_line(error),)
        ) from error
    session.disable_fallback()  # a run that fails on the GPU would be tried on the CPU, and all that follow
    _check_taken(session, provider, name)
    return session


def _check_taken(session: onnxruntime.InferenceSession, provider: ExecutionProvider, name: str) -> None:
    """Raise EngineError where another provider got the graph: ONNX Runtime goes to the CPU without an error."""
    if provider.name == CPU.name:
        return
    given = session.get_providers()
    if given[:1] != [provider.name]:
        raise EngineError(
            f"ONNX Runtime fell back to {given[0]} for {name}",
            expected=provider.name,
            causes=(
                "a library below the provider cannot be loaded: CUDA, cuDNN or TensorRT of another release",
                "there is no GPU, or its driver is too old",
            ),
            next_step="see what is missing: edgeq doctor; the CPU, on purpose: --backend onnxruntime",
        )
    taken = _taken(session)
    if taken and not any(taken[each.name] for each in (provider, *provider.behind) if each.name != CPU.name):
        raise EngineError(
            f"{provider.name} takes no node of {name}: all {taken.total()} would run on the CPU",
            causes=("its operators or types are none that the provider has",),
            next_step="run it on the CPU on purpose: --backend onnxruntime",
        )


def _taken(session: onnxruntime.InferenceSession) -> Counter[str]:
    """How many nodes each provider has; empty where this release of ONNX Runtime does not tell."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return Counter()
    found: Counter[str] = Counter()
    for subgraph in session.get_provider_graph_assignment_info():
        found[subgraph.ep_name] += len(subgraph.get_nodes())
    return found


class OnnxRuntimeEngine:
    """One ONNX Runtime session.

    Args:
        model: an ONNX file, or a serialized ModelProto.
        threads: threads of one operator; the default is `default_threads()`.
        optimize: let ONNX Runtime fuse; False runs each node of the file as it is written.
        integers: let it fuse Q/DQ pairs into integer kernels; False computes them in floating point.
        memory_pattern: let it take the memory of a run in one block, laid out by the runs before; False holds less
            where several runs are under way together.
        spinning: let its threads wait busily for the next operator; False leaves the processors to others meanwhile.
        provider: runs the nodes.

    Raises:
        EngineError: ONNX Runtime refuses the graph, or another provider than the one asked for would run it.
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
        provider: ExecutionProvider = CPU,
    ) -> None:
        options = _session_options(
            threads or default_threads(),
            optimize=optimize,
            integers=integers,
            memory_pattern=memory_pattern,
            spinning=spinning,
        )
        if provider.name != CPU.name:
            options.add_session_config_entry(_RECORD, "1")
        self._session = _open(model, options, provider)
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
