"""What building and running the images showed."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from edgeq.artifact import Artifact
from rehearsal.report import RehearsalStep, StandIn

__all__ = ["BuiltImage", "ImagesReport", "Layer"]


class Layer(BaseModel):
    """A layer that is not empty.

    Attributes:
        bytes: of it, unpacked.
        made_by: its instruction.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int
    made_by: str


class BuiltImage(BaseModel):
    """An image.

    Attributes:
        name: of its stage.
        bytes: of its layers together, unpacked, with those of the base.
        base_bytes: of the stand-in for its base.
        layers: how many.
        user: that its processes are of.
        entrypoint, command: what is started.
        own_layers: that are not empty, the last one first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    bytes: int
    base_bytes: int
    layers: int
    user: str
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    own_layers: tuple[Layer, ...]


class ImagesReport(Artifact):
    """All of it.

    Attributes:
        began: UTC.
        edgeq: its version.
        machine: names and versions.
        stand_ins: for what registries and NVIDIA have.
        left_out: what was not built, or not run.
        images: that were built.
        steps: in their order.
        passed: every step was as expected.
    """

    otherwise: ClassVar[str] = "is no report on images"
    made_by: ClassVar[str] = "make images"

    version: Literal["edgeq.images/1"] = "edgeq.images/1"
    began: str
    edgeq: str
    machine: dict[str, str]
    stand_ins: tuple[StandIn, ...]
    left_out: tuple[str, ...]
    images: tuple[BuiltImage, ...]
    steps: tuple[RehearsalStep, ...]
    passed: bool
