"""OpenVINO: the backend for CPUs of x86 and ARM.

INT8 on ARM is narrower than on x86 and was not measured: `executed_layers` tells what really runs in integers.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.engine.base import EngineBackend
from edgeq.engine.onnxruntime import default_threads
from edgeq.errors import EngineError, first_line

if TYPE_CHECKING:
    import openvino

__all__ = ["BACKEND", "OpenVinoEngine", "executed_layers"]

_TELEMETRY = "openvino_telemetry"


class OpenVinoEngine:
    """One compiled OpenVINO model on the CPU.

    Threads may call `run` together: each has an infer request of its own, since OpenVINO refuses a busy one.

    Args:
        model: an ONNX file, or a serialized ModelProto.
        threads: of one run; the default is `default_threads()`.
        batch: images in every batch, where that is known: tensors then have fixed shapes, and small networks are a
            seventh quicker at batch 1. None takes any.
        together: runs that are computed at once, each on `threads`; others wait.

    Raises:
        EngineError: OpenVINO refuses the graph.
    """

    def __init__(
        self, model: Path | bytes, *, threads: int | None = None, batch: int | None = None, together: int = 1
    ) -> None:
        read = _read(model, batch)
        # Asked before fusing: a tensor that was fused away leaves its name at the output, too.
        self.inputs = tuple(port.get_any_name() for port in read.inputs)
        self.outputs = tuple(port.get_any_name() for port in read.outputs)
        self._compiled = _compiled(read, threads or default_threads(), together)
        self._requests = threading.local()

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """Compute `outputs` (all of them when None) for one batch.

        Raises:
            EngineError: the run failed, or a name or shape does not fit the graph.
        """
        names = self.outputs if outputs is None else tuple(outputs)
        self._check(feeds, names)
        try:
            request = self._request()
            # Inputs are read where they lie; outputs are copied, because the next run of this request writes over them.
            request.infer({name: np.ascontiguousarray(value) for name, value in feeds.items()}, share_inputs=True)
            return {name: request.get_tensor(name).data.copy() for name in names}
        except Exception as error:  # all of OpenVINO's are RuntimeError, its Python layer adds TypeError and others
            raise EngineError("OpenVINO failed while running the graph", causes=(_reason(error),)) from error

    def _request(self) -> openvino.InferRequest:
        found = getattr(self._requests, "request", None)
        if found is None:
            found = self._requests.request = self._compiled.create_infer_request()
        return found

    def _check(self, feeds: Mapping[str, NDArray[Any]], names: Sequence[str]) -> None:
        """OpenVINO takes a missing input for an empty one, or the last run's, and converts other types unasked."""
        unknown = [name for name in names if name not in self.outputs]
        if set(feeds) != set(self.inputs) or unknown:
            raise EngineError(
                "OpenVINO failed while running the graph",
                expected=f"inputs {', '.join(self.inputs)}; outputs of {', '.join(self.outputs)}",
                causes=(f"given {', '.join(feeds) or 'nothing'}; asked for {', '.join(names)}",),
            )
        for name, port in zip(self.inputs, self._compiled.inputs, strict=True):
            given = feeds[name].dtype
            if given != port.get_element_type().to_dtype():
                raise EngineError(
                    "OpenVINO failed while running the graph",
                    expected=f"{name} of {port.get_element_type().to_dtype()}",
                    causes=(f"it is {given}",),
                )


def executed_layers(model: Path | bytes) -> dict[str, str]:
    """What runs each node of the ONNX graph once OpenVINO has fused it: its name -> such as `i8` or `f32`.

    OpenVINO names the node that makes an output of the graph by that output: look for its tensor too. A node that
    was folded away, or became part of an element-wise kernel, is missing. Nodes fused into one kernel (a
    convolution, its addition and activation) share what that kernel computes in: `i8` where it multiplies integers.

    Raises:
        EngineError: OpenVINO refuses the graph.
    """
    found: dict[str, str] = {}
    for node in _compiled(_read(model, None), 1).get_runtime_model().get_ordered_ops():
        facts = {key: str(value.astype(str)) for key, value in node.get_rt_info().items()}
        operands = [str(port.get_element_type().get_type_name()) for port in node.inputs()[:2]]
        if facts["layerType"] in ("Convolution", "GroupConvolution", "FullyConnected", "MatMul"):
            integers = len(operands) == 2 and all(kind in ("u8", "i8") for kind in operands)
            kind = "i8" if integers else "f32"
        else:
            kind = {"u8": "i8"}.get(facts["runtimePrecision"], facts["runtimePrecision"])
        for name in filter(None, facts["originalLayersNames"].split(",")):
            found.setdefault(name.removesuffix("/WithoutBiases"), kind)
    return found


def _read(model: Path | bytes, batch: int | None) -> openvino.Model:
    core = _core()
    with _refused(model):
        read = core.read_model(BytesIO(model) if isinstance(model, bytes) else str(model))
        if batch is not None:
            read.reshape({port.get_any_name(): [batch, *port.get_partial_shape()[1:]] for port in read.inputs})
        return read


def _compiled(read: openvino.Model, threads: int, together: int = 1) -> openvino.CompiledModel:
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": together,
        "INFERENCE_NUM_THREADS": threads * together,
        "INFERENCE_PRECISION_HINT": "f32",  # else BF16 or FP16 where the processor has it, whatever the plan says
        # Engines that leave processors free for each other would all pin themselves to the same ones.
        "ENABLE_CPU_PINNING": threads * together >= default_threads(),
    }
    with _refused(None):
        return _core().compile_model(read, "CPU", settings)


@contextmanager
def _refused(model: Path | bytes | None) -> Iterator[None]:
    """OpenVINO's errors about a graph as edgeq's."""
    import openvino

    try:
        yield
    except Exception as error:
        name = str(model) if isinstance(model, Path) else "the graph"
        raise EngineError(
            f"OpenVINO {openvino.__version__.split('-')[0]} refuses {name}", causes=(_reason(error),)
        ) from error


@cache
def _core() -> openvino.Core:
    """The plugins are opened once a process."""
    with _no_telemetry():
        import openvino
    return openvino.Core()


@contextmanager
def _no_telemetry() -> Iterator[None]:
    """`import openvino` writes ~/intel and reports itself to Google Analytics unless openvino_telemetry is missing.

    The package is a requirement of openvino's wheel; openvino has a stub of its own for where it is not installed.
    """
    if _TELEMETRY in sys.modules or "openvino" in sys.modules:
        yield
        return
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[_TELEMETRY]


def _reason(error: Exception) -> str:
    """The last line that tells something: the first ones are OpenVINO's own source files."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith(("Exception from", "Check '", "FrontEnd API"))]
    return told[0] if told else first_line(error)


def _open_graph(model: Path | bytes, *, threads: int | None = None, batch: int | None = None) -> OpenVinoEngine:
    return OpenVinoEngine(model, threads=threads, batch=batch)


def _version() -> str:
    _core()
    import openvino

    return f"openvino {openvino.__version__.split('-')[0]} CPU"


def _facts() -> dict[str, Any]:
    return {"openvino": _version(), "devices": _core().available_devices}


BACKEND: Final = EngineBackend(
    name="openvino",
    title="OpenVINO",
    package="openvino",
    extra="openvino",
    graph="model.int8.ov.onnx",
    open=_open_graph,
    version=_version,
    facts=_facts,
)
