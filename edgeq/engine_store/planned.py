"""From a bundle to the settings of a build and its key, without TensorRT and without reading ONNX."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from edgeq.bundle.manifest import Manifest
from edgeq.engine_store.key import KeyParts, key_parts
from edgeq.engine_store.machine import Machine
from edgeq.errors import ArtifactError, InputError
from edgeq.model.images.image_set import ImageSet
from edgeq.plan.budget import WORKSPACE_BYTES
from edgeq.tensorrt.bundled_cache import CALIBRATION_CACHE
from edgeq.tensorrt.inputs import ENGINE_INPUTS, FP16_INPUTS, EngineInputs
from edgeq.tensorrt.loading import QuantizationMode, Version, choose_quantization, version_of
from edgeq.tensorrt.settings import Batch, BuildSettings, build_settings

__all__ = ["PREPROCESS", "build_key", "encoders_of", "has_both", "plan_build"]

PREPROCESS: Final = "preprocessor_config.json"
_DEEP: Final = 2
"""Parts of an `engine.json`'s name below a bundle: the encoder and the file."""


def encoders_of(manifest: Manifest) -> tuple[str, ...]:
    """The encoders of a bundle that engines are built of, by name; one without a name where it is the only one."""
    places = (PurePosixPath(file.name) for file in manifest.files)
    found = sorted(place.parent.name for place in places if place.name == ENGINE_INPUTS and len(place.parts) <= _DEEP)
    return tuple(found) or ("",)


def has_both(manifest: Manifest) -> bool:
    """Whether a bundle's INT8 and FP16 graphs are both built, and the quicker engine is taken."""
    return any(file.name == FP16_INPUTS for file in manifest.files)


def plan_build(
    bundle: Path,
    *,
    encoder: str = "",
    quantization: QuantizationMode | None = None,
    tensorrt: str | None = None,
    batch: Batch | None = None,
    workspace_bytes: int = WORKSPACE_BYTES,
    images: Path | None = None,
    described: str = ENGINE_INPUTS,
) -> BuildSettings:
    """What a TensorRT builder would be told.

    Args:
        bundle: a directory made by `edgeq prepare`. Only its `engine.json` is read; nothing is compared with the
            manifest here.
        encoder: one of `encoders_of`.
        quantization: that is asked for; None takes the explicit one where the bundle has a graph for it.
        tensorrt: release that will build, such as `10.3.0`; None where it is not known.
        batch: least, usual and most pictures or texts at once; None takes the bundle's own.
        workspace_bytes: limit of the builder's workspace.
        images: calibrate on these instead of taking the bundle's ranges.
        described: name of the file that is read: `FP16_INPUTS` for the FP16 graph of a bundle that has both.

    Raises:
        ArtifactError: the bundle does not say what an engine is built from.
        EngineError: the release does not have the quantization mode that is asked for, or the batch is not in order.
        InputError: images were given where nothing is calibrated.
    """
    inputs = EngineInputs.load(bundle / encoder / described)
    release = version_of(tensorrt) if tensorrt else None
    chosen, because = _quantization(inputs, quantization, release)
    settings = build_settings(
        inputs,
        chosen,
        because,
        tensorrt=".".join(map(str, release)) if release else None,
        batch=batch,
        calibration="images" if images else "cache",
        workspace_bytes=workspace_bytes,
        encoder=encoder,
    )
    if images and settings.calibration == "none":
        calibrates = inputs.precision == "int8" and "implicit" in inputs.graphs
        raise InputError(
            f"{images} was given to calibrate on, and with {chosen} quantization {settings.graph} needs no calibration",
            causes=("its ranges are in the graph",) if inputs.precision == "int8" else ("it has no INT8 layers",),
            next_step="leave --images out" + (", or add --quantization implicit" if calibrates else ""),
        )
    return settings


def build_key(
    bundle: Path,
    manifest: Manifest,
    settings: BuildSettings,
    machine: Machine,
    *,
    images: Path | None = None,
    described: str = ENGINE_INPUTS,
) -> KeyParts:
    """The parts of the key of a planned build.

    Args:
        bundle: as for `plan_build`.
        manifest: its own, whose digests are taken.
        settings: from `plan_build`.
        machine: that builds.
        images: as for `plan_build`; each is read.
        described: as for `plan_build`.

    Raises:
        ArtifactError: `engine.json` speaks of other files than the manifest.
        ImageError: the images cannot be opened.
        InputError: they do not fill a batch.
    """
    file = bundle / settings.encoder / described
    inputs = EngineInputs.load(file)
    listed = {file.name: file.sha256 for file in manifest.files}
    graph = {name: listed[name] for name in (settings.graph, f"{settings.graph}.data") if name in listed}
    if graph.get(settings.graph) != settings.graph_sha256 or inputs.plan_sha256 not in listed.values():
        raise ArtifactError(
            f"{file} speaks of another {settings.graph} or another plan than the bundle holds",
            causes=("the graph or the plan was changed after the bundle was made",),
            next_step="prepare the bundle again",
        )
    return key_parts(
        settings,
        machine,
        graph=graph,
        plan_sha256=inputs.plan_sha256,
        calibration_sha256=_calibration(settings, listed, images),
    )


def _quantization(
    inputs: EngineInputs, asked: QuantizationMode | None, release: Version | None
) -> tuple[QuantizationMode, str]:
    """The quantization mode, and why: the graph's own types wherever the bundle has them in a graph."""
    default: QuantizationMode = "explicit" if "explicit" in inputs.graphs else "implicit"
    return choose_quantization(release, asked, default=default)


def _calibration(settings: BuildSettings, listed: Mapping[str, str], images: Path | None) -> str:
    """The digest of what the ranges come from; empty where nothing is calibrated."""
    if settings.calibration == "none":
        return ""
    if images is None:
        return listed.get(CALIBRATION_CACHE, "")
    opened = ImageSet.open(images, calibration=True)
    batch = settings.profile[0].opt[0] if settings.profile else 1
    if len(opened.items) < batch:
        raise InputError(
            f"{images} holds {len(opened.items)} images, and TensorRT would calibrate on batches of {batch}",
            expected=f"{batch} images or more: what does not fill a batch is left out",
            next_step="give more images, or a smaller usual batch with --batch",
        )
    digests = sorted(opened.digest(item) for item in opened.items)
    return hashlib.sha256("\n".join([listed.get(PREPROCESS, ""), *digests]).encode()).hexdigest()
