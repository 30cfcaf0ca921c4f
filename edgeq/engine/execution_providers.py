"""ONNX Runtime on an NVIDIA GPU: its CUDA and its TensorRT execution provider, where the wheel has them.

Both run a bundle's graph as it is, so that nothing is built beforehand: the CUDA provider node by node, the TensorRT
provider in engines that it compiles while it loads. Neither is held to the precision plan as an engine of `edgeq build`
is: the CUDA provider computes Q/DQ pairs in floating point, and TensorRT under ONNX Runtime takes types for hints. What
they give is compared with the bundle's canaries. The names of the options are those of ONNX Runtime 1.19 and later
(onnxruntime.ai, "CUDA Execution Provider" and "TensorRT Execution Provider").

Not yet run on a GPU: selection, options and refusals were tried with the CPU's wheel.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from edgeq.engine.base import EngineBackend, OpenEngine, Placement
from edgeq.engine.onnxruntime import BACKEND, ExecutionProvider, OnnxRuntimeEngine
from edgeq.engine.tensorrt import BACKEND as BUILT
from edgeq.errors import EngineError, OutputError, shell_word
from edgeq.extras import install_command
from edgeq.plan.budget import WORKSPACE_BYTES

__all__ = ["CUDA", "TENSORRT", "cuda_provider", "tensorrt_provider"]

_CUDA: Final = "CUDAExecutionProvider"
_TENSORRT: Final = "TensorrtExecutionProvider"
_DEVICE: Final = {"device_id": "0"}
"""The first GPU, as everything here: torch's, and the one that a built engine is keyed by."""
_TF32: Final = "NVIDIA_TF32_OVERRIDE"
_FP32: Final = ".fp32."
_PAIRS: Final = b"DequantizeLinear"
_PRIVATE: Final = 0o700

Provider = Callable[[Path | bytes, Placement | None], ExecutionProvider]
"""From a graph, and where it may keep what and take how much, to the provider with its options."""


def cuda_provider(_model: Path | bytes, placement: Placement | None) -> ExecutionProvider:
    """The CUDA provider.

    Its arena grows by what is asked for and not in powers of two, and stays within the plan. Convolutions are chosen by
    cuDNN's heuristics: a search takes workspaces that no plan counts, and may choose otherwise at the next start. FP32
    is not computed in TF32: a head that the plan keeps in FP32 would not be.

    Args:
        placement: with the limit.
    """
    options = {
        **_DEVICE,
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "do_copy_in_default_stream": "1",
        "use_tf32": "0",
    }
    if placement is not None and placement.memory_bytes is not None:
        options["gpu_mem_limit"] = str(placement.memory_bytes)
    return ExecutionProvider(_CUDA, options)


def tensorrt_provider(model: Path | bytes, placement: Placement | None) -> ExecutionProvider:
    """The TensorRT provider, and the CUDA provider for the nodes that it does not take.

    Its networks are not strongly typed: a graph with FP16 in it needs the flag for FP16, one with Q/DQ pairs that for
    INT8. What it compiled, and how quick kernels were, is kept beside the built engines, for this release of ONNX
    Runtime alone; ONNX Runtime's own names in there depend on graph, TensorRT and GPU.

    Args:
        model: the graph, or a file with one.
        placement: with the directory, and the limit for what the CUDA provider runs.

    Raises:
        EngineError: the file cannot be read.
        OutputError: the directory cannot be made.
    """
    options = {
        **_DEVICE,
        "trt_max_workspace_size": str(WORKSPACE_BYTES),
        "trt_fp16_enable": _flag(isinstance(model, bytes) or _FP32 not in model.name),
        "trt_int8_enable": _flag(_PAIRS in (model if isinstance(model, bytes) else _read(model))),
        "trt_layer_norm_fp32_fallback": "True",
        "trt_context_memory_sharing_enable": "True",
    }
    if placement is not None:
        kept = _made(placement.cache)
        options |= {
            "trt_engine_cache_enable": "True",
            "trt_engine_cache_path": kept,
            "trt_timing_cache_enable": "True",
            "trt_timing_cache_path": kept,
        }
    return ExecutionProvider(_TENSORRT, options, behind=(cuda_provider(model, placement),))


def _flag(value: bool) -> str:
    """As ONNX Runtime reads it."""
    return str(value)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EngineError(f"{path} cannot be read: {error.strerror or error}") from error


def _made(directory: Path) -> str:
    """A directory for one release of ONNX Runtime, which nobody else may write to: an engine can hold code."""
    import onnxruntime

    place = directory / onnxruntime.__version__
    try:
        place.mkdir(parents=True, exist_ok=True)
        place.chmod(_PRIVATE)
    except OSError as error:
        raise OutputError(
            f"{place} cannot be made, or not for this user alone: {error.strerror or error}",
            causes=("the store of the engines, or what is in it already, belongs to another user",),
            next_step=f"run it as that user, or remove {shell_word(place)}",
        ) from error
    return str(place)


def _open(
    provider: Provider,
    placement: Placement | None,
    model: Path | bytes,
    *,
    threads: int | None = None,
    batch: int | None = None,  # noqa: ARG001
) -> OnnxRuntimeEngine:
    # TensorRT's provider has no option for TF32. The variable is read when CUDA's libraries are first used.
    os.environ.setdefault(_TF32, "0")
    return OnnxRuntimeEngine(model, threads=threads, provider=provider(model, placement))


def _place(provider: Provider, placement: Placement) -> OpenEngine:
    return partial(_open, provider, placement)


def _check(name: str) -> None:
    """Raise EngineError where the wheel that is installed does not have the provider."""
    import onnxruntime

    found = onnxruntime.get_available_providers()
    if name not in found:
        raise EngineError(
            f"this ONNX Runtime {onnxruntime.__version__} has no {name}",
            expected=f"a wheel built with it; this one has {', '.join(found)}",
            causes=(
                "`onnxruntime` is installed in the place of `onnxruntime-gpu`, or over it: they share a folder",
                "on a Jetson PyPI's wheel has none: NVIDIA's is for its JetPack",
            ),
            next_step=f"pip uninstall onnxruntime, then {install_command('device-gpu')}; on a Jetson NVIDIA's wheel",
        )


def _version(name: str) -> str:
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__} {name}"


def _backend(name: str, title: str, provider: Provider, ort_name: str, graph: str) -> EngineBackend:
    return replace(
        BACKEND,
        name=name,
        title=title,
        extra="device-gpu",
        graph=graph,
        open=partial(_open, provider, None),
        version=partial(_version, ort_name),
        check=partial(_check, ort_name),
        place=partial(_place, provider),
    )


CUDA: Final = _backend("onnxruntime-cuda", "ONNX Runtime on CUDA", cuda_provider, _CUDA, BACKEND.graph)

TENSORRT: Final = _backend(
    "onnxruntime-tensorrt", "ONNX Runtime with TensorRT", tensorrt_provider, _TENSORRT, BUILT.graph
)
"""Runs the Q/DQ graph that was made for TensorRT, signed and symmetric."""
