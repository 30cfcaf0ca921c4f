"""`POST /v1/embeddings` and `/v1/search`: texts and images to vectors, and to the images of a catalog."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import numpy as np
from anyio import CapacityLimiter, to_thread
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from edgeq.catalog.searched import FoundRow
from edgeq.errors import InputError
from edgeq.runtime.scheduler.errors import BusyError
from edgeq.service.http.errors import RequestError
from edgeq.service.http.request_body import RequestBodies
from edgeq.service.routes.embedder import Embedded, Embedder
from edgeq.service.routes.retrieval_schema import (
    EmbeddedInput,
    EmbeddingsRequest,
    EmbeddingsResponse,
    EmbeddingsUsage,
    Item,
    SearchedImage,
    SearchRequest,
    SearchResponse,
)
from edgeq.service.served_model import ServedModel
from edgeq.service.served_retrieval import ServedCatalog

__all__ = ["RetrievalRoutes"]

_SEARCHES_AT_ONCE: Final = 2

_FEW: Final = 2048
"""Numbers that are written faster than a thread is woken for it."""


class RetrievalRoutes:
    """Embeds and searches.

    Args:
        served: the bundle.
        embedder: of it; None for a bundle of another kind, where both answers are 404.
        catalog: that is searched; None where none is.
        intake: reads bodies.
        queue: searches that may wait.
        searched: told the seconds of each search.
    """

    def __init__(
        self,
        served: ServedModel,
        embedder: Embedder | None,
        catalog: ServedCatalog | None,
        intake: RequestBodies,
        *,
        queue: int,
        searched: Callable[[float], None],
    ) -> None:
        self._served = served
        self._embedder = embedder
        self._catalog = catalog
        self._intake = intake
        self._queue = queue
        self._searched = searched
        self._turns = CapacityLimiter(_SEARCHES_AT_ONCE)

    async def embeddings(self, request: Request) -> Response:
        """Turn texts and images into vectors.

        Raises:
            RequestError: 404 the bundle is of another kind, 422 vectors of another length are asked for, or what
                `Embedder` raises.
            EdgeqError: the encoders refuse, or fail.
        """
        embedder = self._embeds()
        with self._intake.room(request):
            asked = await self._intake.parse(request, EmbeddingsRequest)
            self._served.take_name(request, asked.model)
            if asked.dimensions not in (None, embedder.dimension):
                told = f"this model's vectors have {embedder.dimension} numbers, and are not cut"
                raise RequestError(422, "dimensions", told, param="dimensions")
            submitted = await embedder.submit(request, asked.items, _places(asked))
        encoded = asked.encoding_format == "base64"

        async def write(made: Embedded) -> str:
            if made.vectors.size <= _FEW:
                return _written(self._served.name, made, encoded)
            return await to_thread.run_sync(_written, self._served.name, made, encoded)

        return Response(await embedder.result(request, submitted, write), media_type="application/json")

    async def search(self, request: Request) -> Response:
        """Find the images of the catalog that suit a text or an image.

        Raises:
            RequestError: 404 the bundle is of another kind, or no catalog is searched, 422 the catalog has no such
                column, or what `Embedder` raises.
            EdgeqError: the encoders refuse, or fail; or too many searches wait.
        """
        embedder = self._embeds()
        if self._catalog is None:
            raise RequestError(
                404, "no_index", "no catalog is searched here: start the service with --index, or the setting index"
            )
        with self._intake.room(request):
            asked = await self._intake.parse(request, SearchRequest)
            self._served.take_name(request, asked.model)
            items: tuple[Item, ...] = (asked.query,)
            submitted = await embedder.submit(request, items, ("query",))
        catalog = self._catalog

        async def look(made: Embedded) -> tuple[FoundRow, ...]:
            work = partial(self._look, catalog, made.vectors[0], asked)
            return await to_thread.run_sync(work, limiter=self._checked_turns())

        found = await embedder.result(request, submitted, look)
        answer = SearchResponse(model=self._served.name, results=tuple(map(_searched_image, found)))
        return Response(answer.model_dump_json(), media_type="application/json")

    def _embeds(self) -> Embedder:
        if self._embedder is None:
            told = f"this bundle is a {self._served.manifest.kind} model's: it embeds no texts, and searches nothing"
            raise RequestError(404, "no_embeddings", told)
        return self._embedder

    def _checked_turns(self) -> CapacityLimiter:
        """Searches take turns, and not too many may wait; raises BusyError."""
        if self._turns.statistics().tasks_waiting >= max(self._queue, 1):
            raise BusyError(1)
        return self._turns

    def _look(self, catalog: ServedCatalog, query: NDArray[np.float32], asked: SearchRequest) -> tuple[FoundRow, ...]:
        start = time.monotonic()
        try:
            return catalog.near(query, asked.k, asked.only)
        except InputError as error:
            raise RequestError(422, "not_answerable", error.what, param="filter") from error
        finally:
            self._searched(time.monotonic() - start)


def _places(asked: EmbeddingsRequest) -> Sequence[str]:
    """Of each input in the body."""
    return [f"input.{row}" for row in range(len(asked.items))] if isinstance(asked.input, list) else ("input",)


def _written(model: str, made: Embedded, encoded: bool) -> str:
    """The answer as JSON; in base64 with the bytes of float32, little-endian, as OpenAI's are."""
    rows = made.vectors.astype("<f4", copy=False)
    data = tuple(
        EmbeddedInput(index=index, embedding=base64.b64encode(row.tobytes()).decode() if encoded else row.tolist())
        for index, row in enumerate(rows)
    )
    usage = EmbeddingsUsage(prompt_tokens=made.tokens, total_tokens=made.tokens)
    return EmbeddingsResponse(data=data, model=model, usage=usage).model_dump_json()


def _searched_image(found: FoundRow) -> SearchedImage:
    columns = dict(found.columns)
    return SearchedImage(image_path=columns.pop("image_path"), score=found.score, row=found.row, columns=columns)
