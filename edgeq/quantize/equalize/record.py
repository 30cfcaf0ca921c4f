"""The record of what was done to a graph's channels, and of what was tried."""

from __future__ import annotations

from typing import ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict

from edgeq.artifact import Artifact
from edgeq.export.parity import Parity
from edgeq.plan.precision import ChannelEqualization
from edgeq.quantize.equalize.points import Kind

__all__ = ["CHANNEL_EQUALIZATION", "EqualizationRecord", "EqualizationTrial", "EqualizedPoint", "SkippedPoint"]

CHANNEL_EQUALIZATION: Final = "channel_equalization.json"


class EqualizationTrial(BaseModel):
    """What one way did to the INT8 network's output on the images held back.

    Attributes:
        fold: `none`, `repq`, `smooth:A` or `repq-smooth:A` with SmoothQuant's strength A.
        images: how many.
        logit_error: ||INT8 - FP32|| / ||FP32|| over the logits of those images.
        agreement: percent of images on which both name the same class.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fold: ChannelEqualization
    images: int
    logit_error: float
    agreement: float


class EqualizedPoint(BaseModel):
    """One layer whose channels were rescaled.

    Attributes:
        layer: the node that divides them.
        kind: what it is.
        into: the linear layers that take the scale back.
        smallest, largest: scale of any channel.
        shifted: whether numbers were added to the channels as well.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: str
    kind: Kind
    into: tuple[str, ...]
    smallest: float
    largest: float
    shifted: bool


class SkippedPoint(BaseModel):
    """One layer that was left alone, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: str
    kind: Kind
    reason: str


class EqualizationRecord(Artifact):
    """What was done to the channels, and what was not.

    Attributes:
        fold: the way taken; `none` where nothing was better than nothing.
        points: the layers that were rescaled.
        left: the layers whose channels could not be rescaled exactly.
        trials: every way that was tried, in order.
        parity: the graph before against the graph after, on real images; None where nothing was changed.
        refused: why a way that won was not taken; empty otherwise.
    """

    otherwise: ClassVar[str] = "is not the record of a channel equalization"

    version: Literal["edgeq.channel-equalization/1"] = "edgeq.channel-equalization/1"
    fold: ChannelEqualization
    points: tuple[EqualizedPoint, ...] = ()
    left: tuple[SkippedPoint, ...]
    trials: tuple[EqualizationTrial, ...] = ()
    parity: Parity | None = None
    refused: str = ""
