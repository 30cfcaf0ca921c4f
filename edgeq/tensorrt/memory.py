"""Memory of the GPU and a stream, through torch or through pycuda.

torch where torch is there: its tensors and TensorRT's are then the same bytes. pycuda for a process that runs a vision
graph alone, without the 1.5 GB that torch takes. Never both in one process: `pycuda.autoinit` makes a context of its
own, in which torch's addresses mean nothing. pycuda works on the device's primary context, which is TensorRT's too.

Neither has been run on a Jetson yet: the calls were tried against the CPU build of torch and a simulated pycuda.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import ModuleType
from typing import Any, Literal

from numpy.typing import NDArray

from edgeq.errors import EngineError, first_line
from edgeq.extras import install_command
from edgeq.tensorrt.buffer import Buffer, DeviceMemory, bytes_of, refusals

__all__ = ["Buffer", "DeviceMemory", "MemoryName", "PycudaMemory", "TorchMemory", "open_memory"]

MemoryName = Literal["torch", "pycuda"]

_PYCUDA_CONTEXTS = ("pycuda.autoinit", "pycuda.autoprimaryctx")


def open_memory(name: MemoryName | None = None) -> DeviceMemory:
    """The device's memory through `name`; None takes torch where it is installed with CUDA, pycuda otherwise.

    Raises:
        EngineError: it is missing, finds no GPU, or the other one is in use in this process.
    """
    if name is not None:
        return TorchMemory() if name == "torch" else PycudaMemory()
    refusals: list[EngineError] = []
    for kind in (TorchMemory, PycudaMemory):
        try:
            return kind()
        except EngineError as error:
            refusals.append(error)
    raise EngineError(
        "there is no way to the GPU's memory",
        expected="torch with CUDA, or pycuda",
        causes=[refusal.what for refusal in refusals],
        next_step=refusals[0].next_step,
    )


class TorchMemory:
    """CUDA tensors of torch, on a stream of their own.

    Raises:
        EngineError: torch is missing, was built without CUDA, finds no GPU, or pycuda is in use in this process.
    """

    def __init__(self) -> None:
        if any(name in sys.modules for name in _PYCUDA_CONTEXTS):
            raise _both("torch", "pycuda")
        self._torch = _import("torch", f"{install_command('torch')}; on a Jetson: NVIDIA's wheel for its JetPack")
        if not self._torch.cuda.is_available():
            raise _torch_without_gpu(self._torch)
        self._stream = self._torch.cuda.Stream()

    @property
    def stream(self) -> int:
        """The handle of the torch stream."""
        return int(self._stream.cuda_stream)

    def allocate(self, nbytes: int) -> Buffer:
        """Bytes of torch's allocator, which aligns to 512."""
        with refusals(f"allocate {nbytes:,} bytes"), self._in_stream():
            tensor = self._torch.empty(max(nbytes, 1), dtype=self._torch.uint8, device="cuda")
        return Buffer(int(tensor.data_ptr()), nbytes, tensor)

    def copy_in(self, buffer: Buffer, array: NDArray[Any]) -> None:
        """From host to device; see the protocol."""
        data = bytes_of(buffer, array)
        if not data.flags.writeable:
            data = data.copy()  # torch warns of arrays that it could write to and must not
        with refusals("copy to the GPU"), self._in_stream():
            buffer.handle[: data.size].copy_(self._torch.from_numpy(data), non_blocking=False)

    def copy_out(self, buffer: Buffer, array: NDArray[Any]) -> None:
        """From device to host; see the protocol."""
        data = bytes_of(buffer, array)
        with refusals("copy from the GPU"), self._in_stream():
            self._torch.from_numpy(data).copy_(buffer.handle[: data.size], non_blocking=False)

    def wait_for_caller(self) -> None:
        """Begin after what is in torch's current stream."""
        self._stream.wait_stream(self._torch.cuda.current_stream())

    def synchronize(self) -> None:
        """Wait for the stream."""
        with refusals("run what was put into its stream"):
            self._stream.synchronize()

    def free(self, buffer: Buffer) -> None:
        """Give the bytes back to torch's allocator."""
        buffer.address, buffer.handle = 0, None

    def _in_stream(self) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = self._torch.cuda.stream(self._stream)
        return context


