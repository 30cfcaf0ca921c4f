"""`/metrics`: counts of the service, figures of the runtime and of the machine, in Prometheus' text form.

What others count is read when it is asked for; nothing is counted twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from edgeq import __version__
from edgeq.device import probe
from edgeq.doctor.power_rails import read_rails
from edgeq.doctor.thermal import read_zones
from edgeq.engine.power import read_power
from edgeq.errors import InputError
from edgeq.runtime.retrieval.canaries import RetrievalCheck
from edgeq.runtime.scheduler.snapshot import CacheFigures, Snapshot
from edgeq.runtime.vlm.stream import Usage
from edgeq.service.http.in_flight import InFlight
from edgeq.service.routes.vision_worker import VisionWorkerFigures
from edgeq.service.served_model import ServedModel
from edgeq.service.served_retrieval import ServedRetrieval

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_SEARCH_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_TOKEN_SECONDS: Final = (0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0)


class Metrics:
    """All metrics of one service.

    Args:
        served: what is served.
        traffic: requests under way.
        root: where `etc`, `proc`, `sys` and `var` are; another one for a test.
    """

    def __init__(self, served: ServedModel, traffic: InFlight, root: Path = Path("/")) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._requests = Counter(
            "edgeq_http_requests", "Requests that were answered, by path and status.", ("path", "status"),
            registry=self._registry,
        )  # fmt: skip
        self._seconds = self._histogram("edgeq_http_request_seconds", "From a request's header to the answer's end.")
        self._first = self._histogram("edgeq_time_to_first_token_seconds", "From submission to the first token.")
        self._waited = self._histogram("edgeq_queue_seconds", "From submission to the start.")
        self._each = self._histogram(
            "edgeq_time_per_token_seconds", "Between tokens, a request's mean.", _TOKEN_SECONDS
        )
        self._search = self._histogram(
            "edgeq_search_seconds", "From a query's vector to the images that were found.", _SEARCH_SECONDS
        )
        self._registry.register(_Figures(served, traffic))
        self._registry.register(_Machine(root))
        ProcessCollector(registry=self._registry)

    def _histogram(self, name: str, told: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
        return Histogram(name, told, buckets=buckets, registry=self._registry)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count one request.

        Args:
            path: of the request, or one word for all unknown ones.
            status: of HTTP.
            seconds: from the request's header to the answer's end.
        """
        self._requests.labels(path, str(status)).inc()
        self._seconds.observe(seconds)

    def said(self, usage: Usage) -> None:
        """Count one answer of the language model."""
        self._waited.observe(usage.queue_seconds)
        if usage.answer_tokens:
            self._first.observe(usage.first_token_seconds)
        if usage.answer_tokens > 1:
            self._each.observe((usage.seconds - usage.first_token_seconds) / (usage.answer_tokens - 1))

    def searched(self, seconds: float) -> None:
        """Count one search in the index, without the time of the query's encoder."""
        self._search.observe(seconds)

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self._registry)


class _Figures(Collector):
    """What the runtime counts, and what is known of the bundle."""

    def __init__(self, served: ServedModel, traffic: InFlight) -> None:
        self._served = served
        self._traffic = traffic

    def collect(self) -> Iterator[Metric]:
        yield _gauge("edgeq_http_requests_in_flight", "Requests that are being answered.", self._traffic.active)
        yield _gauge("edgeq_draining", "1 while no new requests are taken.", float(self._traffic.draining))
        yield self._bundle()
        yield from self._canaries()
        if self._served.talk is not None:
            yield from _talk(self._served.talk.snapshot())
        if self._served.seeing is not None:
            yield from _seeing(self._served.seeing.figures)
        if self._served.retrieval is not None:
            yield from _retrieval(self._served.retrieval)

    def _bundle(self) -> Metric:
        labels = {
            "edgeq": __version__,
            "model": self._served.name,
            "kind": self._served.manifest.kind,
            "digest": self._served.digest,
            "backend": self._served.backend,
        }
        return _labelled("edgeq_bundle_info", "What is served.", [(labels, 1.0)])

    def _canaries(self) -> Iterator[Metric]:
        report = self._served.canaries
        if report is None:
            return
        yield _gauge(
            "edgeq_canaries_passed", "1 where the engine computes what the workshop saw.", float(report.passed)
        )
        if isinstance(report, RetrievalCheck):
            worst = min(report.text_cosine, report.image_cosine)
            yield _gauge("edgeq_canary_worst_cosine", "The canaries' lowest cosine to the reference.", worst)
            return
        failing = sum(1 for canary in report.canaries if canary.failure)
        counted: list[tuple[dict[str, str], float]] = [
            ({"result": "failed"}, failing),
            ({"result": "passed"}, len(report.canaries) - failing),
        ]
        yield _labelled("edgeq_canaries", "Canaries at the start, by result.", counted)
        cosines = [canary.parity.worst_cosine for canary in report.canaries if canary.parity is not None]
        if cosines:
            yield _gauge("edgeq_canary_worst_cosine", "The canaries' lowest cosine to the reference.", min(cosines))


