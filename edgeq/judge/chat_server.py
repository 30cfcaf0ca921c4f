"""A server of OpenAI's chat completions: TensorRT Edge-LLM's, vLLM's, llama-server's, transformers', edgeq's own.

`openai`, the client of OpenAI itself, asks again where a server is busy (409, 429, 5xx) or cannot be
reached, and minds `Retry-After`. Servers differ in what they take: a first question, about a drawn picture, finds out.
"""

from __future__ import annotations

import base64
import json
import math
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from PIL import Image

from edgeq.errors import EngineError, InputError, first_line
from edgeq.judge.questions import AskedQuestion
from edgeq.judge.target import Said

if TYPE_CHECKING:
    import openai
    from openai.types.chat import ChatCompletion

__all__ = ["ChatServer", "Pace"]

_RETRIES: Final = 5
_PATIENCE_S: Final = 600.0
_LOOK_S: Final = 10.0
_SHOWN: Final = 200
_NO_KEY: Final = "none"
_FIRST: Final = AskedQuestion("", "the first picture", "Which colour?", lambda: Image.new("RGB", (224, 224), "red"))
_OURS: Final = {
    "messages", "model", "temperature", "max_tokens", "max_completion_tokens", "logprobs", "stream", "n",
}  # fmt: skip
_BUSY: Final = (429, 503)
_AT_FIRST: Final = "was asked a first question, about a picture"
_THOUGHT: Final = "</think>"
_EXPECTED: Final = "a server of OpenAI's chat completions that takes images as data URLs"


