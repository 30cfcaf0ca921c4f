"""Images embedded into a catalog, and searched by texts and by images."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict

from edgeq.api.device.images import ImageLike, open_image
from edgeq.artifact import Artifact
from edgeq.bundle.verify import Verified, check_unchanged, examine
from edgeq.catalog.build import BATCH, Progress, build_catalog
from edgeq.catalog.layout import SHARD_SIZE, Catalog
from edgeq.catalog.on_ray import build_on_ray
from edgeq.catalog.plan import GoneSources
from edgeq.catalog.read import open_catalog
from edgeq.catalog.searched import INDEX, SearchedCatalog, open_searched
from edgeq.catalog.sources import open_sources
from edgeq.cluster.connect import STALL_MINUTES, Cluster
from edgeq.device import probe
from edgeq.errors import ArtifactError, InputError
from edgeq.install.candidate_here import AUTO, open_two_tower_here, require_backend
from edgeq.install.states import current
from edgeq.install.store import MARKER
from edgeq.install.trust import trust_at
from edgeq.runtime.retrieval.two_tower import TwoTowerModel
from edgeq.vector_index.build import build_index
from edgeq.vector_index.choose import choose_kind
from edgeq.vector_index.kinds import IndexKind
from edgeq.vector_index.library import faiss
from edgeq.vector_index.record import IndexRecord

__all__ = ["INDEX", "ImageSearch", "Indexed", "SearchResult", "index_images", "open_search"]

_EMBEDDED_BY: Final = "embedded_by.json"
_MEMORY_SHARE: Final = 2
"""One part in so many of the memory that is available may be the index's."""


class EmbeddedBy(Artifact):
    """Which bundle a catalog was made with; its texts are embedded by the same.

    Attributes:
        bundle: its directory, absolute.
        digest: of its manifest.
    """

    otherwise = "does not say which bundle embedded a catalog"

    version: Literal["edgeq.embedded-by/1"] = "edgeq.embedded-by/1"
    bundle: str
    digest: str


class Indexed(BaseModel):
    """What lies in a catalog now.

    Attributes:
        catalog: its directory.
        complete: all shards are there; otherwise other processes make those that are missing, and there is no index.
        rows, removed: images with an embedding, those that are gone since among them, and how many these are.
        skipped: images without one, by the reason.
        shards: how many.
        index: over the rows; None where none was asked for, or shards are missing.
        because: why the index is of this kind.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    catalog: Path
    complete: bool
    rows: int = 0
    removed: int = 0
    skipped: Mapping[str, int] = {}
    shards: int = 0
    index: IndexRecord | None = None
    because: str = ""


class SearchResult(BaseModel):
    """An image that was found.

    Attributes:
        image_path: where it was; of an image in an archive, its name behind the archive's.
        score: cosine with what was asked.
        row: its number in the catalog.
        columns: what else the catalog knows of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_path: str
    score: float
    row: int
    columns: Mapping[str, Any]


