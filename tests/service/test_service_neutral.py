"""What asks for nothing else than is done is taken from anyone; what asks for more is refused in words."""

from __future__ import annotations

from typing import Any

import pytest
from running import (
    ANSWER,
    NAME,
    Running,
    SimulatedRuntime,
    chat,
    data_uri,
    image_part,
    opened,
    picture,
    question,
    running,
    talking,
    text_part,
)

from edgeq.runtime.vlm.api import IMAGE, Turn

pytest_plugins = ["one_service"]

PATH = "/v1/chat/completions"
NULLS = (
    *("audio", "best_of", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs", "max_tokens"),
    *("max_completion_tokens", "metadata", "min_p", "modalities", "model", "moderation", "n", "parallel_tool_calls"),
    *("prediction", "presence_penalty", "prompt_cache_key", "reasoning_effort", "response_format", "seed", "stop"),
    *("safety_identifier", "service_tier", "store", "stream", "stream_options", "temperature", "tool_choice", "tools"),
    *("top_k", "top_logprobs", "top_p", "user", "verbosity", "web_search_options", "a_field_of_tomorrow"),
)
NEUTRAL: list[dict[str, Any]] = [
    dict.fromkeys(NULLS),
    {"tools": [], "functions": [], "tool_choice": "none", "function_call": "none", "parallel_tool_calls": False},
    {"tool_choice": "auto", "parallel_tool_calls": True},
    {"response_format": {"type": "text"}, "modalities": ["text"], "n": 1, "best_of": 1},
    {"logit_bias": {}, "logprobs": False, "top_logprobs": 0, "top_k": -1, "min_p": 0, "repetition_penalty": 1.0},
    {"service_tier": "auto", "store": False, "metadata": {"run": "7"}, "user": "u", "prompt_cache_key": "k"},
    {"stream_options": {"include_usage": None}, "stop": [], "presence_penalty": 0, "frequency_penalty": -0.0},
    {"min_tokens": 0, "ignore_eos": False, "echo": False, "skip_special_tokens": True, "chat_template_kwargs": {}},
    {"verbosity": "medium", "repeat_penalty": 1, "length_penalty": 1},
    {"stream_options": {}, "metadata": {}, "reasoning_effort": "none", "prompt_cache_retention": "24h"},
]


@pytest.mark.parametrize("fields", NEUTRAL, ids=lambda fields: "-".join(list(fields)[:2]))
@pytest.mark.parametrize("streamed", [False, True])
def test_it_changes_nothing(
    service: Running, runtime: SimulatedRuntime, fields: dict[str, Any], streamed: bool
) -> None:
    plain = service.http.post(PATH, json=chat())
    fields = {**fields, "stream": True} if streamed else fields
    answer = service.http.post(PATH, json=chat() | fields)
    assert answer.status_code == 200, answer.text
    first, second = runtime.asks[-2:]
    assert (first.turns, first.max_new_tokens, first.sampling, first.stop) == (
        *(second.turns, second.max_new_tokens),
        *(second.sampling, second.stop),
    )
    if not streamed:
        assert answer.json()["choices"] == plain.json()["choices"]


REFUSED: list[tuple[str, Any]] = [
    ("tools", [{"type": "function", "function": {"name": "f"}}]),
    ("tool_choice", "required"),
    ("functions", [{"name": "f"}]),
    ("logit_bias", {"5": -100}),
    ("modalities", ["text", "audio"]),
    ("top_k", 5),
    ("min_p", 0.1),
    ("repetition_penalty", 1.1),
    ("reasoning_effort", "high"),
    ("store", True),
    ("audio", {"voice": "alloy", "format": "wav"}),
    ("a_field_of_tomorrow", False),
    ("seed", 1 << 63),
    ("metadata", {str(number): "" for number in range(17)}),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), REFUSED, ids=[row[0] for row in REFUSED])
def test_it_would_change_something(service: Running, field: str, value: Any) -> None:
    answer = service.http.post(PATH, json=chat() | {field: value})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"].split(".")[0] == field
    assert error["message"].startswith(field)


def test_what_the_service_sends_it_takes_back(service: Running, runtime: SimulatedRuntime) -> None:
    """The message of its answer as it is, and as the official client hands it on, with the same image again."""
    whole = service.http.post(PATH, json=chat()).json()["choices"][0]["message"]
    typed = service.openai().chat.completions.create(model=NAME, messages=question()).choices[0].message
    for message in (whole, typed.model_dump(), typed.to_dict()):
        messages = [*question(), message, *question("and now?")]
        assert service.http.post(PATH, json={"model": NAME, "messages": messages}).status_code == 200
        assert runtime.asks[-1].turns == (
            *(Turn("user", (IMAGE, "what is it?")), Turn("assistant", (ANSWER,))),
            Turn("user", (IMAGE, "and now?")),
        )


ASSISTANTS: list[dict[str, Any]] = [
    {"content": None},
    {"content": ""},
    {"content": None, "tool_calls": None, "function_call": None, "audio": None, "refusal": None, "annotations": []},
    {"content": "", "tool_calls": [], "annotations": None, "reasoning_content": "", "name": None, "tool_call_id": None},
    {"content": "", "parsed": {"a": 1}},
    {},
]


