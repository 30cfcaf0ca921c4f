"""What a bundle needs of a device, and whether a device has it."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from edgeq import __version__

__all__ = ["DeviceFacts", "DeviceNeeds", "within"]

_CLAUSE: Final = re.compile(r" *(>=|<=|==|!=|>|<) *(\d{1,9}(?:\.\d{1,9}){0,5}) *", re.ASCII)
_NUMBERS: Final = re.compile(r"\d{1,9}(?:\.\d{1,9}){0,5}", re.ASCII)
_COMPARE: Final[dict[str, Callable[[Any, Any], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
_RANGE_CHARACTERS: Final = 100


def _range(text: str) -> str:
    """A range as it is, if it is one."""
    if text:
        list(_clauses(text))
    return text


VersionRange = Annotated[str, Field(max_length=_RANGE_CHARACTERS), AfterValidator(_range)]
"""Comparisons that must all hold, such as `>=10.3,<12`; empty for any version."""

Capability = Annotated[str, Field(pattern=r"^[0-9]{1,2}\.[0-9]$")]


class DeviceNeeds(BaseModel):
    """What a device must have; the default needs nothing.

    Attributes:
        memory_bytes: of the device in all; None for any.
        compute_capability: GPUs that will do, such as `8.7` of the Orin family; empty for any, or none.
        tensorrt: range of TensorRT's version, such as `>=10.3,<12`; empty where it is not needed.
        edgeq: likewise for edgeq.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    memory_bytes: int | None = Field(default=None, ge=0)
    compute_capability: tuple[Capability, ...] = ()
    tensorrt: VersionRange = ""
    edgeq: VersionRange = ""

    def missing(self, device: DeviceFacts) -> tuple[str, ...]:
        """What the device lacks, a sentence each; what is not known of it counts as lacking."""
        return tuple(self._missing(device))

    def _missing(self, device: DeviceFacts) -> Iterator[str]:
        if self.memory_bytes is not None and (device.memory_bytes or 0) < self.memory_bytes:
            yield f"it needs {_gigabytes(self.memory_bytes)} of memory, there is {_gigabytes(device.memory_bytes)}"
        if self.compute_capability and device.compute_capability not in self.compute_capability:
            wanted = " or ".join(self.compute_capability)
            yield f"it needs a GPU of compute capability {wanted}, there is {device.compute_capability or 'none'}"
        for title, wanted, there in (("TensorRT", self.tensorrt, device.tensorrt), ("edgeq", self.edgeq, device.edgeq)):
            if wanted and (there is None or not within(there, wanted)):
                yield f"it needs {title} {wanted}, there is {there or 'none'}"


@dataclass(frozen=True)
class DeviceFacts:
    """What a device has.

    Attributes:
        memory_bytes: in all, as Linux counts it; None where it is not known.
        compute_capability: of its GPU, such as `8.7`; None where there is none.
        tensorrt: its version; None where there is none.
        edgeq: the version that will use the bundle.
    """

    memory_bytes: int | None = None
    compute_capability: str | None = None
    tensorrt: str | None = None
    edgeq: str = __version__


def within(version: str, wanted: str) -> bool:
    """Whether a version is in a range; of the version, what follows the numbers (`rc1`, `+cuda`) does not count.

    Raises:
        ValueError: the range is none.
    """
    found = _NUMBERS.match(version)
    if found is None:
        return False
    return all(_holds(_parts(found[0]), sign, _parts(bound)) for sign, bound in _clauses(wanted))


def _clauses(text: str) -> Iterator[tuple[str, str]]:
    """Sign and version of each comparison."""
    for clause in text.split(","):
        found = _CLAUSE.fullmatch(clause)
        if found is None:
            raise ValueError(f"{text!r} is not a range of versions such as >=10.3,<12")
        yield found[1], found[2]


def _parts(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def _holds(version: tuple[int, ...], sign: str, bound: tuple[int, ...]) -> bool:
    """Compare as if the shorter one ended in zeros: 10.3 is 10.3.0."""
    pairs = list(zip_longest(version, bound, fillvalue=0))
    return _COMPARE[sign]([ours for ours, _ in pairs], [theirs for _, theirs in pairs])


def _gigabytes(count: int | None) -> str:
    return "an unknown amount" if count is None else f"{count / 1e9:.1f} GB"
