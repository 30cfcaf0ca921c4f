"""Requests as clients really send them, recorded in `clients/`: each is answered, in the form that clients read.

A file is a client at a version, with the requests that it made of a server that wrote them down: method, path, headers
without secrets, and body. They are sent here as they were recorded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from openai.types import Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from running import ANSWER, NAME, Running

pytest_plugins = ["one_service"]

CLIENTS = sorted((Path(__file__).parent / "clients").glob("*.json"))
RECORDED: dict[str, dict[str, Any]] = {
    f"{path.stem}-{number}": request
    for path in CLIENTS
    for number, request in enumerate(json.loads(path.read_text())["requests"])
}


def test_all_clients_are_there() -> None:
    wanted = {"langchain", "litellm", "llama-index", "open-webui", "openai-js", "openai-python"}
    assert {path.stem for path in CLIENTS} == wanted
    assert not any("authorization" in request["headers"] for request in RECORDED.values())


@pytest.mark.parametrize("recorded", RECORDED.values(), ids=RECORDED)
def test_a_recorded_request(service: Running, recorded: dict[str, Any]) -> None:
    """Its connection and the coding that it takes are those of this test's own client."""
    headers = {name: value for name, value in recorded["headers"].items() if name not in ("connection", "host")}
    body = recorded["body"]
    content = None if body is None else json.dumps(body).encode()
    answer = service.http.request(recorded["method"], recorded["path"], headers=headers, content=content)
    assert answer.status_code == 200, answer.text
    if body is None:
        assert [Model.model_validate(model).id for model in answer.json()["data"]] == [NAME]
        return
    assert answer.headers.get("x-served-model") == (None if body["model"] == NAME else NAME)
    if not body.get("stream"):
        assert_whole(answer.json(), body)
        return
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert_pieces(answer.text, body)


def assert_whole(answer: dict[str, Any], body: dict[str, Any]) -> None:
    """What OpenAI's own types read, and nothing that they do not know but the images' tokens."""
    read = ChatCompletion.model_validate(answer, strict=False)
    assert read.choices[0].message.content == ANSWER
    assert read.choices[0].finish_reason == "stop"
    assert set(answer) <= set(ChatCompletion.model_fields)
    assert set(answer["choices"][0]) == {"index", "message", "finish_reason", "logprobs"}
    assert (read.choices[0].logprobs is not None) == bool(body.get("logprobs"))
    assert read.usage is not None
    assert read.usage.total_tokens == read.usage.prompt_tokens + read.usage.completion_tokens


def assert_pieces(text: str, body: dict[str, Any]) -> None:
    """Chunks of one answer, the end said once, the usage where it was asked for."""
    events = text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [ChatCompletionChunk.model_validate(json.loads(event.removeprefix("data: "))) for event in events[:-2]]
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert "".join(choice.delta.content or "" for choice in choices) == ANSWER
    assert choices[0].delta.role == "assistant"
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["stop"]
    wanted = bool((body.get("stream_options") or {}).get("include_usage"))
    assert [chunk.usage is not None for chunk in chunks].count(True) == wanted
