"""A server of OpenAI's chat completions: TensorRT Edge-LLM's, vLLM's, llama-server's, transformers', edgeq's own.

`openai`, the client of OpenAI itself, asks again where a server is busy (409, 429, 5xx) or cannot be
reached, and minds `Retry-After`.
"""

from __future__ import annotations

import base64
import math
import threading
import time
from typing import Any, Final
from urllib.parse import urlsplit

from edgeq.errors import EngineError, InputError, first_line
from edgeq.judge.questions import AskedQuestion
from edgeq.judge.target import Said

__all__ = ["ChatServer", "Pace"]

_RETRIES: Final = 5
_PATIENCE_S: Final = 600.0
_LOOK_S: Final = 10.0
_SHOWN: Final = 200
_NO_KEY: Final = "none"


class Pace:
    """So many requests a minute at the most, evenly.

    Args:
        per_minute: None sets no limit.
    """

    def __init__(self, per_minute: float | None) -> None:
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Until the next request may be sent."""
        if not self._gap:
            return
        with self._lock:
            turn = max(self._next, time.monotonic())
            self._next = turn + self._gap
        time.sleep(max(turn - time.monotonic(), 0.0))


class ChatServer:
    """A model behind an address.

    Args:
        url: up to `/v1`, or the server's root.
        model: its name there; None takes the only one, or the first, that the server lists.
        token: that the server wants; None for none.
        pace: how quickly it may be asked.

    Attributes:
        url: up to `/v1`.
        model: its name there.
        identity, parallel: as in `Target`.

    Raises:
        InputError: it is no address.
        EngineError: no such server answers there, or it lists no model.
    """

    parallel = True

    def __init__(self, url: str, model: str | None = None, token: str | None = None, pace: Pace | None = None) -> None:
        import openai

        self.url = _api(url)
        self._pace = pace or Pace(None)
        self._client = openai.OpenAI(
            base_url=self.url, api_key=token or _NO_KEY, max_retries=_RETRIES, timeout=_PATIENCE_S
        )
        self.model = model or self._listed()
        self.identity = f"server {self.url} model {self.model}"
        self._logprobs = True

    def ask(self, question: AskedQuestion, png: bytes, max_new_tokens: int) -> Said:
        """As `Target.ask`."""
        import openai

        content: list[Any] = [
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(png).decode()}"}},
            {"type": "text", "text": question.question},
        ]
        self._pace.wait()
        start = time.perf_counter()
        try:
            made = self._complete([{"role": "user", "content": content}], max_new_tokens)
        except openai.OpenAIError as error:
            raise self._fault(error, f"was asked about {question.name}") from error
        seconds = time.perf_counter() - start
        if not made.choices:
            raise EngineError(f"{self.url} gave no answer to a question about {question.name}")
        choice, usage = made.choices[0], made.usage
        tokens = (choice.logprobs.content or ()) if choice.logprobs else ()
        return Said(
            text=(choice.message.content or "").strip(),
            logprobs=tuple(token.logprob for token in tokens if math.isfinite(token.logprob)),
            seconds=seconds,
            prompt_tokens=usage.prompt_tokens if usage else None,
            answer_tokens=usage.completion_tokens if usage else None,
        )

    def _complete(self, messages: list[Any], max_new_tokens: int) -> Any:
        """One completion, with log-probabilities as long as the server does not refuse to tell them."""
        import openai

        asked: dict[str, Any] = {"model": self.model, "messages": messages, "temperature": 0.0}
        asked["max_tokens"] = max_new_tokens
        if self._logprobs:
            try:
                return self._client.chat.completions.create(**asked, logprobs=True)
            except (openai.BadRequestError, openai.UnprocessableEntityError):
                made = self._client.chat.completions.create(**asked)
                self._logprobs = False
                return made
        return self._client.chat.completions.create(**asked)

    def _listed(self) -> str:
        """The first model of the server's list, asked once and without patience: this is the first second."""
        import openai

        try:
            listed = self._client.with_options(max_retries=0, timeout=_LOOK_S).models.list().data
        except openai.OpenAIError as error:
            raise self._fault(error, "was asked which models it has") from error
        if not listed:
            raise EngineError(f"{self.url} lists no model", next_step="--model NAME")
        return listed[0].id

    def _fault(self, error: Exception, when: str) -> EngineError:
        said = str(getattr(error, "body", None) or "")[:_SHOWN]
        cause = getattr(error, "__cause__", None)
        causes = [first_line(error), *([said] if said else []), *([first_line(cause)] if cause else [])]
        return EngineError(
            f"{self.url} failed when it {when}",
            expected="a server of OpenAI's chat completions that takes images",
            causes=tuple(dict.fromkeys(causes)),
        )


def _api(url: str) -> str:
    """The address up to `/v1`."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good or parts.query or parts.fragment or parts.username or parts.password:
        raise InputError(f"{url[:_SHOWN]!r} is no address of a server", expected="such as http://127.0.0.1:8000/v1")
    path = parts.path.rstrip("/").removesuffix("/chat/completions")
    return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"
