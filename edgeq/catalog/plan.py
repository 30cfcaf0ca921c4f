"""Which image goes into which shard: written down once, so that every process and every later run knows the same.

A look at the sources writes at most two files. `removed_N.parquet` says which planned images were not found any more;
`added_M.parquet` holds the images that were not planned yet, a row group for each new shard. Numbers rise from look to
look. Each file is written in one step, and a look that was killed between the two is completed by the next: what is
planned and what is there are compared again.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from edgeq.catalog.arrow import Columns, read_group, read_group_table, read_groups_of, require_pyarrow, write_groups
from edgeq.catalog.items import Item
from edgeq.catalog.layout import MAX_SHARD_SIZE, SHARD_SIZE, Layout, Settings
from edgeq.catalog.sources import Sources
from edgeq.engine_store.lock import locked
from edgeq.errors import ArtifactError, ImageError, InputError
from edgeq.files import atomic_write

__all__ = [
    "GoneSources",
    "Place",
    "Plan",
    "PlanUpdate",
    "ShardListing",
    "check_settings",
    "items_digest",
    "open_plan",
    "plan_catalog",
]

_FILE: Final = re.compile(r"(added|removed)_([0-9]{4,9})\.parquet", re.ASCII)
_SHOWN: Final = 3

GoneSources = Literal["refuse", "keep", "remove"]
"""What to do about images of a source that the catalog was made from and that is not given this time."""


class Place(NamedTuple):
    """Where an image was planned: the shard, and the position in its plan."""

    shard: int
    position: int


@dataclass(frozen=True)
class _Group:
    """The plan of a shard: the file, the row group in it, and how many images it has."""

    path: Path
    index: int
    images: int


@dataclass(frozen=True)
class PlanUpdate:
    """What a look at the sources found.

    Attributes:
        plan: as it is now.
        added: images that were not planned before.
        removed: images that were, and are gone or changed.
    """

    plan: Plan
    added: int
    removed: int


@dataclass(frozen=True)
class ShardListing:
    """The images planned for a shard.

    Attributes:
        path: of the file.
        table: a pyarrow.Table, a row for each image.
    """

    path: Path
    table: Any

    def __len__(self) -> int:
        """How many images."""
        return int(self.table.num_rows)

    def items(self, start: int, count: int) -> list[Item]:
        """Images from a position on, in their order; raises ArtifactError where the plan is damaged."""
        columns = self.table.slice(start, count).to_pydict()
        try:
            return list(map(Item, columns["source"], columns["name"], columns["size"], columns["stamp"]))
        except KeyError as error:
            raise ArtifactError(f"{self.path} is no plan of a catalog: it lacks {error}") from error


class Plan:
    """The plan of a catalog as it was when it was opened; shards are only ever added.

    Args:
        layout: of the catalog.
        settings: of the catalog.

    Raises:
        ArtifactError: a file of it is damaged or missing.
    """

    def __init__(self, layout: Layout, settings: Settings) -> None:
        self.settings = settings
        self._files = _plan_files(layout.plan)
        self._groups: list[_Group] = []
        self._removed: dict[int, set[int]] = defaultdict(set)
        self._shard_sources: dict[int, list[str]] = {}
        for kind, path in self._files:
            sizes = read_groups_of(path)
            if kind == "added":
                self._groups += [_Group(path, index, images) for index, images in enumerate(sizes)]
            else:
                for place in _read_removed(path, len(sizes)):
                    self._removed[place.shard].add(place.position)

    def __len__(self) -> int:
        """The number of shards."""
        return len(self._groups)

    @property
    def next_number(self) -> int:
        """Of the next file."""
        return 1 + max((int(path.stem.rpartition("_")[2]) for _, path in self._files), default=-1)

    def images(self, shard: int) -> int:
        """How many images were planned for a shard."""
        return self._groups[shard].images

    def items(self, shard: int) -> list[Item]:
        """The images planned for a shard, in their order; raises ArtifactError where the plan is damaged."""
        return self.listing(shard).items(0, self.images(shard))

    def listing(self, shard: int) -> ShardListing:
        """The images planned for a shard, as the file has them: less memory than objects of them take."""
        group = self._groups[shard]
        return ShardListing(group.path, read_group_table(group.path, group.index))

    def digest(self, shard: int) -> str:
        """SHA-256 over the identities of a shard's images, in their order."""
        return items_digest(self.items(shard))

    def removed(self, shard: int) -> frozenset[int]:
        """Positions in a shard's plan whose images are gone or changed."""
        return frozenset(self._removed.get(shard, ()))

    def source(self, place: Place) -> str:
        """The path that an image comes from."""
        if place.shard not in self._shard_sources:
            group = self._groups[place.shard]
            self._shard_sources[place.shard] = read_group(group.path, group.index, ("source",))["source"]
        return self._shard_sources[place.shard][place.position]

    def live(self) -> dict[bytes, Place]:
        """By identity: where each image that is not removed was planned."""
        return {
            item.identity: Place(shard, position)
            for shard in range(len(self))
            for position, item in enumerate(self.items(shard))
            if position not in self._removed.get(shard, ())
        }

    def sources(self) -> tuple[str, ...]:
        """The paths that the planned images come from, sorted."""
        found: set[str] = set()
        for group in self._groups:
            found.update(read_group(group.path, group.index, ("source",))["source"])
        return tuple(sorted(found))


