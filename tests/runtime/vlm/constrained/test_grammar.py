"""The tokens that a JSON schema allows, with the tokenizer of the demo's vision-language model."""

from __future__ import annotations

import json
import random
import sys
import threading
from typing import Any

import jsonschema
import numpy as np
import pytest
from tokenizers import decoders

from edgeq.demo.vlm.story import VLM_WEIGHTS
from edgeq.runtime.vlm.constrained.grammar import Follower, Grammars
from edgeq.runtime.vlm.constrained.schema import ANY_OBJECT, SchemaError, schema_text
from edgeq.runtime.vlm.prompt import load_tokenizer

pytest.importorskip("llguidance")

STOP = 2
REPORT = {
    "type": "object",
    "properties": {
        "damage": {"enum": ["crack", "corrosion", None]},
        "severity": {"type": "string", "maxLength": 12},
        "places": {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 9}, "maxItems": 3},
        "sure": {"type": "boolean"},
    },
    "required": ["damage", "severity", "places", "sure"],
    "additionalProperties": False,
}
SCHEMAS: list[dict[str, Any]] = [
    REPORT,
    {"const": "a \"quoted\" text, and \N{GREEK SMALL LETTER ALPHA}"},
    {"type": "array", "items": {"$ref": "#/$defs/pair"}, "minItems": 2, "maxItems": 2,
     "$defs": {"pair": {"type": "array", "prefixItems": [{"type": "boolean"}, {"type": "null"}], "items": False,
                        "minItems": 2}}},
    {"anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"type": "string", "pattern": "^[a-c]{2,5}$"}]},
    {"oneOf": [{"type": "object", "properties": {"kind": {"const": kind}}, "required": ["kind"],
                "additionalProperties": False} for kind in ("crack", "none")]},
    {"type": "integer", "multipleOf": 25, "minimum": 100, "maximum": 200},
    {"type": "string", "format": "date"},
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(VLM_WEIGHTS)


@pytest.fixture(scope="module")
def grammars(tokenizer: Any) -> Grammars:
    return Grammars(tokenizer, 1024, (STOP,))


def allowed(follower: Follower) -> list[int]:
    """Numbers of the tokens."""
    bits = np.unpackbits(follower.allowed().view(np.uint8), bitorder="little")
    return [int(number) for number in np.flatnonzero(bits)]


def walked(follower: Follower, tokenizer: Any, seed: int, most: int = 400) -> str:
    """A document of tokens drawn by chance; short ones, as soon as it may end."""
    draw, said = random.Random(seed), list[int]()
    while len(said) < most:
        tokens = allowed(follower)
        assert tokens, follower.fault
        token = STOP if STOP in tokens else draw.choice(tokens)
        if token != STOP:
            said.append(token)
        if follower.take(token):
            break
    text: str = tokenizer.decode(said)
    return text


@pytest.mark.parametrize("schema", SCHEMAS, ids=range(len(SCHEMAS)))
def test_whatever_is_said_is_a_document_of_the_schema(grammars: Grammars, tokenizer: Any, schema: Any) -> None:
    for seed in range(5):
        text = walked(grammars.follow(schema_text(schema)), tokenizer, seed)
        jsonschema.validate(json.loads(text), schema)


def test_answers_do_not_share_where_they_are(grammars: Grammars, tokenizer: Any) -> None:
    """Neither those of one schema, nor those of threads that ask for it at once."""
    text = schema_text(REPORT)
    first = grammars.follow(text)
    begun = allowed(first)
    first.take(begun[0])
    assert allowed(grammars.follow(text)) == begun
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda seed=seed: found.append(walked(grammars.follow(text), tokenizer, seed)))
        for seed in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in found:
        jsonschema.validate(json.loads(one), REPORT)
    assert len(found) == 4


def test_any_object(grammars: Grammars, tokenizer: Any) -> None:
    begins = {tokenizer.decode([token]) for token in allowed(grammars.follow(schema_text(ANY_OBJECT)))}
    assert all(begin.startswith("{") for begin in begins)
    assert begins


def test_no_control_token_is_ever_allowed_inside(grammars: Grammars) -> None:
    """The end is, once the document may end: a number may always go on."""
    follower = grammars.follow(schema_text({"type": "integer", "minimum": 0, "maximum": 999}))
    assert not {0, 1, STOP, 3} & set(allowed(follower))
    follower.take(allowed(follower)[0])
    assert {0, 1, STOP, 3} & set(allowed(follower)) <= {STOP}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"not": {"type": "string"}}, "not"),
    ({"type": "array", "uniqueItems": True}, "uniqueItems"),
    ({"type": "banana"}, "banana"),
    ({"$ref": "http://example.com/schema.json"}, "example.com"),
    ({"$ref": "#/nowhere"}, "nowhere"),
    ({"$ref": "#"}, "cannot be followed"),
    ({"type": "string", "pattern": "("}, "cannot be followed"),
    ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "cannot be followed"),
    ({"enum": []}, "cannot be followed"),
]


@pytest.mark.parametrize(("schema", "says"), REFUSED, ids=range(len(REFUSED)))
def test_what_cannot_be_followed(grammars: Grammars, schema: dict[str, Any], says: str) -> None:
    with pytest.raises(SchemaError) as refused:
        grammars.follow(schema_text(schema))
    assert says in refused.value.what


def test_a_pattern_that_grows_without_bound_ends_with_a_fault(grammars: Grammars) -> None:
    """It is small as text, and its automaton is not: what shows that only later says so, instead of going on."""
    follower = grammars.follow(schema_text({"type": "string", "pattern": "^((a{1,1000}){1,1000}){1,1000}$"}))
    for _ in range(200):
        tokens = allowed(follower)
        if not tokens or follower.take(tokens[len(tokens) // 2]):
            break
    assert "too many" in follower.fault


def test_many_schemas_are_not_kept_for_ever(grammars: Grammars) -> None:
    for number in range(40):
        grammars.follow(schema_text({"const": number}))
    assert len(grammars._grammars) == 32


def test_a_tokenizer_that_is_not_understood() -> None:
    """Its decoder says nothing of how bytes become text."""
    odd = load_tokenizer(VLM_WEIGHTS)
    odd.backend_tokenizer.decoder = decoders.Fuse()
    with pytest.raises(SchemaError, match="its tokenizer is of a kind that is not understood"):
        Grammars(odd, 1024, (STOP,)).follow(schema_text(ANY_OBJECT))


def test_the_package_is_missing(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(SchemaError, match="the package llguidance is missing"):
        Grammars(tokenizer, 1024, (STOP,)).follow(schema_text(ANY_OBJECT))
