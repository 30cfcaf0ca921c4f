"""Run a TensorRT engine.

numpy arrays are copied in and out (`run`); or what is on the device already is used where it lies, and outputs stay
there (`run_device`), for what goes on with them there.
Everything goes into one stream, which is not the default one: TensorRT would synchronize the whole device there.

No engine has been run by edgeq yet: no GPU with TensorRT was at hand. The calls were checked against the bindings of
10.3 and 10.16.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.engine.base import EngineBackend
from edgeq.errors import EngineError, first_line
from edgeq.tensorrt.buffer import Buffer, DeviceMemory
from edgeq.tensorrt.loading import load_tensorrt
from edgeq.tensorrt.log import build_log
from edgeq.tensorrt.memory import TorchMemory, open_memory
from edgeq.tensorrt.tensors import DeviceTensor, EngineTensor, Shape, check_feeds, read_slots

__all__ = ["BACKEND", "TensorRtEngine"]

_Place = Callable[[str, Shape, np.dtype[Any]], DeviceTensor]
"""Name, shape and dtype of an output -> where it will lie."""


class TensorRtEngine:
    """One engine with an execution context for each of its optimization profiles.

    Calls from several threads take turns. The context of a profile is made when a shape first needs it, and kept, so
    that no run waits for another profile.

    Args:
        engine: a serialized engine, or a file with one. Only what was built here, or verified, may be given: an engine
            can hold code.
        memory: the device's memory and stream; it must outlive the engine.
        trt: TensorRT, where it is loaded already.

    Attributes:
        inputs: names of the inputs, in the engine's order.
        outputs: names of the outputs, in the engine's order.
        on_torch: its memory is torch's, and so is what `run_device` gives.

    Raises:
        EngineError: the file cannot be read, or TensorRT refuses the engine: it was built by another release or for
            another device, or is damaged.
    """

    def __init__(self, engine: bytes | Path, memory: DeviceMemory, *, trt: ModuleType | None = None) -> None:
        self._trt = load_tensorrt() if trt is None else trt
        self._memory = memory
        self.on_torch = isinstance(memory, TorchMemory)
        self._log = build_log(self._trt)
        self._runtime = self._start()  # it must outlive the engine
        self._engine = self._deserialize(engine)
        self._contexts = {0: self._make_context(self._engine)}
        self._slots = read_slots(self._trt, self._engine)
        self.inputs = tuple(slot.name for slot in self._slots if slot.is_input)
        self.outputs = tuple(slot.name for slot in self._slots if not slot.is_input)
        self._buffers: dict[str, Buffer] = {}
        self._turn = threading.Lock()

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """As `Engine.run`; a dtype that is not the engine's is an error, too.

        Raises:
            EngineError: a name, dtype or shape is not the engine's, or the run failed.
        """
        wanted = self._wanted(outputs)
        profile = check_feeds(self._slots, feeds)
        with self._turn:
            arrays = {name: np.ascontiguousarray(feed) for name, feed in feeds.items()}
            given = {name: self._copied_in(name, array) for name, array in arrays.items()}
            results = self._enqueue(self._context_of(profile), given, self._placed)
            values = {name: np.empty(results[name].shape, results[name].dtype) for name in wanted}
            for name, value in values.items():
                self._memory.copy_out(self._buffers[name], value)
            self._memory.synchronize()
        return values

    def run_device(
        self, feeds: Mapping[str, NDArray[Any] | DeviceTensor], outputs: Sequence[str] | None = None
    ) -> dict[str, DeviceTensor]:
        """As `DeviceEngine.run_device`: nothing is copied but arrays of the host, to the device.

        The run begins after what the caller's stream holds, and is over when this returns. Each output is in memory of
        its own, which lasts as long as the tensor.

        Raises:
            EngineError: a name, dtype, shape or address is not the engine's, or the run failed.
        """
        wanted = self._wanted(outputs)
        profile = check_feeds(self._slots, feeds)
        with self._turn:
            self._memory.wait_for_caller()
            given = {name: self._on_device(name, feed) for name, feed in feeds.items()}
            results = self._enqueue(self._context_of(profile), given, self._lent)
            self._memory.synchronize()
        return {name: results[name] for name in wanted}

    def close(self) -> None:
        """Give the memory of inputs and outputs back, once nothing uses it any more."""
        with self._turn:
            self._memory.synchronize()
            for buffer in self._buffers.values():
                self._memory.free(buffer)
            self._buffers = {}

    def _start(self) -> Any:
        try:
            return self._trt.Runtime(self._log)
        except (TypeError, RuntimeError) as error:  # pybind11's: a null pointer is a TypeError
            raise self._failed("start", "there is no CUDA device, or its driver does not fit this release") from error

    def _deserialize(self, engine: bytes | Path) -> Any:
        data = engine if isinstance(engine, bytes) else _read(engine)
        made = self._runtime.deserialize_cuda_engine(data)
        if made is None:
            raise EngineError(
                f"TensorRT {self._trt.__version__} refuses {'the engine' if isinstance(engine, bytes) else engine}",
                causes=(
                    *self._log.causes(),
                    "it was built by another release of TensorRT or JetPack",
                    "it was built on another kind of GPU: an engine does not move between devices",
                    "the file is damaged",
                ),
                next_step="build it again on this device: edgeq build BUNDLE --backend tensorrt",
            )
        return made

    def _make_context(self, engine: Any) -> Any:
        context = engine.create_execution_context()
        if context is None:
            raise self._failed("make an execution context", "its memory does not fit beside what is loaded")
        return context

    def _context_of(self, profile: int) -> Any:
        """The context of an optimization profile."""
        self._log.errors.clear()
        if profile not in self._contexts:
            self._contexts[profile] = self._told(self._make_context(self._engine), profile)
        return self._contexts[profile]

    def _told(self, context: Any, profile: int) -> Any:
        """A context that runs the shapes of one optimization profile."""
        taken = context.set_optimization_profile_async(profile, self._memory.stream)
        self._done(taken, f"take the optimization profile {profile}")
        self._memory.synchronize()
        return context

    def _enqueue(
        self,
        context: Any,
        feeds: Mapping[str, DeviceTensor],
        place: _Place,
    ) -> dict[str, DeviceTensor]:
        """Put one run into the stream: every output and where it will lie, which is where `place` says."""
        for name, tensor in feeds.items():
            self._done(context.set_input_shape(name, tensor.shape), f"take shape {tensor.shape} for input {name}")
        self._infer_shapes(context)
        shapes = {slot: self._output_shape(context, slot) for slot in self._slots if not slot.is_input}
        results = {slot.name: place(slot.name, shape, slot.dtype) for slot, shape in shapes.items()}
        for name, tensor in (*feeds.items(), *results.items()):
            self._done(context.set_tensor_address(name, tensor.address), f"take the address of {name}")
        if not context.execute_async_v3(self._memory.stream):
            self._memory.synchronize()  # part of it may be under way
            raise self._failed("run the engine")
        return results

    def _infer_shapes(self, context: Any) -> None:
        try:
            missing = context.infer_shapes()
        except RuntimeError as error:
            raise self._failed("infer the shapes", first_line(error)) from error
        if missing:
            raise self._failed(f"infer the shapes: {', '.join(missing)} are not known")

    def _output_shape(self, context: Any, slot: EngineTensor) -> Shape:
        shape: Shape = tuple(context.get_tensor_shape(slot.name))
        if any(size < 0 for size in shape):
            raise EngineError(
                f"output {slot.name} has shape {list(shape)}",
                expected="a shape that follows from those of the inputs",
            )
        return shape

    def _on_device(self, name: str, feed: NDArray[Any] | DeviceTensor) -> DeviceTensor:
        return feed if isinstance(feed, DeviceTensor) else self._copied_in(name, np.ascontiguousarray(feed))

    def _lent(self, _name: str, shape: Shape, dtype: np.dtype[Any]) -> DeviceTensor:
        """A tensor in memory of its own, which its owner frees."""
        buffer = self._memory.allocate(DeviceTensor(0, shape, dtype).nbytes)
        return DeviceTensor(buffer.address, shape, dtype, owner=buffer.handle)

    def _copied_in(self, name: str, array: NDArray[Any]) -> DeviceTensor:
        tensor = self._placed(name, array.shape, array.dtype)
        self._memory.copy_in(self._buffers[name], array)
        return tensor

    def _placed(self, name: str, shape: Shape, dtype: np.dtype[Any]) -> DeviceTensor:
        """A tensor in the engine's own memory, which grows to the largest shape so far and is kept."""
        tensor = DeviceTensor(0, shape, dtype)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.nbytes < tensor.nbytes:
            if buffer is not None:
                self._memory.synchronize()  # the run before may still write to it
                self._memory.free(self._buffers.pop(name))
            buffer = self._buffers[name] = self._memory.allocate(tensor.nbytes)
        return DeviceTensor(buffer.address, shape, dtype, owner=self)

    def _wanted(self, outputs: Sequence[str] | None) -> tuple[str, ...]:
        wanted = self.outputs if outputs is None else tuple(outputs)
        unknown = [name for name in wanted if name not in self.outputs]
        if unknown:
            raise EngineError(
                f"the engine has no output {', '.join(unknown)}", expected=f"one of {', '.join(self.outputs)}"
            )
        return wanted

    def _done(self, fine: bool, what: str) -> None:
        if not fine:
            raise self._failed(what)

    def _failed(self, what: str, *causes: str) -> EngineError:
        return EngineError(f"TensorRT did not {what}", causes=(*self._log.causes(), *causes))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EngineError(f"{path} cannot be read: {error.strerror or error}") from error


def _open_engine(
    model: Path | bytes,
    *,
    threads: int | None = None,  # noqa: ARG001
    batch: int | None = None,  # noqa: ARG001
) -> TensorRtEngine:
    return TensorRtEngine(model, open_memory())


def _version() -> str:
    return f"tensorrt {load_tensorrt().__version__}"


def _facts() -> dict[str, Any]:
    """The release, then whether a runtime can be made, which needs a GPU and its driver."""
    try:
        trt = load_tensorrt()
    except EngineError as error:
        return {"error": error.what, "next_step": error.next_step}
    facts: dict[str, Any] = {"tensorrt": trt.__version__}
    try:
        facts["runtime"] = trt.Runtime(trt.Logger(trt.Logger.ERROR)) is not None
    except Exception as error:  # pybind11 gives TypeError where the factory returns null
        facts["runtime_error"] = str(error)[:300]
    return facts


BACKEND: Final = EngineBackend(
    name="tensorrt",
    title="TensorRT",
    package="tensorrt",
    extra="tensorrt",
    graph="model.int8.trt.onnx",
    open=_open_engine,
    version=_version,
    facts=_facts,
    built=True,
)
