"""A benchmark from the bundle's directory to the report."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

from PIL import Image

from edgeq.bench.answers import AnswerFigures, AnswerLoad, ClientsFigures, endless_model, measure_answers
from edgeq.bench.ceiling import BenchCeiling, find_limits
from edgeq.bench.conditions import processor_name, watched
from edgeq.bench.graphs import GraphFigures, GraphLoad, measure_graph, measure_towers
from edgeq.bench.report import BenchLoad, BenchMachine, BenchReport, versions_here
from edgeq.bench.service_clients import ServiceAddress, measure_service
from edgeq.bundle.contents import Manifest
from edgeq.bundle.verification_states import Verified
from edgeq.bundle.verify import check_unchanged, examine, read_listed
from edgeq.bundle.vlm_settings import LANGUAGE
from edgeq.device import probe
from edgeq.device.power_modes import board_device, power_mode
from edgeq.doctor.reading import text_in
from edgeq.engine.power import read_power
from edgeq.engine_store.machine import read_machine
from edgeq.errors import InputError
from edgeq.install.candidate_here import AUTO, open_two_tower_here, require_backend, vision_candidate
from edgeq.install.states import current
from edgeq.install.store import MARKER
from edgeq.install.trust import trust_at
from edgeq.runtime.canary.canary_set import CanarySet, open_canaries
from edgeq.runtime.pixel_answers import Detector, Segmenter
from edgeq.runtime.retrieval.canaries import retrieval_canary_sets
from edgeq.runtime.scheduler.admission import RESERVE_BYTES
from edgeq.runtime.scheduler.budget import serving_budget, serving_device
from edgeq.runtime.vision_graph import VisionModel
from edgeq.runtime.vlm.language import require_packages

__all__ = ["BenchRequest", "bench"]

Progress = Callable[[str, int, int], None]

_WEIGHTS: Final = ".safetensors"


@dataclass(frozen=True)
class BenchRequest:
    """What to measure.

    Attributes:
        place: a bundle's directory, or a store of `edgeq install`, whose version in use is taken.
        load: how much.
        backend: what runs the graphs; `auto` takes TensorRT where it is installed.
        picture: that a vision-language model is asked about, mode RGB; None takes the bundle's first canary.
        question: about it; None takes the canary's.
        service: that serves the bundle on this machine, and is asked over HTTP; None loads the bundle here.
        root: where the system's `etc`, `proc`, `sys` and `var` are; another one for a test.
    """

    place: Path
    load: BenchLoad
    backend: str = AUTO
    picture: Image.Image | None = None
    question: str | None = None
    service: ServiceAddress | None = None
    root: Path = Path("/")


@dataclass(frozen=True)
class _Found:
    """What was measured.

    Attributes:
        backend: that ran the graphs.
        answers, graphs, service, ceiling, note: as in the report.
    """

    backend: str
    answers: AnswerFigures | None = None
    graphs: tuple[GraphFigures, ...] = ()
    service: tuple[ClientsFigures, ...] = ()
    ceiling: BenchCeiling | None = None
    note: str = "a ceiling is known of vision-language models alone"


def bench(request: BenchRequest, report: Progress | None = None) -> BenchReport:
    """Measure a bundle on this machine; nothing is written.

    What cannot run is refused before the bundle's bytes are checked: packages that are missing, and weights that are
    larger than memory.

    Args:
        request: what to measure.
        report: called as it goes on.

    Raises:
        ArtifactError: it is no bundle, is damaged, or has no canaries that can be used.
        InputError: memory does not suffice, or the question leaves no room for an answer.
        EngineError: a package or an engine is missing, or an engine fails.
        ModelError: the language model, the tokenizer or the preprocessing cannot be loaded.
    """
    say = report or (lambda _stage, _done, _total: None)
    bundle = current(request.place) if (request.place / MARKER).is_file() else request.place
    require_backend(request.backend)
    _refuse_at_once(bundle, read_listed(bundle), request)
    say("checking the bundle", 0, 0)
    verified = examine(bundle, trust_at(request.place, bundle, ()))
    machine = _machine(request.root)
    measure = {"vision-language": _answers, "retrieval": _towers}.get(verified.manifest.kind, _graph)
    if request.service is not None:
        measure = _service
    with watched(request.root) as watch:
        found = measure(bundle, verified, request, machine, say)
    return BenchReport(
        made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        bundle=bundle.resolve().name,
        manifest_sha256=verified.digest,
        kind=verified.manifest.kind,
        bundle_made_by=verified.manifest.made_by,
        versions=versions_here(),
        backend=found.backend,
        machine=machine,
        asked=request.load,
        conditions=watch.seen(),
        ceiling=found.ceiling,
        ceiling_note=found.note,
        answers=found.answers,
        graphs=found.graphs,
        service=found.service,
    )


def _refuse_at_once(bundle: Path, listed: Manifest, request: BenchRequest) -> None:
    """Packages and memory, by what the manifest says, of which nothing is proved yet."""
    if listed.kind != "vision-language":
        if request.picture is not None or request.question is not None or request.service is not None:
            raise InputError(
                f"{bundle} is the bundle of a {listed.kind}, which answers no questions",
                expected="no image, no question and no service: its own canaries are measured",
            )
        return
    require_packages(bundle / LANGUAGE)
    if request.service is not None:
        return
    weights = sum(file.size for file in listed.files if file.name.startswith(f"{LANGUAGE}/") and _WEIGHTS in file.name)
    free = probe(request.root).budget_bytes
    if weights > free:
        raise InputError(
            f"the language model's weights in {bundle} take {weights / 1e9:.2f} GB, and {free / 1e9:.2f} GB of memory "
            "are free",
            next_step="end other processes, or take a larger device",
        )


def _machine(root: Path) -> BenchMachine:
    power = read_power(root)
    device = board_device(text_in(root / "proc/device-tree/compatible") or "")
    return BenchMachine(
        machine=read_machine(root),
        processor=processor_name(root),
        processors=len(os.sched_getaffinity(0)),
        memory_bytes=probe(root).total_bytes,
        power=power,
        device=device,
        mode=power_mode(device, power.name if power else None),
    )


def _answers(bundle: Path, verified: Verified, request: BenchRequest, machine: BenchMachine, say: Progress) -> _Found:
    """A vision-language model; memory is reckoned as the service does, before anything is loaded."""
    import torch

    load, threads = request.load, request.load.threads
    device = serving_device(bundle, cuda=torch.cuda.is_available(), root=request.root)
    serving_budget(bundle, device, reserve_bytes=RESERVE_BYTES)
    picture, question = _asked(bundle, verified.manifest, request)
    candidate = vision_candidate(request.place, bundle, verified.manifest, request.backend, threads=threads)
    limits = find_limits(bundle, machine.device, machine.mode, device.budget_bytes - RESERVE_BYTES)
    say("loading", 0, 0)
    vlm = endless_model(bundle, candidate.open(), threads)
    check_unchanged(bundle, verified)
    asked = AnswerLoad(picture, question, load.tokens, load.repeats, load.warmup, load.clients)
    figures = measure_answers(bundle, vlm, asked, device, threads=threads, report=say)
    limits = limits.measured_again(probe(request.root).budget_bytes - RESERVE_BYTES)
    ceiling = limits.ceiling(figures)
    return _Found(candidate.backend, limits.beside(figures, ceiling), ceiling=ceiling, note=limits.note)


def _service(bundle: Path, verified: Verified, request: BenchRequest, _machine: BenchMachine, say: Progress) -> _Found:
    """A running service that serves the bundle."""
    assert request.service is not None, "asked for"
    load, (picture, question) = request.load, _asked(bundle, verified.manifest, request)
    asked = AnswerLoad(picture, question, load.tokens, load.repeats, load.warmup, load.clients)
    rows = measure_service(request.service, asked, verified.digest, say)
    address = f"edgeq serve at {request.service.host}:{request.service.port}"
    return _Found(address, service=rows, note="no ceiling stands beside a service: measure without --url for one")


def _asked(bundle: Path, manifest: Manifest, request: BenchRequest) -> tuple[Image.Image, str]:
    """The picture and the question; the bundle's own where none were given."""
    if request.picture is not None and request.question is not None:
        return request.picture, request.question
    canaries = open_canaries(bundle, manifest)
    assert canaries.talk is not None, "a vision-language bundle's"
    picture = canaries.known[0].picture if request.picture is None else request.picture
    assert picture is not None, "a canary of a vision-language model is a picture"
    return picture, request.question or canaries.talk.canaries.canaries[0].question


