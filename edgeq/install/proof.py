"""The check after a switch: the engine for this device is built if need be, and shown the canaries."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgeq.engine import Engine
from edgeq.engine.tensorrt import TensorRtEngine
from edgeq.engine_store.machine import ask_driver
from edgeq.engine_store.run import Backend, build
from edgeq.errors import EngineError
from edgeq.runtime.canary.check import check_canaries
from edgeq.tensorrt.loading import load_tensorrt
from edgeq.tensorrt.memory import open_memory

__all__ = ["backend_here", "canary_check"]


def canary_check(
    engines: Path,
    *,
    backend: Backend | None = None,
    answers: bool = False,
    threads: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> Callable[[Path], None]:
    """A check for `install`: it raises unless the engine computes what the workshop saw.

    Args:
        engines: the directory that TensorRT's engines are kept in; ONNX Runtime takes the bundle's graph as it is.
        backend: that runs the vision graph; None takes `backend_here`.
        answers: ask a vision-language model the canaries' questions as well, which loads its language model.
        threads: of one operator in ONNX Runtime.
        progress: of the build.
        say: told what a person should know, in a sentence.
    """

    def check(bundle: Path) -> None:
        if progress:
            progress("checking", 0, 0)
        chosen = backend or backend_here()
        engine: Engine | None = None
        if chosen == "tensorrt":
            built = build(bundle, engines, backend=chosen, progress=progress, say=say)
            engine = TensorRtEngine(built.engine, open_memory())
        check_canaries(bundle, engine, answers=answers, threads=threads).raise_if_failed()

    return check


def backend_here() -> Backend:
    """TensorRT where it is installed and there is a GPU for it, else ONNX Runtime."""
    if ask_driver() is None:
        return "onnxruntime"
    try:
        load_tensorrt()
    except EngineError:
        return "onnxruntime"
    return "tensorrt"
