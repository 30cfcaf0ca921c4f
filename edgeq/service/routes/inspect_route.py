"""`POST /v1/inspect`: an image in, a report out whose form never changes."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from edgeq.runtime.vlm.api import Turn
from edgeq.service.http.request_body import RequestBodies
from edgeq.service.report import report_question, report_schema
from edgeq.service.routes.image_input import ImageSource
from edgeq.service.routes.schemas import InspectRequest
from edgeq.service.routes.submit import Query, Submitter
from edgeq.service.served_model import ServedModel

__all__ = ["InspectRoute"]


class InspectRoute:
    """Reports on images.

    Args:
        served: the bundle of a vision-language model.
        asking: asks the runtime.
        intake: reads bodies.
    """

    def __init__(self, served: ServedModel, asking: Submitter, intake: RequestBodies) -> None:
        self._served = served
        self._asking = asking
        self._intake = intake

    async def __call__(self, request: Request) -> Response:
        """Report on one image."""
        with self._intake.room(request):
            asked = await self._intake.parse(request, InspectRequest)
            self._served.take_name(request, asked.model)
            phrases = self._served.phrases
            turn = Turn.said("user", report_question(phrases, asked.question), images=1)
            image = ImageSource(asked.image, "image")
            query = Query((turn,), (image,), asked.max_tokens, schema=report_schema(phrases))
            stream = await self._asking.submit(request, query)
        try:
            done = await self._asking.whole(request, stream)
        finally:
            stream.cancel()
        report = self._served.reader(done.text, done.reason not in ("limit", "context"))
        return Response(report.model_dump_json(), media_type="application/json")
