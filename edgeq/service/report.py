"""A report on a picture, read out of what the model said: what it did not say stays unknown."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from edgeq.service.report_phrases import Phrases, ReportPhrases

__all__ = ["REPORT_VERSION", "Reader", "Report", "read_report", "reader_of"]

REPORT_VERSION: Final = "edgeq.report/1"

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
    """A reader that goes by phrases."""
    return partial(read_report, phrases)


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
