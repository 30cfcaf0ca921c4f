"""The end of every main job: the model card, then the manifest, which lists the card as any other file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgeq import __version__
from edgeq.bundle.contents import Kind, Task
from edgeq.bundle.manifest import Manifest, write_manifest
from edgeq.bundle.needs import DeviceNeeds
from edgeq.bundle_report.card import save_card

__all__ = ["finish_bundle"]


def finish_bundle(
    work: Path,
    name: str,
    model: str | Path,
    *,
    kind: Kind = "classifier",
    labels: tuple[str, ...] = (),
    allowed: Mapping[str, str] | None = None,
    needs: DeviceNeeds | None = None,
    task: Task | None = None,
) -> Manifest:
    """Write a bundle's card and its manifest.

    Args:
        work: the directory, complete but for these two.
        name: that the bundle will have.
        model: what it was made of, as it was given.
        kind, labels, allowed, needs, task: as for `write_manifest`.
    """
    allowed, needs = dict(allowed or {}), needs or DeviceNeeds()
    told = Manifest(
        kind=kind,
        made_by=f"edgeq {__version__}",
        labels=labels,
        allowed=allowed,
        needs=needs,
        task=task,
        files=(),
    )
    save_card(work, name, told, model)
    return write_manifest(work, kind=kind, labels=labels, allowed=allowed, needs=needs, task=task)
