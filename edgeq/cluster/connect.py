"""Which cluster, how much of it, and the way to it."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from edgeq.errors import InputError
from edgeq.extras import install_command

__all__ = [
    "STALL_MINUTES",
    "Cluster",
    "actor_options",
    "connected",
    "first_and_last_line",
    "require_ray",
    "require_room",
]

STALL_MINUTES: Final = 10.0
"""Without anything done anywhere for so long, a run is given up."""

_TICK: Final = 0.5
_CONNECT: Final = 10.0
_FREED: Final = 5.0
"""Seconds for a cluster to take back what a run before this one had."""


@dataclass(frozen=True)
class Cluster:
    """Which cluster, and how much of it.

    Attributes:
        address: HOST:PORT of its head; `auto` is RAY_ADDRESS, else the one that this machine belongs to.
        actors: how many; None takes as many as there is room for, and no more than there are tasks.
        cpus: of an actor, where the cluster has no GPU or the work needs none. Otherwise an actor gets one GPU.
        stall_minutes: after which a run without progress is given up.

    Raises:
        InputError: these are less than one actor, one CPU or more than no time.
    """

    address: str = "auto"
    actors: int | None = None
    cpus: int = 1
    stall_minutes: float = STALL_MINUTES

    def __post_init__(self) -> None:
        """Check every value."""
        if min(self.cpus, 1 if self.actors is None else self.actors) < 1 or self.stall_minutes <= 0:
            raise InputError("there is work for one actor with one CPU or more, and a stall lasts more than no time")


def require_ray() -> Any:
    """The module ray.

    Raises:
        InputError: it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise InputError(
            "work is handed out by Ray, which is not installed", next_step=install_command("cluster")
        ) from error
    return ray


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """The module ray, connected to a cluster that is there. One that is connected already is used.

    Args:
        address: HOST:PORT of its head, or `auto`.

    Raises:
        InputError: Ray is not installed, or there is no such cluster.
    """
    ray = require_ray()
    if ray.is_initialized():
        yield ray
        return
    where = os.environ.get("RAY_ADDRESS") or address if address == "auto" else address
    if where != "auto":
        _require_listener(where)
    try:
        ray.init(address=where, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # of any type: no cluster, another version of Ray or Python, no node on this machine
        raise _no_cluster(where, first_and_last_line(error)) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _require_listener(address: str) -> None:
    """Raise InputError where nothing answers at HOST:PORT; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise InputError(
            f"{address} is no address of a cluster",
            expected="auto, or HOST:PORT of its head, such as 10.0.0.1:6379",
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, str(error)) from error


def _no_cluster(address: str, reason: str) -> InputError:
    return InputError(
        f"no Ray cluster can be used at {address}: {reason}",
        expected="a cluster that is there, and that this machine belongs to",
        causes=("it was not started", "its nodes have other versions of Ray or Python than this machine"),
        next_step="ray start --head, on the other machines ray start --address HEAD:6379; or leave out --on ray",
    )


def actor_options(ray: Any, cluster: Cluster, *, gpus: bool) -> dict[str, float]:
    """What one actor takes of the cluster, as Ray has it: one GPU where there are some that are of use, else CPUs.

    Args:
        ray: the module.
        cluster: for the CPUs of an actor.
        gpus: whether they are of use.
    """
    if gpus and _has_gpus(ray.cluster_resources()):
        return {"num_cpus": 0, "num_gpus": 1}
    return {"num_cpus": cluster.cpus}


def require_room(ray: Any, cluster: Cluster, asked: int | None, *, gpus: bool) -> int:
    """How many actors to start.

    Args:
        ray: the module.
        cluster: for the CPUs of an actor.
        asked: how many are wanted; None for as many as there is room for.
        gpus: whether they are of use.

    Raises:
        InputError: there is no room for these and one free CPU.
    """
    there, until = ray.cluster_resources(), time.monotonic() + _FREED
    each = actor_options(ray, cluster, gpus=gpus)
    if _most(ray, each, there) < (asked or 1):
        raise _no_room(cluster.cpus, asked or 1, _most(ray, each, there), _words(there))
    while True:
        free = ray.available_resources()
        most = _most(ray, each, free)
        if most >= (asked or 1):
            return asked or most
        if time.monotonic() > until:
            raise _no_room(cluster.cpus, asked or 1, most, f"{_words(free)} free, of {_words(there)}")
        time.sleep(_TICK)


def _no_room(cpus: int, asked: int, most: int, has: str) -> InputError:
    return InputError(
        f"there is no room for {asked} actors: the cluster has {has}",
        expected=f"at most {most} actors, so that one CPU of the cluster stays free",
        causes=(
            "another job has what is not free",
            f"all CPUs of an actor must be on one node, and it has {cpus}, or one GPU where these are of use",
        ),
        next_step=f"--actors {most}, or wait" if most else "add a node, or wait",
    )


def _words(resources: Mapping[str, float]) -> str:
    """Such as `2 GPUs and 16 CPUs`."""
    return (
        " and ".join(f"{resources.get(kind, 0.0):g} {kind}s" for kind in ("GPU", "CPU") if kind in resources)
        or "no CPU"
    )


def _most(ray: Any, each: Mapping[str, float], free: Mapping[str, float]) -> int:
    """The most actors that find room and leave one CPU.

    Args:
        ray: the module.
        each: what an actor takes.
        free: resources of the cluster, by kind.
    """
    spare = free.get("CPU", 0.0) - 1
    if "num_gpus" in each:
        return int(free.get("GPU", 0.0)) if spare >= 0 else 0
    cpus = each["num_cpus"]
    fits = sum(int(node["Resources"].get("CPU", 0.0) // cpus) for node in ray.nodes() if node["Alive"])
    return max(0, min(fits, int(spare // cpus)))


def _has_gpus(resources: Mapping[str, float]) -> bool:
    return resources.get("GPU", 0.0) >= 1


def first_and_last_line(error: BaseException) -> str:
    """What an error of Ray says, in its first line and, where that is another one, its last."""
    cause = getattr(error, "cause", None)
    lines = [line.strip() for line in str(cause or error).strip().splitlines() if line.strip()]
    if not lines:
        return type(cause or error).__name__
    return lines[0][:300] if len(lines) == 1 else f"{lines[0][:300]} … {lines[-1][:300]}"
