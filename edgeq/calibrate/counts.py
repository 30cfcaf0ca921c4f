"""What samples have shown, counted here or elsewhere, in any portions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

from edgeq.calibrate.histogram import Histogram
from edgeq.calibrate.observe import Arrival, Observer
from edgeq.calibrate.samples import Array, Samples

__all__ = ["Counting", "Counts", "count_here", "digest_of", "is_late"]


@dataclass
class Counts:
    """What some samples have shown. Counts of different samples merge into those of all, to the bit.

    Attributes:
        histograms: of each tensor, over the samples that are not late.
        late: the same over those that are, see `is_late`.
        seen: the digest of each sample counted.
        skipped: names of samples that cannot be used.
    """

    histograms: dict[str, Histogram]
    late: dict[str, Histogram]
    seen: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    @classmethod
    def empty(cls, tensors: Iterable[str]) -> Counts:
        """Nothing of these tensors."""
        names = tuple(tensors)
        return cls({name: Histogram() for name in names}, {name: Histogram() for name in names})

    def merge(self, other: Counts) -> None:
        """Take what other samples have shown."""
        for mine, theirs in ((self.histograms, other.histograms), (self.late, other.late)):
            for name, histogram in theirs.items():
                mine[name].merge(histogram)
        self.seen += other.seen
        self.skipped += other.skipped

    def merged(self) -> dict[str, Histogram]:
        """The histograms of all samples, late ones among them."""
        whole = Counts.empty(self.histograms)
        whole.merge(Counts(self.histograms, {}))
        whole.merge(Counts(self.late, {}))
        return whole.histograms


class Counting(Protocol):
    """Counts samples somewhere."""

    def __call__(
        self,
        graph_sha256: str,
        samples: Samples,
        total: int,
        portion: int | None,
        take: Callable[[Counts], None],
        advance: Callable[[int], None],
        /,
    ) -> None:
        """Count samples, in portions that belong to different ones.

        Args:
            graph_sha256: of the FP32 file that is run.
            samples: to be counted, all of them.
            total: size of the set that they are a part of; the share of unusable ones is that of the whole.
            portion: how many samples are taken together, at most; None leaves that open.
            take: called with each portion's counts.
            advance: called with the number of samples just counted.

        Raises:
            ImageError: too many images cannot be read.
            CalibrationError: a tensor holds NaN or infinity.
        """


def count_here(
    observer: Observer,
    samples: Samples,
    total: int,
    portion: int | None,
    take: Callable[[Counts], None],
    advance: Callable[[int], None],
) -> None:
    """Count samples in this process; as `Counting`.

    Args:
        observer: of the graph, without counts.
        samples, total, portion, take, advance: as for `Counting`.
    """
    skipped: list[str] = []
    digests: dict[str, str] = {}
    arrivals = _arrivals(samples, samples.arrays(skipped, total), digests)
    while counted := _count(observer, islice(arrivals, portion), advance):
        take(Counts(*observer.take(), seen=[digests.pop(name) for name in counted]))
    take(Counts({}, {}, skipped=skipped))


def digest_of(samples: Samples, name: str) -> str:
    """The first 32 hexadecimal digits of one sample's digest, by which scales know it."""
    return samples.digest(name)[:32]


def is_late(digest: str) -> bool:
    """Whether a sample is of the tenth that is compared with the rest: by its digest, so that no order matters."""
    return int(digest[:8], 16) % 10 == 0


def _arrivals(samples: Samples, arrays: Iterable[tuple[str, Array]], digests: dict[str, str]) -> Iterator[Arrival]:
    """The samples as they come; notes the digest of each under its name."""
    for name, array in arrays:
        digests[name] = digest_of(samples, name)
        yield name, array, is_late(digests[name])


def _count(observer: Observer, arrivals: Iterable[Arrival], advance: Callable[[int], None]) -> list[str]:
    """Count samples; gives their names."""
    counted = []
    for name in observer.count(arrivals):
        counted.append(name)
        advance(1)
    return counted
