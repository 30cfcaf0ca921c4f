"""Open the bundle that is to be served: find it, check every byte of it, run its canaries, load it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from edgeq.bundle.manifest import MANIFEST, Manifest
from edgeq.bundle.needs import DeviceFacts
from edgeq.bundle.verify import Verified, check_unchanged, examine
from edgeq.bundle.vlm_settings import LANGUAGE
from edgeq.device import DeviceProfile
from edgeq.engine import Engine
from edgeq.errors import ArtifactError, InputError, shell_word
from edgeq.families.registry import runnable
from edgeq.install.candidate_here import require_backend, vision_candidate
from edgeq.install.states import current
from edgeq.install.store import MARKER
from edgeq.install.trust import trust_at
from edgeq.runtime.canary.canary_set import CanarySet, open_canaries
from edgeq.runtime.canary.check import compare_canaries, run_canaries
from edgeq.runtime.canary.report import CanaryReport
from edgeq.runtime.pixel_answers import Detector, Segmenter
from edgeq.runtime.scheduler.budget import serving_budget, serving_device
from edgeq.runtime.scheduler.runtime import Runtime, RuntimeOptions, start_runtime
from edgeq.runtime.vision_graph import VisionModel
from edgeq.runtime.vlm.api import GenerationRequest
from edgeq.runtime.vlm.constrained.grammar import require_llguidance
from edgeq.runtime.vlm.constrained.schema import schema_text
from edgeq.runtime.vlm.language import require_packages
from edgeq.runtime.vlm.model import load_vlm
from edgeq.runtime.vlm.stream import Failed
from edgeq.service.load_retrieval import open_retrieval
from edgeq.service.report import reader_of, report_schema
from edgeq.service.report_phrases import DEFAULT_PHRASES, PHRASES, ReportPhrases, load_report_phrases
from edgeq.service.routes.vision_worker import Sees, VisionWorker
from edgeq.service.served_model import ServedModel
from edgeq.service.settings import ServiceSettings

__all__ = ["find_bundle", "open_served"]

_MIB: Final = 1 << 20

Say = Callable[[str], None]
"""Told what is being done, in a few words."""


def find_bundle(place: Path) -> Path:
    """The bundle at a place: a bundle itself, or the one that is in use in a store of `edgeq install`.

    Raises:
        ArtifactError: it is neither.
    """
    if (place / MARKER).is_file():
        return current(place)
    if (place / MANIFEST).is_file():
        return place
    raise ArtifactError(
        f"{place} is neither a bundle nor a store of installed ones",
        expected=f"a directory with {MANIFEST}, or with {MARKER}",
        next_step=f"edgeq install BUNDLE --root {shell_word(place)}",
        passing=True,  # its disk may come later, and a bundle may be installed
    )


def open_served(
    place: Path, settings: ServiceSettings, *, device: DeviceFacts | None = None, say: Say | None = None
) -> ServedModel:
    """Open a bundle as the settings want it.

    Args:
        place: for `find_bundle`.
        settings: of the service.
        device: what the bundle must suit; None for any.
        say: told what is being done.

    Raises:
        ArtifactError: there is no bundle, it is damaged, not signed as it must be, or not for this device.
        ModelError, EngineError: a part of it cannot be loaded.
        InputError: memory does not suffice for one request, or a setting is for bundles of another kind.
        GateError: the engine does not compute what the workshop saw.
    """
    tell = say or (lambda _what: None)
    bundle = find_bundle(place)
    require_backend(settings.backend)
    tell("checking the bundle")
    verified = examine(bundle, trust_at(place, bundle, settings.keys, device=device))
    served = _opened(place, bundle, verified, settings, tell)
    try:
        check_unchanged(bundle, verified)
    except BaseException:
        served.close(drain=False)
        raise
    return served


def _opened(place: Path, bundle: Path, verified: Verified, settings: ServiceSettings, tell: Say) -> ServedModel:
    """What was checked, loaded."""
    phrases = _phrases(bundle, verified.manifest, settings)
    name = settings.name or _name(place, bundle, verified.manifest)
    if verified.manifest.kind == "retrieval":
        return open_retrieval(place, bundle, verified, settings, phrases, tell, name=name)
    _refuse_index(bundle, verified.manifest, settings)
    candidate = vision_candidate(place, bundle, verified.manifest, settings.backend, threads=settings.threads)
    talks = verified.manifest.kind == "vision-language"
    if talks and (schema := report_schema(phrases)) is not None:
        schema_text(schema)  # bounded before anything is loaded
        require_llguidance()
    memory = _memory(bundle, settings) if talks else None  # asked before anything is loaded
    tell("opening the vision graph")
    engine = candidate.open()
    canaries = open_canaries(bundle, verified.manifest) if settings.canaries else None
    report = _checked(engine, canaries, tell) if canaries is not None else None
    talk = _runtime(bundle, engine, memory, settings, canaries, tell) if memory else None
    return ServedModel(
        name=name,
        manifest=verified.manifest,
        digest=verified.digest,
        created=int((bundle / MANIFEST).stat().st_mtime),
        backend=candidate.backend,
        because=candidate.because,
        canaries=report,
        talk=talk,
        seeing=None if talk else VisionWorker(_sees(bundle, verified.manifest, engine), queue=settings.queue),
        context=talk.settings.context if talk else None,
        most_images=runnable(talk.settings.model_type).most_images if talk else None,
        phrases=phrases,
        reader=reader_of(phrases),
    )


def _sees(bundle: Path, manifest: Manifest, engine: Engine) -> Sees:
    """What looks at images: by the bundle's task."""
    if manifest.task == "detect":
        return Detector.of_bundle(bundle, engine)
    return Segmenter.of_bundle(bundle, engine) if manifest.task == "segment" else VisionModel.of_bundle(bundle, engine)


