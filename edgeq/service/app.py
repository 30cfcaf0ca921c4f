"""The service as an ASGI application: every path, and what stands behind it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from edgeq.confined.pool import Pool
from edgeq.model.images.confined_decode import DECODER, ConfinedDecoder
from edgeq.service.http.access import Access
from edgeq.service.http.connections import Connections, descriptor_room
from edgeq.service.http.errors import RequestError
from edgeq.service.http.in_flight import AT_ONCE, InFlight
from edgeq.service.http.middleware import Middleware
from edgeq.service.http.request_body import RequestBodies, body_limit
from edgeq.service.metrics import CONTENT_TYPE, Metrics
from edgeq.service.pages.page import page_files
from edgeq.service.routes.chat import Chat
from edgeq.service.routes.decode_room import DecodeRoom, decode_budget
from edgeq.service.routes.embedder import Embedder
from edgeq.service.routes.fetch import Fetcher
from edgeq.service.routes.image_input import DECODED_AT_ONCE, ImageInputs, ImageLimits
from edgeq.service.routes.inspect_route import InspectRoute
from edgeq.service.routes.openapi import describe
from edgeq.service.routes.pixel_routes import PixelRoutes
from edgeq.service.routes.retrieval_routes import RetrievalRoutes
from edgeq.service.routes.schemas import Health, Model, ModelList
from edgeq.service.routes.submit import Submitter
from edgeq.service.routes.thumbnails import Thumbnails
from edgeq.service.routes.vision_routes import VisionRoutes
from edgeq.service.served_model import OTHER_NAME, ServedModel
from edgeq.service.settings import ServiceSettings

__all__ = ["Service", "make_service"]

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Service:
    """A service that is ready to be run.

    Attributes:
        app: the application.
        served: the bundle behind it.
        traffic: requests under way.
        connections: that are open.
        children: its own, in which images are decoded, to be closed at the end; None where they are another's.
        access: who may ask.
    """

    app: Middleware
    served: ServedModel
    traffic: InFlight
    connections: Connections
    children: Pool | None
    access: Access


def make_service(
    served: ServedModel,
    settings: ServiceSettings,
    token: str | Sequence[str] | None = None,
    *,
    fetcher: Fetcher | None = None,
    children: Pool | None = None,
) -> Service:
    """Join everything.

    Args:
        served: the bundle.
        settings: limits and times.
        token: that requests must bring, or several, of which they must bring one; None for none.
        fetcher: gets images from other hosts; by default from those of the settings.
        children: in which images are decoded; by default some of its own.
    """
    served = replace(served, strict_model=settings.strict_model)
    pool = children or Pool(DECODED_AT_ONCE, [DECODER])
    pool.start()
    decoder = ConfinedDecoder(pool)
    tokens = (token,) if isinstance(token, str) else tuple(token or ())
    connections = Connections(
        descriptor_room(settings.connections), settings.connections_per_address, [str(one) for one in settings.proxies]
    )
    traffic = InFlight(
        min(AT_ONCE, descriptor_room(settings.connections) // 2), settings.requests_per_token(len(tokens))
    )
    metrics = Metrics(served, traffic)
    limits = ImageLimits(settings.image_bytes, settings.image_pixels, settings.images_bytes, settings.images_pixels)
    fetcher = fetcher or Fetcher(settings.image_hosts, settings.image_bytes, settings.body_seconds)
    pictures = ImageInputs(limits, fetcher, DecodeRoom(decode_budget(settings)), decoder.decode)
    intake = RequestBodies(body_limit(settings.images_bytes), settings.body_seconds, traffic=traffic)
    handlers = _open_paths(served, settings, metrics, traffic) | _model_paths(
        served, settings, pictures, intake, metrics, decoder
    )
    page = page_files() if settings.page else {}
    handlers.update({("GET", path): file for path, file in page.items()})
    description = describe(served, bool(tokens))
    handlers["GET", "/openapi.json"] = partial(_text, lambda: description, "application/json")
    routes = [Route(path, _Endpoint(path, handler), methods=[method]) for (method, path), handler in handlers.items()]
    access = Access(tokens, page)
    front = Middleware(Router(routes, redirect_slashes=False), [path for _, path in handlers], access, traffic, metrics)
    return Service(front, served, traffic, connections, None if children else pool, access)


Handlers = dict[tuple[str, str], Handler]


def _model_paths(
    served: ServedModel,
    settings: ServiceSettings,
    pictures: ImageInputs,
    intake: RequestBodies,
    metrics: Metrics,
    decoder: ConfinedDecoder,
) -> Handlers:
    """Paths that answer with the model; which of them do depends on the bundle."""
    looking = VisionRoutes(served, pictures, intake, settings.request_seconds)
    pixels = PixelRoutes(served, looking)
    finding = _retrieval_routes(served, settings, pictures, intake, metrics)
    found: Handlers = {
        ("POST", "/v1/classify"): looking.classify,
        ("POST", "/v1/embed"): looking.embed,
        ("POST", "/v1/detect"): pixels.detect,
        ("POST", "/v1/segment"): pixels.segment,
        ("POST", "/v1/embeddings"): finding.embeddings,
        ("POST", "/v1/search"): finding.search,
        ("GET", "/v1/search/images/{row}"): Thumbnails(
            served.retrieval.catalog if served.retrieval is not None else None,
            queue=settings.queue,
            seconds=settings.request_seconds,
            decode=decoder.decode,
        ),
    }
    if served.talk is None:
        refuse = partial(_no_answers, served)
        return found | {("POST", "/v1/chat/completions"): refuse, ("POST", "/v1/inspect"): refuse}
    asking = Submitter(served.talk, pictures, metrics, settings.request_seconds)
    return found | {
        ("POST", "/v1/chat/completions"): Chat(
            served, asking, intake, timeout=settings.body_seconds, max_images=_max_images(served, settings)
        ),
        ("POST", "/v1/inspect"): InspectRoute(served, asking, intake),
    }


def _retrieval_routes(
    served: ServedModel, settings: ServiceSettings, pictures: ImageInputs, intake: RequestBodies, metrics: Metrics
) -> RetrievalRoutes:
    """Those of a two-tower bundle; of any other, their answer is 404."""
    embedder = catalog = None
    if served.retrieval is not None:
        embedder = Embedder(served.retrieval.workers, pictures, settings.request_seconds, _max_images(served, settings))
        catalog = served.retrieval.catalog
    return RetrievalRoutes(served, embedder, catalog, intake, queue=settings.queue, searched=metrics.searched)


def _max_images(served: ServedModel, settings: ServiceSettings) -> int:
    """Images of one request: what the settings allow, or what the model takes if that is less."""
    return settings.max_images if served.most_images is None else min(settings.max_images, served.most_images)


def _open_paths(served: ServedModel, settings: ServiceSettings, metrics: Metrics, traffic: InFlight) -> Handlers:
    """Paths that tell of the service itself."""
    model = Model(
        id=served.name,
        created=served.created,
        kind=served.manifest.kind,
        digest=served.digest,
        max_model_len=served.context,
        max_images=None if served.seeing is not None else _max_images(served, settings),
    )
    return {
        ("GET", "/v1/models"): partial(_text, ModelList(data=(model,)).model_dump_json, "application/json"),
        ("GET", "/v1/models/{model:path}"): partial(_one_model, served, model),
        ("GET", "/health/live"): partial(_live, served),
        ("GET", "/health/ready"): partial(_ready, served, traffic),
        ("GET", "/metrics"): partial(_text, metrics.text, CONTENT_TYPE),
    }


class _Endpoint:
    """Starlette hands a request to functions, and the raw exchange to everything else: this makes them alike."""

    def __init__(self, path: str, handler: Handler) -> None:
        self._path = path
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["edgeq.path"] = self._path
        response = await self._handler(Request(scope, receive))
        if OTHER_NAME in scope:
            response.headers["X-Served-Model"] = scope[OTHER_NAME]
        await response(scope, receive, send)


async def _text(make: Callable[[], str | bytes], media_type: str, _request: Request) -> Response:
    return Response(make(), media_type=media_type)


async def _one_model(served: ServedModel, model: Model, request: Request) -> Response:
    served.check_name(request.path_params["model"])
    return Response(model.model_dump_json(), media_type="application/json")


async def _no_answers(served: ServedModel, _request: Request) -> Response:
    raise RequestError(404, "no_answers", f"this bundle is a {served.manifest.kind}'s: it answers no questions")


async def _live(served: ServedModel, _request: Request) -> Response:
    alive = served.alive
    health = Health(status="ok") if alive else Health(status="failing", reason="the model's worker has ended")
    return Response(health.model_dump_json(), 200 if alive else 503, media_type="application/json")


async def _ready(served: ServedModel, traffic: InFlight, _request: Request) -> Response:
    health = Health(status="ok")
    if traffic.draining:
        health = Health(status="draining", reason="the service is stopping")
    elif not served.alive:
        health = Health(status="failing", reason="the model's worker has ended")
    elif served.talk is not None and served.talk.snapshot().cuda_graphs == "failed":
        health = Health(status="ok", reason="no CUDA graph could be captured: decode steps run kernel by kernel")
    return Response(health.model_dump_json(), 200 if health.status == "ok" else 503, media_type="application/json")
