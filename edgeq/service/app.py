"""The service as an ASGI application: every path, and what stands behind it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from edgeq.service.access import Access
from edgeq.service.asking import Asking
from edgeq.service.chat import Chat
from edgeq.service.faults import RequestError
from edgeq.service.fetch import Fetcher
from edgeq.service.forms import Health, Model, ModelList
from edgeq.service.front import Front
from edgeq.service.inspecting import Inspecting
from edgeq.service.intake import Intake, body_limit
from edgeq.service.looking import Looking
from edgeq.service.metrics import CONTENT_TYPE, Metrics
from edgeq.service.openapi import describe
from edgeq.service.pictures import PictureLimits, Pictures
from edgeq.service.served import Served
from edgeq.service.settings import ServiceSettings
from edgeq.service.traffic import Traffic

__all__ = ["Service", "make_service"]

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Service:
    """A service that is ready to be run.

    Attributes:
        app: the application.
        served: the bundle behind it.
        traffic: requests under way.
    """

    app: Front
    served: Served
    traffic: Traffic


def make_service(
    served: Served, settings: ServiceSettings, token: str | None = None, *, fetcher: Fetcher | None = None
) -> Service:
    """Join everything.

    Args:
        served: the bundle.
        settings: limits and times.
        token: that requests must bring; None for none.
        fetcher: gets images from other hosts; by default from those of the settings.
    """
    traffic = Traffic()
    metrics = Metrics(served, traffic)
    limits = PictureLimits(settings.image_bytes, settings.image_pixels)
    fetcher = fetcher or Fetcher(settings.image_hosts, settings.image_bytes, settings.body_seconds)
    pictures = Pictures(limits, fetcher)
    intake = Intake(body_limit(settings.image_bytes), settings.body_seconds)
    handlers = _open_paths(served, metrics, traffic) | _model_paths(served, settings, pictures, intake, metrics)
    description = describe(served, token is not None)
    handlers["GET", "/openapi.json"] = partial(_text, lambda: description, "application/json")
    routes = [Route(path, _Endpoint(handler), methods=[method]) for (method, path), handler in handlers.items()]
    front = Front(
        Router(routes, redirect_slashes=False), [path for _, path in handlers], Access(token), traffic, metrics
    )
    return Service(front, served, traffic)


Handlers = dict[tuple[str, str], Handler]


def _model_paths(
    served: Served, settings: ServiceSettings, pictures: Pictures, intake: Intake, metrics: Metrics
) -> Handlers:
    """Paths that answer with the model; which of them do depends on the bundle."""
    looking = Looking(served, pictures, intake, settings.request_seconds)
    found: Handlers = {("POST", "/v1/classify"): looking.classify, ("POST", "/v1/embed"): looking.embed}
    if served.talk is None:
        refuse = partial(_no_answers, served)
        return found | {("POST", "/v1/chat/completions"): refuse, ("POST", "/v1/inspect"): refuse}
    asking = Asking(served.talk, pictures, metrics, settings.request_seconds)
    return found | {
        ("POST", "/v1/chat/completions"): Chat(served, asking, intake, settings.body_seconds),
        ("POST", "/v1/inspect"): Inspecting(served, asking, intake),
    }


def _open_paths(served: Served, metrics: Metrics, traffic: Traffic) -> Handlers:
    """Paths that tell of the service itself."""
    model = Model(id=served.name, created=served.created, kind=served.manifest.kind, digest=served.digest)
    return {
        ("GET", "/v1/models"): partial(_text, ModelList(data=(model,)).model_dump_json, "application/json"),
        ("GET", "/v1/models/{model:path}"): partial(_one_model, served, model),
        ("GET", "/health/live"): partial(_live, served),
        ("GET", "/health/ready"): partial(_ready, served, traffic),
        ("GET", "/metrics"): partial(_text, metrics.text, CONTENT_TYPE),
    }


class _Endpoint:
    """Starlette hands a request to functions, and the raw exchange to everything else: this makes them alike."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._handler(Request(scope, receive))
        await response(scope, receive, send)


async def _text(make: Callable[[], str | bytes], media_type: str, _request: Request) -> Response:
    return Response(make(), media_type=media_type)


async def _one_model(served: Served, model: Model, request: Request) -> Response:
    served.check_name(request.path_params["model"])
    return Response(model.model_dump_json(), media_type="application/json")


async def _no_answers(served: Served, _request: Request) -> Response:
    raise RequestError(404, "no_answers", f"this bundle is a {served.manifest.kind}'s: it answers no questions")


async def _live(served: Served, _request: Request) -> Response:
    alive = served.alive
    health = Health(status="ok") if alive else Health(status="failing", reason="the model's worker has ended")
    return Response(health.model_dump_json(), 200 if alive else 503, media_type="application/json")


async def _ready(served: Served, traffic: Traffic, _request: Request) -> Response:
    health = Health(status="ok")
    if traffic.draining:
        health = Health(status="draining", reason="the service is stopping")
    elif not served.alive:
        health = Health(status="failing", reason="the model's worker has ended")
    return Response(health.model_dump_json(), 200 if health.status == "ok" else 503, media_type="application/json")
