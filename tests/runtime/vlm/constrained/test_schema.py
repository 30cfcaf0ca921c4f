"""Which JSON schemas are taken at all, told by their size alone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgeq.runtime.vlm.constrained.schema import SchemaError, schema_text


def nested(depth: int) -> dict[str, Any]:
    """So many objects in one another."""
    found: dict[str, Any] = {}
    for _ in range(depth - 1):
        found = {"items": found}
    return found


def properties(count: int) -> dict[str, Any]:
    return {"type": "object", "properties": {f"p{number}": True for number in range(count)}}


@pytest.mark.parametrize(
    "schema",
    [
        {},
        nested(24),
        properties(500),
        {"enum": list(range(3998))},
        {"pattern": "a" * 500},
        {"multipleOf": 1000},
        {"multipleOf": 0.25},
        {"description": "x" * 30_000},
        {"properties": {"pattern": {"type": "string"}, "multipleOf": {"const": 7}}},
    ],
    ids=range(9),
)
def test_it_is_taken_as_it_is(schema: dict[str, Any]) -> None:
    assert json.loads(schema_text(schema)) == schema


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        (nested(25), "24 levels"),
        (nested(100_000), "24 levels"),
        (properties(501), "500 properties"),
        ({"allOf": [properties(251), properties(250)]}, "500 properties"),
        ({"enum": list(range(4000))}, "4,000 values"),
        ({"description": "x" * 32_000}, "32,000 characters"),
        ({"properties": {"x" * 501: True}}, "500 characters"),
        ({"items": {"pattern": "a" * 501}}, "500 characters"),
        ({"multipleOf": 1001}, "multiples of 1001"),
        ({"items": [{"multipleOf": 10.01}]}, "multiples of 10.01"),
        ({"multipleOf": 1e-300}, "multiples of 1e-300"),
        ({"multipleOf": 0}, "multiples of 0"),
        ({"multipleOf": -2}, "multiples of -2"),
    ],
    ids=range(13),
)
def test_what_is_too_much(schema: dict[str, Any], says: str) -> None:
    with pytest.raises(SchemaError, match=says):
        schema_text(schema)
