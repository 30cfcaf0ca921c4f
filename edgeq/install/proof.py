"""The check after a switch: the engine for this device is built if need be, and shown the canaries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgeq.bundle.retrieval_settings import RETRIEVAL_SETTINGS
from edgeq.confined.limits import Made
from edgeq.confined.worker import run_confined
from edgeq.engine.base import EngineBackend
from edgeq.engine.registry import BUILT, DEFAULT, backend_of_graph, installed, require
from edgeq.engine.registry import backend as named
from edgeq.engine.trial import trial_limits
from edgeq.engine_store.candidate import graph_for
from edgeq.engine_store.machine import ask_driver
from edgeq.engine_store.run import build
from edgeq.errors import EdgeqError, EngineError, LimitError
from edgeq.runtime.canary.canary_set import canary_graph
from edgeq.runtime.canary.check import check_canaries
from edgeq.runtime.retrieval.canaries import check_retrieval_canaries
from edgeq.runtime.retrieval.two_tower import open_two_tower
from edgeq.tensorrt.loading import load_tensorrt

__all__ = ["backend_here", "canary_check", "graphs_backend", "no_built_engines"]


def canary_check(
    engines: Path,
    *,
    backend: EngineBackend | None = None,
    answers: bool = False,
    threads: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> Callable[[Path], None]:
    """A check for `install`: it raises unless the engine computes what the workshop saw.

    Args:
        engines: the directory that built engines are kept in; other backends take the bundle's graph as it is.
        backend: that runs the vision graph; None takes `backend_here`.
        answers: ask a vision-language model the canaries' questions as well, which loads its language model.
        threads: of one operator in ONNX Runtime.
        progress: of the build.
        say: told what a person should know, in a sentence.

    Raises:
        EngineError: the backend that was asked for is not installed.
    """
    if backend:
        require(backend)

    def check(bundle: Path) -> None:
        if progress:
            progress("checking", 0, 0)
        if not answers and _passes_confined(bundle, backend, threads):
            return
        if (bundle / RETRIEVAL_SETTINGS).is_file():
            _check_two_tower(bundle, backend or backend_here())
            return
        graph = canary_graph(bundle)
        chosen = backend or backend_here(graph.name)
        if chosen.built:
            graph = build(bundle, engines, backend=chosen, progress=progress, say=say)[""].engine
        else:
            graph = graph_for(bundle, graph, chosen)
        engine = chosen.open(graph, threads=threads)
        check_canaries(bundle, engine, answers=answers, threads=threads).raise_if_failed()

    def _check_two_tower(bundle: Path, chosen: EngineBackend) -> None:
        """Both encoders together: what a text finds depends on both."""
        if chosen is DEFAULT:
            model = open_two_tower(bundle, threads=threads)
        else:
            made = build(bundle, engines, backend=chosen, progress=progress, say=say)
            opened = {encoder: chosen.open(each.engine, threads=threads) for encoder, each in made.items()}
            model = open_two_tower(bundle, threads=threads, engines=opened)
        check_retrieval_canaries(bundle, model).raise_if_failed()

    return check


def _passes_confined(bundle: Path, backend: EngineBackend | None, threads: int | None) -> bool:
    """Whether a bundle passes in a child, which is killed where its graph takes more than it may.

    False where an engine must be built first, and where it fails: it is checked once more then, in this process, which
    says best why; the child has shown that this ends. So it is with a backend on the GPU, which does not start within
    the child's limits: there the usual one shows it.

    Raises:
        LimitError: it takes more time or memory, or it ends the child.
    """
    two_towers = (bundle / RETRIEVAL_SETTINGS).is_file()
    chosen = backend or (backend_here() if two_towers else backend_here(canary_graph(bundle).name))
    if chosen.built:
        return False
    tried = chosen if chosen.place is None else DEFAULT
    plain = {"bundle": str(bundle.resolve()), "backend": tried.name, "threads": threads}
    try:
        run_confined(f"{__name__}:check_confined", plain, limits=trial_limits(bundle), what=f"{bundle}")
    except LimitError:
        raise
    except EdgeqError:
        return False
    return tried is chosen


def check_confined(plain: Mapping[str, Any], _data: bytearray) -> Made:
    """Called in the child: the check itself, with a backend that builds nothing.

    Raises:
        EngineError: the bundle's canaries do not hold, or need engines that are built first.
    """
    bundle, chosen, threads = Path(plain["bundle"]), named(plain["backend"]), plain["threads"]
    if not (bundle / RETRIEVAL_SETTINGS).is_file():
        engine = chosen.open(graph_for(bundle, canary_graph(bundle), chosen), threads=threads)
        check_canaries(bundle, engine, threads=threads).raise_if_failed()
    elif chosen is DEFAULT:
        check_retrieval_canaries(bundle, open_two_tower(bundle, threads=threads)).raise_if_failed()
    else:
        raise EngineError("both encoders are built first")
    return Made({})


def backend_here(graph: str = DEFAULT.graph) -> EngineBackend:
    """The backend that builds engines where it is installed and there is a GPU for it, else the graph's own.

    Args:
        graph: file name of the bundle's graph. Its backend gives way to the usual one where it is not installed.
    """
    return graphs_backend(graph) if no_built_engines() else BUILT


def graphs_backend(graph: str = DEFAULT.graph) -> EngineBackend:
    """The backend that a graph was made for, by its file name; the usual one where that is not installed."""
    own = backend_of_graph(graph)
    return own if installed(own) else DEFAULT


def no_built_engines() -> str:
    """Why the backend that builds engines cannot run here, in a few words; empty where it can."""
    if ask_driver() is None:
        return "there is no NVIDIA GPU"
    try:
        load_tensorrt()
    except EngineError as error:
        return error.what
    return ""
