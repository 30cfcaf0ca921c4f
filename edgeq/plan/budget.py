"""What is in memory at the three moments that decide: while the engine is built, while weights load, while it answers.

CPU and GPU of a Jetson share one memory, so the three are sums over both.
"""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict

from edgeq.device import DeviceProfile
from edgeq.families.base import ImageCost
from edgeq.families.modules import VlmDescription
from edgeq.families.registry import feature_outputs, image_cost
from edgeq.families.tiles import Size
from edgeq.plan.activations import (
    fused_attention,
    photograph_bytes,
    pixel_bytes,
    prefill_bytes,
    step_bytes,
    vision_bytes,
)
from edgeq.plan.kv import KvCache, kv_cache
from edgeq.plan.precision import Precision
from edgeq.plan.weights import PartWeights, Weights

__all__ = ["BUILD_FACTOR", "TEXT_TOKENS", "MemoryItem", "Phase", "Workload", "phases", "text_room"]

WORKSPACE_BYTES: Final = 256 << 20
"""The limit that a TensorRT builder's workspace pool is given; its default is all of the device's memory."""

SHARD_BYTES: Final = 2_000_000_000
"""The largest shard that edgeq writes. While it is read its pages are in the same memory, until they are dropped."""

TEXT_TOKENS: Final = 32
"""The least that must be left beside the images: a chat template alone takes 10 to 30, then question and answer."""

_IN_THE_ENGINE: Final = ("vision", "connector")
BUILD_FACTOR: Final = 4
"""Builds have taken 3 to 4 times the graph's weights (NVIDIA/TensorRT-Edge-LLM, issue 30)."""
_HALF: Final = 2


class Workload(BaseModel):
    """What the model shall do at once.

    Attributes:
        context: tokens of a sequence in all: images, question and answer.
        images: in each sequence.
        batch: sequences at once.
        image_size: height and width in pixels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    context: int
    images: int
    batch: int
    image_size: Size


def text_room(request: Workload, image: ImageCost) -> int:
    """Tokens of the context that are left for chat template, question and answer; negative where images exceed it."""
    return request.context - request.images * (image.tokens + image.markers)


class MemoryItem(BaseModel):
    """One thing in memory: what, how many bytes, and how they were reckoned."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    bytes: int
    how: str


class Phase(BaseModel):
    """One moment with all that is in memory then."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    items: tuple[MemoryItem, ...]

    @property
    def bytes(self) -> int:
        """All of it."""
        return sum(item.bytes for item in self.items)


def phases(model: VlmDescription, device: DeviceProfile, request: Workload, weights: Weights) -> tuple[Phase, ...]:
    """The moments that decide, in the order in which they come.

    Args:
        model: described, not loaded.
        device: its memory and what its runtime takes.
        request: what the model shall do at once.
        weights: as they are stored.
    """
    runtime = MemoryItem(name="runtime", bytes=device.runtime_bytes, how=_runtime(device))
    stored = [*(_held(part, device) for part in weights.parts if part.bytes), *_zeros(weights)]
    unified = device.memory == "unified"
    engine = [MemoryItem(name="engine workspace", bytes=WORKSPACE_BYTES, how="limit of the builder's workspace pool")]
    building = Phase(name="building the engine", items=(runtime, _build(weights)))
    loading = Phase(name="loading", items=(runtime, *stored, _staging(weights)))
    image = image_cost(model, request.image_size)
    language = _working(model, request, weights, kv_cache(model.text), image)
    graphs = [_graphs(model, request, weights, image)] if unified else []
    seeing = _seeing(model, request, image, widens=device.widens_fp16) if request.images else ()
    working = (*language, *seeing)
    answering = Phase(name="answering", items=(runtime, *stored, *(engine if unified else []), *graphs, *working))
    return (building, loading, answering) if unified else (loading, answering)


def _runtime(device: DeviceProfile) -> str:
    context = "CUDA context, " if device.memory == "unified" else ""
    return f"{context}Python, torch, transformers, vision backend: taken from reports, not reckoned"


def _held(part: PartWeights, device: DeviceProfile) -> MemoryItem:
    """A part's weights as they are in memory."""
    name, widened = f"{part.name} weights", part.precisions.get(Precision.FP16, 0)
    if device.widens_fp16 and part.name in _IN_THE_ENGINE and widened:
        how = f"{_formats(part)}, held as FP32 by the backend of a CPU"
        return MemoryItem(name=name, bytes=part.bytes + widened, how=how)
    return MemoryItem(name=name, bytes=part.bytes, how=_formats(part))


