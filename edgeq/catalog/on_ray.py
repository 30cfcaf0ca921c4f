"""A catalog's shards made by actors of a Ray cluster that is there: the one place where Ray is used.

The driver writes the plan, then hands out shards, one at a time to each actor. An actor opens the bundle once and makes
a shard with `build_catalog`, which locks it, writes it in one step and passes over what is whole. So anything may die:

- an actor or its node: another one is started, and the shard is handed out again;
- the driver: Ray ends its actors, and the same command makes what is missing.
"""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgeq import __version__
from edgeq.catalog.build import BATCH, Progress, build_catalog, pixel_memory
from edgeq.catalog.damage import MAX_BAD_SHARE, Tally
from edgeq.catalog.embedder import ImageEmbedder
from edgeq.catalog.finish import finish_catalog
from edgeq.catalog.layout import SHARD_SIZE, Catalog, Layout, ShardRecord
from edgeq.catalog.plan import GoneSources, Plan, open_plan, plan_catalog
from edgeq.catalog.shards import complete_record
from edgeq.catalog.sources import Sources, open_sources
from edgeq.errors import EdgeqError, EngineError, InputError, OutputError

__all__ = ["STALL_MINUTES", "Cluster", "Opener", "build_on_ray", "require_ray"]

STALL_MINUTES: Final = 10.0
"""Without an image done anywhere for so long, a run is given up."""

_AGAIN: Final = 3
"""How often a shard is handed out again, and how many actors in a row may die before they have begun."""

_TICK: Final = 0.5
"""Seconds between two looks at what the actors do."""

_ASK: Final = 10.0
"""Seconds between two questions to an actor how far it is, or a fourth of the stall."""

_CONNECT: Final = 10.0
_FREED: Final = 5.0
"""Seconds for a cluster to take back what a run before this one had."""

_PATIENCE: Final = 60.0
"""Seconds that actors which have begun wait for the others; one of these may find no room after all."""

_SEEN: Final = 60.0
"""Seconds until a file of another machine is seen: a network file system remembers what was not there."""

Opener = Callable[[], tuple[ImageEmbedder, str]]
"""Opens the bundle on a node: the embedder, and the digest of the bundle's manifest. It is pickled."""


@dataclass(frozen=True)
class Cluster:
    """Which cluster, and how much of it.

    Attributes:
        address: HOST:PORT of its head; `auto` is RAY_ADDRESS, else the one that this machine belongs to.
        actors: how many; None takes as many as there is room for, and no more than there are shards to make.
        cpus: of an actor, where the cluster has no GPU. Where it has, an actor gets one GPU.
        stall_minutes: after which a run without progress is given up.
    """

    address: str = "auto"
    actors: int | None = None
    cpus: int = 1
    stall_minutes: float = STALL_MINUTES


@dataclass(frozen=True)
class _Job:
    """What an actor is told.

    Attributes:
        opener: of the bundle.
        bundle_digest: which it must have.
        images: absolute paths of the sources.
        directory: of the catalog, absolute.
        shards: how many are planned.
        shard_size, batch, workers, memory, most_damaged: as `build_catalog` takes them.
        version: of this package.
    """

    opener: Opener
    bundle_digest: str
    images: tuple[str, ...]
    directory: Path
    shards: int
    shard_size: int
    batch: int
    workers: int
    memory: int
    most_damaged: float
    version: str = __version__


