"""A report on a picture, read out of what the model said: what it did not say stays unknown."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from edgeq.service.report_phrases import Phrases, ReportPhrases

__all__ = [
    "REPORT_VERSION",
    "Reader",
    "Report",
    "read_document",
    "read_report",
    "reader_of",
    "report_question",
    "report_schema",
]

REPORT_VERSION: Final = "edgeq.report/1"

_LONGEST_ACTION: Final = 300
"""Characters of the advice in a document: some models would never end it."""

_SENTENCE: Final = re.compile(r"[^.!?\n]*[.!?\n]*")


class Report(BaseModel):
    """What is on a picture.

    Attributes:
        damage: one of the phrases' values; null where the text names none of them, or several.
        place: likewise.
        severity: likewise.
        action: the sentences of the text that say what to do, word for word; null where there is none.
        text: what the model said.
        complete: it came to its end, and was not cut at the longest answer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_serialization_defaults_required=True)

    version: Literal["edgeq.report/1"] = REPORT_VERSION
    damage: str | None = None
    place: str | None = None
    severity: str | None = None
    action: str | None = None
    text: str
    complete: bool


Reader = Callable[[str, bool], Report]
"""From a model's text, and whether it came to its end, to a report."""


def reader_of(phrases: ReportPhrases) -> Reader:
    """A reader that goes by phrases, or reads the document that they make of an answer."""
    return read_document if phrases.answers == "json" else partial(read_report, phrases)


def report_schema(phrases: ReportPhrases) -> dict[str, Any] | None:
    """The JSON schema that an answer is held to; None where it is text."""
    if phrases.answers == "text":
        return None
    named = {"damage": phrases.damage, "place": phrases.place, "severity": phrases.severity}
    properties: dict[str, Any] = {name: {"enum": [*values, None]} for name, values in named.items() if values}
    properties["action"] = {"anyOf": [{"type": "string", "maxLength": _LONGEST_ACTION}, {"type": "null"}]}
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def report_question(phrases: ReportPhrases, asked: str | None = None) -> str:
    """What the model is asked: the phrases' question or another one, and what a document must have where it is one."""
    question, schema = asked or phrases.question, report_schema(phrases)
    if schema is None:
        return question
    values = (
        f"{name}: {', '.join(map(json.dumps, found['enum'])) if 'enum' in found else 'what to do, or null'}"
        for name, found in schema["properties"].items()
    )
    return "\n".join((question, "Answer with a JSON object of these keys and values:", *values))


def read_document(text: str, complete: bool = True) -> Report:
    """A report of a document of `report_schema`; of one that was cut nothing is known.

    Args:
        text: what the model said.
        complete: it came to its end, and was not cut at the longest answer.
    """
    found = json.loads(text) if complete else {}
    return Report(**found, text=text, complete=complete)


def read_report(phrases: ReportPhrases, text: str, complete: bool = True) -> Report:
    """Find what the phrases know in a text.

    A value is taken where it is the only one that the text names. Of phrases that overlap the longest counts: a `wide
    crack` is not also a `crack`. A mention of damage that the text denies is none.

    Args:
        phrases: what stands for which value.
        text: what the model said.
        complete: it came to its end, and was not cut at the longest answer.
    """
    sentences = [found for found in (part.strip() for part in _SENTENCE.findall(text)) if found]
    advice = [sentence for sentence in sentences if _mentions(sentence, {"": phrases.action})]
    findings = [sentence for sentence in sentences if sentence not in advice] or sentences
    damage = _only(value for one in findings for value in _affirmed(one, phrases))
    return Report(
        damage=damage,
        place=_only(_named(findings, phrases.place)),
        severity=_only(_named(findings, phrases.severity)),
        action=" ".join(advice) or None,
        text=text,
        complete=complete,
    )


@dataclass(frozen=True)
class _Mention:
    """Where a sentence names a value."""

    start: int
    end: int
    value: str
    phrase: str


def _named(sentences: Iterable[str], phrases: Phrases) -> list[str]:
    return [mention.value for sentence in sentences for mention in _mentions(sentence, phrases)]


def _affirmed(sentence: str, phrases: ReportPhrases) -> list[str]:
    """The damages that a sentence names and does not deny."""
    denials = _mentions(sentence, {"": phrases.denials})
    found = []
    for mention in _mentions(sentence, phrases.damage):
        before = [denial for denial in denials if denial.end <= mention.start]
        if not before:
            found.append(mention.value)
    return found


def _mentions(sentence: str, phrases: Phrases) -> list[_Mention]:
    """All mentions, in their order; of those that overlap, the longest."""
    found = [
        _Mention(match.start(), match.end(), value, phrase)
        for value, sayings in phrases.items()
        for phrase in sayings
        for match in re.finditer(_pattern(phrase), sentence, re.IGNORECASE)
    ]
    kept: list[_Mention] = []
    for mention in sorted(found, key=lambda one: one.start - one.end):
        if all(mention.end <= other.start or mention.start >= other.end for other in kept):
            kept.append(mention)
    return sorted(kept, key=lambda one: one.start)


def _pattern(phrase: str) -> str:
    """Whole words, any space between them; behind `^` at the beginning only."""
    words = r"\s+".join(re.escape(word) for word in phrase.removeprefix("^").split())
    return (r"\A" if phrase.startswith("^") else r"(?<!\w)") + words + r"(?!\w)"


def _only(values: Iterable[str]) -> str | None:
    """The one value that there is; None for none, and for several."""
    found = set(values)
    return found.pop() if len(found) == 1 else None