def items_digest(items: Iterable[Item]) -> str:
    """SHA-256 over the identities of some images, in hexadecimal."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(item.identity)
    return digest.hexdigest()


def open_plan(directory: Path) -> Plan | None:
    """The plan of a catalog; None where there is none yet.

    Raises:
        ArtifactError: it is damaged.
    """
    layout = Layout(directory)
    if not layout.settings.exists():
        return None
    plan = Plan(layout, Settings.load(layout.settings))
    return plan if len(plan) else None


def plan_catalog(
    sources: Sources,
    directory: Path,
    *,
    bundle_digest: str,
    shard_size: int = SHARD_SIZE,
    gone_sources: GoneSources = "refuse",
) -> PlanUpdate:
    """Look at the sources and write down what is new and what is gone; nothing is embedded.

    Args:
        sources: the images.
        directory: of the catalog; made where it is missing.
        bundle_digest: of the bundle that embeds.
        shard_size: images in a shard.
        gone_sources: what to do where the catalog holds images of a source that is not given.

    Raises:
        InputError: the catalog is another bundle's or has another shard size; it holds images of a source that is not
            given; pyarrow is missing; or there would be too many shards.
        ImageError: there are no images, or a source is damaged or not safe.
        OutputError: the directory cannot be written.
    """
    require_pyarrow()
    layout = Layout(directory)
    layout.make()
    with locked(layout.locks / "plan"):
        settings = _settled(layout, bundle_digest, shard_size)
        plan = Plan(layout, settings)
        left = plan.live()
        kept = _kept_sources(plan, left, sources, gone_sources)
        new = _new_items(sources, left)
        first = next(new, None)
        added = 0 if first is None else _write_added(layout, plan, chain([first], new))
        gone = [place for place in left.values() if plan.source(place) not in kept]  # all is listed now
        if gone:
            _write_removed(layout, Plan(layout, settings).next_number, gone)
        if not added and not len(plan):
            raise _no_images(sources)
        return PlanUpdate(Plan(layout, settings), added, len(gone))


def _settled(layout: Layout, bundle_digest: str, shard_size: int) -> Settings:
    """The catalog's settings, written where there are none; raises InputError where they are others."""
    if not 1 <= shard_size <= MAX_SHARD_SIZE:
        raise InputError(f"a shard of {shard_size:,} images was asked for, expected 1..{MAX_SHARD_SIZE:,}")
    if not layout.settings.exists():
        layout.sweep(layout.settings)
        Settings(bundle_digest=bundle_digest, shard_size=shard_size).save(layout.settings)
    settings = Settings.load(layout.settings)
    check_settings(layout, settings, bundle_digest, shard_size)
    return settings