class _Embedder:
    """A bundle's vision encoder as a catalog takes it."""

    def __init__(self, model: TwoTowerModel) -> None:
        self._image = model.image

    def preprocess(self, image: Image.Image) -> NDArray[np.float32]:
        """Float32 [3, H, W]."""
        return self._image.preprocess(image)

    def embed(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Float32 [n, 3, H, W] to float32 [n, dimension]."""
        return self._image.embed_pixels(pixels)


class _Choices(TypedDict):
    """What a build in this process and one by a cluster are told alike."""

    bundle_digest: str
    shard_size: int
    batch: int
    workers: int
    gone_sources: GoneSources
    progress: Progress


def index_images(
    bundle: str | Path,
    images: str | Path | Sequence[str | Path],
    catalog: str | Path,
    *,
    shards: tuple[int, int] | None = None,
    shard_size: int = SHARD_SIZE,
    batch: int = BATCH,
    workers: int = 2,
    kind: IndexKind | Literal["auto"] | None = "auto",
    memory_bytes: int | None = None,
    gone_sources: GoneSources = "refuse",
    keys: Sequence[str | Path] = (),
    threads: int | None = None,
    backend: str = AUTO,
    on: Literal["here", "ray"] = "here",
    address: str = "auto",
    actors: int | None = None,
    cpus_per_actor: int = 1,
    stall_minutes: float = STALL_MINUTES,
    progress: Callable[[str, int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> Indexed:
    """Embed images into a catalog, and make an index over it. The same call goes on where an earlier one was stopped,
    and takes what has come since.

    Args:
        bundle: of CLIP or SigLIP; or a store of `install_bundle`, whose current version is taken.
        images: a folder, a zip, a webdataset tar, or several of them.
        catalog: its directory; made where it is not there.
        shards: the first and the last that this process makes, while others make the others; None makes all.
        shard_size: images of a shard.
        batch: images embedded at once, fewer where memory is short.
        workers: threads that decode.
        kind: of the index; `auto` chooses by rows and memory, None makes none.
        memory_bytes: what the index may take; None is half of what is available.
        gone_sources: what becomes of images of earlier calls whose folder or archive is not given now.
        keys: files of public keys; the bundle must be signed by one of them, if any are given.
        threads: of one operator, and of the index; None takes every processor there is, and in an actor as many as it
            has CPUs.
        backend: what runs the vision encoder, as for `open_bundle`. Embeddings of two backends differ by rounding.
        on: `here` in this process; `ray` by actors of a cluster whose nodes all see bundle, images and catalog at the
            same paths. The index is made here in any case.
        address: of the cluster, HOST:PORT; `auto` is RAY_ADDRESS, else the one that this machine belongs to.
        actors: how many; None takes as many as there is room for.
        cpus_per_actor: of a cluster without GPUs; of one with GPUs an actor gets one of these.
        stall_minutes: without an image done anywhere in so many, the cluster is given up.
        progress: called as (stage, done, total).
        say: told what runs the vision encoder here and why, before the first image.

    Raises:
        ArtifactError: the bundle is damaged or of another kind, or the catalog was made with another one.
        ImageError: too many images cannot be used.
        InputError: no index fits the memory, a package is missing, or the cluster cannot be used.
        EngineError: the network fails, its engine was not built, or nothing goes on in the cluster.
    """
    require_backend(backend)
    if kind is not None:
        faiss()  # said before hours of embedding, not after
    place, report = Path(catalog), progress or (lambda _stage, _done, _total: None)
    folder, verified = _checked(bundle, keys)
    given = [images] if isinstance(images, str | Path) else list(images)
    how: _Choices = {
        "bundle_digest": verified.digest,
        "shard_size": shard_size,
        "batch": batch,
        "workers": workers,
        "gone_sources": gone_sources,
        "progress": lambda done, total: report("embed", done, total),
    }
    made: Catalog | None
    if on == "ray":
        if shards is not None:
            raise InputError("a cluster makes all shards", next_step="leave out the range of shards, or Ray")
        absolute = [Path(key).absolute() for key in keys]
        opener = partial(_opened, folder.absolute(), absolute, threads or cpus_per_actor, backend)
        made = build_on_ray(opener, given, place, Cluster(address, actors, cpus_per_actor, stall_minutes), **how)
    else:
        embedder = _Embedder(_model(folder, verified, backend, threads, say))
        chosen = None if shards is None else range(shards[0], shards[1] + 1)
        with open_sources(given) as sources:
            made = build_catalog(embedder, sources, place, shards=chosen, **how)
    EmbeddedBy(bundle=str(folder.resolve()), digest=verified.digest).save(place / _EMBEDDED_BY)
    if made is None:
        return Indexed(catalog=place, complete=False)
    record, because = (None, "") if kind is None else _index(place, kind, memory_bytes, threads, report)
    return Indexed(
        catalog=place,
        complete=True,
        rows=made.rows,
        removed=made.removed,
        skipped=dict(made.skipped),
        shards=len(made.shards),
        index=record,
        because=because,
    )


class ImageSearch:
    """A catalog opened with the bundle that made it; made by `open_search`.

    Args:
        catalog: with its index.
        model: both encoders.
    """

    def __init__(self, catalog: SearchedCatalog, model: TwoTowerModel) -> None:
        self._catalog, self._model = catalog, model

    def by_text(self, text: str, k: int = 10) -> tuple[SearchResult, ...]:
        """The images that go best with a text, the best first.

        Args:
            text: in plain words.
            k: how many, at most.

        Raises:
            InputError: the text cannot be tokenized, or `k` is below 1.
            EngineError: the text graph fails.
        """
        return self._found(self._model.text.embed([text]), k)

    def by_image(self, image: ImageLike, k: int = 10) -> tuple[SearchResult, ...]:
        """The images that are most like one, the most alike first.

        Args:
            image: a path, a file's bytes, a Pillow image, or uint8 [H, W, 3].
            k: how many, at most.

        Raises:
            ImageError: the image cannot be read.
            InputError: `k` is below 1.
            EngineError: the vision graph fails.
        """
        return self._found(self._model.image.embed([open_image(image)]), k)

    def _found(self, query: NDArray[np.float32], k: int) -> tuple[SearchResult, ...]:
        return tuple(
            SearchResult(
                image_path=found.columns.pop("image_path"), score=found.score, row=found.row, columns=found.columns
            )
            for found in self._catalog.near(query[0], k)
        )


def open_search(
    catalog: str | Path,
    *,
    bundle: str | Path | None = None,
    keys: Sequence[str | Path] = (),
    threads: int | None = None,
    backend: str = AUTO,
    say: Callable[[str], None] | None = None,
) -> ImageSearch:
    """Open a catalog to be searched.

    Args:
        catalog: its directory, with its index.
        bundle: that made it; None takes it from where it was then.
        keys: files of public keys; the bundle must be signed by one of them, if any are given.
        threads: of one operator, and of a search; None takes every processor there is.
        backend: what runs both encoders, as for `open_bundle`.
        say: told what runs them and why.

    Raises:
        ArtifactError: catalog, index or bundle is missing or damaged, the bundle is another one, or the index was made
            of another state of the catalog.
        EngineError: no engine of an encoder was built for this device, or it is refused.
        InputError: a package is missing.
    """
    require_backend(backend)
    place = Path(catalog)
    reader = open_catalog(place)
    known = EmbeddedBy.load(place / _EMBEDDED_BY) if bundle is None else None
    folder, verified = _checked(known.bundle if known is not None else bundle, keys)
    searched = open_searched(place, bundle_digest=verified.digest, bundle=str(folder), threads=threads, reader=reader)
    return ImageSearch(searched, _model(folder, verified, backend, threads, say))


def _model(
    folder: Path, verified: Verified, backend: str, threads: int | None, say: Callable[[str], None] | None = None
) -> TwoTowerModel:
    why: list[str] = []
    model, version = open_two_tower_here(folder, folder, verified.manifest, backend, threads=threads, say=why.append)
    check_unchanged(folder, verified)
    if say:
        say(f"{version}: {why[0]}")
    return model


def _checked(bundle: str | Path | None, keys: Sequence[str | Path]) -> tuple[Path, Verified]:
    """A two-tower bundle whose bytes were checked."""
    place = Path(bundle or "")
    folder = current(place) if (place / MARKER).is_file() else place
    verified = examine(folder, trust_at(place, folder, keys))
    if verified.manifest.kind != "retrieval":
        raise ArtifactError(
            f"{folder} is the bundle of a {verified.manifest.kind}, which embeds no texts",
            expected="that of CLIP or SigLIP",
        )
    return folder, verified


def _opened(bundle: Path, keys: Sequence[str | Path], threads: int, backend: str) -> tuple[_Embedder, str]:
    """The encoder of a bundle and the bundle's digest; called on each node of a cluster.

    Args:
        bundle: its directory.
        keys: files of public keys that it must be signed by.
        threads: of one operator.
        backend: what runs it.
    """
    folder, verified = _checked(bundle, keys)
    return _Embedder(_model(folder, verified, backend, threads)), verified.digest


def _index(
    place: Path,
    kind: IndexKind | Literal["auto"],
    memory_bytes: int | None,
    threads: int | None,
    report: Callable[[str, int, int], None],
) -> tuple[IndexRecord | None, str]:
    """The index over a catalog that is whole; the one that is there, where nothing has changed since."""
    reader = open_catalog(place)
    rows = len(reader) - len(reader.removed)
    if not rows:
        return None, "there is no image to index"
    memory = memory_bytes if memory_bytes is not None else probe().budget_bytes // _MEMORY_SHARE
    chosen, because = choose_kind(rows, reader.dimension, memory) if kind == "auto" else (kind, "it was asked for")
    _require_disk(place, rows, reader.dimension)
    record = build_index(
        (vectors for _, vectors in reader.vectors()),
        len(reader),
        reader.dimension,
        place / INDEX,
        kind=chosen,
        memory_bytes=memory,
        threads=threads or 1,
        removed=reader.removed.tolist(),
        progress=lambda stage, done, total: report(f"index: {stage}", done, total),
    )
    return record, because


def _require_disk(place: Path, rows: int, dimension: int) -> None:
    """Raise InputError before the work where the largest index could not be written."""
    free, most = shutil.disk_usage(place).free, 3 * rows * dimension
    if free < most:
        raise InputError(
            f"{place} has {free / 1e9:.2f} GB free", expected=f"{most / 1e9:.2f} GB for an index over {rows:,} images"
        )
