"""What people say about a scene, in several wordings: the captions that the small CLIP is trained on and asked with.

A caption tells kind, place and severity; the report tells what to do as well. All wordings of all findings differ, so
that a caption reads back.
"""

from __future__ import annotations

import numpy as np

from edgeq.demo.scenes import KINDS, check
from edgeq.demo.vlm.report import FINDINGS, DefectFinding, report

__all__ = ["WORDINGS", "caption", "captions", "relevant", "understand"]

WORDINGS = 6
"""How many captions each finding has."""

_NAMES = {
    "hairline_crack": "hairline crack",
    "wide_crack": "wide crack",
    "corrosion": "corrosion",
    "spalling": "spalling",
}
_COUNTED = ("hairline_crack", "wide_crack")
"""Kinds of which there is one, so that they have an article."""

_SOUND = (
    "a sound surface",
    "a photograph of a sound surface without damage",
    "no damage",
    "nothing is wrong with this surface",
    "surface: sound",
)
_SHADOW = (
    "a shadow {where}",
    "a photograph of a shadow {where}, no damage",
    "only a shadow {where}",
    "{where} there is nothing but a shadow",
    "{place}: shadow",
)
_DAMAGE = (
    "{severity} {name} {where}",
    "a photograph of {thing} {where}",
    "{name} {where}, {severity}",
    "{where} there is {thing}",
    "{place}: {severity} {name}",
)


def captions(finding: DefectFinding) -> tuple[str, ...]:
    """Every caption of a finding: the report, and five shorter ones in lower case as people type them to search."""
    if finding.kind == "sound":
        return report(finding), *_SOUND
    where = "in the centre" if finding.place == "centre" else f"at the {finding.place}"
    if finding.kind == "shadow":
        return report(finding), *(wording.format(where=where, place=finding.place) for wording in _SHADOW)
    name = _NAMES[finding.kind]
    thing = f"{'a ' if finding.kind in _COUNTED else ''}{finding.severity} {name}"
    words = {"name": name, "thing": thing, "where": where, "place": finding.place, "severity": finding.severity}
    return report(finding), *(wording.format(**words) for wording in _DAMAGE)


def caption(finding: DefectFinding, seed: int) -> str:
    """One caption of a finding; all wordings are equally often chosen.

    Raises:
        InputError: the seed is negative.
    """
    check(KINDS[0], seed)
    rng = np.random.Generator(np.random.PCG64([len(KINDS) + 1, seed]))  # a stream that no scene draws from
    return captions(finding)[rng.integers(WORDINGS)]


def understand(text: str) -> DefectFinding | None:
    """The finding that a caption tells; None when it is no caption, word for word."""
    return _MEANINGS.get(text)


def relevant(first: DefectFinding, second: DefectFinding) -> bool:
    """Whether a scene with one finding answers a caption of the other: kind, place and severity are the same.

    Many scenes share a finding, so that what answers a caption is a set of scenes.
    """
    return first == second


_MEANINGS = {text: finding for finding in FINDINGS for text in captions(finding)}