def check_settings(layout: Layout, settings: Settings, bundle_digest: str, shard_size: int) -> None:
    """Raise InputError where a catalog is another bundle's, or has shards of another size.

    Args:
        layout: of the catalog, for messages.
        settings: of the catalog.
        bundle_digest: of the bundle that is to embed.
        shard_size: that is asked for.
    """
    if settings.bundle_digest != bundle_digest:
        raise InputError(
            f"{layout.root} was made with another bundle: its digest is {settings.bundle_digest}, not {bundle_digest}",
            expected="one bundle for a whole catalog: vectors of two cannot be compared",
            next_step="use that bundle, or begin a new catalog",
        )
    if settings.shard_size != shard_size:
        raise InputError(
            f"{layout.root} has shards of {settings.shard_size:,} images, {shard_size:,} were asked for",
            next_step=f"ask for {settings.shard_size}, or begin a new catalog",
        )


def _kept_sources(
    plan: Plan, live: Mapping[bytes, Place], sources: Sources, gone_sources: GoneSources
) -> frozenset[str]:
    """Sources whose images stay although they are not given; raises InputError where that was not said."""
    if gone_sources == "remove":
        return frozenset()
    others = sorted({plan.source(place) for place in live.values()} - set(sources.paths))
    if others and gone_sources == "refuse":
        shown = ", ".join(others[:_SHOWN]) + (", ..." if len(others) > _SHOWN else "")
        raise InputError(
            f"the catalog holds images of {len(others)} sources that were not given: {shown}",
            causes=("only what is new was given", "a source was moved or is not mounted"),
            next_step="give them as well, or say that their images are kept, or that they are to be removed",
        )
    return frozenset(others)


def _new_items(sources: Sources, live: dict[bytes, Place]) -> Iterator[Item]:
    """The images that are not planned; those that are, are taken out of `live`."""
    for item in sources.items():
        if live.pop(item.identity, None) is None:
            yield item


def _write_added(layout: Layout, plan: Plan, items: Iterator[Item]) -> int:
    """Plan new shards behind the last one; give the number of images."""
    count = 0

    def groups() -> Iterator[Columns]:
        nonlocal count
        shard = len(plan)
        while chunk := list(islice(items, plan.settings.shard_size)):
            layout.check_shard(shard)
            shard, count = shard + 1, count + len(chunk)
            yield {
                "source": ("dictionary", [item.source for item in chunk]),
                "name": ("text", [item.name for item in chunk]),
                "size": ("whole", [item.size for item in chunk]),
                "stamp": ("text", [item.stamp for item in chunk]),
            }

    path = layout.plan / f"added_{plan.next_number:04d}.parquet"
    layout.sweep(path)
    atomic_write(path, lambda file: write_groups(file, groups()))
    return count


def _write_removed(layout: Layout, number: int, places: list[Place]) -> None:
    """Write down which images are gone."""
    columns: Columns = {
        "shard": ("whole", [place.shard for place in places]),
        "position": ("whole", [place.position for place in places]),
    }
    path = layout.plan / f"removed_{number:04d}.parquet"
    layout.sweep(path)
    atomic_write(path, lambda file: write_groups(file, [columns]))


def _read_removed(path: Path, groups: int) -> Iterator[Place]:
    for group in range(groups):
        columns = read_group(path, group)
        yield from map(Place, columns["shard"], columns["position"])


def _plan_files(directory: Path) -> list[tuple[str, Path]]:
    """The files of a plan by number; raises ArtifactError where one is missing between two."""
    found = [(match, path) for path in directory.iterdir() if (match := _FILE.fullmatch(path.name))]
    found.sort(key=lambda each: int(each[0][2]))
    numbers = [int(match[2]) for match, _ in found]
    if numbers != list(range(len(numbers))):
        raise ArtifactError(
            f"the plan in {directory} is not whole: it has the files {numbers}",
            expected="numbers from 0, each once",
            next_step="put the missing file back, or begin a new catalog",
        )
    return [(match[1], path) for match, path in found]


def _no_images(sources: Sources) -> ImageError:
    others = ", ".join(f"{count:,} {reason}" for reason, count in sources.passed_over.items())
    return ImageError(
        f"there are no images in {', '.join(sources.paths[:_SHOWN])}{f' ({others})' if others else ''}",
        expected="images in a folder, a zip or a tar",
        causes=("the archives in a folder are not looked into: give them themselves, such as FOLDER/*.tar",),
    )
