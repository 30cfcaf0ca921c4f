"""What a bundle needs, against what a device has."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from edgeq.bundle.needs import DeviceFacts, DeviceNeeds, within

ORIN = DeviceFacts(memory_bytes=16_000_000_000, compute_capability="8.7", tensorrt="10.3.0", edgeq="0.1.0")


@pytest.mark.parametrize(
    ("version", "wanted", "inside"),
    [
        ("10.3.0", ">=10.3,<12", True),
        ("10.3", ">=10.3.0", True),
        ("10.2.9", ">=10.3,<12", False),
        ("10.16.1.11", ">=10.3,<12", True),
        ("12", ">=10.3,<12", False),
        ("12.0.0", "<12", False),
        ("11.9.9", "<12", True),
        ("12.0.1", ">12", True),
        ("12.0.0", ">12", False),
        ("1.10", ">1.9", True),
        ("1.2.3", "==1.2.3", True),
        ("1.2", "==1.2.0.0", True),
        ("1.2.3", "!=1.2.3", False),
        ("1.2.4", "> 1.2.3 , <=1.2.4", True),
        ("0.1.0.dev1", ">=0.1", True),
        ("2.0rc1", ">=2", True),
        ("unknown", ">=0", False),
        ("", ">=0", False),
    ],
)
def test_ranges(version: str, wanted: str, inside: bool) -> None:
    assert within(version, wanted) is inside


@pytest.mark.parametrize("text", ["10.3", ">=", ">=a", ">=1,", "~=1.0", ">=1;<2", ">=1." + "1" * 99, ">=1\n", "=1"])
def test_what_is_no_range(text: str) -> None:
    with pytest.raises(ValidationError):
        DeviceNeeds(tensorrt=text)


def test_no_needs_are_met_by_any_device() -> None:
    assert DeviceNeeds().missing(DeviceFacts()) == ()
    assert DeviceNeeds().missing(ORIN) == ()


def test_an_orin_has_what_an_orin_needs() -> None:
    needs = DeviceNeeds(
        memory_bytes=16_000_000_000, compute_capability=("7.2", "8.7"), tensorrt=">=10.3,<12", edgeq=">=0.1"
    )
    assert needs.missing(ORIN) == ()


@pytest.mark.parametrize(
    ("needs", "said"),
    [
        (DeviceNeeds(memory_bytes=16_000_000_001), "it needs 16.0 GB of memory, there is 16.0 GB"),
        (DeviceNeeds(compute_capability=("7.2",)), "it needs a GPU of compute capability 7.2, there is 8.7"),
        (DeviceNeeds(tensorrt=">=10.7"), "it needs TensorRT >=10.7, there is 10.3.0"),
        (DeviceNeeds(edgeq="<0.1"), "it needs edgeq <0.1, there is 0.1.0"),
    ],
)
def test_each_need_by_itself(needs: DeviceNeeds, said: str) -> None:
    assert needs.missing(ORIN) == (said,)


def test_what_is_not_known_is_lacking() -> None:
    needs = DeviceNeeds(memory_bytes=1, compute_capability=("8.7",), tensorrt=">=10.3", edgeq=">=0.0.1")
    lacking = needs.missing(DeviceFacts(edgeq="0.1.0"))
    assert len(lacking) == 3
    assert all("there is none" in said or "an unknown amount" in said for said in lacking)
