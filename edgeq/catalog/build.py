"""Many images to a catalog: decoded ahead by threads, embedded in batches, written shard by shard, resumed anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeq.catalog.ahead import ahead
from edgeq.catalog.damage import MAX_BAD_SHARE, Tally
from edgeq.catalog.embedder import ImageEmbedder, Shape, batch_that_fits, embedded, shape_of
from edgeq.catalog.finish import finish_catalog, missing_shards
from edgeq.catalog.items import Item
from edgeq.catalog.layout import SHARD_SIZE, Catalog, Layout, ShardRecord, Skip
from edgeq.catalog.metadata import Value, read_texts
from edgeq.catalog.plan import GoneSources, Plan, check_settings, items_digest, open_plan, plan_catalog
from edgeq.catalog.shards import ShardWork, complete_record, write_shard
from edgeq.catalog.sources import GoneError, Sources
from edgeq.device import probe
from edgeq.engine_store.lock import is_free, locked
from edgeq.errors import ArtifactError, EngineError, ImageError, InputError
from edgeq.model.images.decode import decode_image

__all__ = ["BATCH", "Progress", "build_catalog", "pixel_memory"]

BATCH: Final = 256
"""Images embedded at once."""

_MEMORY_SHARE: Final = 4
"""One part in so many of the memory that is available may hold pixels."""

_UNKNOWN_MEMORY: Final = 1 << 30
"""Bytes for pixels where the system does not say what is available."""

Progress = Callable[[int, int], None]
"""Called with the images done so far, those of an earlier run too, and with all that are to be done."""


def build_catalog(
    embed: ImageEmbedder,
    sources: Sources,
    directory: Path,
    *,
    bundle_digest: str,
    shard_size: int = SHARD_SIZE,
    batch: int = BATCH,
    workers: int = 2,
    shards: range | None = None,
    gone_sources: GoneSources = "refuse",
    most_damaged: float = MAX_BAD_SHARE,
    verify: bool = False,
    memory: int | None = None,
    progress: Progress | None = None,
) -> Catalog | None:
    """Make a catalog, go on with one, or bring one up to date: the same call does each.

    Shards that are whole are not done again. With `shards`, several processes work on one directory: the plan is then
    made by the first of them, and later calls do not look for new images.

    Args:
        embed: the network.
        sources: the images.
        directory: of the catalog; made where it is missing.
        bundle_digest: of the bundle that embeds; a catalog has one.
        shard_size: images in a shard; a catalog has one size.
        batch: images embedded at once, less where memory is short.
        workers: threads that read, decode and preprocess.
        shards: numbers of the shards to make; all by default.
        gone_sources: what to do where the catalog holds images of a source that is not given.
        most_damaged: the share of images that may be unusable.
        verify: compare the SHA-256 of files that are there, and make again what differs.
        memory: bytes that pixels may take; a quarter of what is available by default.
        progress: told how many images are done, and of how many.

    Returns:
        the catalog; None while shards are missing that others make.

    Raises:
        InputError: the catalog is another bundle's or has another shard size, there are no such shards, or pyarrow is
            missing.
        ImageError: there are no images, a source is damaged or not safe, or too many images cannot be used. The shards
            that were made are kept.
        EngineError: the network fails, or gives arrays of another form.
        ArtifactError: a file of the plan is damaged.
        OutputError: the directory cannot be written.
    """
    if workers < 1:
        raise InputError(f"{workers} workers were asked for, expected at least 1")
    layout = Layout(directory)
    plan = open_plan(directory) if shards is not None else None
    if plan is None:
        plan = plan_catalog(
            sources, directory, bundle_digest=bundle_digest, shard_size=shard_size, gone_sources=gone_sources
        ).plan
    check_settings(layout, plan.settings, bundle_digest, shard_size)
    layout.make()
    wanted = _wanted(plan, shards)
    whole = {shard: complete_record(layout, plan, shard, verify=verify) for shard in wanted}
    tally = _tally(layout, plan, whole, most_damaged)
    counter = _Counter(progress, plan, whole)
    pending = [shard for shard, record in whole.items() if record is None]
    if pending:
        shape = shape_of(embed)
        batch = batch_that_fits(batch, shape.image_bytes, pixel_memory() if memory is None else memory)
        _Builder(embed, sources, layout, plan, shape, batch, workers, tally, counter, verify).make(pending)
    return None if missing_shards(directory) else finish_catalog(directory)


def _wanted(plan: Plan, shards: range | None) -> Sequence[int]:
    """The shards to make; raises InputError where there are none of these numbers."""
    if shards is None:
        return range(len(plan))
    if not shards or min(shards) < 0 or max(shards) >= len(plan):
        asked = f"{min(shards)} to {max(shards)}" if shards else "none"
        raise InputError(
            f"the catalog has the shards 0 to {len(plan) - 1}, asked for were {asked}",
            causes=("there are new images, and no run without --shards has planned them yet",),
        )
    return sorted(shards)


def _tally(layout: Layout, plan: Plan, whole: Mapping[int, ShardRecord | None], most_damaged: float) -> Tally:
    """What is known of damage so far, from this call's shards and those of others; raises ImageError if too much."""
    tally = Tally(most_damaged)
    for shard in range(len(plan)):
        record = whole[shard] if shard in whole else _other_record(layout, shard)
        if record is not None:
            tally.add(record, plan.removed(shard))
    tally.check()
    return tally