class PycudaMemory:
    """Allocations of pycuda in the device's primary context, and a stream.

    Raises:
        EngineError: pycuda is missing, finds no GPU, works in another context, or torch is in use in this process.
    """

    def __init__(self) -> None:
        _refuse_torch()
        _refuse_own_context()
        hint = "pip install pycuda (it is compiled and needs nvcc)"
        self._primary = _import("pycuda.autoprimaryctx", hint).context
        self._cuda = _import("pycuda.driver", hint)
        with self._current():
            self._stream = self._cuda.Stream()

    @property
    def stream(self) -> int:
        """The handle of the pycuda stream."""
        return int(self._stream.handle)

    def allocate(self, nbytes: int) -> Buffer:
        """Bytes of cuMemAlloc, which aligns to 256 or more."""
        with refusals(f"allocate {nbytes:,} bytes"), self._current():
            allocation = self._cuda.mem_alloc(max(nbytes, 1))
        return Buffer(int(allocation), nbytes, allocation)

    def copy_in(self, buffer: Buffer, array: NDArray[Any]) -> None:
        """From host to device; see the protocol."""
        data = bytes_of(buffer, array)
        with refusals("copy to the GPU"), self._current():
            self._cuda.memcpy_htod_async(buffer.handle, data, self._stream)

    def copy_out(self, buffer: Buffer, array: NDArray[Any]) -> None:
        """From device to host; see the protocol."""
        data = bytes_of(buffer, array)
        with refusals("copy from the GPU"), self._current():
            self._cuda.memcpy_dtoh_async(data, buffer.handle, self._stream)

    def wait_for_caller(self) -> None:
        """Wait for everything in the context: which stream the caller works in is not known."""
        with refusals("run what its caller began"), self._current():
            self._primary.synchronize()

    def synchronize(self) -> None:
        """Wait for the stream."""
        with refusals("run what was put into its stream"), self._current():
            self._stream.synchronize()

    def free(self, buffer: Buffer) -> None:
        """Give the allocation back."""
        allocation, buffer.address, buffer.handle = buffer.handle, 0, None
        if allocation is not None:
            with self._current():
                allocation.free()

    @contextmanager
    def _current(self) -> Iterator[None]:
        """A context is current in the thread that made it; an engine may run in another."""
        self._primary.push()
        try:
            yield
        finally:
            self._primary.pop()


def _import(name: str, hint: str) -> ModuleType:
    """A module; EngineError where it is missing or fails, as CUDA's do without a GPU."""
    library = name.partition(".")[0]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise EngineError(f"{library} is not installed", causes=(first_line(error),), next_step=hint) from error
    except Exception as error:
        raise EngineError(f"{library} finds no GPU: {first_line(error)}", next_step="edgeq doctor") from error


def _torch_without_gpu(torch: ModuleType) -> EngineError:
    if torch.version.cuda is None:
        return EngineError(
            f"torch {torch.__version__} was built without CUDA",
            next_step="install torch with CUDA; on a Jetson: NVIDIA's wheel for its JetPack",
        )
    return EngineError(f"torch {torch.__version__} finds no GPU", next_step="edgeq doctor")


def _refuse_torch() -> None:
    """Raise EngineError where torch has a context already."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        raise _both("pycuda", "torch")


def _refuse_own_context() -> None:
    """Raise EngineError where somebody imported `pycuda.autoinit`."""
    if "pycuda.autoinit" in sys.modules:
        raise EngineError(
            "pycuda works in a CUDA context of its own in this process",
            expected="the device's primary context, which TensorRT uses",
            causes=("something imports pycuda.autoinit",),
            next_step="import pycuda.autoprimaryctx instead",
        )


def _both(wanted: str, used: str) -> EngineError:
    return EngineError(
        f"{wanted} is asked for the GPU's memory while {used} uses it in this process",
        expected="one of the two in a process",
        causes=("their CUDA contexts differ, or are torn down under each other",),
        next_step=f"ask for {used}, or start another process",
    )