def _zeros(weights: Weights) -> list[MemoryItem]:
    """What the kernel for INT4 has beside the checkpoint's bytes."""
    how = "of INT4: 16 bits beside each scale, as torch's kernel has them"
    return [MemoryItem(name="zero points", bytes=weights.zeros, how=how)] if weights.zeros else []


def _formats(part: PartWeights) -> str:
    sizes = ", ".join(f"{precision.value} {size / 1e9:.3f} GB" for precision, size in part.precisions.items())
    return f"{part.parameters:,} parameters: {sizes}"


def _build(weights: Weights) -> MemoryItem:
    """Building an engine takes 3 to 4 times the graph's weights (NVIDIA/TensorRT-Edge-LLM, issue 30)."""
    size = BUILD_FACTOR * weights.bytes("vision", "connector")
    return MemoryItem(name="engine builder", bytes=size, how=f"{BUILD_FACTOR} x the weights of vision and connector")


def _staging(weights: Weights) -> MemoryItem:
    """The shard being read, as pages of its file; none larger than the language model."""
    size = min(SHARD_BYTES, weights.bytes("language", "embedding", "cross-attention", "head"))
    return MemoryItem(name="shard being read", bytes=size, how=f"its pages, at most {SHARD_BYTES / 1e9:.0f} GB a shard")


def _working(
    model: VlmDescription, request: Workload, weights: Weights, cache: KvCache, image: ImageCost
) -> tuple[MemoryItem, ...]:
    """What the language model needs beside the weights."""
    cross = image.cross_tokens * request.images
    return (
        MemoryItem(
            name="KV cache",
            bytes=request.batch * cache.slot_bytes(request.context, cross),
            how=f"{request.batch} x {request.context:,} tokens x {cache.bytes_per_token:,} B"
            + (f" + {cross:,} image tokens x {cache.cross_bytes_per_token:,} B" if cross else ""),
        ),
        MemoryItem(
            name="image features",
            bytes=_HALF * request.batch * request.images * _features(model, image),
            how=f"{request.batch * request.images} images, FP16, kept until the prompt is read",
        ),
        MemoryItem(
            name="prefill activations",
            bytes=request.batch * prefill_bytes(model.text, request.context, cross),
            how="estimate from above: the fullest layer, the whole context in one piece",
        ),
        MemoryItem(
            name="unpacked weights",
            bytes=weights.unpacked,
            how="the largest NF4 layer in FP16, for a long prompt, or what is unpacked at once of an INT8 one",
        ),
    )


def _graphs(model: VlmDescription, request: Workload, weights: Weights, image: ImageCost) -> MemoryItem:
    """The pool of the decode steps' CUDA graphs, which keeps what the largest step holds for a moment."""
    cross = image.cross_tokens * request.images
    size = step_bytes(model.text, request.batch, request.context, cross, weights.unpacked)
    how = f"the pool of CUDA graphs of steps for up to {request.batch} sequences: derived from above, not measured"
    return MemoryItem(name="decode graphs", bytes=size, how=how)


def _features(model: VlmDescription, image: ImageCost) -> int:
    """Numbers that the vision graph gives for an image."""
    rows = image.cross_tokens or image.tokens * feature_outputs(model.model_type, model.config)
    return rows * int(model.text["hidden_size"])


def _seeing(model: VlmDescription, request: Workload, image: ImageCost, *, widens: bool) -> tuple[MemoryItem, ...]:
    """What an image needs until its features are there: one after the other, and each for a moment."""
    if widens:
        scores = "scores kept before and after the softmax, as ONNX Runtime does"
    elif fused_attention(model.vision):
        scores = "attention fused, as TensorRT's documentation has it"
    else:
        scores = "scores kept: TensorRT has no kernel for these heads"
    return (
        MemoryItem(
            name="photograph",
            bytes=photograph_bytes(request.image_size),
            how=f"one, {request.image_size[0]:,} x {request.image_size[1]:,} pixels, as it is decoded and resized",
        ),
        MemoryItem(
            name="image pixels",
            bytes=pixel_bytes(model.vision, image, widens=widens),
            how="of one image in float32, as the vision graph takes them, and what making them leaves",
        ),
        MemoryItem(
            name="vision activations",
            bytes=vision_bytes(model.vision, image, features=_features(model, image), widens=widens),
            how=f"estimate from above: one image, {image.tiles} tiles, {image.sequences} x {image.sequence:,} patches, "
            f"and its features in float32; {scores}",
        ),
    )
