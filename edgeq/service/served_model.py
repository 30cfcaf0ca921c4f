"""What is served: one bundle, opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from starlette.requests import Request

from edgeq.bundle.manifest import Manifest
from edgeq.runtime.canary.report import CanaryReport
from edgeq.runtime.retrieval.canaries import RetrievalCheck
from edgeq.service.http.errors import RequestError
from edgeq.service.report import Reader
from edgeq.service.report_phrases import ReportPhrases
from edgeq.service.routes.vision_worker import VisionWorker
from edgeq.service.runtime_protocol import RuntimeProtocol
from edgeq.service.served_retrieval import ServedRetrieval

__all__ = ["OTHER_NAME", "ServedModel"]

OTHER_NAME: Final = "edgeq.served_model"
"""In the scope of a request that named another model: the name of the one that answers."""


@dataclass(frozen=True)
class ServedModel:
    """An opened bundle.

    Attributes:
        name: of the model in requests.
        manifest: of the bundle.
        digest: SHA-256 of the manifest in hexadecimal: which bundle this is.
        created: when the bundle was made, in seconds since 1970, as far as its files tell.
        backend: what runs the vision graph.
        because: why it is this backend.
        canaries: what the check of the engine found; None where it was left out.
        talk: of a vision-language bundle.
        seeing: of a classifier's or an encoder's.
        context: tokens of a request at most, answer included; None for a bundle that does not talk.
        most_images: that the model takes in a conversation; None for as many as the context holds.
        phrases: of reports.
        reader: made of the phrases.
        retrieval: of a two-tower bundle.
        strict_model: only `name` is answered to.
    """

    name: str
    manifest: Manifest
    digest: str
    created: int
    backend: str
    canaries: CanaryReport | RetrievalCheck | None
    talk: RuntimeProtocol | None
    seeing: VisionWorker | None
    context: int | None
    most_images: int | None
    phrases: ReportPhrases
    reader: Reader
    retrieval: ServedRetrieval | None = None
    because: str = ""
    strict_model: bool = False

    @property
    def alive(self) -> bool:
        """Whether it can still answer."""
        if self.retrieval is not None:
            return self.retrieval.workers.alive
        if self.seeing is not None:
            return self.seeing.alive
        return self.talk is None or self.talk.alive

    @property
    def progress(self) -> tuple[bool, int]:
        """Whether there is work, and a number that changes while it is being done."""
        if self.talk is not None:
            now = self.talk.snapshot()
            busy = now.active > 0 or (now.queued > 0 and not now.held)
            return busy, now.steps + now.first_tokens + sum(now.ended.values()) + now.prompt_tokens
        if self.retrieval is not None:
            return self.retrieval.progress
        assert self.seeing is not None
        figures = self.seeing.figures
        return figures.running > 0, figures.ended

    def check_name(self, model: str | None) -> None:
        """Raise RequestError 404 where a request asks for another model; None asks for the one there is."""
        if model not in (None, self.name):
            raise RequestError(404, "model_not_found", f"this service has the model {self.name!r} only", param="model")

    def take_name(self, request: Request, model: str | None) -> None:
        """Answer a request that names another model all the same, and say so in the header `X-Served-Model`.

        Raises:
            RequestError: 404 it names another one, and `strict_model` is set.
        """
        if self.strict_model:
            self.check_name(model)
        elif model not in (None, self.name):
            request.scope[OTHER_NAME] = self.name

    def close(self, drain: bool = True) -> None:
        """Answer what there is, or drop it, and let the model go."""
        if self.talk is not None:
            self.talk.close(drain)
        if self.seeing is not None:
            self.seeing.close(drain)
        if self.retrieval is not None:
            self.retrieval.workers.close(drain)
