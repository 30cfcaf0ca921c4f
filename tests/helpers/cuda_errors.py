"""What libraries say when memory runs out, and when the accelerator is lost: words of their sources and reports."""

from __future__ import annotations

from typing import Final

import torch

from edgeq.errors import EngineError

__all__ = ["LOST", "NO_MEMORY", "OnnxRuntimeError"]


class OnnxRuntimeError(Exception):
    """ONNX Runtime's exceptions share no base class but Exception; their module is told by its name."""


OnnxRuntimeError.__module__ = "onnxruntime.capi.onnxruntime_pybind11_state"

LOST: Final[tuple[Exception, ...]] = (
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    torch.AcceleratorError("CUDA error: device-side assert triggered"),
    torch.AcceleratorError("CUDA error: unspecified launch failure"),
    torch.AcceleratorError("it says nothing"),
    RuntimeError("CUDA error: misaligned address"),
    RuntimeError("CUDA driver error: unknown error"),
    RuntimeError("CUBLAS error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx( handle, opa, opb)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("NvMapMemCacheMaint: error 14"),
    RuntimeError("../aten/src/ATen/native/cuda/IndexKernel.cu:92: device-side assert triggered"),
    OnnxRuntimeError(
        "[ONNXRuntimeError] : 1 : FAIL : CUDA failure 700: an illegal memory access was encountered ; GPU=0"
    ),
    EngineError(
        "TensorRT did not run the engine",
        causes=("IExecutionContext::enqueueV3: Error Code 1: Cuda Runtime (unspecified launch failure)",),
    ),
)

NO_MEMORY: Final[tuple[Exception, ...]] = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    MemoryError(),
    OSError(12, "Cannot allocate memory"),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError('NVML_SUCCESS == r INTERNAL ASSERT FAILED at "/opt/pytorch/c10/cuda/CUDACachingAllocator.cpp":995'),
    RuntimeError("NvMapMemAllocInternalTagged: 1075072515 error 12"),
    RuntimeError("cudaErrorMemoryAllocation"),
    RuntimeError("CUBLAS error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    OnnxRuntimeError(
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer of size 67108864"
    ),
    OnnxRuntimeError("[ONNXRuntimeError] : 1 : FAIL : CUDA failure 2: out of memory ; GPU=0 ; hostname=orin"),
    OnnxRuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : std::bad_alloc"),
    EngineError(
        "TensorRT did not make an execution context",
        causes=("[resizingAllocator.cpp::allocate] Error Code 2: OutOfMemory (Requested size was 402653184 bytes.)",),
    ),
)