def _other_record(layout: Layout, shard: int) -> ShardRecord | None:
    try:
        return ShardRecord.load(layout.record(shard))
    except ArtifactError:
        return None


def pixel_memory() -> int:
    """Bytes that pixels may take on this machine by default."""
    try:
        return probe().budget_bytes // _MEMORY_SHARE
    except InputError:
        return _UNKNOWN_MEMORY


class _Counter:
    """Counts the images done and reports progress."""

    def __init__(self, progress: Progress | None, plan: Plan, whole: Mapping[int, ShardRecord | None]) -> None:
        self._progress = progress
        self._total = sum(plan.images(shard) for shard in whole)
        self._done = 0
        self.add(sum(plan.images(shard) for shard, record in whole.items() if record is not None))

    def add(self, images: int) -> None:
        """So many more are done."""
        self._done += images
        if self._progress is not None:
            self._progress(self._done, self._total)


@dataclass
class _Open:
    """A shard that this process holds the lock of, and its images that wait for their batch to be full."""

    work: ShardWork
    lock: ExitStack
    places: list[tuple[int, Item]] = field(default_factory=list)
    rows: list[Mapping[str, Value]] = field(default_factory=list)


@dataclass(frozen=True)
class _Task:
    """An image of a shard to decode; without an image the end of the shard."""

    shard: _Open
    position: int
    item: Item | None
    gone: bool = False


@dataclass(frozen=True)
class _Decoded:
    """An image ready for its batch: pixels float32 [3, H, W], its columns, and texts that could not be used."""

    pixels: NDArray[np.float32]
    row: Mapping[str, Value]
    texts_unreadable: int


@dataclass(frozen=True)
class _Skip:
    """An image that gets no row."""

    kind: Skip
    reason: str


