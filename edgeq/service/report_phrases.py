"""The words by which a report is read out of what a model says: `terms.yaml` in a bundle, or a file of one's own.

version: edgeq.terms/1
question: Describe the damage and say what to do.
answers: text
denials: ["no", without]
damage:
  wide_crack: [wide crack, open crack]
  none: [sound, no damage]
place:
  top left: [top left, upper left]
severity:
  minor: [minor, slight]
action: [^seal, ^clean, should be]
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field, StringConstraints

from edgeq.artifact import Artifact
from edgeq.errors import ArtifactError
from edgeq.yaml_text import read_yaml

__all__ = ["DEFAULT_PHRASES", "PHRASES", "PHRASES_VERSION", "Phrases", "ReportPhrases", "load_report_phrases"]

PHRASES: Final = "terms.yaml"
"""The file in a bundle."""

PHRASES_VERSION: Final = "edgeq.terms/1"

_Phrase = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]

Phrases = dict[_Phrase, tuple[_Phrase, ...]]
"""A value of a report -> what a text says when it means that."""


class ReportPhrases(Artifact):
    """What values a report can have, and by which phrases they are known.

    Attributes:
        question: asked where a request has none of its own.
        denials: words that take back a phrase of `damage` behind them in the same sentence, unless that phrase begins
            with one itself.
        damage, place, severity: by value. Phrases are whole words; capitals and the number of spaces do not count.
        answers: `text`, in which the phrases find the values, of a model that was trained to say them; `json`, for one
            that was not: its answer is held to a document of the values themselves (constrained decoding).
        action: phrases; a sentence that has one of them says what to do, and is quoted as it is. `^seal` stands at the
            beginning of a sentence only.
    """

    otherwise: ClassVar[str] = "holds no phrases of reports"

    version: Literal["edgeq.terms/1"] = PHRASES_VERSION
    question: _Phrase
    answers: Literal["text", "json"] = "text"
    denials: tuple[_Phrase, ...] = ()
    damage: Phrases = Field(min_length=1)
    place: Phrases = Field(default_factory=dict)
    severity: Phrases = Field(default_factory=dict)
    action: tuple[_Phrase, ...] = ()


DEFAULT_PHRASES: Final = ReportPhrases(
    question="Describe the damage and say what to do.",
    denials=("no", "not", "without", "neither", "nor"),
    damage={
        "hairline_crack": ("hairline crack", "hairline cracks", "fine crack", "fine cracks"),
        "wide_crack": ("wide crack", "wide cracks", "open crack", "open cracks"),
        "crack": ("crack", "cracks", "cracking"),
        "corrosion": ("corrosion", "rust"),
        "spalling": ("spalling", "spalled concrete"),
        "none": ("the surface is sound", "no damage", "only a shadow", "undamaged"),
    },
    place={
        "top left": ("top left", "at the top left", "upper left"),
        "top": ("at the top", "in the upper part"),
        "top right": ("top right", "at the top right", "upper right"),
        "left": ("at the left", "on the left"),
        "centre": ("centre", "center", "middle"),
        "right": ("at the right", "on the right"),
        "bottom left": ("bottom left", "at the bottom left", "lower left"),
        "bottom": ("at the bottom", "in the lower part"),
        "bottom right": ("bottom right", "at the bottom right", "lower right"),
    },
    severity={
        "minor": ("minor", "slight", "superficial"),
        "moderate": ("moderate",),
        "severe": ("severe", "serious", "critical"),
    },
    action=(
        *("^blast", "^call", "^clean", "^close", "^fit", "^have", "^inspect", "^knock off", "^look again", "^mark"),
        *("^measure", "^monitor", "^no action", "^note", "^paint", "^patch", "^repair", "^replace", "^seal"),
        *("action is needed", "must be", "should be", "is recommended", "it is advisable"),
    ),
)
"""Damage of concrete and steel, as inspectors name it."""


def load_report_phrases(path: Path) -> ReportPhrases:
    """Read a file of phrases.

    Raises:
        ArtifactError: it is missing, too long, is not YAML, or has other keys.
    """
    try:
        return ReportPhrases.model_validate(read_yaml(path))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path} {ReportPhrases.otherwise}",
            expected=f"YAML with version: {PHRASES_VERSION}, question, damage, and perhaps place, severity, action",
            causes=(" ".join(str(error).split())[:300],),
        ) from error