def require_ray() -> Any:
    """The module ray.

    Raises:
        InputError: it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise InputError(
            "shards are handed out by Ray, which is not installed", next_step="pip install 'edgeq[cluster]'"
        ) from error
    return ray


def build_on_ray(
    opener: Opener,
    images: Sequence[str | Path],
    directory: Path,
    cluster: Cluster,
    *,
    bundle_digest: str,
    shard_size: int = SHARD_SIZE,
    batch: int = BATCH,
    workers: int = 2,
    gone_sources: GoneSources = "refuse",
    most_damaged: float = MAX_BAD_SHARE,
    memory: int | None = None,
    progress: Progress | None = None,
) -> Catalog:
    """As `build_catalog`, by the actors of a cluster; the files are the same.

    Args:
        opener: called once by each actor.
        images: folders, zips and tars, at the same paths on each node.
        directory: of the catalog, at the same path on each node.
        cluster: that makes the shards.
        bundle_digest: of the bundle that embeds.
        shard_size: images in a shard.
        batch: images embedded at once by an actor, less where `memory` is short.
        workers: threads of an actor that read, decode and preprocess.
        gone_sources: what to do where the catalog holds images of a source that is not given.
        most_damaged: the share of images that may be unusable.
        memory: bytes that the pixels of an actor may take; by default a quarter of what is available here, so that
            batches are as large as this machine's own.
        progress: told how many images are done, and of how many, after each shard.

    Raises:
        InputError: Ray is not installed, there is no such cluster, it has no room for the actors, or a node does not
            see the same files.
        EngineError: no actor lives long enough to make a shard, or nothing goes on.
        OutputError: a node cannot write the catalog.
        EdgeqError: whatever `build_catalog` raises for a shard; it ends the run.
    """
    ray = require_ray()
    if min(workers, cluster.cpus, 1 if cluster.actors is None else cluster.actors) < 1 or cluster.stall_minutes <= 0:
        raise InputError(
            "there is work for one actor with one thread and one CPU or more, and a stall lasts more than no time"
        )
    with open_sources(images) as sources, _connected(ray, cluster.address):
        if cluster.actors is not None:
            _require_room(ray, cluster, cluster.actors)
        place = Path(os.path.abspath(directory))  # noqa: PTH100  # links are kept: other nodes may have others
        plan = plan_catalog(
            sources, place, bundle_digest=bundle_digest, shard_size=shard_size, gone_sources=gone_sources
        ).plan
        run = _Run(ray, cluster, plan, Layout(place), progress)
        missing = run.look(most_damaged)
        if missing:
            job = _Job(
                opener=opener,
                bundle_digest=bundle_digest,
                images=sources.paths,
                directory=place,
                shards=len(plan),
                shard_size=shard_size,
                batch=batch,
                workers=workers,
                memory=pixel_memory() if memory is None else memory,
                most_damaged=most_damaged,
            )
            actors = _require_room(ray, cluster, cluster.actors)
            run.make(job, missing, min(actors, len(missing)))
        _wait_until_seen(Layout(place), missing)
        return finish_catalog(place)


@contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    """Connected to a cluster that is there; no cluster is ever started. One that is connected already is used.

    Raises:
        InputError: there is none.
    """
    if ray.is_initialized():
        yield
        return
    where = os.environ.get("RAY_ADDRESS") or address if address == "auto" else address
    if where != "auto":
        _require_listener(where)
    try:
        ray.init(address=where, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # of any type: no cluster, another version of Ray or Python, no node on this machine
        raise _no_cluster(where, _reason(error)) from error
    try:
        yield
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


def _require_room(ray: Any, cluster: Cluster, asked: int | None) -> int:
    """How many actors to start; raises InputError where there is no room for these and one free CPU."""
    there, until = ray.cluster_resources(), time.monotonic() + _FREED
    if _most(ray, cluster.cpus, there) < (asked or 1):
        raise _no_room(cluster.cpus, asked or 1, _most(ray, cluster.cpus, there), _words(there))
    while True:
        free = ray.available_resources()
        most = _most(ray, cluster.cpus, free)
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
            f"all CPUs of an actor must be on one node, and it has {cpus}, or one GPU where there are GPUs",
        ),
        next_step=f"--actors {most}, or wait" if most else "add a node, or wait",
    )


def _words(resources: Mapping[str, float]) -> str:
    """Such as `2 GPUs and 16 CPUs`."""
    return (
        " and ".join(f"{resources.get(kind, 0.0):g} {kind}s" for kind in ("GPU", "CPU") if kind in resources)
        or "no CPU"
    )


def _most(ray: Any, cpus: int, free: Mapping[str, float]) -> int:
    """The most actors that find room and leave one CPU.

    Args:
        ray: the module.
        cpus: of an actor, where there are no GPUs.
        free: resources of the cluster, by kind.
    """
    spare = free.get("CPU", 0.0) - 1
    if _has_gpus(ray.cluster_resources()):
        return int(free.get("GPU", 0.0)) if spare >= 0 else 0
    fits = sum(int(node["Resources"].get("CPU", 0.0) // cpus) for node in ray.nodes() if node["Alive"])
    return max(0, min(fits, int(spare // cpus)))


def _has_gpus(resources: Mapping[str, float]) -> bool:
    return resources.get("GPU", 0.0) >= 1


class _Maker:
    """An actor: opens the bundle once, and makes one shard at a time.

    Args:
        job: what to make, of what.
    """

    def __init__(self, job: _Job) -> None:
        self._job = job
        self._embed: ImageEmbedder | None = None
        self._sources: Sources | None = None
        self._heard = 0

    def begin(self, probe: Path) -> tuple[str, EdgeqError | None]:
        """Open the bundle, and see that this node has the driver's files; errors name the node, and are given back.

        Args:
            probe: a file to make in the catalog.
        """
        node = _node()
        try:
            self._open(node)
            _leave(probe, node)
        except EdgeqError as error:
            return node, error
        return node, None

    def make(self, shard: int) -> EdgeqError | None:
        """Make a shard, if nobody has; an error is given back, so that it is not taken for this actor's death."""
        assert self._embed is not None
        assert self._sources is not None
        job = self._job
        try:
            build_catalog(
                self._embed,
                self._sources,
                job.directory,
                bundle_digest=job.bundle_digest,
                shard_size=job.shard_size,
                batch=job.batch,
                workers=job.workers,
                shards=range(shard, shard + 1),
                most_damaged=job.most_damaged,
                memory=job.memory,
                progress=self._hear,
            )
        except EdgeqError as error:
            return error
        return None

    def heard(self) -> int:
        """A number that rises while images are done; asked from another thread than the one that makes."""
        return self._heard

    def _hear(self, _done: int, _total: int) -> None:
        self._heard += 1

    def _open(self, node: str) -> None:
        """The bundle and the images; raises InputError where they are not those of the driver."""
        job = self._job
        if job.version != __version__:
            raise InputError(
                f"the node {node} has edgeq {__version__}, the driver {job.version}",
                next_step="install the same on all nodes",
            )
        for path in job.images:
            if not Path(path).exists():
                raise _not_seen(path, node)
        plan = open_plan(job.directory) if job.directory.is_dir() else None
        if plan is None or len(plan) != job.shards:
            raise _not_seen(f"the plan of {job.directory}", node)
        try:
            embed, digest = job.opener()
        except EdgeqError as error:
            raise InputError(
                f"the bundle cannot be opened on the node {node}: {error.what}",
                expected=error.expected,
                causes=error.causes,
                next_step=error.next_step,
            ) from error
        if digest != job.bundle_digest:
            raise InputError(
                f"the node {node} has another bundle: its digest is {digest[:12]}…, not {job.bundle_digest[:12]}…",
                expected="the same bundle at the same path on all nodes",
            )
        self._embed, self._sources = embed, open_sources(job.images)


