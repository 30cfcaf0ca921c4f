"""Releases of TensorRT that write calibration caches, as people and as cache headers write them.

TensorRT's headers multiply the major release with 1000 up to release 8 and with 10,000 from release 10 on. How release
9 did it is not known here; release 11 has no calibrators any more.
"""

from __future__ import annotations

import re
from typing import Final

from edgeq.errors import InputError

__all__ = ["Version", "from_number", "to_number", "version_of", "version_problem"]

Version = tuple[int, int, int]
"""(major, minor, patch) of a release of TensorRT."""

_FACTORS: Final = {5: 1000, 6: 1000, 7: 1000, 8: 1000, 10: 10_000}
_CALIBRATORS_GONE: Final = 11
_VERSION: Final = re.compile(r"([0-9]{1,3})\.([0-9]{1,3})(?:\.([0-9]{1,3})(?:\.[0-9]+)?)?")


def version_of(text: str) -> Version:
    """The release in `10.3.0`, `10.3` (patch 0) or `10.16.1.11` (the build number is dropped).

    Raises:
        InputError: it is no release number, or of a release whose calibration caches are not known or do not exist.
    """
    found = _VERSION.fullmatch(text)
    if found is None:
        raise InputError(
            f"{text[:40]!r} is not a TensorRT version",
            expected="numbers such as 10.3.0",
            next_step='ask the device: python3 -c "import tensorrt; print(tensorrt.__version__)"',
        )
    version = (int(found[1]), int(found[2]), int(found[3] or 0))
    if problem := version_problem(version):
        gone = version[0] >= _CALIBRATORS_GONE
        raise InputError(
            problem,
            expected="the release that will build the engine: 5 to 8, or 10",
            next_step="build from the Q/DQ graph model.int8.trt.onnx, which needs no cache" if gone else "",
        )
    return version


def version_problem(version: Version) -> str:
    """Why no calibration cache can be for this release; empty where one can."""
    major, minor, patch = version
    shown = ".".join(map(str, version))
    if major >= _CALIBRATORS_GONE:
        return f"TensorRT {shown} has no calibrators, they were removed in release 11"
    if major not in _FACTORS:
        return f"how TensorRT {shown} writes its release into a cache is not known"
    if not (0 <= minor < _FACTORS[major] // 100 and 0 <= patch < 100):
        return f"there is no TensorRT {shown}"
    return ""


def to_number(version: Version) -> int:
    """The number in a header: (8, 6, 1) is 8601, (10, 3, 0) is 100300. `version_problem` must be empty."""
    major, minor, patch = version
    return major * _FACTORS[major] + minor * 100 + patch


def from_number(number: int) -> Version:
    """The release that a header's number stands for, if there is one: ask `version_problem` and `to_number`."""
    factor = 1000 if number < 10_000 else 10_000
    return number // factor, number % factor // 100, number % 100
