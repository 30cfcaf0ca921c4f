"""A probe: import ONNX Runtime or TensorRT, and ask it what it can use.

Run as `python -m edgeq.doctor.engine_probe onnxruntime|tensorrt`, by `edgeq.doctor.child.run_probe`.
"""

from __future__ import annotations

import sys

from edgeq.doctor.child import tell
from edgeq.engine_store.machine import ask_driver
from edgeq.errors import EngineError
from edgeq.tensorrt.loading import load_tensorrt

__all__ = ["main"]


def main(name: str) -> None:
    """Tell of one of them."""
    if name == "onnxruntime":
        _tell_onnxruntime()
    else:
        _tell_tensorrt()


def _tell_onnxruntime() -> None:
    import onnxruntime

    tell("onnxruntime", onnxruntime.__version__)
    tell("providers", onnxruntime.get_available_providers())


def _tell_tensorrt() -> None:
    """The GPU by its driver; the version; then whether a runtime can be made, which needs both."""
    gpu = ask_driver()
    tell("gpu", gpu.model_dump() if gpu else None)
    try:
        trt = load_tensorrt()
    except EngineError as error:
        tell("error", error.what)
        tell("next_step", error.next_step)
        return
    tell("tensorrt", trt.__version__)
    try:
        tell("runtime", trt.Runtime(trt.Logger(trt.Logger.ERROR)) is not None)
    except Exception as error:  # pybind11 gives TypeError where the factory returns null
        tell("runtime_error", str(error)[:300])


if __name__ == "__main__":
    main(sys.argv[1])
