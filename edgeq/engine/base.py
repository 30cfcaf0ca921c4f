"""What a backend is on the device: one file `edgeq/engine/NAME.py`, and a line in `edgeq.engine.registry`.

The file holds a class with the shape of `Engine`, and a `BACKEND`, an `EngineBackend` that names it, opens it and tells
whether it can be used here. It imports its library inside functions: a device has one backend, seldom all. Flags,
choices, file names and doctor's list are read from the registry; nothing else compares a backend's name.

The other half of a backend, how a graph is quantized for it, is `edgeq/quantize/int8/NAME.py`
(`edgeq.quantize.int8.base`). `docs/extending/backend.md` goes through both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from edgeq.tensorrt.tensors import DeviceTensor

__all__ = ["DeviceEngine", "Engine", "EngineBackend", "OpenEngine", "Placement"]


class Engine(Protocol):
    """A graph that is ready to run.

    Attributes:
        inputs: names of the graph's inputs.
        outputs: names of the graph's outputs.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """Compute outputs of one run.

        Args:
            feeds: an array for each of `inputs`, in the dtype that the graph takes; mostly float32 [n, ...].
            outputs: names of those that are wanted; None for all.

        Returns:
            Each output by name, [n, ...] in the dtype that the graph gives it.

        Raises:
            EngineError: the run failed, or a name or shape does not fit the graph.
        """
        ...


class DeviceEngine(Engine, Protocol):
    """An engine that can leave on the GPU what it computed.

    Attributes:
        on_torch: what `run_device` gives is torch's own memory, so that torch takes it as it is.
    """

    on_torch: bool

    def run_device(
        self, feeds: Mapping[str, NDArray[Any] | DeviceTensor], outputs: Sequence[str] | None = None
    ) -> dict[str, DeviceTensor]:
        """As `run`, with outputs that stay on the GPU and are the caller's: no later run writes to them.

        Args:
            feeds: as for `run`; an array goes to the GPU, a tensor that is there is used where it lies.
            outputs: as for `run`.

        Raises:
            EngineError: as `run`.
        """
        ...


class OpenEngine(Protocol):
    """Opens a graph."""

    def __call__(self, model: Path | bytes, *, threads: int | None = None, batch: int | None = None) -> Engine:
        """Open a file, or what is in one.

        Args:
            model: what the backend loads: an ONNX graph, or an engine that was built.
            threads: of one operator; None takes every processor there is.
            batch: images in every batch, where that is known; None takes any number.

        Raises:
            EngineError: the backend refuses the graph, or a package is missing.
        """
        ...


@dataclass(frozen=True)
class Placement:
    """What a backend that works on the GPU without an engine of its own is given.

    Attributes:
        cache: a directory for what it compiles while it loads; it is made where it is missing.
        memory_bytes: of the GPU's memory that the graph may take, weights included; None where no plan says so.
    """

    cache: Path
    memory_bytes: int | None = None


@dataclass(frozen=True)
class EngineBackend:
    """One backend.

    Attributes:
        name: in flags, settings and files.
        title: for people.
        package: that must be importable.
        extra: of edgeq, that brings the package; empty where the device's system does.
        graph: file name of a classifier's INT8 graph in a bundle.
        open: opens a graph or an engine.
        version: name and release, for reports; raises ImportError where the package is missing.
        facts: asks the library what it can use, for `edgeq doctor`, which does so in a process of its own.
        built: an engine is built from the graph beforehand and kept in a store; otherwise the graph runs as it is.
        check: raises EngineError where the package is there and cannot do this; it imports the package.
        place: what opens a graph within a `Placement`; None where nothing is compiled or bounded.
    """

    name: str
    title: str
    package: str
    extra: str
    graph: str
    open: OpenEngine
    version: Callable[[], str]
    facts: Callable[[], dict[str, Any]]
    built: bool = False
    check: Callable[[], None] | None = None
    place: Callable[[Placement], OpenEngine] | None = None

    def opener(self, placement: Placement | None) -> OpenEngine:
        """What opens a graph: within `placement`, where this backend takes one."""
        return self.open if placement is None or self.place is None else self.place(placement)
