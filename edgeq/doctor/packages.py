"""Python, and which of edgeq's extras are complete, by what the installed packages say of themselves.

Nothing is imported: a package may be installed and broken, which is for the probes to find.
"""

from __future__ import annotations

import platform
import re
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from typing import Final

from edgeq import __version__
from edgeq.bundle.needs import within
from edgeq.doctor.finding import DoctorFinding
from edgeq.extras import install_command

__all__ = [
    "Requirement",
    "bitsandbytes_version",
    "installed",
    "lacking",
    "package_findings",
    "parse_requirement",
    "python_finding",
]

_NF4: Final = "bitsandbytes"
_OLDEST: Final = (3, 10)
_KNOWN_MACHINES: Final = ("x86_64", "aarch64")
_REQUIREMENT: Final = re.compile(r"([A-Za-z0-9._-]+)\s*(?:\[[^\]]*\])?\s*\(?([^;)]*)\)?\s*(?:;\s*(.*))?")
_EXTRA: Final = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")


@dataclass(frozen=True)
class Requirement:
    """A package that edgeq needs.

    Attributes:
        package: its name.
        versions: such as `<3,>=2`; empty where any will do.
        extra: the extra that needs it; empty where edgeq always does.
    """

    package: str
    versions: str
    extra: str

    def problem(self) -> str:
        """What is wrong with what is installed; empty where nothing is."""
        found = installed(self.package)
        if found is None:
            return self.package
        return "" if _will_do(found, self.versions) else f"{self.package} {found}, which is not {self.versions}"


def installed(package: str) -> str | None:
    """An installed package's version; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def bitsandbytes_version() -> str | None:
    """Of bitsandbytes; empty where it lies there without saying which, None where it is not installed."""
    return (installed("bitsandbytes") or "") if find_spec("bitsandbytes") else None


def python_finding() -> DoctorFinding:
    """Python's version and the processor."""
    machine = platform.machine()
    seen = f"Python {platform.python_version()} on {platform.system()} {machine}"
    if sys.version_info < _OLDEST:
        return DoctorFinding(name="python", status="missing", seen=seen, means="edgeq needs Python 3.10 or later")
    if platform.system() != "Linux" or machine not in _KNOWN_MACHINES:
        known = " or ".join(_KNOWN_MACHINES)
        return DoctorFinding(
            name="python", status="warning", seen=seen, means=f"edgeq is tested on Linux on {known} only"
        )
    return DoctorFinding(name="python", status="ok", seen=seen)


def package_findings(*, language: bool, nf4: bool = True) -> tuple[DoctorFinding, ...]:
    """What edgeq always needs, and its extras.

    Args:
        language: the extra with this name is needed, for a vision-language bundle.
        nf4: its language model is in NF4, for which alone bitsandbytes is needed.
    """
    needed = [parse_requirement(line) for line in _edgeq_requires()]
    if not needed:
        return (DoctorFinding(name="edgeq", status="unknown", seen=f"edgeq {__version__}, not installed as a package"),)
    return _base_finding(needed), _extras_finding(needed, language=language, nf4=nf4)


def _edgeq_requires() -> list[str]:
    try:
        return requires("edgeq") or []
    except PackageNotFoundError:
        return []


def _base_finding(needed: list[Requirement]) -> DoctorFinding:
    missing = lacking(needed, "")
    if missing:
        return DoctorFinding(
            name="edgeq",
            status="missing",
            seen=f"edgeq {__version__}; lacking: {', '.join(missing)}",
            next_step="pip install --upgrade edgeq",
        )
    return DoctorFinding(name="edgeq", status="ok", seen=f"edgeq {__version__}")


def _extras_finding(needed: list[Requirement], *, language: bool, nf4: bool) -> DoctorFinding:
    """Complete and incomplete extras; what an engine needs is judged by the engines themselves."""
    extras = dict.fromkeys(entry.extra for entry in needed if entry.extra)
    missing = {extra: lacking(needed, extra) for extra in extras}
    complete = [extra for extra in extras if not missing[extra]]
    parts = [f"complete: {', '.join(complete) or 'none'}"]
    parts += [f"{extra} lacks {', '.join(missing[extra])}" for extra in extras if missing[extra]]
    needs = [entry for entry in needed if nf4 or entry.package != _NF4]
    if language and lacking(needs, "language"):
        return DoctorFinding(
            name="extras",
            status="missing",
            seen="; ".join(parts),
            means="the bundle's language model needs the extra `language`",
            next_step=install_command("device", "language"),
        )
    return DoctorFinding(name="extras", status="ok", seen="; ".join(parts))


def lacking(needed: list[Requirement], extra: str) -> list[str]:
    """The packages of an extra (empty: of edgeq itself) that are not installed, or not in a version that will do."""
    return [problem for entry in needed if entry.extra == extra and (problem := entry.problem())]


def parse_requirement(line: str) -> Requirement:
    """One line of a package's metadata, such as `onnx<2,>=1.17; extra == 'quantize'`.

    Raises:
        ValueError: it is none.
    """
    found = _REQUIREMENT.fullmatch(line.strip())
    if found is None:
        raise ValueError(f"{line!r} is no requirement")
    extra = _EXTRA.search(found[3] or "")
    return Requirement(found[1], found[2].strip(), extra[1] if extra else "")


def _will_do(found: str, versions: str) -> bool:
    """Whether a version is in a range; a range of a form that edgeq does not use is not judged."""
    try:
        return not versions or within(found, versions)
    except ValueError:
        return True
