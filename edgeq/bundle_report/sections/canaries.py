"""The canaries: images of which the bundle knows what is to be seen on them."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from edgeq.bundle_report.blocks import Block, Paragraph, Picture, Pictures, Section
from edgeq.bundle_report.contents import BundleContents
from edgeq.errors import ArtifactError
from edgeq.runtime.canary.canaries import CANARIES, Canaries, ClassCanaries
from edgeq.runtime.canary.files import read_array

__all__ = ["canaries_section"]

_MOST = 16
_WHAT = "A device runs the canaries after it has built its engine, and compares (edgeq verify-engine, edgeq install)."


def canaries_section(contents: BundleContents) -> Section:
    """Pictures with what each network says of them."""
    canaries = contents.canaries
    if isinstance(canaries, ClassCanaries):
        blocks = _of_classes(contents, canaries)
    elif canaries is not None:
        blocks = _of_answers(contents, canaries)
    else:
        blocks = _counted(contents)
    return Section("canaries", "Canaries", (*blocks, Paragraph(_WHAT)) if blocks else (Paragraph("There are none."),))


def _of_classes(contents: BundleContents, canaries: ClassCanaries) -> list[Block]:
    said = [_classes(contents, name, canaries) for name in (canaries.fp32_logits, canaries.int8_logits)]
    items = []
    for place, canary in enumerate(canaries.canaries[:_MOST]):
        answers = tuple(
            (who, names[place]) for who, names in zip(("FP32", "runs"), said, strict=True) if place < len(names)
        )
        source = contents.album.in_bundle(f"{CANARIES}/{canary.image}")
        items.append(Picture(source, f"canary {canary.image}", (("canary", canary.image), *answers)))
    return [Pictures(f"{len(canaries.canaries)} images, answered by {canaries.fp32} and {canaries.int8}", tuple(items))]


def _classes(contents: BundleContents, name: str, canaries: ClassCanaries) -> list[str]:
    """The class that a graph names for each canary; empty where its answer is no vector of classes."""
    labels = contents.manifest.labels
    if canaries.answer is not None or not labels:
        return []
    logits: NDArray[np.float32] = np.zeros((0, 1), np.float32)
    with suppress(ArtifactError, OSError):
        logits = read_array(contents.directory / CANARIES / name)
    return [labels[index] if index < len(labels) else str(index) for index in logits.argmax(axis=1).tolist()]


def _of_answers(contents: BundleContents, canaries: Canaries) -> list[Block]:
    by = "the whole model" if canaries.answered_by == "reference" else "the bundle itself"
    items = tuple(
        Picture(
            contents.album.in_bundle(f"{CANARIES}/{canary.image}"),
            f"canary {canary.image}",
            (("canary", canary.image), ("question", canary.question), ("answer", canary.answer)),
        )
        for canary in canaries.canaries[:_MOST]
    )
    return [Pictures(f"{len(canaries.canaries)} questions, answered by {by}", items)]


def _counted(contents: BundleContents) -> list[Block]:
    names = sorted(name for name in contents.sizes if name.startswith(f"{CANARIES}/") and name.endswith(".png"))
    items = tuple(
        Picture(contents.album.in_bundle(name), f"canary {name}", (("canary", name),)) for name in names[:_MOST]
    )
    return [Pictures(f"{len(names)} images", items)] if items else []
