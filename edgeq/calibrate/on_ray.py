"""A calibration set counted by the actors of a Ray cluster that is there.

The set is cut into parts, and an actor gives back what a part has shown. A part whose actor dies is counted again, from
its beginning, by another; what was counted of it before is lost with the actor. Counts merge to the bit, so that the
scales are those of one process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from edgeq.calibrate.counts import Counts, count_here
from edgeq.calibrate.observe import Observer
from edgeq.calibrate.samples import ImageSamples, Samples
from edgeq.cluster.connect import Cluster, connected, require_ray, require_room
from edgeq.cluster.driver import Driver, Words
from edgeq.cluster.job import EDGEQ, not_seen
from edgeq.errors import InputError
from edgeq.files import sha256_file
from edgeq.model.images.image_set import ImageSet
from edgeq.model.images.preprocess import Preprocess
from edgeq.model.images.stream import check_share

__all__ = ["OnRay"]

_PART: Final = 64
"""Samples of a part, at most."""

_PARTS: Final = 4
"""Parts for each actor, at least, where there are as many samples: the last to be ready is not waited for too long."""

_ROUNDING: Final = ("onnxruntime", "numpy", "pillow")
"""Packages whose other versions may round otherwise, or decode."""

_NAMED: Final = 5

_WORDS = Words(
    task="part",
    alone=lambda _part: "calibrate without --on ray to see why",
    hangs=("a file system hangs",),
    again="run the same command again, with --resume to go on where one with --resume was stopped",
)


@dataclass(frozen=True)
class OnRay:
    """Counts images on a cluster; a `Counting`.

    Attributes:
        cluster: that counts.
        graph: the FP32 file, at the same path on each node.
        tensors: those that need a scale.
        images: a folder or a zip, at the same path on each node.
        preprocess: from an image to the graph's input.
        threads: of an actor; None takes as many as it has CPUs.
    """

    cluster: Cluster
    graph: Path
    tensors: Sequence[str]
    images: Path
    preprocess: Preprocess
    threads: int | None = None

    def __call__(
        self,
        graph_sha256: str,
        samples: Samples,
        total: int,
        portion: int | None,
        take: Callable[[Counts], None],
        advance: Callable[[int], None],
    ) -> None:
        """Count samples, which are some of `images`; as `Counting`.

        Raises:
            InputError: Ray is not installed, there is no such cluster, it has no room for the actors, or a node does
                not have the same files.
            EngineError: no actor lives long enough to count a part, or nothing goes on.
            ImageError: too many images cannot be read.
            CalibrationError: a tensor holds NaN or infinity.
        """
        require_ray()
        if not len(samples):
            return
        skipped: list[str] = []

        def merge(_part: int, counts: Counts) -> None:
            skipped.extend(counts.skipped)
            take(counts)
            advance(len(counts.seen))
            check_share(len(skipped), total, self.images, skipped[:_NAMED])

        with connected(self.cluster.address) as ray:
            actors = require_room(ray, self.cluster, self.cluster.actors, gpus=False)
            parts = _parts(samples.names, min(portion or _PART, _PART), actors)
            job = _Job(
                graph=self.graph.absolute(),
                graph_sha256=graph_sha256,
                tensors=tuple(self.tensors),
                images=self.images.absolute(),
                preprocess=self.preprocess,
                parts=parts,
                total=total,
                threads=self.threads or self.cluster.cpus,
            )
            driver = Driver[Counts](ray, self.cluster, _WORDS, merge, shared=None, gpus=False)
            driver.run(job, range(len(parts)), min(actors, len(parts)))


def _parts(names: Sequence[str], most: int, actors: int) -> tuple[tuple[str, ...], ...]:
    """The samples cut into parts of at most `most`, and of fewer where actors would have nothing to do."""
    each = max(1, min(most, len(names) // (_PARTS * actors)))
    return tuple(tuple(names[start : start + each]) for start in range(0, len(names), each))


def _versions() -> dict[str, str]:
    """Of what must be the same everywhere, here."""
    found = dict(EDGEQ)
    for package in _ROUNDING:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # such as onnxruntime, where onnxruntime-gpu brings the module
            found[package] = "not installed"
    return found


@dataclass(frozen=True)
class _Job:
    """What an actor is told.

    Attributes:
        graph: the FP32 file, absolute.
        graph_sha256: which it must have.
        tensors: those that need a scale.
        images: absolute path of the set.
        preprocess: of the images.
        parts: the names of each part's images.
        total: size of the whole set, for the share of unusable images.
        threads: of an actor.
        versions: of what must be the same everywhere.
    """

    graph: Path
    graph_sha256: str
    tensors: tuple[str, ...]
    images: Path
    preprocess: Preprocess
    parts: tuple[tuple[str, ...], ...]
    total: int
    threads: int
    versions: Mapping[str, str] = field(default_factory=_versions)

    def found(self) -> Mapping[str, str]:
        """The same packages' versions here."""
        return _versions()

    def open(self, node: str) -> _PartCounter:
        """The graph and the images; raises InputError where they are not those of the driver."""
        for path in (self.graph, self.images):
            if not path.exists():
                raise not_seen(str(path), node)
        digest = sha256_file(self.graph)
        if digest != self.graph_sha256:
            raise InputError(
                f"{self.graph} is another graph on the node {node}: its digest is {digest[:12]}…, "
                f"not {self.graph_sha256[:12]}…",
                expected="the same exported graph at the same path on all nodes",
            )
        images = ImageSet.open(self.images, calibration=True)
        there = {item.name for item in images.items}
        missing = [name for part in self.parts for name in part if name not in there]
        if missing:
            raise not_seen(f"{missing[0]} in {self.images}", node)
        return _PartCounter(self, ImageSamples(images, self.preprocess))


class _PartCounter:
    """Counts one part after the other on a node.

    Args:
        job: what to count.
        samples: the whole set.
    """

    def __init__(self, job: _Job, samples: ImageSamples) -> None:
        self._job, self._samples = job, samples
        self._observer = Observer(job.graph, job.tensors, threads=job.threads)

    def do(self, part: int, hear: Callable[[], None]) -> Counts:
        """What a part has shown."""
        names = set(self._job.parts[part])
        samples = self._samples.without(name for name in self._samples.names if name not in names)
        counts = Counts.empty(self._job.tensors)
        count_here(self._observer, samples, self._job.total, None, counts.merge, lambda _count: hear())
        return counts
