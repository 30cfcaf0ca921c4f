"""What the small vision-language model says about a scene: a finding, in one or two sentences that read back exactly.

The kind of damage, its place among nine, how severe it is, and what to do, which follows from kind and severity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from edgeq.demo.scenes import KINDS
from edgeq.errors import InputError

__all__ = ["FINDINGS", "PLACES", "QUESTIONS", "SCENES", "SEVERITIES", "DefectFinding", "Reading", "parse", "report"]

SCENES: Final = 60
"""That each variant of the model is asked about where nobody says how many."""

QUESTIONS = (
    "What do you see?",
    "Is there any damage here?",
    "Describe the damage and say what to do.",
    "What is wrong, where, and how bad is it?",
    "Report on the state of this surface.",
    "Should anything be done about this?",
)
"""The wordings that the model is trained on; each asks for the whole report."""

PLACES = ("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")
"""The nine thirds of a third of the picture, row after row."""

SEVERITIES = ("minor", "moderate", "severe")

_NO_ACTION = "No action is needed."

_ACTIONS = {
    "hairline_crack": (
        "Note it and look again in a year.",
        "Mark its ends and look again in a month.",
        "Have an engineer look at it within a week.",
    ),
    "wide_crack": (
        "Seal it within a month.",
        "Fit a gauge and seal it within a week.",
        "Close the area and call an engineer today.",
    ),
    "corrosion": (
        "Clean and paint it at the next service.",
        "Blast and repaint it within a month.",
        "Measure how much section is left within a week.",
    ),
    "spalling": (
        "Patch it at the next service.",
        "Knock off what is loose and patch it within a month.",
        "Close the area below and call an engineer today.",
    ),
}
"""What to do about each kind of damage, from minor to severe."""

_NOUNS = {
    "hairline_crack": "a {} hairline crack",
    "wide_crack": "a {} wide crack",
    "corrosion": "{} corrosion",
    "spalling": "{} spalling",
}


@dataclass(frozen=True)
class DefectFinding:
    """What is on a scene.

    Attributes:
        kind: one of `KINDS`.
        place: one of `PLACES`; empty for a sound surface.
        severity: one of `SEVERITIES`; empty where there is no damage.

    Raises:
        InputError: the three do not belong together.
    """

    kind: str
    place: str = ""
    severity: str = ""

    def __post_init__(self) -> None:
        """Refuses a damage without place or severity, and either where it has no meaning."""
        places = ("",) if self.kind == "sound" else PLACES
        severities = SEVERITIES if self.kind in _ACTIONS else ("",)
        if self.kind not in KINDS or self.place not in places or self.severity not in severities:
            raise InputError(f"no scene has {self.severity or 'no'} {self.kind!r} at {self.place or 'no place'!r}")

    @property
    def action(self) -> str:
        """What to do about it, as a sentence."""
        return _ACTIONS[self.kind][SEVERITIES.index(self.severity)] if self.severity else _NO_ACTION


class Reading(NamedTuple):
    """A report taken apart: what it says is there, and what it says should be done."""

    finding: DefectFinding
    action: str


def report(finding: DefectFinding) -> str:
    """The finding and its action in English."""
    return f"{_statement(finding)} {finding.action}"


def parse(text: str) -> Reading | None:
    """What a report says; None when it is no report. The action read may be the wrong one for the finding."""
    statement, dot, action = text.strip().partition(". ")
    finding = _MEANINGS.get(statement + dot.strip())
    return Reading(finding, action) if finding and action in _SENTENCES else None


def _statement(finding: DefectFinding) -> str:
    """The sentence that says what is there."""
    if finding.kind == "sound":
        return "The surface is sound."
    where = "in the centre" if finding.place == "centre" else f"at the {finding.place}"
    if finding.kind == "shadow":
        return f"The dark patch {where} is only a shadow."
    return f"There is {_NOUNS[finding.kind].format(finding.severity)} {where}."


def _findings() -> tuple[DefectFinding, ...]:
    """Every finding there is: 1 sound, 9 shadows, and 4 kinds of damage in 9 places and 3 severities."""
    damages = (DefectFinding(kind, place, severity) for kind in _ACTIONS for place in PLACES for severity in SEVERITIES)
    return (DefectFinding("sound"), *(DefectFinding("shadow", place) for place in PLACES), *damages)


FINDINGS = _findings()
_MEANINGS = {_statement(finding): finding for finding in FINDINGS}
_SENTENCES = {finding.action for finding in FINDINGS}
