"""How quick a bundle is on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from edgeq.api.device.images import ImageLike, open_image
from edgeq.bench.report import BenchLoad, BenchReport
from edgeq.bench.run import BenchRequest, bench
from edgeq.bench.service_clients import ServiceAddress
from edgeq.errors import InputError
from edgeq.install.candidate_here import AUTO

__all__ = ["MOST_BATCH", "MOST_CLIENTS", "MOST_REPEATS", "MOST_TOKENS", "MOST_WARMUP", "bench_bundle"]

MOST_CLIENTS: Final = 256
MOST_BATCH: Final = 1024
MOST_TOKENS: Final = 4096
MOST_REPEATS: Final = 100_000
MOST_WARMUP: Final = 10_000


def bench_bundle(
    bundle: str | Path,
    *,
    backend: str = AUTO,
    image: ImageLike | None = None,
    question: str | None = None,
    url: str | None = None,
    token: str | None = None,
    tokens: int = 64,
    clients: Sequence[int] = (1, 4),
    batches: Sequence[int] = (1, 8),
    repeats: int = 20,
    warmup: int = 3,
    threads: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> BenchReport:
    """Measure a bundle on this machine, beside what the machine allows at the most; nothing is written.

    Args:
        bundle: its directory, or a store of `install_bundle`, whose version in use is taken.
        backend: what runs the graphs; `auto` takes TensorRT's engines where they were built.
        image: that a vision-language model is asked about: a path, a file's bytes, a Pillow image, or uint8 [H, W, 3].
            None takes the bundle's first canary.
        question: about it; None takes the canary's.
        url: of an `edgeq serve` on this machine that serves this bundle, and is asked over HTTP in the place of
            loading it here; without `backend` and `threads`, which are its own.
        token: that this service wants.
        tokens: of each answer of a vision-language model, 2 to 4096.
        clients: how many ask a vision-language model at once, a row for each, 1 to 256.
        batches: images or texts in a run of another bundle, a row for each, 1 to 1024.
        repeats: of each measurement, 1 to 100,000; a 99th percentile takes 100.
        warmup: runs before, that do not count, 0 to 10,000.
        threads: of one operator; None takes every processor there is.
        progress: called as (stage, done, total).

    Returns:
        Percentiles in milliseconds, rates, the ceiling, power mode, clocks, temperatures, versions and the bundle's
        digest; `save` writes it as `edgeq bench -o` does.

    Raises:
        ArtifactError: it is no bundle, is damaged, or has no canaries that can be used.
        ImageError: the image cannot be read.
        InputError: a number is out of its range, memory does not suffice, or the question leaves no room for an answer.
        EngineError: a package or an engine is missing, or an engine fails.
        ModelError: the language model, the tokenizer or the preprocessing cannot be loaded.
    """
    _check("tokens", (tokens,), 2, MOST_TOKENS)
    _check("clients", clients, 1, MOST_CLIENTS)
    _check("batches", batches, 1, MOST_BATCH)
    _check("repeats", (repeats,), 1, MOST_REPEATS)
    _check("warmup", (warmup,), 0, MOST_WARMUP)
    if url is not None and (threads is not None or backend != AUTO):
        raise InputError("threads and backend are the service's own: they go not with url")
    load = BenchLoad(
        repeats=repeats,
        warmup=warmup,
        tokens=tokens,
        clients=tuple(dict.fromkeys(clients)),
        batches=tuple(dict.fromkeys(batches)),
        threads=threads,
    )
    picture = None if image is None else open_image(image)
    service = None if url is None else ServiceAddress.of(url, token)
    return bench(BenchRequest(Path(bundle), load, backend, picture, question, service), progress)


def _check(name: str, values: Sequence[int], least: int, most: int) -> None:
    wrong = [value for value in values if not least <= value <= most]
    if wrong or not values:
        said = wrong[0] if wrong else "none"
        raise InputError(f"{name}: {said}", expected=f"{least} to {most:,}")
