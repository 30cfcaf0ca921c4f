"""A request that is refused or fails: its status, and an error object as OpenAI's clients read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from edgeq.errors import DeviceLostError, EdgeqError, ImageError, InputError, OutOfMemoryError
from edgeq.faults import known_fault
from edgeq.runtime.scheduler.errors import BusyError, ClosedError, ContextError, DeadlineError, TooLargeError
from edgeq.runtime.vlm.constrained.schema import SchemaError

__all__ = ["ErrorBody", "ErrorObject", "RequestError", "as_request_error", "refusal"]

_KINDS: Final[Mapping[int, str]] = {
    401: "authentication_error",
    408: "timeout_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "unavailable_error",
}
"""By status; every other one is an `invalid_request_error`."""

_AGAIN_S: Final = 5
_RESTARTED_S: Final = 30
"""A process that leaves is started again after 5 s, and then loads its model."""


class ErrorObject(BaseModel):
    """What went wrong.

    Attributes:
        message: for a person.
        type: a family of errors, by the status.
        param: the field of the request that is at fault; null where it is none.
        code: the reason, in a word that does not change.
    """

    model_config = ConfigDict(frozen=True)

    message: str
    type: str
    param: str | None = None
    code: str


class ErrorBody(BaseModel):
    """The body of every answer that is an error."""

    model_config = ConfigDict(frozen=True)

    error: ErrorObject


class RequestError(EdgeqError):
    """A request that is not answered.

    Args:
        status: of HTTP.
        code: the reason in a word.
        message: for a person.
        param: the field at fault.
        retry_after: seconds after which it is worth trying again; goes into the header Retry-After.
        allow: methods that the path takes, for the header Allow.
        close: the connection is closed behind the answer, because what follows on it cannot be trusted or is unread.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after: int | None = None,
        allow: str = "",
        close: bool = False,
    ) -> None:
        super().__init__(message, passing=status in (408, 429, 503))
        self.status = status
        self.code = code
        self.param = param
        self.retry_after = retry_after
        self.allow = allow
        self.close = close

    def at(self, place: str) -> RequestError:
        """The same, with the field at fault."""
        self.param = place
        return self

    @property
    def body(self) -> ErrorBody:
        """The answer's body."""
        kind = _KINDS.get(self.status, "invalid_request_error")
        return ErrorBody(error=ErrorObject(message=self.what, type=kind, param=self.param, code=self.code))


def as_request_error(error: Exception) -> RequestError:
    """The fault that an error of edgeq is for a client; what nobody foresaw tells nothing of the inside."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, TooLargeError):
        return RequestError(413, "too_much_memory", _told(error))
    if isinstance(error, ContextError):
        return RequestError(413, "context_length_exceeded", _told(error))
    if isinstance(error, BusyError):
        return RequestError(429, "busy", _told(error), retry_after=error.retry_after_s)
    if isinstance(error, DeadlineError):
        return RequestError(408, "deadline", _told(error))
    if isinstance(error, ClosedError):
        return RequestError(503, "draining", _told(error), retry_after=5)
    if isinstance(error, SchemaError):
        return RequestError(400, "bad_schema", _told(error), param="response_format")
    if isinstance(error, ImageError):
        return RequestError(422, "image_unreadable", _told(error), param="image")
    if isinstance(error, InputError):
        return RequestError(422, "not_answerable", _told(error))
    fault = known_fault(error)
    if isinstance(fault, OutOfMemoryError):
        return RequestError(503, "out_of_memory", _told(fault), retry_after=_AGAIN_S)
    if isinstance(fault, DeviceLostError):
        return RequestError(503, "restarting", _told(fault), retry_after=_RESTARTED_S)
    if isinstance(error, EdgeqError):
        return RequestError(500, "engine_failed", _told(error))
    return RequestError(500, "internal_error", "the service failed on this request; its log says why")


def refusal(fault: RequestError) -> Response:
    """The answer that tells a fault."""
    headers = {"Retry-After": str(fault.retry_after)} if fault.retry_after is not None else {}
    if fault.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if fault.allow:
        headers["Allow"] = fault.allow
    if fault.close:
        headers["Connection"] = "close"
    return Response(fault.body.model_dump_json(), fault.status, headers, media_type="application/json")


def _told(error: EdgeqError) -> str:
    return f"{error.what}; expected: {error.expected}" if error.expected else error.what
