"""Every backend, in the order in which choices show them. A new one is a line here, and its two files.

An execution provider of ONNX Runtime runs another backend's graph: it is a line in `PROVIDERS`, and has no lowering.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

from edgeq.engine.base import EngineBackend
from edgeq.engine.execution_providers import CUDA as ONNXRUNTIME_CUDA
from edgeq.engine.execution_providers import TENSORRT as ONNXRUNTIME_TENSORRT
from edgeq.engine.onnxruntime import BACKEND as ONNXRUNTIME
from edgeq.engine.openvino import BACKEND as OPENVINO
from edgeq.engine.tensorrt import BACKEND as TENSORRT
from edgeq.errors import EngineError, InputError
from edgeq.extras import install_command

__all__ = [
    "BACKENDS",
    "BUILT",
    "DEFAULT",
    "NAMES",
    "PROVIDERS",
    "RUNNING",
    "backend",
    "backend_of_graph",
    "installed",
    "require",
]

BACKENDS: Final = (ONNXRUNTIME, TENSORRT, OPENVINO)

DEFAULT: Final = ONNXRUNTIME
"""The backend that is always there: the workshop runs and judges in it, unless another one is asked for."""

BUILT: Final = TENSORRT
"""The backend whose engines are built on the device and kept in a store."""

NAMES: Final = tuple(each.name for each in BACKENDS)
"""Backends that a graph is made for."""

PROVIDERS: Final = (ONNXRUNTIME_CUDA, ONNXRUNTIME_TENSORRT)
"""Backends that run the graph of one of those: on the GPU, through ONNX Runtime."""

RUNNING: Final = (*NAMES, *(each.name for each in PROVIDERS))
"""Backends that a bundle can be run with."""


def backend(name: str) -> EngineBackend:
    """The backend of a name; raises InputError for one that is not known."""
    for each in (*BACKENDS, *PROVIDERS):
        if each.name == name:
            return each
    raise InputError(f"there is no backend {name}", expected=f"one of {', '.join(RUNNING)}")


def backend_of_graph(name: str) -> EngineBackend:
    """The backend that a bundle's graph was made for, by its file name; the default one runs all other graphs."""
    return next((each for each in BACKENDS if each.graph == name), DEFAULT)


def installed(asked: EngineBackend) -> bool:
    """Whether a backend's package is there; it is not imported."""
    return find_spec(asked.package) is not None


def require(needed: EngineBackend) -> None:
    """Raise EngineError where a backend's package is not installed, or cannot do what is asked: known before any work.

    The loader of the backend whose engines are built tells more than that, when an engine is looked for.
    """
    if not needed.built and not installed(needed):
        extra = install_command(needed.extra) if needed.extra else ""
        raise EngineError(f"{needed.title} is not installed", expected=f"the package {needed.package}", next_step=extra)
    if needed.check is not None:
        needed.check()
