"""Bundles that are whole, damaged, for another device; and what is installed."""

from __future__ import annotations

import json
from pathlib import Path

import made_up
import pytest

from edgeq.bundle.manifest import DeviceNeeds, write_manifest
from edgeq.bundle.needs import DeviceFacts
from edgeq.doctor.bundles import current_bundle, examine_bundle, installed_finding, needs_finding, planned_bytes
from edgeq.doctor.disk import disk_finding
from edgeq.errors import ArtifactError
from edgeq.install.run import install
from edgeq.model.checkpoint.packed_weights import WeightScheme, quantization_config

ORIN = DeviceFacts(memory_bytes=16_000_000_000, compute_capability="8.7", tensorrt="10.3.0")
FOR_ORIN = DeviceNeeds(memory_bytes=12_000_000_000, compute_capability=("8.7",), tensorrt=">=10.3,<12")


def test_a_whole_bundle(tmp_path: Path) -> None:
    found = examine_bundle(made_up.bundle(tmp_path / "b", kind="vision-language"))
    assert (found.finding.status, found.language) == ("ok", True)
    assert found.finding.seen.startswith("vision-language, 3 files, ")
    assert "not signed" in found.finding.seen
    assert not examine_bundle(made_up.bundle(tmp_path / "c")).language


def test_a_damaged_bundle(tmp_path: Path) -> None:
    directory = made_up.bundle(tmp_path / "b")
    (directory / "plan.yaml").write_bytes(b"on plan")
    found = examine_bundle(directory)
    assert (found.finding.status, found.manifest) == ("missing", None)
    assert "plan.yaml" in found.finding.seen
    assert found.finding.next_step
    assert needs_finding(found, ORIN).status == "unknown"
    assert planned_bytes(found) is None


def test_no_bundle(tmp_path: Path) -> None:
    assert examine_bundle(None).finding.status == "unknown"
    assert examine_bundle(tmp_path / "nowhere").finding.status == "missing"


def test_what_a_bundle_needs(tmp_path: Path) -> None:
    found = examine_bundle(made_up.bundle(tmp_path / "b", needs=FOR_ORIN))
    here = needs_finding(found, ORIN)
    assert (here.status, here.seen) == (
        "ok",
        "this device has what it asks for: memory bytes, compute capability, tensorrt",
    )
    elsewhere = needs_finding(found, DeviceFacts(memory_bytes=8_000_000_000))
    assert elsewhere.status == "missing"
    assert all(word in elsewhere.seen for word in ("12.0 GB", "8.0 GB", "capability 8.7", "TensorRT >=10.3,<12"))


def test_a_bundle_that_needs_nothing(tmp_path: Path) -> None:
    found = needs_finding(examine_bundle(made_up.bundle(tmp_path / "b")), DeviceFacts())
    assert (found.status, found.seen) == ("ok", "it asks for nothing in particular")


def test_the_memory_plan(tmp_path: Path) -> None:
    assert planned_bytes(examine_bundle(made_up.bundle(tmp_path / "b", needed_bytes=5_900_000_000))) == 5_900_000_000
    assert planned_bytes(examine_bundle(made_up.bundle(tmp_path / "c"))) is None


def test_a_memory_plan_that_is_none(tmp_path: Path) -> None:
    directory = made_up.bundle(tmp_path / "b")
    (directory / "memory.json").write_text("{}")
    write_manifest(directory)
    with pytest.raises(ArtifactError, match="is not a memory plan"):
        planned_bytes(examine_bundle(directory))


def test_what_is_installed(tmp_path: Path) -> None:
    store = tmp_path / "store"
    assert current_bundle(store) is None
    assert installed_finding(store).status == "unknown"
    install(made_up.bundle(tmp_path / "one"), store)
    first = installed_finding(store)
    assert (first.status, "none before it" in first.seen) == ("ok", True)
    install(made_up.bundle(tmp_path / "two", kind="vision-language"), store)
    current = current_bundle(store)
    assert current is not None
    assert examine_bundle(current).language
    second = installed_finding(store)
    assert second.seen.startswith(f"{current.name[:12]} is in use, before it ")


def test_free_disk(tmp_path: Path) -> None:
    found = disk_finding(tmp_path / "not" / "there" / "yet")
    assert found.status in ("ok", "warning")
    full = disk_finding(tmp_path, 10**18)
    assert (full.status, "1000000000.0 GB" in full.means) == ("missing", True)


@pytest.mark.parametrize(
    ("config", "nf4"),
    [
        (None, True),
        ({}, False),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, True),
        ({"quantization_config": quantization_config({"l": WeightScheme(4, 128)}, [])}, False),
    ],
)
def test_which_bundle_bitsandbytes_is_needed_for(tmp_path: Path, config: object, nf4: bool) -> None:
    found = examine_bundle(made_up.bundle(tmp_path / "b", kind="vision-language"))
    if config is not None:
        (tmp_path / "b/language").mkdir()
        (tmp_path / "b/language/config.json").write_text(json.dumps(config))
    assert found.nf4 == nf4
    assert not examine_bundle(made_up.bundle(tmp_path / "c")).nf4
