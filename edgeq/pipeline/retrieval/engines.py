"""What a device is told to build TensorRT engines of a two-tower model's encoders: shapes in one run, and lengths."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from edgeq.bundle.retrieval_settings import TEXT, VISION, RetrievalSettings
from edgeq.families.base import AxisRange
from edgeq.quantize.engine_inputs import write_text_inputs, write_vision_inputs
from edgeq.quantize.int8.stage import FP16, PLAN
from edgeq.runtime.retrieval.encoders import MOST_IMAGES, MOST_TEXTS
from edgeq.tensorrt.inputs import BATCH

__all__ = [
    "TEXT_FP16_PLAN",
    "describe_text_engine",
    "describe_vision_engine",
    "length_buckets",
    "settle_text_engine",
]

TEXT_FP16_PLAN: Final = "fp16.plan.yaml"
"""The plan of the text encoder in FP16, until it is known whether that is what runs."""

_LENGTH: Final = "length"
_BUCKETS: Final = (8, 16, 32, 77)
"""Texts that are searched for are short beside the context, which is 77 in CLIP."""
_TEXTS: Final = (1, MOST_TEXTS // 2, MOST_TEXTS)
_IMAGES: Final = (1, MOST_IMAGES // 4, MOST_IMAGES)
"""As the service batches them: 32 texts and 8 images as a rule."""


def length_buckets(context: int) -> tuple[AxisRange, ...]:
    """Least, usual and largest length of each bucket, in tokens; kernels are chosen for the largest.

    Args:
        context: tokens of a text, at most.
    """
    ends = [*(end for end in _BUCKETS if end < context), context]
    return tuple((start + 1, end, end) for start, end in zip([0, *ends], ends, strict=False))


def describe_vision_engine(work: Path) -> None:
    """Write what the vision encoder's engine is built from, while its FP32 graph is there.

    Raises:
        QuantizeError: the plan asks for what TensorRT does not have.
    """
    write_vision_inputs(work, ranges={BATCH: _IMAGES}, encoder=VISION)


def describe_text_engine(work: Path, settings: RetrievalSettings) -> None:
    """Write what the engine of the text encoder in FP16 is built from, before its FP32 graph gets other channels.

    Args:
        work: the bundle, with the plan in TEXT_FP16_PLAN.
        settings: of the model.

    Raises:
        QuantizeError: the plan asks for what TensorRT does not have.
    """
    _describe_text(work, settings, half=True)


def settle_text_engine(work: Path, settings: RetrievalSettings) -> None:
    """Leave the plan and what an engine is built from of the text graph that was chosen; the FP32 graph is still there.

    Args:
        work: the bundle, after `describe_text_engine`.
        settings: with the graph that was chosen.

    Raises:
        QuantizeError: the plan asks for what TensorRT does not have.
    """
    folder = work / TEXT
    if settings.text == f"{TEXT}/{FP16}":
        (folder / TEXT_FP16_PLAN).replace(folder / PLAN)
    else:
        (folder / TEXT_FP16_PLAN).unlink()
        _describe_text(work, settings, half=False)


def _describe_text(work: Path, settings: RetrievalSettings, *, half: bool) -> None:
    plan = work / TEXT / (TEXT_FP16_PLAN if half else PLAN)
    lengths = {_LENGTH: length_buckets(settings.context)} if settings.padding == "trim" else {}
    write_text_inputs(work, TEXT, plan, batch=_TEXTS, lengths=lengths, half=half)
