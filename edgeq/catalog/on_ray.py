"""A catalog's shards made by actors of a Ray cluster that is there.

The driver writes the plan, then hands out shards, one at a time to each actor. An actor opens the bundle once and makes
a shard with `build_catalog`, which locks it, writes it in one step and passes over what is whole. So anything may die:

- an actor or its node: another one is started, and the shard is handed out again;
- the driver: Ray ends its actors, and the same command makes what is missing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgeq.catalog.build import BATCH, Progress, build_catalog, pixel_memory
from edgeq.catalog.damage import MAX_BAD_SHARE, Tally
from edgeq.catalog.embedder import ImageEmbedder
from edgeq.catalog.finish import finish_catalog
from edgeq.catalog.layout import SHARD_SIZE, Catalog, Layout, ShardRecord
from edgeq.catalog.plan import GoneSources, Plan, open_plan, plan_catalog
from edgeq.catalog.shards import complete_record
from edgeq.catalog.sources import Sources, open_sources
from edgeq.cluster.connect import Cluster, connected, require_ray, require_room
from edgeq.cluster.driver import Driver, Words, seen
from edgeq.cluster.job import EDGEQ, not_seen
from edgeq.errors import EdgeqError, InputError

__all__ = ["Opener", "build_on_ray"]

Opener = Callable[[], tuple[ImageEmbedder, str]]
"""Opens the bundle on a node: the embedder, and the digest of the bundle's manifest. It is pickled."""

_WORDS = Words(
    task="shard",
    alone=lambda shard: f"make it alone to see why: --shards {shard}",
    hangs=("a file system or a GPU hangs", "another process holds the lock of a shard"),
    again="run the same command again: what is made stays",
)


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
    require_ray()
    if workers < 1:
        raise InputError(f"{workers} workers were asked for, expected at least 1")
    with open_sources(images) as sources, connected(cluster.address) as ray:
        if cluster.actors is not None:
            require_room(ray, cluster, cluster.actors, gpus=True)
        place = Path(os.path.abspath(directory))  # noqa: PTH100  # links are kept: other nodes may have others
        plan = plan_catalog(
            sources, place, bundle_digest=bundle_digest, shard_size=shard_size, gone_sources=gone_sources
        ).plan
        layout = Layout(place)
        done = _Done(plan, progress or (lambda _done, _total: None))
        missing = _look(layout, plan, most_damaged, done)
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
            actors = require_room(ray, cluster, cluster.actors, gpus=True)
            driver = Driver[None](
                ray, cluster, _WORDS, lambda shard, _: done.add([shard]), shared=layout.locks, gpus=True
            )
            driver.run(job, missing, min(actors, len(missing)))
        _wait_until_seen(layout, missing)
        return finish_catalog(place)


class _Done:
    """Counts the images of shards that are made, and reports them.

    Args:
        plan: of the catalog.
        progress: told how many images are done, and of how many.
    """

    def __init__(self, plan: Plan, progress: Progress) -> None:
        self._plan, self._progress, self._images = plan, progress, 0
        self._total = sum(plan.images(shard) for shard in range(len(plan)))

    def add(self, shards: Sequence[int]) -> None:
        """These are made."""
        self._images += sum(map(self._plan.images, shards))
        self._progress(self._images, self._total)


def _look(layout: Layout, plan: Plan, most_damaged: float, done: _Done) -> list[int]:
    """The shards to make; raises ImageError where too many images of the others are damaged."""
    whole, missing, tally = list[int](), list[int](), Tally(most_damaged)
    for shard in range(len(plan)):
        record: ShardRecord | None = complete_record(layout, plan, shard)
        if record is None:
            missing.append(shard)
        else:
            whole.append(shard)
            tally.add(record, plan.removed(shard))
    done.add(whole)
    tally.check()
    return missing


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
        versions: of this package.
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
    versions: Mapping[str, str] = field(default_factory=lambda: EDGEQ)

    def found(self) -> Mapping[str, str]:
        """The version of edgeq here."""
        return EDGEQ

    def open(self, node: str) -> _Maker:
        """The bundle and the images; raises InputError where they are not those of the driver."""
        for path in self.images:
            if not Path(path).exists():
                raise not_seen(path, node)
        plan = open_plan(self.directory) if self.directory.is_dir() else None
        if plan is None or len(plan) != self.shards:
            raise not_seen(f"the plan of {self.directory}", node)
        try:
            embed, digest = self.opener()
        except EdgeqError as error:
            raise InputError(
                f"the bundle cannot be opened on the node {node}: {error.what}",
                expected=error.expected,
                causes=error.causes,
                next_step=error.next_step,
            ) from error
        if digest != self.bundle_digest:
            raise InputError(
                f"the node {node} has another bundle: its digest is {digest[:12]}…, not {self.bundle_digest[:12]}…",
                expected="the same bundle at the same path on all nodes",
            )
        return _Maker(self, embed, open_sources(self.images))


class _Maker:
    """Makes one shard after the other on a node.

    Args:
        job: what to make.
        embed: of the bundle.
        sources: the images.
    """

    def __init__(self, job: _Job, embed: ImageEmbedder, sources: Sources) -> None:
        self._job, self._embed, self._sources = job, embed, sources

    def do(self, shard: int, hear: Callable[[], None]) -> None:
        """Make a shard, if nobody has; as `build_catalog`."""
        job = self._job
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
            progress=lambda _done, _total: hear(),
        )


def _wait_until_seen(layout: Layout, shards: Sequence[int]) -> None:
    """Wait for records that other machines have written; what is never seen, `finish_catalog` names."""
    for shard in shards:
        if not seen(layout.record(shard)):
            return
