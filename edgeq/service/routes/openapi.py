"""`/openapi.json`: what this service really does, described by the same models that it reads and writes.

Only paths that the served bundle can answer are in it.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from PIL import Image
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from edgeq import __version__
from edgeq.runtime.scheduler.errors import ContextError
from edgeq.service.http.errors import ErrorBody, as_request_error
from edgeq.service.report import Report
from edgeq.service.routes.chat_answers import Completion, CompletionChunk
from edgeq.service.routes.chat_schema import ChatRequest
from edgeq.service.routes.retrieval_schema import (
    EmbeddingsRequest,
    EmbeddingsResponse,
    SearchRequest,
    SearchResponse,
)
from edgeq.service.routes.schemas import (
    ClassifyRequest,
    ClassifyResponse,
    DetectRequest,
    DetectResponse,
    Embeddings,
    EmbedRequest,
    Health,
    InspectRequest,
    Model,
    ModelList,
    SegmentRequest,
    SegmentResponse,
)
from edgeq.service.served_model import ServedModel

__all__ = ["describe"]

_REFERENCE: Final = "#/components/schemas/{model}"

_STATUSES: Final = {
    400: "The request is not of the form that is described here, or its JSON schema cannot be followed.",
    401: "The bearer token is missing, or another one.",
    404: "There is no such model or row here.",
    408: "The body came too slowly, or the answer took too long.",
    413: "The body, an image, all images together, the conversation, or the memory for an answer is too large.",
    415: "The body is not JSON, or the image is of a kind that is not read.",
    422: "An image cannot be decoded, there are too many, or the question cannot be asked.",
    429: "Too much is under way: come again after the seconds in Retry-After.",
    500: "The service failed on this request.",
    503: "The service is stopping.",
}
_POSTED: Final = (400, 404, 408, 413, 415, 422, 429, 500, 503)
_ASKED: Final = (400, 429, 500, 503)
_TOO_LONG: Final = as_request_error(ContextError(4_700, 4_608, 4_096)).body
"""What a client is told whose conversation has outgrown the context."""


@dataclass(frozen=True)
class _Way:
    """One way to ask.

    Attributes:
        method, path: of HTTP.
        told: what it does, in a sentence.
        answer: model of the answer, or a media type.
        takes: model of the body.
        example: of the body, without the model's name.
        pieces: model of a server-sent event, where the answer can be streamed.
        statuses: of errors.
        faults: examples of errors, by their status.
        parameter: in the path, with its schema and an example.
    """

    method: str
    path: str
    told: str
    answer: type[BaseModel] | str
    takes: type[BaseModel] | None = None
    example: Mapping[str, Any] | None = None
    pieces: type[BaseModel] | None = None
    statuses: Sequence[int] = _ASKED
    faults: Mapping[int, ErrorBody] = field(default_factory=dict)
    parameter: Mapping[str, Any] | None = None


def describe(served: ServedModel, token: bool) -> str:
    """The description as JSON, OpenAPI 3.1.

    Args:
        served: the bundle.
        token: requests must bring one.
    """
    ways = _ways(served)
    models = _models(ways)
    references, definitions = models_json_schema(models, ref_template=_REFERENCE)
    schemas: dict[type[BaseModel], Any] = {model: references[model, mode] for model, mode in models}
    paths: dict[str, Any] = {}
    for way in ways:
        paths.setdefault(way.path, {})[way.method] = _operation(way, schemas, served.name, token)
    components: dict[str, Any] = {"schemas": definitions["$defs"]}
    for way in ways:
        if way.takes is not None:
            _say_name(definitions["$defs"][way.takes.__name__], served)
    if token:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    return json.dumps(
        {
            "openapi": "3.1.0",
            "info": {"title": "edgeq", "version": __version__, "summary": "A bundle on this device."},
            "paths": paths,
            "components": components,
        }
    )


def _say_name(schema: dict[str, Any], served: ServedModel) -> None:
    """Of all names that a request's form lets pass, one is the model's; where names are strict, it is the only one."""
    found = schema["properties"]["model"]
    found.setdefault("description", "As /v1/models names it; another name is told of in X-Served-Model.")
    if served.strict_model:
        kinds = found.pop("anyOf", [found])
        found.update(enum=[served.name, *([None] if {"type": "null"} in kinds else [])])


def _ways(served: ServedModel) -> tuple[_Way, ...]:
    """All ways that lead somewhere."""
    image = _small_image()
    told: list[_Way] = []
    if served.talk is not None:
        asked = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": served.phrases.question}]
        chat = {"messages": [{"role": "user", "content": asked}], "max_tokens": 2}
        told += [
            _Way(
                *("post", "/v1/chat/completions", "Ask about images, or without any."),
                answer=Completion,
                takes=ChatRequest,
                example=chat,
                pieces=CompletionChunk,
                statuses=_POSTED,
                faults={413: _TOO_LONG},
            ),
            _posted("/v1/inspect", "Report on an image.", InspectRequest, Report, {"image": image, "max_tokens": 2}),
        ]
    elif served.retrieval is not None:
        both: list[Any] = ["a red car", {"type": "image_url", "image_url": {"url": image}}]
        vectors = "Turn texts and images into vectors of one space."
        told.append(_posted("/v1/embeddings", vectors, EmbeddingsRequest, EmbeddingsResponse, {"input": both}))
        if served.retrieval.catalog is not None:
            found = "Find images by a text or an image."
            told.append(_posted("/v1/search", found, SearchRequest, SearchResponse, {"query": "a red car", "k": 3}))
            told.append(
                _Way(
                    *("get", "/v1/search/images/{row}", "A small picture of what was found."),
                    answer="image/jpeg",
                    statuses=(*_ASKED, 404, 408),
                    parameter={"name": "row", "schema": {"type": "integer", "minimum": 0}, "example": 0},
                )
            )
    elif served.manifest.task == "detect":
        objects = "Find objects on an image."
        told.append(_posted("/v1/detect", objects, DetectRequest, DetectResponse, {"image": image, "score": 0.5}))
    elif served.manifest.task == "segment":
        told.append(
            _posted("/v1/segment", "Give each pixel a class.", SegmentRequest, SegmentResponse, {"image": image})
        )
    else:
        told += [_posted("/v1/classify", "Name an image.", ClassifyRequest, ClassifyResponse, {"image": image})]
        if not served.manifest.labels:
            vector = _posted("/v1/embed", "Turn an image into a vector.", EmbedRequest, Embeddings, {"image": image})
            told.append(vector)
    return (
        *told,
        _Way("get", "/v1/models", "The model that is served.", ModelList),
        _Way(
            "get",
            "/v1/models/{model}",
            "The model, if it is the one.",
            Model,
            statuses=(*_ASKED, 404),
            parameter={"name": "model", "schema": {"type": "string", "minLength": 1}, "example": served.name},
        ),
        _Way("get", "/metrics", "Metrics for Prometheus.", "text/plain"),
        _Way("get", "/openapi.json", "This description.", "application/json"),
        _Way("get", "/health/live", "Whether the service can still answer.", Health, statuses=()),
        _Way("get", "/health/ready", "Whether it takes requests now.", Health, statuses=()),
    )


def _posted(path: str, told: str, takes: type[BaseModel], answer: type[BaseModel], example: Mapping[str, Any]) -> _Way:
    return _Way("post", path, told, answer, takes, example, statuses=_POSTED)


def _models(ways: Sequence[_Way]) -> list[tuple[type[BaseModel], JsonSchemaMode]]:
    """Every model, as it is read or as it is written."""
    read = {way.takes for way in ways if way.takes is not None}
    written = {model for way in ways for model in (way.answer, way.pieces) if isinstance(model, type)} | {ErrorBody}
    named = sorted(read | written, key=lambda model: model.__name__)
    return [(model, "validation" if model in read else "serialization") for model in named]


def _operation(
    way: _Way, schemas: Mapping[type[BaseModel], Mapping[str, Any]], name: str, token: bool
) -> dict[str, Any]:
    health = way.path.startswith("/health/")
    found: dict[str, Any] = {"summary": way.told, "responses": {"200": _answered(way, schemas)}}
    for status in (*way.statuses, *((401,) if token and not health else ())):
        found["responses"][str(status)] = _failed(status, schemas[ErrorBody], way.faults.get(status))
    if health:
        found["responses"]["503"] = {**_answered(way, schemas), "description": "It does not, and says why."}
    if token and not health:
        found["security"] = [{"token": []}]
    if way.takes is not None:
        media = {"schema": schemas[way.takes], "example": {"model": name, **(way.example or {})}}
        found["requestBody"] = {"required": True, "content": {"application/json": media}}
    if way.parameter is not None:
        found["parameters"] = [{**way.parameter, "in": "path", "required": True}]
    return found


def _answered(way: _Way, schemas: Mapping[type[BaseModel], Mapping[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any]
    if isinstance(way.answer, str):
        content = {way.answer: {"schema": {"type": "object" if "json" in way.answer else "string"}}}
    else:
        content = {"application/json": {"schema": schemas[way.answer]}}
    if way.pieces is not None:
        content["text/event-stream"] = {"schema": {"type": "string"}, "x-each-event": schemas[way.pieces]}
    headers = _HEADERS if way.takes is None else _HEADERS | _OTHER_NAME
    return {"description": way.told, "headers": headers, "content": content}


_HEADERS: Final = {"X-Request-Id": {"description": "Stands in the log too.", "schema": {"type": "string"}}}
_OTHER_NAME: Final = {
    "X-Served-Model": {"description": "The model, where another was asked for.", "schema": {"type": "string"}}
}


def _failed(status: int, schema: Mapping[str, Any], example: ErrorBody | None) -> dict[str, Any]:
    found: dict[str, Any] = {"description": _STATUSES[status], "headers": dict(_HEADERS)}
    if status in (429, 503):
        found["headers"]["Retry-After"] = {"description": "In seconds.", "schema": {"type": "string"}}
    media = {"schema": schema} if example is None else {"schema": schema, "example": example.model_dump()}
    return {**found, "content": {"application/json": media}}


def _small_image() -> str:
    """A grey picture of 8 x 8 pixels as a data URI."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (128, 128, 128)).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
