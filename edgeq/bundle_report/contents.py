"""A bundle's artifacts as a report needs them: each read within bounds, or the reason why it is not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from edgeq.bundle.contents import SIGNATURE, Manifest
from edgeq.bundle.directory import entries, read_small
from edgeq.bundle.errors import BundleError
from edgeq.bundle.limits import DEFAULT_LIMITS
from edgeq.bundle.manifest_signature import ManifestSignature
from edgeq.bundle.verification_states import Verified
from edgeq.bundle.verify import Trust, examine
from edgeq.bundle.vision_report import VISION, VisionReport
from edgeq.bundle_report.pictures import Album
from edgeq.calibrate.scales import Scales
from edgeq.errors import ArtifactError, EdgeqError
from edgeq.export.stage import EXPORT, ExportReport
from edgeq.plan.memory import MemoryPlan
from edgeq.plan.precision import PrecisionPlan
from edgeq.quality.gate import Gate
from edgeq.quality.judge import Quality
from edgeq.quality.tasks.answer_figures import VlmQuality
from edgeq.quality.tasks.retrieval_gate import RetrievalGate
from edgeq.quantize.search.layer_search import Search
from edgeq.quantize.search.sensitivity import TABLE, Sensitivity
from edgeq.runtime.canary.canaries import CANARY_LIST, Canaries, ClassCanaries
from edgeq.strict_json import read_json, read_model

__all__ = ["BundleContents", "open_contents", "read_contents"]

_MOST_BYTES: Final = 32 << 20
"""Of one artifact; scales of a large network have some MB."""

T = TypeVar("T")


@dataclass(frozen=True)
class BundleContents:
    """What a report is made of; None where a bundle does not have it.

    Attributes:
        name: of its directory.
        directory: where it lies.
        manifest: what it says; of a bundle that is being made, without files.
        sizes: bytes of each file.
        album: pictures.
        verified: what was checked; None while the bundle is being made.
        sealed_by: id of the key that the signature names, whether that was checked or not; None where it is not signed.
        plans: by file.
        quality, gate, memory, export, vision, scales, search, sensitivity, canaries: the artifacts of these names.
        config: the model's config.json.
        faults: file -> why it could not be read.
    """

    name: str
    directory: Path
    manifest: Manifest
    sizes: dict[str, int]
    album: Album
    verified: Verified | None = None
    sealed_by: str | None = None
    plans: dict[str, PrecisionPlan] = field(default_factory=dict)
    quality: Quality | VlmQuality | None = None
    gate: Gate | RetrievalGate | None = None
    memory: MemoryPlan | None = None
    export: ExportReport | None = None
    vision: VisionReport | None = None
    scales: Scales | None = None
    search: Search | None = None
    sensitivity: Sensitivity | None = None
    canaries: Canaries | ClassCanaries | None = None
    config: dict[str, Any] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)

    @property
    def total_bytes(self) -> int:
        """Of all files."""
        return sum(self.sizes.values())

    @property
    def reference(self) -> str:
        """What the quantized network is held beside."""
        return "whole model" if self.manifest.kind == "vision-language" else "FP32"


def open_contents(bundle: Path, *, trust: Trust | None = None, images: Path | None = None) -> BundleContents:
    """Check a bundle, and read it.

    Args:
        bundle: its directory.
        trust: what it must satisfy; None leaves its signature unchecked.
        images: a folder or zip in which images that the bundle names are looked for.

    Raises:
        BundleError: it is not whole, or not signed as it must be.
        ImageError: there are no images in `images`.
    """
    verified = examine(bundle, trust or Trust())
    return read_contents(bundle, bundle.resolve().name, verified.manifest, verified=verified, images=images)


def read_contents(
    directory: Path, name: str, manifest: Manifest, *, verified: Verified | None = None, images: Path | None = None
) -> BundleContents:
    """Read a bundle's artifacts; what cannot be read is named, and not an error.

    Args:
        directory: the bundle.
        name: for people.
        manifest: what it says; of a bundle that is being made, without files.
        verified: what was checked; None while it is being made.
        images: as in `open_contents`.

    Raises:
        ImageError: there are no images in `images`.
    """
    sizes, faults = dict(entries(directory)), dict[str, str]()

    def one(file: str, *readers: Callable[[Path], T]) -> T | None:
        return _first(directory, file, readers, faults) if file in sizes else None

    judged: tuple[Callable[[Path], Quality | VlmQuality], ...] = (Quality.load, VlmQuality.load)
    gates: tuple[Callable[[Path], Gate | RetrievalGate], ...] = (Gate.load, RetrievalGate.load)
    plans = {file: one(file, PrecisionPlan.load) for file in sizes if file.endswith("plan.yaml")}
    return BundleContents(
        name=name,
        directory=directory,
        manifest=manifest,
        sizes=sizes,
        album=Album(directory, images),
        verified=verified,
        sealed_by=_sealed_by(directory),
        plans={file: plan for file, plan in plans.items() if plan is not None},
        quality=one("quality.json", *judged),
        gate=one("gate.json", *gates),
        memory=one("memory.json", MemoryPlan.load),
        export=one(EXPORT, lambda path: read_model(ExportReport, path.read_bytes())),
        vision=one(VISION, lambda path: read_model(VisionReport, path.read_bytes())),
        scales=one("scales.json", Scales.load),
        search=one("search.json", Search.load),
        sensitivity=one(TABLE, Sensitivity.load),
        canaries=_canaries(manifest, one),
        config=one("config.json", _object) or {},
        faults=faults,
    )


def _canaries(manifest: Manifest, one: Callable[..., Any]) -> Canaries | ClassCanaries | None:
    """Those of a bundle of two encoders are another kind's, and are counted by their files alone."""
    if manifest.kind == "retrieval":
        return None
    found: Canaries | ClassCanaries | None = one(CANARY_LIST, ClassCanaries.load, Canaries.load)
    return found


def _first(directory: Path, file: str, readers: tuple[Callable[[Path], T], ...], faults: dict[str, str]) -> T | None:
    """What the first reader that takes the file makes of it."""
    path, told = directory / file, ""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ArtifactError(f"it has more than {_MOST_BYTES:,} bytes")
        for reader in readers:
            try:
                return reader(path)
            except (EdgeqError, ValueError) as error:
                told = told or " ".join(str(error).replace(str(path), file).split())
    except (EdgeqError, OSError) as error:
        told = str(error).replace(str(path), file)
    faults[file] = told
    return None


def _object(path: Path) -> dict[str, Any]:
    found = read_json(read_small(path, _MOST_BYTES), mark=True)
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")
    return found


def _sealed_by(directory: Path) -> str | None:
    """The key that a signature names."""
    with suppress(OSError, ValueError, BundleError):
        return read_model(ManifestSignature, read_small(directory / SIGNATURE, DEFAULT_LIMITS.signature_bytes)).key
    return None