class _Builder:
    """Makes shards, one behind the other, with the images of the next decoded while one is finished."""

    def __init__(
        self,
        embed: ImageEmbedder,
        sources: Sources,
        layout: Layout,
        plan: Plan,
        shape: Shape,
        batch: int,
        workers: int,
        tally: Tally,
        counter: _Counter,
        verify: bool,
    ) -> None:
        self._embed, self._sources, self._layout, self._plan = embed, sources, layout, plan
        self._shape, self._batch, self._workers = shape, batch, workers
        self._tally, self._counter, self._verify = tally, counter, verify
        self._pixels = np.empty((batch, 3, shape.height, shape.width), np.float32)
        self._held: list[ExitStack] = []

    def make(self, shards: Sequence[int]) -> None:
        """Make shards; those that another process is at are waited for at the end, one by one."""
        busy: list[int] = []
        self._run(self._tasks(shards, busy))
        for shard in busy:  # alone: who holds one lock and waits for another could wait for ever
            self._run(self._tasks([shard], None))

    def _run(self, tasks: Iterator[_Task]) -> None:
        most = self._batch + self._workers
        try:
            with closing(ahead(self._prepare, tasks, workers=self._workers, most=most)) as prepared:
                for task, result in prepared:
                    self._take(task, result)
        finally:
            for lock in self._held:
                lock.close()
            self._held.clear()

    def _tasks(self, shards: Sequence[int], busy: list[int] | None) -> Iterator[_Task]:
        """The images of shards, each shard locked before its first.

        Args:
            shards: their numbers.
            busy: gets those that another process holds; None to wait for it.
        """
        for shard in shards:
            opened = self._begin(shard, busy)
            if opened is None:
                continue
            removed = self._plan.removed(shard)
            for position, item in enumerate(self._plan.items(shard)):
                yield _Task(opened, position, item, position in removed)
            yield _Task(opened, opened.work.items, None)

    def _begin(self, shard: int, busy: list[int] | None) -> _Open | None:
        """Take the lock of a shard; None where another process has it, or has made the shard meanwhile."""
        lock = ExitStack()
        self._held.append(lock)
        if busy is None:
            lock.enter_context(locked(self._layout.lock(shard)))
        elif not lock.enter_context(is_free(self._layout.lock(shard))):
            lock.close()
            busy.append(shard)
            return None
        record = complete_record(self._layout, self._plan, shard, verify=self._verify)
        if record is not None:
            lock.close()
            self._finished(record)
            self._counter.add(record.items)
            return None
        items = self._plan.items(shard)
        return _Open(ShardWork(shard, len(items), items_digest(items), self._shape.dimension), lock)

    def _prepare(self, task: _Task) -> _Decoded | _Skip | None:
        """Read, decode and preprocess one image; runs in a thread."""
        item = task.item
        if item is None:
            return None
        if task.gone:
            return _Skip("gone", f"{item.path} is gone, or was changed")
        try:
            data = self._sources.read(item)
        except GoneError as error:
            return _Skip("gone", error.what)
        except ImageError as error:
            return _Skip("cannot be read", error.what)
        try:
            image = decode_image(data, item.path)
            pixels = self._embed.preprocess(image)
        except ImageError as error:
            return _Skip("cannot be decoded", error.what)
        texts = read_texts(self._sources, item)
        row: dict[str, Value] = {
            "image_path": item.path,
            "key": self._sources.key(item),
            "caption": texts.caption,
            "width": image.width,
            "height": image.height,
            "bytes": len(data),
            **texts.fields,
        }
        return _Decoded(self._checked(pixels), row, texts.unreadable)

    def _checked(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Pixels float32 [3, H, W] as those of the first image; raises EngineError where they are not."""
        expected = (3, self._shape.height, self._shape.width)
        if pixels.shape != expected or pixels.dtype != np.float32:
            raise EngineError(
                f"an image was preprocessed to {pixels.dtype} {list(pixels.shape)}",
                expected=f"float32 {list(expected)}, as for all images",
            )
        return pixels

    def _take(self, task: _Task, result: _Decoded | _Skip | None) -> None:
        """Put one image into its batch, or end its shard."""
        opened, item = task.shard, task.item
        if item is None:
            self._flush(opened)
            self._end(opened)
        elif isinstance(result, _Decoded):
            self._pixels[len(opened.rows)] = result.pixels
            opened.places.append((task.position, item))
            opened.rows.append(result.row)
            opened.work.texts_unreadable += result.texts_unreadable
            if len(opened.rows) == self._batch:
                self._flush(opened)
        elif result is not None:
            opened.work.skip(task.position, item.path, result.kind, result.reason)
            self._counter.add(1)

    def _flush(self, opened: _Open) -> None:
        """Embed the images that wait; no batch reaches into the next shard, so that a shard's rows are its own."""
        count = len(opened.rows)
        if not count:
            return
        vectors, good = embedded(self._embed, self._pixels[:count], self._shape.dimension)
        for (position, item), is_good in zip(opened.places, good, strict=True):
            if not is_good:
                opened.work.skip(position, item.path, "has no embedding", "its vector is zero or not finite")
        kept = [row for row, is_good in zip(opened.rows, good, strict=True) if is_good]
        opened.work.add(kept, vectors[good])
        opened.places, opened.rows = [], []
        self._counter.add(count)

    def _end(self, opened: _Open) -> None:
        """Write a shard and let go of its lock; raises ImageError where too many images are damaged by now."""
        record = write_shard(self._layout, opened.work, self._plan.settings.bundle_digest)
        opened.lock.close()
        self._held.remove(opened.lock)
        self._finished(record)

    def _finished(self, record: ShardRecord) -> None:
        self._tally.add(record, self._plan.removed(record.shard))
        self._tally.check()
