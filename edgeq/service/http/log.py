"""The service's log: one JSON object a line, on stderr. No question, answer or image is written into it."""

from __future__ import annotations

import json
import logging
import re
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any, Final, TextIO

__all__ = ["JsonLines", "log", "logged", "request_id"]

_LOGGER: Final = logging.getLogger("edgeq.service")
_RUNTIME: Final = logging.getLogger("edgeq.runtime")
_OTHERS: Final = ("uvicorn", "uvicorn.error")
_GIVEN: Final = re.compile(r"[0-9A-Za-z._-]{1,64}", re.ASCII)
_FIELDS: Final = "edgeq_fields"


class JsonLines(logging.Formatter):
    """A record as one line of JSON: time (UTC), level, event, and its fields."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        moment = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": moment, "level": record.levelname.lower(), "event": record.getMessage()}
        line.update(getattr(record, _FIELDS, {}))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


@contextmanager
def logged(level: str, to: TextIO | None = None) -> Iterator[None]:
    """Write the log, and warnings of the web server, until the block ends.

    Args:
        level: from which on.
        to: a text file; None for stderr.
    """
    handler = logging.StreamHandler(to or sys.stderr)
    handler.setFormatter(JsonLines())
    chosen = [
        (_LOGGER, level.upper()),
        (_RUNTIME, "WARNING"),
        *((logging.getLogger(name), "WARNING") for name in _OTHERS),
    ]
    before = [(logger, logger.level, logger.propagate) for logger, _ in chosen]
    for logger, from_level in chosen:
        logger.addHandler(handler)
        logger.setLevel(from_level)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, old_level, propagate in before:
            logger.removeHandler(handler)
            logger.setLevel(old_level)
            logger.propagate = propagate


def log(event: str, *, level: int = logging.INFO, error: BaseException | None = None, **fields: Any) -> None:
    """Write one event with its fields; an error goes in with its traceback.

    Args:
        event: its name.
        level: of `logging`.
        error: whose traceback is written; None for none.
        fields: values that JSON can hold, by name.
    """
    _LOGGER.log(level, event, extra={_FIELDS: fields}, exc_info=error)


def request_id(given: str | None) -> str:
    """The id that a client gave its request, if it is a plain word; otherwise a new one."""
    return given if given and _GIVEN.fullmatch(given) else f"req_{secrets.token_hex(12)}"