def _node() -> str:
    """This node, for messages: its address and the start of its number."""
    ray = require_ray()
    return f"{ray.util.get_node_ip_address()} ({ray.get_runtime_context().get_node_id()[:8]})"


def _leave(probe: Path, node: str) -> None:
    """Make an empty file; raises OutputError where this node cannot."""
    try:
        probe.touch()
    except OSError as error:
        raise OutputError(
            f"{probe.parent} cannot be written on the node {node}: {error.strerror or error}",
            expected="a directory that all nodes share, and where this user may create files",
        ) from error


def _not_seen(what: str, node: str) -> InputError:
    return InputError(
        f"{what} is not seen on the node {node}",
        expected="the same files at the same paths on all nodes",
        causes=("a network file system is not mounted there", "the path is on a disk of this machine alone"),
        next_step="put bundle, images and catalog where all nodes see them",
    )


@dataclass(eq=False)
class _Actor:
    """An actor as the driver knows it.

    Attributes:
        handle: Ray's.
        probe: the file that it makes to begin.
        doing: Ray's reference to what it was asked to do; None while it is idle.
        shard: that it makes; None while it begins, or is idle.
        asked: Ray's reference to the question how far it is; None where none is open.
        heard: the last answer.
    """

    handle: Any
    probe: Path
    doing: Any
    shard: int | None = None
    asked: Any = None
    heard: int = 0


