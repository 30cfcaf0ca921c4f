"""Between a request and the encoders: bounds before any work, then texts and images to vectors in the order given."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import numpy as np
from anyio import to_thread
from numpy.typing import NDArray
from starlette.requests import Request

from edgeq.errors import ImageError
from edgeq.runtime.retrieval.workers import RetrievalWorkers
from edgeq.runtime.vlm.api import EncodedImage
from edgeq.service.http.connection import within
from edgeq.service.http.errors import RequestError, as_request_error
from edgeq.service.routes.image_input import ImageInputs, ImageSource
from edgeq.service.routes.retrieval_schema import Item

__all__ = ["Embedded", "Embedder", "Submitted"]

_MOST_CHARACTERS: Final = 1_000_000
"""Of all texts of a request together."""

_AT_ONCE: Final = 2000
"""Characters that are tokenized faster than a thread is woken for it."""

_Result = TypeVar("_Result")
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Embedded:
    """What became of a request's texts and images.

    Attributes:
        vectors: float32 [items, dimension], rows of length one.
        tokens: of all texts.
    """

    vectors: Vectors
    tokens: int


@dataclass(frozen=True)
class Submitted:
    """Texts and images on their way.

    Attributes:
        parts: places of items in the request, and the future of their vectors, float32 [places, dimension].
        count: of items.
        tokens: of all texts.
    """

    parts: tuple[tuple[Sequence[int], Future[Vectors]], ...]
    count: int
    tokens: int


class Embedder:
    """Has the texts and images of requests embedded.

    Args:
        workers: both encoders.
        pictures: opens images.
        seconds: from a request's header to its answer.
        max_images: in one request.
    """

    def __init__(self, workers: RetrievalWorkers, pictures: ImageInputs, seconds: float, max_images: int) -> None:
        self.dimension = workers.dimension
        self._workers = workers
        self._pictures = pictures
        self._seconds = seconds
        self._max_images = max_images

    async def submit(self, request: Request, items: Sequence[Item], places: Sequence[str]) -> Submitted:
        """Look at what is given, and hand it to the encoders; `result` must follow.

        Args:
            request: whose body has been read.
            items: texts and images.
            places: of them in the body.

        Raises:
            RequestError: 400 an image is no data URI, 413 texts or images are too large, 415 or 422 an image cannot be
                used, 422 there are too many images.
            EdgeqError: the encoders refuse.
        """
        texts, images = _apart(items, places, self._max_images)
        if not images and sum(len(item) for item in items if isinstance(item, str)) <= _AT_ONCE:
            return await self._submit(items, texts, images, here=True)
        return await self.within(request, partial(self._submit, items, texts, images))

    async def result(
        self, request: Request, submitted: Submitted, use: Callable[[Embedded], Awaitable[_Result]]
    ) -> _Result:
        """What is made of the vectors; who stops waiting takes back what has not begun.

        Args:
            request: whose body has been read.
            submitted: of it.
            use: is given the vectors; in the time of the request, and only while the client is there.

        Raises:
            RequestError: 408 it took too long.
            EngineError: an encoder fails.
        """

        async def work() -> _Result:
            vectors = np.empty((submitted.count, self.dimension), np.float32)
            for rows, future in submitted.parts:
                made: Vectors = await asyncio.wrap_future(future)
                vectors[list(rows)] = made
            return await use(Embedded(vectors, submitted.tokens))

        try:
            return await self.within(request, work)
        finally:
            for _, future in submitted.parts:
                future.cancel()

    async def within(self, request: Request, work: Callable[[], Awaitable[_Result]]) -> _Result:
        """As `edgeq.service.http.connection.within`, in the time that a request has here."""
        return await within(request, self._seconds, work)

    async def _submit(
        self,
        items: Sequence[Item],
        texts: Sequence[int],
        images: Sequence[tuple[int, ImageSource]],
        here: bool = False,
    ) -> Submitted:
        """Everything to the encoders; texts are tokenized in a thread, or `here`."""
        parts: list[tuple[Sequence[int], Future[Vectors]]] = []
        tokens = 0
        if images:
            sources = [source for _, source in images]
            seen = await self._pictures.use(sources, partial(self._see, sources))
            parts.append(([row for row, _ in images], seen))
        if texts:
            said = [item for item in (items[row] for row in texts) if isinstance(item, str)]
            try:
                read = self._workers.texts(said) if here else await to_thread.run_sync(self._workers.texts, said)
            except BaseException:
                for _, future in parts:
                    future.cancel()
                raise
            parts.append((texts, read.vectors))
            tokens = read.tokens
        return Submitted(tuple(parts), len(items), tokens)

    def _see(self, sources: Sequence[ImageSource], images: tuple[EncodedImage, ...]) -> Future[Vectors]:
        try:
            return self._workers.images([image.decoded() for image in images])
        except ImageError as error:
            raise as_request_error(error).at(sources[0].place) from error


def _apart(
    items: Sequence[Item], places: Sequence[str], max_images: int
) -> tuple[list[int], list[tuple[int, ImageSource]]]:
    """Rows of texts, and rows of images with these; RequestError where there are too many, or an image is elsewhere."""
    texts = [row for row, item in enumerate(items) if isinstance(item, str)]
    characters = sum(len(item) for item in items if isinstance(item, str))
    if characters > _MOST_CHARACTERS:
        told = f"the texts have {characters:,} characters, at most {_MOST_CHARACTERS:,} are taken"
        raise RequestError(413, "texts_too_long", told, param="input")
    images = [
        (row, ImageSource(item.url, place))
        for row, (item, place) in enumerate(zip(items, places, strict=True))
        if not isinstance(item, str)
    ]
    if len(images) > max_images:
        told = f"{len(images)} images; at most {max_images} are embedded at once"
        if not max_images:
            told = "the model is a text encoder alone: it embeds no images"
        raise RequestError(422, "too_many_images", told, param="input")
    for _, source in images:
        if source.url[:5].lower() != "data:":
            raise RequestError(400, "bad_image_url", "the image is no data URI; others are not read here").at(
                source.place
            )
    return texts, images
