"""Run the probes, each in a process of its own, for what is installed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Final

from edgeq.doctor.child import Outcome, run_probe
from edgeq.doctor.memory import RESERVE_BYTES
from edgeq.doctor.memory_probe import MemoryKind
from edgeq.engine.registry import BACKENDS, BUILT, DEFAULT
from edgeq.engine_store.machine import Gpu

__all__ = ["Probes", "probe_memory", "probe_torch", "run_probes"]

_ENGINE: Final = "edgeq.doctor.engine_probe"

_IMPORT_LIMIT_S: Final = 120.0
"""Importing torch from a slow card takes half a minute."""

_MEMORY_LIMIT_S: Final = 300.0


@dataclass(frozen=True)
class Probes:
    """How each probe ended; None where its package is not installed.

    Attributes:
        torch: with bitsandbytes.
        onnxruntime: the usual backend.
        tensorrt: the backend that builds engines.
        others: further backends that are installed, by name.
    """

    torch: Outcome | None
    onnxruntime: Outcome | None
    tensorrt: Outcome
    others: Mapping[str, Outcome] = field(default_factory=dict)

    @property
    def gpu(self) -> Gpu | None:
        """The first GPU, as its driver names it; None where there is none."""
        told = self.tensorrt.facts.get("gpu")
        return Gpu.model_validate(told) if told else None


def run_probes() -> Probes:
    """Torch with bitsandbytes, and each backend: one after the other."""
    return Probes(
        torch=probe_torch(),
        onnxruntime=_if_installed(DEFAULT.package, _ENGINE, DEFAULT.name),
        tensorrt=run_probe(_ENGINE, BUILT.name, limit_s=_IMPORT_LIMIT_S),
        others={
            each.name: outcome
            for each in BACKENDS
            if each not in (DEFAULT, BUILT) and (outcome := _if_installed(each.package, _ENGINE, each.name))
        },
    )


def probe_torch() -> Outcome | None:
    """Torch with bitsandbytes' NF4 kernels; None where torch is not installed."""
    return _if_installed("torch", "edgeq.doctor.torch_probe")


def probe_memory(kind: MemoryKind, needed: int) -> Outcome:
    """Take so many bytes, touch them, give them back."""
    arguments = (kind, str(needed), str(RESERVE_BYTES))
    return run_probe("edgeq.doctor.memory_probe", *arguments, limit_s=_MEMORY_LIMIT_S)


def _if_installed(package: str, module: str, *arguments: str) -> Outcome | None:
    if find_spec(package) is None:
        return None
    return run_probe(module, *arguments, limit_s=_IMPORT_LIMIT_S)