class _Run:
    """The driver: hands out shards, and starts other actors for those that die.

    Args:
        ray: the module.
        cluster: that makes the shards.
        plan: of the catalog.
        layout: of the catalog.
        progress: told how many images are done.
    """

    def __init__(self, ray: Any, cluster: Cluster, plan: Plan, layout: Layout, progress: Progress | None) -> None:
        self._ray, self._plan, self._layout = ray, plan, layout
        self._stall = cluster.stall_minutes * 60
        self._options = {"num_cpus": cluster.cpus, "max_concurrency": 2, "max_restarts": 0, "max_task_retries": 0}
        if _has_gpus(ray.cluster_resources()):
            self._options |= {"num_cpus": 0, "num_gpus": 1}
        self._progress, self._images = progress or (lambda _done, _total: None), 0
        self._total = sum(plan.images(shard) for shard in range(len(plan)))
        self._actors: list[_Actor] = []
        self._waiting: deque[int] = deque()
        self._lost: dict[int, int] = {}
        self._lost_in_a_row, self._begun = 0, 0
        self._alive = self._last_asked = time.monotonic()

    def look(self, most_damaged: float) -> list[int]:
        """The shards to make; raises ImageError where too many images of the others are damaged."""
        missing, tally = [], Tally(most_damaged)
        for shard in range(len(self._plan)):
            record: ShardRecord | None = complete_record(self._layout, self._plan, shard)
            if record is None:
                missing.append(shard)
            else:
                tally.add(record, self._plan.removed(shard))
                self._images += self._plan.images(shard)
        self._progress(self._images, self._total)
        tally.check()
        return missing

    def make(self, job: _Job, shards: Sequence[int], actors: int) -> None:
        """Make shards; the first is handed out when all actors have begun, or those that found room in a minute.

        Args:
            job: what actors are told.
            shards: their numbers.
            actors: how many.

        Raises:
            EdgeqError: of a shard or of a node that cannot take part.
        """
        maker = self._ray.remote(_Maker).options(**self._options)
        job_there = self._ray.put(job)
        self._waiting.extend(shards)
        self._alive = time.monotonic()
        patient_until = self._alive + _PATIENCE
        try:
            while self._waiting or any(actor.shard is not None for actor in self._actors):
                while len(self._actors) < actors:
                    self._start(maker.remote(job_there))
                if self._begun >= actors or (self._begun and time.monotonic() > patient_until):
                    self._hand_out()
                self._wait()
                self._ask()
                self._check_stall()
        finally:
            for actor in self._actors:
                self._end(actor)

    def _start(self, handle: Any) -> None:
        probe = self._layout.locks / f"probe-{uuid.uuid4().hex}"
        self._actors.append(_Actor(handle, probe, handle.begin.remote(probe)))

    def _end(self, actor: _Actor) -> None:
        with suppress(Exception):  # it may be dead, and so may be the cluster
            self._ray.kill(actor.handle)
        with suppress(OSError):
            actor.probe.unlink(missing_ok=True)

    def _hand_out(self) -> None:
        for actor in self._actors:
            if actor.doing is None and self._waiting:
                actor.shard = self._waiting.popleft()
                actor.doing = actor.handle.make.remote(actor.shard)

    def _wait(self) -> None:
        """Take what is done within a moment."""
        at_work = {actor.doing: actor for actor in self._actors if actor.doing is not None}
        done, _ = self._ray.wait(list(at_work), num_returns=1, timeout=_TICK)
        for doing in done:
            actor = at_work[doing]
            try:
                answer = self._ray.get(doing)
            except self._ray.exceptions.RayError as error:
                self._replace(actor, _reason(error))
                continue
            self._alive = time.monotonic()
            if actor.shard is None:
                self._has_begun(actor, *answer)
            else:
                self._has_made(actor, answer)

    def _has_begun(self, actor: _Actor, node: str, error: EdgeqError | None) -> None:
        """An actor is ready; raises its error, or OutputError where what it writes is not seen here."""
        if error is not None:
            raise error
        if not _seen(actor.probe):
            raise OutputError(
                f"what the node {node} writes into {self._layout.root} is not seen on this machine",
                expected="a directory that all nodes share",
            )
        actor.probe.unlink(missing_ok=True)
        actor.doing = None
        self._begun, self._lost_in_a_row = self._begun + 1, 0

    def _has_made(self, actor: _Actor, error: EdgeqError | None) -> None:
        """A shard is made; raises what prevented it."""
        if error is not None:
            raise error
        assert actor.shard is not None
        self._images += self._plan.images(actor.shard)
        actor.shard = actor.doing = None
        self._progress(self._images, self._total)

    def _replace(self, actor: _Actor, reason: str) -> None:
        """An actor is lost: its shard waits again. Raises EngineError where that happened too often."""
        self._actors.remove(actor)
        self._end(actor)
        if actor.shard is None:
            self._lost_in_a_row += 1
            if self._lost_in_a_row > _AGAIN:
                raise EngineError(
                    f"{self._lost_in_a_row} actors in a row died before they had begun: {reason}",
                    causes=("edgeq is not installed on every node, or not the same", "memory is short on a node"),
                )
            return
        lost = self._lost[actor.shard] = self._lost.get(actor.shard, 0) + 1
        if lost > _AGAIN:
            raise EngineError(
                f"shard {actor.shard} was handed out {lost} times, and each time its actor died: {reason}",
                causes=("memory is short on the nodes", "an image in it ends the process that decodes it"),
                next_step=f"make it alone to see why: --shards {actor.shard}",
            )
        self._waiting.appendleft(actor.shard)

    def _ask(self) -> None:
        """Ask now and then how far the actors are, and take the answers that are there."""
        now = time.monotonic()
        for actor in self._actors:
            if actor.asked is not None and self._ray.wait([actor.asked], timeout=0)[0]:
                self._take_answer(actor)
        if now - self._last_asked < min(_ASK, self._stall / 4):
            return
        self._last_asked = now
        for actor in self._actors:
            if actor.shard is not None and actor.asked is None:
                actor.asked = actor.handle.heard.remote()

    def _take_answer(self, actor: _Actor) -> None:
        asked, actor.asked = actor.asked, None
        with suppress(self._ray.exceptions.RayError):  # a dead actor is told by what it was doing
            heard = self._ray.get(asked)
            if heard != actor.heard:
                actor.heard, self._alive = heard, time.monotonic()

    def _check_stall(self) -> None:
        """Raise EngineError where nothing was done for too long."""
        if time.monotonic() - self._alive < self._stall:
            return
        under_way = sorted(actor.shard for actor in self._actors if actor.shard is not None)
        shards = f"under way: shards {', '.join(map(str, under_way))}" if under_way else "no shard is under way"
        raise EngineError(
            f"nothing was done for {self._stall / 60:g} minutes; {shards}",
            causes=(
                "a file system or a GPU hangs",
                "another process holds the lock of a shard",
                "the cluster has no room for an actor any more",
            ),
            next_step="run the same command again: what is made stays; or allow more with --stall-minutes",
        )


def _seen(path: Path) -> bool:
    """Whether a file is seen before too long."""
    until = time.monotonic() + _SEEN
    while not path.exists():
        if time.monotonic() > until:
            return False
        os.listdir(path.parent)  # noqa: PTH208  # makes a network file system look again
        time.sleep(_TICK / 5)
    return True


def _wait_until_seen(layout: Layout, shards: Sequence[int]) -> None:
    """Wait for records that other machines have written; what is never seen, `finish_catalog` names."""
    for shard in shards:
        if not _seen(layout.record(shard)):
            return


def _reason(error: BaseException) -> str:
    """What an error of Ray says, in its first line and, where that is another one, its last."""
    cause = getattr(error, "cause", None)
    lines = [line.strip() for line in str(cause or error).strip().splitlines() if line.strip()]
    if not lines:
        return type(cause or error).__name__
    return lines[0][:300] if len(lines) == 1 else f"{lines[0][:300]} … {lines[-1][:300]}"
