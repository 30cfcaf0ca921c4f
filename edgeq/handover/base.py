"""What a target is given, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgeq.bundle.verify import read_listed
from edgeq.engine_store.planned import encoders_of, has_both, plan_build
from edgeq.errors import InputError
from edgeq.model.checkpoint.source import ModelSource, open_model
from edgeq.tensorrt.inputs import ENGINE_INPUTS, FP16_INPUTS, EngineGraph, EngineInputs
from edgeq.tensorrt.settings import Batch, BuildSettings

__all__ = ["HandOver", "Subject", "Target", "read_subject"]


@dataclass(frozen=True)
class HandOver:
    """What a target gets.

    Attributes:
        files: name below the directory -> text.
        copies: name below the directory -> file of the bundle.
        notes: what the target does otherwise than the bundle says, in sentences.
        beside: name below the directory -> file that is not the bundle's.
        write: puts what is too large to be held into the directory; its second argument is called as (stage, done,
            total).
    """

    files: Mapping[str, str]
    copies: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    beside: Mapping[str, Path] = field(default_factory=dict)
    write: Callable[[Path, Callable[[str, int, int], None] | None], None] | None = None


@dataclass(frozen=True)
class Subject:
    """A bundle as targets look at it.

    Attributes:
        bundle: its directory.
        name: of the model, for names of directories.
        builds: what a TensorRT builder would be told of each of its Q/DQ or FP16 graphs.
        digests: file below the bundle -> SHA-256 in hexadecimal, by its manifest.
        model: directory of the model that it was made of, where it was given.
        form: of the weights, where one was asked for.
    """

    bundle: Path
    name: str
    builds: tuple[BuildSettings, ...]
    digests: Mapping[str, str]
    model: Path | None = None
    form: str | None = None

    def classifier(self) -> tuple[ModelSource, EngineGraph]:
        """The preprocessing and labels of a classifier, and the graph that it runs.

        Raises:
            InputError: it is another bundle.
        """
        needed = (ENGINE_INPUTS, "config.json", "preprocessor_config.json", "model.fp32.onnx")
        if any(name not in self.digests for name in needed):
            raise InputError(f"{self.bundle} is no classifier's bundle", expected=f"one with {', '.join(needed)}")
        return open_model(self.bundle), EngineInputs.load(self.bundle / ENGINE_INPUTS).graphs["explicit"]


Target = Callable[[Subject], HandOver]


def read_subject(bundle: Path, batch: Batch | None = None) -> Subject:
    """Look at a bundle; its graphs are not read.

    Args:
        bundle: a directory made by `edgeq prepare`.
        batch: least, usual and most pictures or texts at once; None takes the bundle's own.

    Raises:
        BundleError: it is no bundle.
        ArtifactError: it does not say what an engine is built from.
        EngineError: there is no graph for explicit quantization.
    """
    manifest = read_listed(bundle)
    described = (ENGINE_INPUTS, FP16_INPUTS) if has_both(manifest) else (ENGINE_INPUTS,)
    builds = tuple(
        plan_build(bundle, encoder=encoder, quantization="explicit", batch=batch, described=name)
        for encoder in encoders_of(manifest)
        for name in described
    )
    digests = {file.name: file.sha256 for file in manifest.files}
    return Subject(bundle, bundle.resolve().name, builds, digests)
