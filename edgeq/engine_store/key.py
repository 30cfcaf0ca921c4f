"""The key of an engine: the SHA-256 of all that decides what it is and where it runs.

What is hashed is the text `edgeq.engine-key/1`, a line feed, and the parts as JSON: keys sorted, no spaces, everything
but ASCII escaped. Anybody can compute it again. An engine is good for one GPU, one release of TensorRT and one release
of the system; a change in any part makes another key, so an engine from elsewhere is not found, and not loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from edgeq.engine_store.machine import Machine
from edgeq.tensorrt.loading import QuantizationMode
from edgeq.tensorrt.precisions import BindingType
from edgeq.tensorrt.settings import BuildSettings, ShapeRange

__all__ = ["KeyParts", "differences", "engine_key", "key_parts", "unknown_parts"]

_SCHEME: Final = "edgeq.engine-key/1"


class KeyParts(BaseModel):
    """What a key is made of; None is what is not known here, and then there is no key.

    Attributes:
        graph: SHA-256 of each file that the graph consists of, by file name.
        plan_sha256: of the precision plan.
        calibration_sha256: of the calibration cache, or of the images; empty where nothing is calibrated.
        quantization, network_flags, builder_flags, cleared_flags, output_types, profile, workspace_bytes: as in
            `BuildSettings`.
        layers_sha256: of the layers' precisions.
        tensorrt: release, such as `10.3.0`.
        compute_capability, device, platform, architecture: as in `Machine`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    graph: dict[str, str]
    plan_sha256: str
    calibration_sha256: str
    quantization: QuantizationMode
    network_flags: tuple[str, ...]
    builder_flags: tuple[str, ...]
    cleared_flags: tuple[str, ...]
    layers_sha256: str
    output_types: dict[str, BindingType]
    profile: tuple[ShapeRange, ...]
    workspace_bytes: int
    tensorrt: str | None
    compute_capability: str | None
    device: str | None
    platform: str | None
    architecture: str | None


def key_parts(
    settings: BuildSettings,
    machine: Machine,
    *,
    graph: Mapping[str, str],
    plan_sha256: str,
    calibration_sha256: str = "",
) -> KeyParts:
    """The parts for one build.

    Args:
        settings: of the build. Left out are the words for people, and the bound of its memory.
        machine: that builds.
        graph: SHA-256 of each file that the graph consists of, by file name.
        plan_sha256: of the plan's file.
        calibration_sha256: of what the ranges come from.
    """
    layers = [layer.model_dump(mode="json") for layer in settings.layers]
    return KeyParts(
        graph=dict(graph),
        plan_sha256=plan_sha256,
        calibration_sha256=calibration_sha256,
        quantization=settings.quantization,
        network_flags=tuple(sorted(settings.network_flags)),
        builder_flags=tuple(sorted(settings.builder_flags)),
        cleared_flags=tuple(sorted(settings.cleared_flags)),
        layers_sha256=hashlib.sha256(_canonical(layers)).hexdigest(),
        output_types=settings.output_types,
        profile=settings.profile,
        workspace_bytes=settings.workspace_bytes,
        tensorrt=settings.tensorrt,
        **machine.model_dump(),
    )


def engine_key(parts: KeyParts) -> str | None:
    """64 hexadecimal digits; None where a part is not known."""
    if unknown_parts(parts):
        return None
    return hashlib.sha256(f"{_SCHEME}\n".encode() + _canonical(parts.model_dump(mode="json"))).hexdigest()


def unknown_parts(parts: KeyParts) -> tuple[str, ...]:
    """Names of the parts that are not known."""
    return tuple(name for name in KeyParts.model_fields if getattr(parts, name) is None)


def differences(theirs: KeyParts, ours: KeyParts) -> tuple[str, ...]:
    """What an engine that is there was built for, and what this is, a line for each part that differs."""
    return tuple(_sentences(theirs, ours))


def _sentences(theirs: KeyParts, ours: KeyParts) -> Iterator[str]:
    for name in KeyParts.model_fields:
        old, new = getattr(theirs, name), getattr(ours, name)
        if old == new:
            continue
        say, show = _WORDS[name]
        yield f"{say} {show(old)}, this is {show(new)}" if show else say


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _text(value: object) -> str:
    return "not known" if value is None else str(value)


def _listed(names: tuple[str, ...]) -> str:
    return " ".join(names) or "none"


def _mebibytes(count: int) -> str:
    return f"{count / (1 << 20):g} MiB"


def _ranges(profile: tuple[ShapeRange, ...]) -> str:
    shapes = ("..".join("x".join(map(str, shape)) for shape in (each.min, each.opt, each.max)) for each in profile)
    return (
        " ".join(f"{each.input} {shape}" for each, shape in zip(profile, shapes, strict=True)) or "of the graph alone"
    )


def _types(types: Mapping[str, str]) -> str:
    return " ".join(f"{name} {kind}" for name, kind in sorted(types.items())) or "none"


_WORDS: Final[dict[str, tuple[str, Callable[[Any], str] | None]]] = {
    "graph": ("built from another graph", None),
    "plan_sha256": ("built for another precision plan", None),
    "calibration_sha256": ("built with another calibration", None),
    "quantization": ("quantization", _text),
    "network_flags": ("built with the network flags", _listed),
    "builder_flags": ("built with the builder flags", _listed),
    "cleared_flags": ("built without the builder flags", _listed),
    "layers_sha256": ("built with other precisions of single layers", None),
    "output_types": ("built with the outputs", _types),
    "profile": ("built for the shapes", _ranges),
    "workspace_bytes": ("built with a workspace of", _mebibytes),
    "tensorrt": ("built for TensorRT", _text),
    "compute_capability": ("built for compute capability", _text),
    "device": ("built on", _text),
    "platform": ("built under", _text),
    "architecture": ("built for the processor", _text),
}
