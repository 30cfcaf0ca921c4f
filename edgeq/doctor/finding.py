"""What a check found, and what all of them found together."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from edgeq.artifact import Artifact

__all__ = ["STATUSES", "DoctorFinding", "Examination", "Status"]

Status = Literal["ok", "warning", "missing", "unknown"]

STATUSES: Final[tuple[Status, ...]] = ("missing", "warning", "unknown", "ok")
"""The worst first."""


class DoctorFinding(BaseModel):
    """One check.

    Attributes:
        name: of the check, in a few words.
        status: `missing` is something needed that is not there or does not work; `warning` works, at a price or with a
            doubt; `unknown` could not be looked at, or was not asked for.
        seen: what was read or measured.
        means: what follows from it; empty where that goes without saying.
        next_step: the command or change that mends it; empty where nothing is to be done.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    status: Status
    seen: str
    means: str = ""
    next_step: str = ""


class Examination(Artifact):
    """All findings, in the order of the checks; `able` is false where something needed is missing."""

    otherwise = "is not what `edgeq doctor --json` prints"

    version: Literal["edgeq.doctor/1"] = "edgeq.doctor/1"
    able: bool
    findings: tuple[DoctorFinding, ...]

    @classmethod
    def of(cls, findings: tuple[DoctorFinding, ...]) -> Examination:
        """Sum findings up."""
        return cls(able=all(finding.status != "missing" for finding in findings), findings=findings)
