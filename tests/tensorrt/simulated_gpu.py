"""torch with a GPU and pycuda, simulated in the host's memory: the calls are checked, no GPU is involved."""

from __future__ import annotations

import ctypes
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

__all__ = ["simulated_pycuda", "simulated_torch"]

HANDLE = 4711


def simulated_torch() -> Any:
    """The real torch, whose CUDA part is specified by the real one and whose CUDA tensors lie on the CPU."""
    import torch

    names = ("Stream", "current_stream", "is_available", "is_initialized", "stream")
    cuda: Any = SimpleNamespace(**{name: mock.create_autospec(getattr(torch.cuda, name)) for name in names})
    cuda.is_available.return_value = True
    stream = cuda.Stream.return_value
    stream.cuda_stream = HANDLE

    def empty(size: int, *, dtype: Any, device: str) -> Any:
        assert device == "cuda"
        return torch.empty(size, dtype=dtype, device="cpu")

    return SimpleNamespace(
        cuda=cuda, empty=empty, uint8=torch.uint8, from_numpy=torch.from_numpy, version=torch.version, stream=stream
    )


class Allocation:
    """pycuda.driver.DeviceAllocation: a number to others, and free()."""

    def __init__(self, nbytes: int) -> None:
        self.memory = ctypes.create_string_buffer(nbytes)
        self.freed = 0

    def __int__(self) -> int:
        return ctypes.addressof(self.memory)

    def free(self) -> None:
        self.freed += 1


class Context:
    """pycuda's primary context: how deep it is on this thread's stack."""

    def __init__(self) -> None:
        self.depth = 0
        self.synchronized = 0

    def push(self) -> None:
        self.depth += 1

    def pop(self) -> None:
        self.depth -= 1

    def synchronize(self) -> None:
        assert self.depth
        self.synchronized += 1


class Driver:
    """The part of pycuda.driver that edgeq uses. Each call wants the context to be current, as CUDA does."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.log: list[str] = []
        self.full = False

    def Stream(self) -> Any:
        assert self.context.depth
        return SimpleNamespace(handle=HANDLE, synchronize=lambda: self.log.append("synchronize"))

    def mem_alloc(self, nbytes: int) -> Allocation:
        assert self.context.depth
        if self.full:
            raise MemoryError("cuMemAlloc failed: out of memory")
        return Allocation(nbytes)

    def memcpy_htod_async(self, dest: Allocation, src: np.ndarray[Any, Any], stream: Any) -> None:
        assert self.context.depth
        assert stream.handle == HANDLE
        ctypes.memmove(int(dest), src.ctypes.data, src.nbytes)

    def memcpy_dtoh_async(self, dest: np.ndarray[Any, Any], src: Allocation, stream: Any) -> None:
        assert self.context.depth
        assert stream.handle == HANDLE
        ctypes.memmove(dest.ctypes.data, int(src), dest.nbytes)


def simulated_pycuda() -> dict[str, ModuleType | Any]:
    """What stands in sys.modules once `pycuda.autoprimaryctx` was imported."""
    context = Context()
    autoprimaryctx: Any = ModuleType("pycuda.autoprimaryctx")
    autoprimaryctx.context = context
    driver = Driver(context)
    package: Any = ModuleType("pycuda")
    package.autoprimaryctx, package.driver = autoprimaryctx, driver
    return {"pycuda": package, "pycuda.autoprimaryctx": autoprimaryctx, "pycuda.driver": driver}