def _graph(bundle: Path, verified: Verified, request: BenchRequest, _machine: BenchMachine, say: Progress) -> _Found:
    """A graph from pixels."""
    manifest = verified.manifest
    canaries = open_canaries(bundle, manifest)
    candidate = vision_candidate(request.place, bundle, manifest, request.backend, threads=request.load.threads)
    engine = candidate.open()
    check_unchanged(bundle, verified)
    model: VisionModel | Detector | Segmenter
    if manifest.task == "detect":
        model = Detector.of_bundle(bundle, engine)
    else:
        model = (Segmenter if manifest.task == "segment" else VisionModel).of_bundle(bundle, engine)
    figures = measure_graph(engine, model, canaries, _load(request), say)
    return _Found(candidate.backend, graphs=(figures,))


def _towers(bundle: Path, verified: Verified, request: BenchRequest, _machine: BenchMachine, say: Progress) -> _Found:
    """The encoders of CLIP or SigLIP."""
    sets: dict[str, CanarySet] = retrieval_canary_sets(bundle, verified.manifest)
    threads = request.load.threads
    model, backend = open_two_tower_here(request.place, bundle, verified.manifest, request.backend, threads=threads)
    check_unchanged(bundle, verified)
    return _Found(backend, graphs=measure_towers(model, sets, _load(request), say))


def _load(request: BenchRequest) -> GraphLoad:
    return GraphLoad(request.load.repeats, request.load.warmup, request.load.batches)
