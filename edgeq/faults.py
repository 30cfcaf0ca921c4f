"""Two faults of a machine that libraries tell in many ways: memory ran out; the accelerator is lost for this process.

After an error of CUDA that stays (an illegal address, a device-side assert, a launch that failed), every later call of
the same process gives it again, a memory copy or a free too (docs.nvidia.com, CUDA Runtime API, cudaError_t: "the
process must be terminated and relaunched"). So nothing more is asked of it: those who wait are told, and the process
leaves. Memory that ran out is no such fault: the allocation did not happen, and all else is as it was.

Libraries are recognised by the names of their classes and by their texts, so that none is imported here. Texts count
only for the kinds of errors that native code raises, never for one that repeats what a user wrote.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Iterator
from typing import Final

from edgeq.errors import (
    CalibrationError,
    DeviceLostError,
    EdgeqError,
    EngineError,
    ExportError,
    ModelError,
    OutOfMemoryError,
    QuantizeError,
    first_line,
)

__all__ = ["is_device_lost", "is_out_of_memory", "known_fault", "stopped_for_memory"]

_NO_MEMORY: Final = re.compile(
    r"out of (?:\w+ )?memory|OutOfMemory|not enough memory|insufficient memory|memory exhausted"
    r"|cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY|_STATUS_ALLOC_FAILED|smaller than requested bytes"
    r"|(?:fail\w*|unable|cannot|can't|could not) (?:to )?alloc\w*|could not be allocated"
    r"|allocation (?:failed|failure)|bad[_ ]alloc"
    r"|NvMap\w*:? .*\berror 12\b|NvMap\w*Alloc|NvRmMem\w*Alloc"
    r"|NVML_SUCCESS == r.*CUDACachingAllocator",
    re.IGNORECASE | re.DOTALL,
)
"""As torch, ONNX Runtime, TensorRT, cuBLAS, cuDNN, pycuda, glibc and Tegra's NvMap have it. The last one is torch's: on
a Tegra, which has no NVML, its allocator fails an assertion where it means to say that memory ran out
(github.com/pytorch/pytorch/issues/185240); error 12 is Linux' ENOMEM."""

_NO_ENGINE: Final = re.compile(r"out of memory|OutOfMemory|memory allocation", re.IGNORECASE)
"""Of these, what TensorRT's builder logs as an error where it ends for want of memory. The others count for nothing
there: it also tells of each kernel that wanted more workspace than it has, and then takes another one."""

_LOST: Final = re.compile(
    r"\bCUDA (?:driver |runtime )?(?:error|failure)|\bCuda (?:Runtime|Driver) \(|\bcudaError[A-Z]\w+|\bCUDA_ERROR_\w+"
    r"|\bCU(?:BLAS|DNN|SOLVER|SPARSE|FFT|RAND)(?:LT)?(?:_STATUS_| error| failure)|\bNVRTC"
    r"|device-side assert|illegal (?:memory access|address|instruction)|misaligned address|unspecified launch failure"
    r"|NvMap|NvRm\w* ?(?:error|fail)|nvgpu|\bNVML_SUCCESS|GPU is lost|fallen off the bus|uncorrectable (?:ECC|NVLink)"
    r"|(?-i:\bcu[A-Z]\w+ failed: )",
    re.IGNORECASE,
)
"""As torch, ONNX Runtime, TensorRT, pycuda, CUDA's libraries and Tegra's drivers have it."""

_CAPTURE: Final = re.compile(r"captur|graph update was not performed", re.IGNORECASE)
"""CUDA's errors 900 to 910: a step could not be recorded as a graph, and nothing is lost."""

_NATIVE: Final = ("torch", "onnxruntime", "tensorrt", "pycuda", "cuda", "cupy", "bitsandbytes", "openvino", "triton")
"""Packages whose own errors come from native code, besides RuntimeError, which all bindings raise."""

_WRAPPERS: Final = (CalibrationError, EngineError, ExportError, ModelError, QuantizeError)
"""Errors of edgeq that pass on what a library said; every other one says by itself what is wrong."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of the machine or of the accelerator; also where another error was raised over it."""
    return _fault(error) is OutOfMemoryError


def is_device_lost(error: BaseException) -> bool:
    """Whether the accelerator can do nothing more for this process; memory that ran out is not this."""
    return _fault(error) is DeviceLostError


def stopped_for_memory(logged: Iterable[str]) -> bool:
    """Whether a TensorRT build ended for want of memory: with other constraints on its layers it would again.

    Args:
        logged: what the builder logged as errors.
    """
    return any(_NO_ENGINE.search(text) for text in logged)


def known_fault(error: BaseException) -> EdgeqError | None:
    """The error of edgeq that a fault of the machine is; None for every other error.

    Args:
        error: of any library, or of edgeq.
    """
    if isinstance(error, DeviceLostError | OutOfMemoryError):
        return error
    reason = f"{type(error).__name__}: {first_line(error)}" if isinstance(error, Exception) else type(error).__name__
    kind = _fault(error)
    if kind is OutOfMemoryError:
        return OutOfMemoryError(
            "memory ran out",
            causes=(reason, "other processes have taken the memory"),
            next_step="end other processes, or ask for less at once: fewer images, smaller ones, a shorter answer",
            passing=True,
        )
    if kind is DeviceLostError:
        return DeviceLostError(
            "the accelerator does nothing more for this process",
            causes=(reason,),
            next_step="start it again; if that does not help, edgeq doctor",
            passing=True,
        )
    return None


def _fault(error: BaseException) -> type[EdgeqError] | None:
    """What the first error says that says anything: the error itself, what it was raised from, and so on."""
    for one in _chain(error):
        if _says_no_memory(one):
            return OutOfMemoryError
        if _says_lost(one):
            return DeviceLostError
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, what it was raised from, and so on, each once; as far as its words are those of another library."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        before = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
        own = isinstance(one, EdgeqError) and not isinstance(one, _WRAPPERS)
        # A file can ask for any size: Python's own MemoryError over it is the file's fault, and no sign of the machine.
        too_large = isinstance(one, ModelError) and isinstance(before, MemoryError)
        one = None if own or too_large else before


def _says_no_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | OutOfMemoryError) or "OutOfMemoryError" in _names(error):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return any(_NO_MEMORY.search(text) for text in _texts(error))


def _says_lost(error: BaseException) -> bool:
    if isinstance(error, DeviceLostError):
        return True
    texts = _texts(error)
    if any(_CAPTURE.search(text) for text in texts):
        return False
    return "AcceleratorError" in _names(error) or any(_LOST.search(text) for text in texts)


def _names(error: BaseException) -> list[str]:
    return [kind.__name__ for kind in type(error).__mro__]


def _texts(error: BaseException) -> list[str]:
    """What native code says; of an error of edgeq, only the causes that an engine told without raising one."""
    if isinstance(error, EngineError):
        return [] if error.__cause__ is not None else list(error.causes)
    packages = [kind.__module__.partition(".")[0] for kind in type(error).__mro__]
    native = isinstance(error, RuntimeError) or any(package in _NATIVE for package in packages)
    return [str(error)] if native and not isinstance(error, EdgeqError) else []