def _refuse_index(bundle: Path, manifest: Manifest, settings: ServiceSettings) -> None:
    """Raise InputError where a catalog is to be searched with a bundle that cannot."""
    if settings.index is not None:
        raise InputError(
            f"--index is for the bundle of a text and image encoder, and {bundle} is a {manifest.kind}'s",
            next_step="leave it out, also of the settings, or serve the bundle that the catalog was made with",
        )


def _phrases(bundle: Path, manifest: Manifest, settings: ServiceSettings) -> ReportPhrases:
    """From the settings, or the bundle, or those that come along."""
    if settings.terms is not None:
        return load_report_phrases(settings.terms)
    listed = any(file.name == PHRASES for file in manifest.files)
    return load_report_phrases(bundle / PHRASES) if listed else DEFAULT_PHRASES


def _checked(engine: Engine, canaries: CanarySet, tell: Say) -> CanaryReport:
    tell("comparing with the canaries")
    report = compare_canaries(canaries, run_canaries(engine, canaries))
    report.raise_if_failed()
    return report


def _memory(bundle: Path, settings: ServiceSettings) -> DeviceProfile:
    """This machine; InputError where weights and runtime alone do not fit: to load them would end the process."""
    require_packages(bundle / LANGUAGE)
    import torch

    device = serving_device(bundle, cuda=torch.cuda.is_available())
    serving_budget(bundle, device, reserve_bytes=settings.reserve_mib * _MIB, total_bytes=_budget_bytes(settings))
    return device


def _budget_bytes(settings: ServiceSettings) -> int | None:
    return None if settings.memory_gb is None else round(settings.memory_gb * 1e9)


def _runtime(
    bundle: Path,
    engine: Engine,
    memory: DeviceProfile,
    settings: ServiceSettings,
    canaries: CanarySet | None,
    tell: Say,
) -> Runtime:
    """The language model loaded, beside a vision engine that is open already; and asked something once."""
    tell("loading the language model")
    vlm = load_vlm(bundle, engine=engine, threads=settings.threads)
    options = RuntimeOptions(
        slots=settings.sequences,
        queue=settings.queue,
        context=settings.context,
        budget_bytes=_budget_bytes(settings),
        cache_bytes=None if settings.cache_mib is None else settings.cache_mib * _MIB,
        reserve_bytes=settings.reserve_mib * _MIB,
        threads=settings.threads,
        cuda_graphs=settings.cuda_graphs,
        batch_invariant=settings.batch_invariant,
        fused_prefill_rows=settings.fused_prefill_rows,
    )
    runtime = start_runtime(vlm, bundle, options, memory)
    picture = canaries.known[0].picture if canaries is not None else None
    if picture is not None and canaries is not None and canaries.talk is not None:
        tell("asking the first question")
        _warm_up(runtime, GenerationRequest.about(picture, canaries.talk.canaries.canaries[0].question, 2))
    return runtime


def _warm_up(runtime: Runtime, ask: GenerationRequest) -> None:
    """What is compiled or captured at the first request is so before somebody waits for it."""
    with suppress(InputError):  # the context was set too short for it
        for event in runtime.submit(ask):
            if isinstance(event, Failed):
                runtime.close(drain=False)
                raise event.error


def _name(place: Path, bundle: Path, manifest: Manifest) -> str:
    """A bundle's directory names it; one in a store has a digest for a name, and goes by its kind."""
    return manifest.kind if place != bundle else bundle.resolve().name