def _talk(now: Snapshot) -> Iterator[Metric]:
    """A vision-language model's figures."""
    yield _gauge("edgeq_slots", "Requests that can be served at once.", now.slots)
    yield _gauge("edgeq_requests_running", "Requests being served.", now.active)
    yield _gauge("edgeq_requests_queued", "Requests waiting.", now.queued)
    yield _gauge("edgeq_held", "1 while nothing starts, because too little memory is free.", float(now.held))
    yield _count("edgeq_requests_submitted", "Requests that came to the model.", now.submitted)
    yield _labelled("edgeq_requests_ended", "Requests by how they ended.", _by("reason", now.ended), counts=True)
    yield _count("edgeq_prompt_tokens", "Prompt tokens, read or reused.", now.prompt_tokens)
    yield _count("edgeq_prompt_tokens_cached", "Of these, reused: an earlier request had read them.", now.cached_tokens)
    yield _count("edgeq_answer_tokens", "Tokens said.", now.answer_tokens)
    yield _count("edgeq_decode_steps", "Decode steps.", now.steps)
    yield _labelled("edgeq_cuda_graphs_info", "How decode steps run.", [({"state": now.cuda_graphs}, 1.0)])
    kv = {"allocated": now.kv_bytes, "used": now.kv_used_bytes, "reserved": now.kv_reserved_bytes}
    yield _labelled("edgeq_kv_bytes", "Bytes of keys and values.", _by("state", kv))
    yield _gauge("edgeq_context_tokens", "Tokens of a request at most, answer included.", now.context)
    yield _gauge(
        "edgeq_context_used_ratio", "Of these, what the longest running request has.", now.longest / now.context
    )
    yield _gauge("edgeq_reserved_bytes", "Features and activations reserved for running requests.", now.reserved_bytes)
    yield _gauge("edgeq_limit_bytes", "What requests and caches may take together, now.", now.limit_bytes)
    yield from _caches({"features": now.features, "prefixes": now.prefixes})


def _caches(caches: dict[str, CacheFigures]) -> Iterator[Metric]:
    for what, told in (("hits", "found"), ("misses", "not found"), ("evicted", "given up")):
        counts = {name: getattr(figures, what) for name, figures in caches.items()}
        yield _labelled(f"edgeq_cache_{what}", f"Entries {told}.", _by("cache", counts), counts=True)
    held = {name: figures.bytes for name, figures in caches.items()}
    yield _labelled("edgeq_cache_bytes", "Bytes in a cache.", _by("cache", held))


def _seeing(now: VisionWorkerFigures) -> Iterator[Metric]:
    """A vision graph's figures."""
    yield _gauge("edgeq_requests_running", "Requests being served.", now.running)
    yield _gauge("edgeq_requests_queued", "Requests waiting.", now.waiting)
    yield _count("edgeq_images", "Images that were looked at, or taken back.", now.ended)


def _retrieval(served: ServedRetrieval) -> Iterator[Metric]:
    """A two-tower model's figures."""
    now = served.workers.figures
    batches = {"text": now.text_batches, "image": now.image_batches}
    running = {tower: each.running for tower, each in batches.items()}
    waiting = {tower: each.waiting for tower, each in batches.items()}
    yield _labelled("edgeq_requests_running", "Requests being served.", _by("encoder", running))
    yield _labelled("edgeq_requests_queued", "Requests waiting.", _by("encoder", waiting))
    yield _count("edgeq_embedded_texts", "Texts that were asked for, those of the cache included.", now.texts)
    yield _count("edgeq_embedded_images", "Images that were asked for.", now.images)
    runs = {tower: each.batches for tower, each in batches.items()}
    rows = {tower: each.rows for tower, each in batches.items()}
    yield _labelled("edgeq_batches", "Batches of an encoder.", _by("encoder", runs), counts=True)
    yield _labelled("edgeq_batch_size_sum", "Texts or images in all of them.", _by("encoder", rows), counts=True)
    ended = {tower: each.ended for tower, each in batches.items()}
    waited = {tower: each.waited_s for tower, each in batches.items()}
    yield _labelled(
        "edgeq_encoder_requests", "Requests that an encoder is done with.", _by("encoder", ended), counts=True
    )
    yield _labelled("edgeq_encoder_wait_seconds", "Seconds that they waited.", _by("encoder", waited), counts=True)
    yield from _caches({"texts": now.cache})
    if served.catalog is not None:
        yield _count("edgeq_searches", "Searches in the index.", served.catalog.searches)
        yield _gauge("edgeq_index_rows", "Images of the catalog, those gone since included.", served.catalog.rows)


class _Machine(Collector):
    """Memory, temperatures, power and power mode, as far as this machine tells them."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def collect(self) -> Iterator[Metric]:
        try:
            device = probe(self._root)
            yield _gauge("edgeq_memory_available_bytes", "Memory that can still be had.", device.budget_bytes)
            yield _gauge("edgeq_memory_total_bytes", "Memory of this machine or its control group.", device.total_bytes)
        except InputError:
            pass
        zones = [({"zone": zone.name}, zone.celsius) for zone in read_zones(self._root)]
        if zones:
            yield _labelled("edgeq_temperature_celsius", "Temperatures.", zones)
        rails = [({"rail": rail.name}, rail.watts) for rail in read_rails(self._root)]
        if rails:
            yield _labelled("edgeq_power_watts", "Power of a rail; some are part of others.", rails)
        power = read_power(self._root)
        if power is not None:
            mode = {"mode": "" if power.mode is None else str(power.mode), "name": power.name or ""}
            yield _labelled("edgeq_power_mode_info", "The power mode of a Jetson.", [(mode, 1.0)])


def _by(label: str, values: Mapping[str, float]) -> list[tuple[dict[str, str], float]]:
    return [({label: key}, float(value)) for key, value in values.items()]


def _gauge(name: str, told: str, value: float) -> Metric:
    return GaugeMetricFamily(name, told, value=value)


def _count(name: str, told: str, value: float) -> Metric:
    return CounterMetricFamily(name, told, value=value)


def _labelled(name: str, told: str, values: list[tuple[dict[str, str], float]], *, counts: bool = False) -> Metric:
    """One sample for each set of labels; all sets have the same keys."""
    family = (CounterMetricFamily if counts else GaugeMetricFamily)(
        name, told, labels=list(values[0][0]) if values else []
    )
    for labels, value in values:
        family.add_metric(list(labels.values()), value)
    return family
