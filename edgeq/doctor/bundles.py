"""The bundle: is it whole, does this device have what it needs, and is its engine built."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeq.bundle.contents import SIGNATURE, Manifest
from edgeq.bundle.manifest import read_manifest
from edgeq.bundle.needs import DeviceFacts
from edgeq.bundle.vlm_settings import LANGUAGE
from edgeq.doctor.finding import DoctorFinding
from edgeq.errors import EdgeqError
from edgeq.install.states import read_state
from edgeq.install.store import open_store
from edgeq.plan.memory import MemoryPlan
from edgeq.runtime.scheduler.budget import MEMORY
from edgeq.runtime.vlm.packed.checkpoint import weight_format

__all__ = ["Examined", "current_bundle", "examine_bundle", "installed_finding", "needs_finding", "planned_bytes"]

_SHOWN_ID: Final = 12


@dataclass(frozen=True)
class Examined:
    """A bundle that was looked at.

    Attributes:
        finding: whether every file is what its manifest lists.
        directory: where it lies; None where there is none to look at.
        manifest: None where that cannot be trusted.
    """

    finding: DoctorFinding
    directory: Path | None = None
    manifest: Manifest | None = None

    @property
    def language(self) -> bool:
        """It holds a language model."""
        return self.manifest is not None and self.manifest.kind == "vision-language"

    @property
    def nf4(self) -> bool:
        """It holds a language model that bitsandbytes runs; what does not say how it is stored is taken for one."""
        if not self.language or self.directory is None:
            return False
        try:
            return weight_format(self.directory / LANGUAGE) == "bitsandbytes"
        except EdgeqError:  # opening it says it better
            return True


def examine_bundle(directory: Path | None) -> Examined:
    """Read every file of a bundle and compare it with the manifest; its signature is `edgeq verify`'s to check."""
    if directory is None:
        step = "edgeq doctor BUNDLE"
        return Examined(
            DoctorFinding(name="bundle", status="unknown", seen="none was given, none is installed", next_step=step)
        )
    try:
        manifest = read_manifest(directory)
    except EdgeqError as error:
        step = error.next_step or "copy the bundle again"
        return Examined(DoctorFinding(name="bundle", status="missing", seen=error.what, next_step=step), directory)
    signed = "signed" if (directory / SIGNATURE).exists() else "not signed"
    seen = f"{manifest.kind}, {len(manifest.files)} files, {manifest.total_bytes / 1e9:.2f} GB, {signed}: all as listed"
    return Examined(DoctorFinding(name="bundle", status="ok", seen=seen), directory, manifest)


def current_bundle(store: Path) -> Path | None:
    """The directory of the version that is in use; None where there is none."""
    try:
        opened = open_store(store)
        current = read_state(opened).current
    except (EdgeqError, OSError):
        return None
    return None if current is None else opened.version(current)


def installed_finding(store: Path) -> DoctorFinding:
    """Which version is in use, and which one a rollback would go back to."""
    try:
        state = read_state(open_store(store))
    except (EdgeqError, OSError) as error:
        seen = error.what if isinstance(error, EdgeqError) else str(error)
        return DoctorFinding(name="installed", status="unknown", seen=seen)
    if state.current is None:
        step = f"edgeq install BUNDLE --root {store}"
        return DoctorFinding(
            name="installed", status="warning", seen=f"no version in {store} is in use", next_step=step
        )
    before = f"before it {state.previous[:_SHOWN_ID]}" if state.previous else "none before it"
    means = "" if state.previous else "there is nothing to roll back to"
    return DoctorFinding(
        name="installed", status="ok", seen=f"{state.current[:_SHOWN_ID]} is in use, {before}", means=means
    )


def needs_finding(bundle: Examined, device: DeviceFacts) -> DoctorFinding:
    """What the bundle needs of a device, against what this one has."""
    if bundle.manifest is None:
        return DoctorFinding(name="needs", status="unknown", seen="no bundle says what it needs")
    lacking = bundle.manifest.needs.missing(device)
    if lacking:
        step = "prepare the bundle for this device, or use the device that it was made for"
        return DoctorFinding(name="needs", status="missing", seen="; ".join(lacking), next_step=step)
    asked = [name.replace("_", " ") for name in bundle.manifest.needs.model_dump(exclude_defaults=True)]
    seen = f"this device has what it asks for: {', '.join(asked)}" if asked else "it asks for nothing in particular"
    return DoctorFinding(name="needs", status="ok", seen=seen)


def planned_bytes(bundle: Examined) -> int | None:
    """What the bundle's memory plan needs at the tightest moment; None where it has no plan.

    Raises:
        ArtifactError: the plan is none.
    """
    if bundle.manifest is None or bundle.directory is None:
        return None
    if all(file.name != MEMORY for file in bundle.manifest.files):
        return None
    return MemoryPlan.load(bundle.directory / MEMORY).needed_bytes