@dataclass(frozen=True)
class _Dialect:
    """What is sent beside the question.

    Attributes:
        model: the name; None sends none, and the server's only model answers.
        logprobs: whether log-probabilities are asked for.
        length: the field of the longest answer.
    """

    model: str | None
    logprobs: bool = True
    length: str = "max_tokens"

    def plainer(self, *, guessed: bool) -> Iterator[_Dialect]:
        """What to try where this is refused, one after the other.

        `transformers serve` lists what lies in a cache, and may serve something else; models of OpenAI's that think
        know no `max_tokens`.

        Args:
            guessed: the name is the list's, and nobody gave it.
        """
        plain = replace(self, logprobs=False)
        yield plain
        if guessed and self.model is not None:
            plain = replace(plain, model=None)
            yield plain
        yield replace(plain, length="max_completion_tokens")

    def fields(self, max_new_tokens: int) -> dict[str, Any]:
        """Of a request."""
        import openai

        told = {"logprobs": True} if self.logprobs else {}
        return {"model": self.model or openai.omit, "temperature": 0.0, self.length: max_new_tokens, **told}


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
    """A model behind an address; it is asked a first question at once.

    Args:
        url: up to `/v1`, or the server's root.
        model: its name there; None takes the only one, or the first, that the server lists, and sends no name where it
            lists none or serves none of that name.
        token: that the server wants; None for none.
        pace: how quickly it may be asked.
        extra_body: fields that go with every question, such as those that the user's own client sends.

    Attributes:
        url: up to `/v1`.
        model: its name there, by the server's own account where none was sent.
        identity, parallel: as in `Target`.

    Raises:
        InputError: it is no address, or a field in `extra_body` is one that is sent anyway.
        EngineError: no such server answers there, or it does not take a question about an image.
    """

    parallel = True

    def __init__(
        self,
        url: str,
        model: str | None = None,
        token: str | None = None,
        pace: Pace | None = None,
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        import openai

        self.url = _api(url)
        self._extra = _checked(extra_body or {})
        self._pace = pace or Pace(None)
        self._client = openai.OpenAI(
            base_url=self.url, api_key=token or _NO_KEY, max_retries=_RETRIES, timeout=_PATIENCE_S
        )
        self._dialect, told = self._settled(_Dialect(model or self._listed()), guessed=model is None)
        self.model = self._dialect.model or told
        extra = f" with {json.dumps(self._extra, sort_keys=True)}" if self._extra else ""
        self.identity = f"server {self.url} model {self.model}{extra}"

    def ask(self, question: AskedQuestion, png: bytes, max_new_tokens: int) -> Said:
        """As `Target.ask`; what a model thought before its answer is no part of it."""
        import openai

        self._pace.wait()
        start = time.perf_counter()
        try:
            made = self._complete(self._client, self._dialect, question, png, max_new_tokens)
        except openai.OpenAIError as error:
            raise self._fault(error, f"was asked about {question.name}") from error
        seconds = time.perf_counter() - start
        choice, usage = made.choices[0], made.usage
        text = (choice.message.content or "").rpartition(_THOUGHT)[2].strip()
        if choice.finish_reason == "length" and (not text or "<think>" in text):
            raise EngineError(
                f"{self.url} gave no answer about {question.name} within {max_new_tokens} tokens",
                causes=("the model thinks before it answers",),
                next_step="a larger --max-new-tokens, or a server that is told not to think",
            )
        tokens = (choice.logprobs.content or ()) if choice.logprobs else ()
        logprobs = tuple(token.logprob for token in tokens)
        return Said(
            text=text,
            logprobs=logprobs if all(map(math.isfinite, logprobs)) else (),
            seconds=seconds,
            prompt_tokens=usage.prompt_tokens if usage else None,
            answer_tokens=usage.completion_tokens if usage else None,
        )

    def _settled(self, dialect: _Dialect, *, guessed: bool) -> tuple[_Dialect, str]:
        """What the server takes, and the name that it gives its model; asked with a picture and for one token."""
        import openai

        png = _FIRST.png()
        refused: openai.APIStatusError | None = None
        for tried in (dialect, *dialect.plainer(guessed=guessed)):
            self._pace.wait()
            try:
                return tried, self._begun(tried, png).model or "unnamed"
            except (
                openai.BadRequestError,
                openai.NotFoundError,
                openai.UnprocessableEntityError,
                openai.InternalServerError,  # llama.cpp's way to refuse
            ) as error:
                refused = refused or error
            except openai.OpenAIError as error:
                raise self._fault(error, _AT_FIRST) from error
        assert refused is not None, "something was tried"
        raise self._fault(refused, _AT_FIRST) from refused

    def _begun(self, dialect: _Dialect, png: bytes) -> ChatCompletion:
        """The first answer; only a server that says to be busy, or hangs up, is asked again."""
        import openai

        once = self._client.with_options(max_retries=0)
        try:
            return self._complete(once, dialect, _FIRST, png, 1)
        except openai.APITimeoutError:
            raise
        except openai.APIConnectionError:  # a server whose list failed may be about to close that connection
            return self._complete(once, dialect, _FIRST, png, 1)
        except openai.APIStatusError as error:
            if error.status_code not in _BUSY:
                raise
        try:
            return self._complete(self._client, dialect, _FIRST, png, 1)
        except openai.OpenAIError as error:
            raise self._fault(error, _AT_FIRST) from error

    def _complete(
        self, client: openai.OpenAI, dialect: _Dialect, question: AskedQuestion, png: bytes, max_new_tokens: int
    ) -> ChatCompletion:
        """One completion; raises EngineError for what is none."""
        from openai.types.chat import ChatCompletion

        image = {"url": f"data:image/png;base64,{base64.b64encode(png).decode()}"}
        content = [{"type": "image_url", "image_url": image}, {"type": "text", "text": question.question}]
        messages: Any = [{"role": "user", "content": content}]
        made: Any = client.chat.completions.create(
            messages=messages, extra_body=self._extra, **dialect.fields(max_new_tokens)
        )
        if not isinstance(made, ChatCompletion) or not made.choices:
            raise EngineError(f"{self.url} gave no answer to a question about {question.name}", expected=_EXPECTED)
        return made

    def _listed(self) -> str | None:
        """The first model of the server's list, asked once and without patience: this is the first second.

        None where the server has no list, or an empty one.
        """
        import openai

        try:
            listed = self._client.with_options(max_retries=0, timeout=_LOOK_S).get("/models", cast_to=object)
        except (openai.NotFoundError, openai.InternalServerError):
            return None
        except openai.OpenAIError as error:
            raise self._fault(error, "was asked which models it has") from error
        return _first_name(listed)

    def _fault(self, error: Exception, when: str) -> EngineError:
        said = str(getattr(error, "body", None) or "")[:_SHOWN]
        cause = getattr(error, "__cause__", None)
        causes = [first_line(error), *([said] if said else []), *([first_line(cause)] if cause else [])]
        return EngineError(f"{self.url} failed when it {when}", expected=_EXPECTED, causes=tuple(dict.fromkeys(causes)))


def _first_name(listed: object) -> str | None:
    """The first model's; None where it is no list of models, such as a page in HTML."""
    models = listed.get("data") if isinstance(listed, dict) else None
    first = models[0] if isinstance(models, list) and models else None
    name = first.get("id") if isinstance(first, dict) else None
    return name if isinstance(name, str) else None


def _checked(extra: Mapping[str, Any]) -> dict[str, Any]:
    taken = sorted(_OURS & extra.keys())
    if taken:
        raise InputError(f"{', '.join(taken)} cannot be sent along: it is what is asked, or how")
    return dict(extra)


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
