"""`POST /v1/inspect`: an image in, a report out whose form never changes."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from edgeq.runtime.asks import Turn
from edgeq.service.asking import Asking, Query
from edgeq.service.forms import InspectRequest
from edgeq.service.intake import Intake
from edgeq.service.served import Served

__all__ = ["Inspecting"]


class Inspecting:
    """Reports on images.

    Args:
        served: the bundle of a vision-language model.
        asking: asks the runtime.
        intake: reads bodies.
    """

    def __init__(self, served: Served, asking: Asking, intake: Intake) -> None:
        self._served = served
        self._asking = asking
        self._intake = intake

    async def __call__(self, request: Request) -> Response:
        """Report on one image."""
        with self._intake.room(request):
            asked = await self._intake.parse(request, InspectRequest)
            self._served.check_name(asked.model)
            turn = Turn("user", asked.question or self._served.terms.question, image=True)
            stream = await self._asking.submit(request, Query((turn,), asked.image, asked.max_tokens))
        try:
            done = await self._asking.whole(request, stream)
        finally:
            stream.cancel()
        report = self._served.reader(done.text, done.reason not in ("limit", "context"))
        return Response(report.model_dump_json(), media_type="application/json")
