"""How many bytes are left for requests and caches: what a device gives the process, less what is always in memory.

As in the memory plan, but from the bundle's files, which is what will be loaded: no weight is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeq.bundle.vlm_settings import LANGUAGE, VlmSettings
from edgeq.device import PROFILES, DeviceProfile, probe
from edgeq.errors import InputError
from edgeq.model.checkpoint.packed_weights import UNPACKED_AT_ONCE, WeightScheme
from edgeq.model.checkpoint.stored import StoredTensor, read_stored
from edgeq.plan.budget import WORKSPACE_BYTES
from edgeq.plan.memory import MemoryPlan
from edgeq.runtime.vlm.packed.checkpoint import check_packed, weight_format

__all__ = ["MEMORY", "ServingBudget", "serving_budget", "serving_device"]

MEMORY: Final = "memory.json"
"""The memory plan in a bundle that was prepared for a named device."""

_HALF: Final = 2
_WIDENED: Final = 2


@dataclass(frozen=True)
class ServingBudget:
    """Where the bytes go.

    Attributes:
        total: what the process may take.
        weights: of both halves, as they are in memory.
        runtime: Python, torch, the vision backend, CUDA's context.
        workspace: of a TensorRT engine.
        unpacked: of the largest layer in NF4 or INT8, in FP16.
        reserve: what stays free.
    """

    total: int
    weights: int
    runtime: int
    workspace: int
    unpacked: int
    reserve: int

    @property
    def working(self) -> int:
        """What the kernels need however few requests there are."""
        return self.workspace + self.unpacked

    @property
    def requests(self) -> int:
        """What is left for requests and caches; negative where something is missing."""
        return self.total - self.weights - self.runtime - self.working - self.reserve


def serving_device(bundle: Path, *, cuda: bool, root: Path = Path("/")) -> DeviceProfile:
    """This machine, as serving a bundle sees it, before the bundle is loaded.

    It has no more memory than the device that the bundle was planned for: so a workstation behaves like the device.

    Args:
        bundle: its memory plan is looked at, if it has one.
        cuda: the bundle will run on a GPU that shares the machine's memory.
        root: where `proc` and `sys` are.

    Raises:
        ArtifactError: the memory plan is none.
        InputError: this machine's memory cannot be read.
    """
    device = probe(root)
    if cuda:
        jetson = next(iter(PROFILES.values()))
        shared = {"memory": jetson.memory, "runtime_bytes": jetson.runtime_bytes, "widens_fp16": jetson.widens_fp16}
        device = device.model_copy(update=shared)
    if not (bundle / MEMORY).is_file():
        return device
    planned = MemoryPlan.load(bundle / MEMORY).device
    taken = max(device.total_bytes - planned.budget_bytes, device.reserve_bytes)
    return device.model_copy(update={"reserve_bytes": taken})


def serving_budget(
    bundle: Path, device: DeviceProfile, *, reserve_bytes: int, total_bytes: int | None = None
) -> ServingBudget:
    """The budget of a vision-language bundle.

    Args:
        bundle: its files' sizes and headers are looked at.
        device: from `serving_device`.
        reserve_bytes: what stays free; for the same bytes in `edgeq.runtime.scheduler.admission.Rules`.
        total_bytes: what the process may take; by default what the device leaves for it.

    Raises:
        InputError: nothing is left for requests.
        ArtifactError: the bundle does not say how its halves are joined.
        ModelError: the language model's files are damaged.
    """
    stored, schemes = read_stored(bundle / LANGUAGE), _schemes(bundle / LANGUAGE)
    budget = ServingBudget(
        total=device.budget_bytes if total_bytes is None else total_bytes,
        weights=_language_bytes(bundle) + _zeros(stored, schemes) + _vision_bytes(bundle, device),
        runtime=device.runtime_bytes,
        workspace=WORKSPACE_BYTES if device.memory == "unified" else 0,
        unpacked=_unpacked(stored, schemes),
        reserve=reserve_bytes,
    )
    if budget.requests <= 0:
        raise InputError(
            f"{bundle} leaves no memory for requests: weights {_gigabytes(budget.weights)}, runtime "
            f"{_gigabytes(budget.runtime)}, kernels {_gigabytes(budget.working)} and the reserve "
            f"{_gigabytes(budget.reserve)} come to more than {_gigabytes(budget.total)}",
            expected=f"at least {_gigabytes(budget.total - budget.requests)}, and what requests take",
            causes=("other processes have taken the memory", "the budget was set for a smaller model"),
            next_step="end other processes, or give a larger budget",
            passing=True,
        )
    return budget


def _language_bytes(bundle: Path) -> int:
    return sum(file.stat().st_size for file in (bundle / LANGUAGE).glob("*.safetensors"))


def _vision_bytes(bundle: Path, device: DeviceProfile) -> int:
    """The graph with its weights; the backend of a CPU holds them as FP32."""
    graph = bundle / VlmSettings.of(bundle).vision
    files = [file for file in (graph, graph.with_name(f"{graph.name}.data")) if file.is_file()]
    return sum(file.stat().st_size for file in files) * (_WIDENED if device.widens_fp16 else 1)


def _schemes(language: Path) -> dict[str, WeightScheme]:
    """The layers in packed integers; empty for NF4."""
    if not (language / "config.json").exists() or weight_format(language) != "packed":
        return {}
    return check_packed(language)


def _zeros(stored: dict[str, StoredTensor], schemes: dict[str, WeightScheme]) -> int:
    """A zero point beside each scale of INT4, as torch's kernel has them."""
    scales = (stored[f"{layer}.weight_scale"] for layer, scheme in schemes.items() if scheme.bits == 4)
    return _HALF * sum(scale.elements for scale in scales)


def _unpacked(stored: dict[str, StoredTensor], schemes: dict[str, WeightScheme]) -> int:
    """What is unpacked at once in FP16 for a long prompt: the largest layer, in INT8 a part of it where it is large.

    In NF4 its payload is the largest tensor of bytes, two weights in each; in INT8 it has four weights a word. INT4 has
    a kernel for long prompts, too.
    """
    nf4 = (2 * tensor.elements for tensor in stored.values() if tensor.dtype == "U8")
    int8 = (4 * stored[f"{layer}.weight_packed"].elements for layer, scheme in schemes.items() if scheme.bits == 8)
    return _HALF * max((*nf4, *(min(numbers, UNPACKED_AT_ONCE) for numbers in int8)), default=0)


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
