"""Open the bundle of a two-tower model to be served, and the catalog that is searched with it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from edgeq.bundle.manifest import MANIFEST
from edgeq.bundle.verification_states import Verified
from edgeq.catalog.searched import SearchedCatalog, open_searched
from edgeq.install.candidate_here import open_two_tower_here
from edgeq.runtime.retrieval.canaries import RetrievalCheck, check_retrieval_canaries
from edgeq.runtime.retrieval.two_tower import TwoTowerModel
from edgeq.runtime.retrieval.workers import CACHE_BYTES, RetrievalWorkers
from edgeq.service.report import reader_of
from edgeq.service.report_phrases import ReportPhrases
from edgeq.service.served_model import ServedModel
from edgeq.service.served_retrieval import ServedCatalog, ServedRetrieval
from edgeq.service.settings import ServiceSettings

__all__ = ["open_retrieval"]

_MIB = 1 << 20


def open_retrieval(
    place: Path,
    bundle: Path,
    verified: Verified,
    settings: ServiceSettings,
    phrases: ReportPhrases,
    tell: Callable[[str], None],
    *,
    name: str,
) -> ServedModel:
    """Open a two-tower bundle as the settings want it.

    Args:
        place: that it was found at: itself, or a store of `edgeq install`.
        bundle: its directory.
        verified: it, checked.
        settings: of the service.
        phrases: of reports, which it gives none of.
        tell: told what is being done.
        name: of the model in requests.

    Raises:
        ArtifactError: a part of the bundle or of the catalog is damaged, or the catalog was made with another bundle.
        EngineError, ModelError: a part of it cannot be loaded.
        GateError: the encoders do not compute what the workshop saw.
    """
    tell("opening the encoders")
    why: list[str] = []
    model, version = open_two_tower_here(
        place, bundle, verified.manifest, settings.backend, threads=settings.threads, say=why.append
    )
    canaries = _checked(bundle, model, tell) if settings.canaries else None
    catalog = None
    if settings.index is not None:
        tell("opening the index")
        catalog = ServedCatalog(settings.index, partial(_open, verified.digest, str(bundle), settings.threads))
    cache = CACHE_BYTES if settings.cache_mib is None else settings.cache_mib * _MIB
    return ServedModel(
        name=name,
        manifest=verified.manifest,
        digest=verified.digest,
        created=int((bundle / MANIFEST).stat().st_mtime),
        backend=version,
        because=why[0],
        canaries=canaries,
        talk=None,
        seeing=None,
        context=model.settings.context,
        most_images=0 if model.vision is None else None,
        phrases=phrases,
        reader=reader_of(phrases),
        retrieval=ServedRetrieval(RetrievalWorkers(model, queue=settings.queue, cache_bytes=cache), catalog),
    )


def _checked(bundle: Path, model: TwoTowerModel, tell: Callable[[str], None]) -> RetrievalCheck:
    tell("comparing with the canaries")
    check = check_retrieval_canaries(bundle, model)
    check.raise_if_failed()
    return check


def _open(digest: str, bundle: str, threads: int | None, directory: Path) -> SearchedCatalog:
    return open_searched(directory, bundle_digest=digest, bundle=bundle, threads=threads)
