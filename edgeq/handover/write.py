"""The targets by name, and writing what one gets."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from edgeq.errors import ArtifactError, InputError
from edgeq.files import new_directory, require_new, sha256_file
from edgeq.handover.base import Subject, Target, read_subject
from edgeq.handover.checkpoint import CHECKPOINTS, checkpoint
from edgeq.handover.deepstream import deepstream
from edgeq.handover.llama_cpp.target import llama_cpp
from edgeq.handover.triton import triton, triton_tensorrt
from edgeq.handover.trtexec import trtexec
from edgeq.quantize.language.checkpoint import Progress
from edgeq.tensorrt.settings import Batch

__all__ = ["TARGETS", "HandedOver", "write_handover"]


class HandedOver(BaseModel):
    """What was written.

    Attributes:
        target: one of `TARGETS`.
        directory: that was made.
        files: in it, in order of their names.
        notes: what the target does otherwise than the bundle says, in sentences.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal["edgeq.handover/1"] = "edgeq.handover/1"
    target: str
    directory: str
    files: tuple[str, ...]
    notes: tuple[str, ...]


_LLAMA_CPP: Final = "llama.cpp"

TARGETS: Final[dict[str, Target]] = {
    "deepstream": deepstream,
    _LLAMA_CPP: llama_cpp,
    "triton": triton,
    "triton-tensorrt": triton_tensorrt,
    "trtexec": trtexec,
    **{name: checkpoint(runtime) for name, runtime in CHECKPOINTS.items()},
}
"""Runtimes by name."""


def write_handover(
    bundle: Path,
    target: str,
    output: Path,
    *,
    batch: Batch | None = None,
    model: Path | None = None,
    form: str | None = None,
    progress: Progress | None = None,
) -> HandedOver:
    """Write what a runtime needs of a bundle, in a new directory.

    Args:
        bundle: a directory made by `edgeq prepare`.
        target: one of `TARGETS`.
        output: must not exist.
        batch: least, usual and most pictures or texts at once; None takes the bundle's own.
        model: directory of the model that the bundle was made of, for runtimes of whole checkpoints.
        form: of the weights in a whole checkpoint, one of `edgeq.handover.forms.FORMS`; None takes the runtime's first.
        progress: called as (stage, done, total) while a checkpoint is written.

    Raises:
        BundleError: it is no bundle.
        InputError: the target does not take such a bundle, or an option is not of this target.
        ModelError: the model cannot be read.
        ArtifactError: a file is not the one that the manifest lists.
        EngineError: the batch is not in order.
        OutputError: the place exists, or cannot be written.
    """
    _check_options(target, batch=batch, model=model, form=form)
    require_new(output)
    subject = replace(read_subject(bundle, batch), model=model, form=form)
    made = TARGETS[target](subject)
    with new_directory(output) as directory:
        for name, text in made.files.items():
            file = directory / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
            if file.suffix == ".sh":
                file.chmod(0o755)
        for name, source in made.copies.items():
            _copy(subject, source, directory / name)
        for name, outside in made.beside.items():
            shutil.copyfile(outside, directory / name)
        if made.write:
            made.write(directory, progress)
        names = tuple(sorted(str(file.relative_to(directory)) for file in directory.rglob("*") if file.is_file()))
    return HandedOver(target=target, directory=str(output), files=names, notes=made.notes)


def _check_options(target: str, *, batch: Batch | None, model: Path | None, form: str | None) -> None:
    """Raise InputError for an option that means nothing to a target."""
    others: dict[str, object] = {"--batch": batch}
    if target not in CHECKPOINTS:
        others = {"--form": form, **(others if target == _LLAMA_CPP else {"--model": model})}
    for option, value in others.items():
        if value is not None:
            raise InputError(f"{option} means nothing for {target}", next_step=f"leave {option} out")


def _copy(subject: Subject, source: str, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(subject.bundle / source, file)
    if sha256_file(file) != subject.digests[source]:
        raise ArtifactError(
            f"{subject.bundle / source} is not the file that the manifest lists",
            causes=("it was changed or damaged since the bundle was made",),
            next_step="edgeq verify the bundle, or make it again",
        )
