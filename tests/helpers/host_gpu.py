"""A GPU with TensorRT, simulated in the host's memory: torch is the real one, an engine is an ONNX graph.

`HostGpu.engine` is edgeq's own `TensorRtEngine` on edgeq's own `TorchMemory`. The simulated TensorRT is told addresses,
as the real one is, and reads and writes there when it is told to run. What it is told, and each copy, is in `log`.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from edgeq.engine.tensorrt import TensorRtEngine
from edgeq.tensorrt.buffer import Buffer
from edgeq.tensorrt.memory import TorchMemory

__all__ = ["HostGpu"]

_ALIGNMENT = 256
_STREAM = 4711
_TYPES: dict[str, np.dtype[Any]] = {"tensor(float)": np.dtype(np.float32), "tensor(int64)": np.dtype(np.int64)}


class _Log:
    INTERNAL_ERROR, ERROR = range(2)


class _Memory(TorchMemory):
    """Tells what it is asked for."""

    def __init__(self, log: list[str]) -> None:
        super().__init__()
        self.log = log

    def allocate(self, nbytes: int) -> Buffer:
        self.log.append("allocate")
        return super().allocate(nbytes)

    def copy_in(self, buffer: Buffer, array: NDArray[Any]) -> None:
        self.log.append("copy in")
        super().copy_in(buffer, array)

    def copy_out(self, buffer: Buffer, array: NDArray[Any]) -> None:
        self.log.append("copy out")
        super().copy_out(buffer, array)

    def wait_for_caller(self) -> None:
        self.log.append("wait for caller")
        super().wait_for_caller()

    def synchronize(self) -> None:
        self.log.append("synchronize")
        super().synchronize()


class HostGpu:
    """One.

    Args:
        graph: of the engine; it takes any batch up to 64.
        monkeypatch: puts a torch with CUDA in the place of the real one while the memory is opened.

    Attributes:
        log: calls, in order.
        written: where each output of the last run was written to.
        engine: that runs the graph.
    """

    def __init__(self, graph: Path | bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        source = graph if isinstance(graph, bytes) else str(graph)
        self._session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
        self._inputs = {each.name: each for each in self._session.get_inputs()}
        self._outputs = {each.name: each for each in self._session.get_outputs()}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self.log: list[str] = []
        self.written: dict[str, int] = {}
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, "torch", _torch_with_cuda())
            memory = _Memory(self.log)
        self.engine = TensorRtEngine(b"an engine", memory, trt=self._tensorrt())

    def _tensorrt(self) -> Any:
        names = [*self._inputs, *self._outputs]
        engine = SimpleNamespace(
            create_execution_context=lambda: self,
            num_io_tensors=len(names),
            num_optimization_profiles=1,
            get_tensor_name=names.__getitem__,
            get_tensor_mode=lambda name: "input" if name in self._inputs else "output",
            get_tensor_dtype=lambda name: {**self._inputs, **self._outputs}[name].type,
            get_tensor_location=lambda _name: "device",
            get_tensor_profile_shape=lambda name, _number: [self._sized(name, size) for size in (1, 1, 64)],
        )
        return SimpleNamespace(
            __version__="10.3.0",
            ILogger=_Log,
            Runtime=lambda _log: SimpleNamespace(deserialize_cuda_engine=lambda _data: engine),
            TensorLocation=SimpleNamespace(DEVICE="device"),
            TensorIOMode=SimpleNamespace(INPUT="input"),
            nptype=_TYPES.__getitem__,
        )

    def _sized(self, name: str, size: int) -> tuple[int, ...]:
        return tuple(axis if isinstance(axis, int) else size for axis in self._inputs[name].shape)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shapes[name] = tuple(shape)
        return True

    def infer_shapes(self) -> list[str]:
        inputs = {name: np.zeros(self._shapes[name], _TYPES[each.type]) for name, each in self._inputs.items()}
        made = self._session.run(list(self._outputs), inputs)
        self._shapes |= {name: value.shape for name, value in zip(self._outputs, made, strict=True)}
        return []

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert address % _ALIGNMENT == 0
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == _STREAM
        self.log.append("execute")
        inputs = {name: self._read(name) for name in self._inputs}
        for name, value in zip(self._outputs, self._session.run(list(self._outputs), inputs), strict=True):
            self.written[name] = self._addresses[name]
            ctypes.memmove(self._addresses[name], np.ascontiguousarray(value).ctypes.data, value.nbytes)
        return True

    def _read(self, name: str) -> NDArray[Any]:
        dtype, shape = _TYPES[self._inputs[name].type], self._shapes[name]
        size = int(np.prod(shape)) * dtype.itemsize
        found: NDArray[Any] = np.frombuffer(ctypes.string_at(self._addresses[name], size), dtype).reshape(shape)
        return found


def _torch_with_cuda() -> Any:
    """The real torch; its CUDA part is specified by the real one, and its CUDA tensors lie on the CPU."""
    names = ("Stream", "current_stream", "is_available", "stream")
    cuda: Any = SimpleNamespace(**{name: mock.create_autospec(getattr(torch.cuda, name)) for name in names})
    cuda.is_available.return_value = True
    cuda.Stream.return_value.cuda_stream = _STREAM

    def empty(size: int, *, dtype: Any, device: str) -> torch.Tensor:
        assert device == "cuda"
        room = torch.empty(size + _ALIGNMENT, dtype=dtype)
        return room[-room.data_ptr() % _ALIGNMENT :][:size]

    return SimpleNamespace(
        cuda=cuda, empty=empty, uint8=torch.uint8, from_numpy=torch.from_numpy, version=torch.version
    )