@pytest.mark.parametrize("fields", ASSISTANTS, ids=range(len(ASSISTANTS)))
def test_an_assistant_that_said_nothing(service: Running, runtime: SimulatedRuntime, fields: dict[str, Any]) -> None:
    """An answer may be empty: its turn stays, as templates want turns."""
    messages = [*question(), {"role": "assistant", **fields}, {"role": "user", "content": "why?"}]
    assert service.http.post(PATH, json={"model": NAME, "messages": messages}).status_code == 200
    assert runtime.asks[-1].turns[1] == Turn("assistant", ("",))


@pytest.mark.parametrize("role", ["system", "developer"])
@pytest.mark.parametrize("content", ["", " \n", None, [{"type": "text", "text": ""}]])
def test_a_system_message_that_says_nothing(
    service: Running, runtime: SimulatedRuntime, role: str, content: Any
) -> None:
    messages = [{"role": role, "content": content}, *question()]
    assert service.http.post(PATH, json={"model": NAME, "messages": messages}).status_code == 200
    assert [turn.role for turn in runtime.asks[-1].turns] == ["user"]


def test_an_assistant_that_called_a_tool_is_refused(service: Running) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [*question(), {"role": "assistant", "content": None, "tool_calls": [call]}, *question()]
    answer = service.http.post(PATH, json={"model": NAME, "messages": messages})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages.1.tool_calls")


PARTS: list[dict[str, Any]] = [
    {"type": "image_url", "image_url": data_uri()},
    {"type": "image_url", "image_url": {"url": data_uri(), "detail": None}},
    {"type": "image_url", "image_url": {"url": data_uri(picture(kind="JPEG"), "image/jpg")}},
    {"type": "image_url", "image_url": {"url": data_uri(media="IMAGE/X-PNG")}},
    {"type": "image_url", "image_url": {"url": data_uri()}, "cache_control": {"type": "ephemeral"}},
]


@pytest.mark.parametrize("part", PARTS, ids=range(len(PARTS)))
def test_an_image_however_it_is_given(service: Running, runtime: SimulatedRuntime, part: dict[str, Any]) -> None:
    messages = [{"role": "user", "content": [part, text_part("what is it?")], "name": "me"}]
    answer = service.http.post(PATH, json={"model": NAME, "messages": messages})
    assert answer.status_code == 200, answer.text
    assert opened(runtime.asks[-1].images[0]).size == (8, 8)


@pytest.mark.parametrize(("seed", "drawn"), [(-1, None), (None, None), (0, 0), (-2, 2**64 - 2), (7, 7)])
def test_seeds(service: Running, runtime: SimulatedRuntime, seed: int | None, drawn: int | None) -> None:
    """-1 is how many clients ask for any; others below 0 are numbers as well."""
    assert service.http.post(PATH, json=chat(seed=seed)).status_code == 200
    assert runtime.asks[-1].sampling.seed == drawn


def test_the_same_image_again_is_one() -> None:
    """Where the model takes one image in a conversation, it stands at its first place."""
    runtime, url = SimulatedRuntime(), data_uri()
    messages = [*question("a", url), {"role": "assistant", "content": "b"}, *question("c", url)]
    with running(talking(runtime, most_images=1)) as service:
        assert service.http.post(PATH, json={"model": NAME, "messages": messages}).status_code == 200
        assert [turn.parts for turn in runtime.asks[-1].turns] == [(IMAGE, "a"), ("b",), ("c",)]
        assert len(runtime.asks[-1].images) == 1
        other = [*messages[:2], *question("c", data_uri(picture((1, 2, 3))))]
        answer = service.http.post(PATH, json={"model": NAME, "messages": other})
        assert answer.json()["error"]["code"] == "too_many_images"


def test_an_image_at_too_many_places(service: Running) -> None:
    content = [*[image_part(data_uri())] * 65, text_part("what is it?")]
    answer = service.http.post(PATH, json={"model": NAME, "messages": [{"role": "user", "content": content}]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "too_many_images")
    assert "65 places" in answer.json()["error"]["message"]


@pytest.mark.parametrize("streamed", [False, True])
def test_another_models_name(service: Running, streamed: bool) -> None:
    """Answered by the one there is, which is told; a report as well."""
    body = chat(stream=streamed)
    assert "x-served-model" not in service.http.post(PATH, json=body).headers
    answer = service.http.post(PATH, json=body | {"model": "gpt-5"})
    assert (answer.status_code, answer.headers["x-served-model"]) == (200, NAME)
    if not streamed:
        assert answer.json()["model"] == NAME
    report = service.http.post("/v1/inspect", json={"model": "gpt-5", "image": data_uri()})
    assert (report.status_code, report.headers["x-served-model"]) == (200, NAME)
    assert service.http.get("/v1/models/gpt-5").status_code == 404


def test_strict_names() -> None:
    with running(talking(SimulatedRuntime()), strict_model=True) as service:
        for body in (chat() | {"model": "gpt-5"}, chat(stream=True) | {"model": "gpt-5"}):
            answer = service.http.post(PATH, json=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
        assert service.http.post(PATH, json=chat()).status_code == 200
        described = service.http.get("/openapi.json").json()["components"]["schemas"]
        assert described["ChatRequest"]["properties"]["model"]["enum"] == [NAME, None]
