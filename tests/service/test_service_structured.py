"""JSON documents and logarithms of chances from a real service with a tiny vision-language model."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from openai.types.chat import ChatCompletionChunk
from running import Running, data_uri, question, running

from edgeq.service.load_bundle import open_served
from edgeq.service.settings import ServiceSettings

if TYPE_CHECKING:
    from edgeq.pipeline.vlm import PreparedVlm

pytest.importorskip("llguidance")

PATH = "/v1/chat/completions"
SETTINGS = ServiceSettings(threads=1, reserve_mib=64, memory_gb=2, backend="onnxruntime")
SCHEMAS: list[dict[str, Any]] = [
    {"enum": ["crack", "rust", None, 3]},
    {"type": "object", "properties": {"ok": {"type": "boolean"}, "n": {"type": "integer", "minimum": 0, "maximum": 99}},
     "required": ["ok", "n"], "additionalProperties": False},
    {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1, "maxItems": 3},
    {"type": "object", "properties": {"kind": {"type": "string", "maxLength": 8, "pattern": "^[a-z]+$"},
     "at": {"anyOf": [{"const": "top"}, {"type": "null"}]}}, "required": ["kind", "at"], "additionalProperties": False},
]  # fmt: skip
REQUESTS, CLIENTS = 200, 8


@pytest.fixture(scope="module")
def service(prepared_vlm: PreparedVlm) -> Iterator[Running]:
    with running(open_served(prepared_vlm.bundle, SETTINGS)) as service:
        yield service


@pytest.fixture(scope="module")
def pictures(tiny_photographs: Path) -> list[str]:
    return [data_uri(path.read_bytes(), "image/jpeg") for path in sorted(tiny_photographs.rglob("*.jpg"))]


def body(service: Running, picture: str, schema: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
    """A short question: 9 tokens of a context of 64."""
    asked: dict[str, Any] = {
        "model": service.service.served.name,
        "messages": question("a?", picture),
        "max_tokens": 50,
    }
    if schema is not None:
        named = {"name": "answer", "strict": True, "schema": schema}
        asked["response_format"] = {"type": "json_schema", "json_schema": named}
    return asked | more


def said(service: Running, asked: dict[str, Any]) -> str:
    answer = service.http.post(PATH, json=asked)
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


def test_two_hundred_documents_beside_free_answers(service: Running, pictures: list[str]) -> None:
    """All valid, and of each schema several; the free answers between them are those that they are alone."""
    free = [body(service, picture, None, temperature=1.5, seed=7, max_tokens=12) for picture in pictures]
    alone = [said(service, asked) for asked in free]
    orders: list[tuple[dict[str, Any] | None, dict[str, Any]]] = []
    for number in range(REQUESTS):
        wanted = SCHEMAS[number % len(SCHEMAS)]
        drawn = {"temperature": 1.5, "seed": number} if number % 8 > 3 else {}
        orders.append((wanted, body(service, pictures[number % len(pictures)], wanted, **drawn)))
        if number % 10 == 0:
            orders.append((None, free[number // 10 % len(free)]))
    with ThreadPoolExecutor(CLIENTS) as together:
        answers = list(together.map(lambda order: said(service, order[1]), orders))
    documents: dict[str, set[str]] = {}
    for (schema, asked), answer in zip(orders, answers, strict=True):
        if schema is None:
            assert answer == alone[free.index(asked)]
            continue
        jsonschema.validate(json.loads(answer), schema)
        documents.setdefault(json.dumps(schema), set()).add(answer)
    assert sum(schema is not None for schema, _ in orders) == REQUESTS
    assert all(len(found) > 2 for found in documents.values()), "the model chooses, within the schema"


@pytest.mark.parametrize("seed", [None, 5])
def test_in_pieces(service: Running, pictures: list[str], seed: int | None) -> None:
    asked = body(service, pictures[0], SCHEMAS[1], temperature=1.0 if seed else 0, seed=seed, logprobs=True)
    whole = service.http.post(PATH, json=asked).json()["choices"][0]
    chunks = streamed(service, asked)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole["message"]["content"]
    jsonschema.validate(json.loads(text), SCHEMAS[1])
    assert chunks[-1].choices[0].finish_reason == whole["finish_reason"] == "stop"
    told = [one for chunk in chunks if (found := chunk.choices[0].logprobs) for one in found.content or ()]
    assert [one.model_dump(exclude={"logprob"}) for one in told] == [
        {name: value for name, value in one.items() if name != "logprob"} for one in whole["logprobs"]["content"]
    ]


def streamed(service: Running, asked: dict[str, Any]) -> list[ChatCompletionChunk]:
    events = service.http.post(PATH, json=asked | {"stream": True}).text.split("\n\n")[:-2]
    return [ChatCompletionChunk.model_validate(json.loads(event.removeprefix("data: "))) for event in events]


def test_any_object(service: Running, pictures: list[str]) -> None:
    """It begins as one, and is one where it came to its end."""
    answer = service.http.post(PATH, json=body(service, pictures[0], None, response_format={"type": "json_object"}))
    choice = answer.json()["choices"][0]
    assert choice["message"]["content"].startswith("{")
    if choice["finish_reason"] == "stop":
        assert isinstance(json.loads(choice["message"]["content"]), dict)


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"not": {}}, "not"),
        ({"type": "integer", "multipleOf": 999_983}, "multiples of 999983"),
        ({"enum": list(range(5000))}, "4,000 values"),
        ({"$ref": "#"}, "cannot be followed"),
    ],
    ids=range(4),
)
@pytest.mark.parametrize("streamed", [False, True])
def test_a_schema_that_is_refused(
    service: Running, pictures: list[str], schema: dict[str, Any], says: str, streamed: bool
) -> None:
    answer = service.http.post(PATH, json=body(service, pictures[0], schema, stream=streamed))
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "bad_schema", "response_format")
    assert says in error["message"]


def test_logarithms_of_chances(service: Running, pictures: list[str]) -> None:
    """Greedily, the token that was chosen is the likeliest; a text's tokens make it, and none is surer than certain."""
    asked = body(service, pictures[0], None, max_tokens=6)
    plain = service.http.post(PATH, json=asked).json()["choices"][0]
    assert plain["logprobs"] is None
    choice = service.http.post(PATH, json=asked | {"logprobs": True, "top_logprobs": 3}).json()["choices"][0]
    assert choice["message"] == plain["message"]
    content = choice["logprobs"]["content"]
    joined = b"".join(bytes(one["bytes"]) for one in content)
    assert joined.decode().strip() == "".join(one["token"] for one in content).strip() == plain["message"]["content"]
    for one in content:
        top = one["top_logprobs"]
        assert len(top) == 3
        assert (top[0]["token"], top[0]["logprob"]) == (one["token"], one["logprob"])
        assert 0 >= top[0]["logprob"] >= top[1]["logprob"] >= top[2]["logprob"]
        assert sum(math.exp(each["logprob"]) for each in top) <= 1 + 1e-6


def test_all_twenty_of_a_vocabulary_and_none(service: Running, pictures: list[str]) -> None:
    asked = body(service, pictures[0], None, max_tokens=2, logprobs=True)
    for wanted in (0, None, 20):
        choice = service.http.post(PATH, json=asked | {"top_logprobs": wanted}).json()["choices"][0]
        assert {len(one["top_logprobs"]) for one in choice["logprobs"]["content"]} == {wanted or 0}
    for wrong in (21, -1, True):
        answer = service.http.post(PATH, json=asked | {"top_logprobs": wrong})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "top_logprobs")


def test_what_a_schema_forbids_has_no_chance(service: Running, pictures: list[str]) -> None:
    """Of the numbers 3 and 4, the two are all that can be first, and their chances are one together."""
    asked = body(service, pictures[0], {"enum": [3, 4]}, logprobs=True, top_logprobs=20)
    [first, *_] = service.http.post(PATH, json=asked).json()["choices"][0]["logprobs"]["content"]
    assert {each["token"] for each in first["top_logprobs"]} == {"3", "4"}
    assert sum(math.exp(each["logprob"]) for each in first["top_logprobs"]) == pytest.approx(1, abs=1e-5)
