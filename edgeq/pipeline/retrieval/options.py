"""How a bundle of a two-tower model is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from edgeq.calibrate.choices import AUTO
from edgeq.plan.precision import ChannelEqualization, Rule, WeightGranularity
from edgeq.quality.tasks.retrieval_gate import DEFAULT_RETRIEVAL_BOUNDS, RetrievalBounds

__all__ = ["MAX_TEXT_FLOAT_SHARE", "RetrievalOptions", "UnjudgedText"]

UnjudgedText = Literal["fp16", "int8"]

MAX_TEXT_FLOAT_SHARE: Final = 50.0
"""Percent; with more of it in floating point, little is left of what INT8 is for."""


@dataclass(frozen=True)
class RetrievalOptions:
    """How it is done.

    Attributes:
        calibration_captions: at most so many of the captions are used.
        method: how a histogram becomes a range; `auto` tries all.
        weights: granularity of the weight scales; `per-tensor` is for comparison.
        rules: about the text encoder's graph, asked before the built-in ones.
        channel_equalization: how the channels before the text encoder's linear layers are brought to like ranges.
        bounds: what INT8 texts may lose.
        max_float_share: percent of the text encoder's weighted bytes that may stay in floating point where INT8 as a
            whole was refused; 0 searches no layers.
        compare_int8_images: make a vision encoder in INT8 too, for a figure beside; it embeds the pairs' images again.
        photographs: at most so many of the images go through the vision encoder, to find overflow and prove parity.
        canaries: so many texts and images go into the bundle with what is to be seen on them.
        unjudged: how texts are read where no pairs are given to judge INT8 by; with pairs, the judgement decides.
        keep_fp32: leave the FP32 graphs in the bundle.
        threads: of one operator; None takes every processor there is.
    """

    calibration_captions: int = 512
    method: str = AUTO
    weights: WeightGranularity = "per-channel"
    rules: tuple[Rule, ...] = ()
    channel_equalization: ChannelEqualization = "auto"
    bounds: RetrievalBounds = DEFAULT_RETRIEVAL_BOUNDS
    max_float_share: float = MAX_TEXT_FLOAT_SHARE
    compare_int8_images: bool = False
    photographs: int = 32
    canaries: int = 8
    unjudged: UnjudgedText = "fp16"
    keep_fp32: bool = False
    threads: int | None = None
