"""The memory plan: does a model fit a device, by how much, and what would make it fit.

Weights, KV cache and image tokens are exact: they follow from the configs. Activations are estimates from above,
runtime and system reserves are reports from devices (`edgeq.device`). A model whose weights fit can still run out of
memory; the plan says so, and at which moment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from edgeq.artifact import Artifact
from edgeq.device import DeviceProfile
from edgeq.errors import InputError
from edgeq.families.base import ImageCost
from edgeq.families.modules import VlmDescription
from edgeq.families.pictures import native_size
from edgeq.families.registry import image_cost
from edgeq.families.tiles import Size
from edgeq.plan.budget import TEXT_TOKENS, Phase, Workload, phases, text_room
from edgeq.plan.changes import Change, changes
from edgeq.plan.kv import KvCache, kv_cache
from edgeq.plan.photographs import PhotographCount
from edgeq.plan.precision import Precision
from edgeq.plan.weights import Choice, PartWeights, Weights, asymmetric, by_name, weigh

__all__ = ["ImageMemory", "MemoryPlan", "plan_memory"]

MEMORY_VERSION: Final = "edgeq.memory/1"


class ImageMemory(BaseModel):
    """What one image costs; the fields are those of `ImageCost`, and `kv_bytes` is its share of the KV cache."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: int
    cross_tokens: int
    markers: int
    tiles: int
    sequences: int
    sequence: int
    mask: int = 0
    kv_bytes: int


class MemoryPlan(Artifact):
    """Does it fit?

    Attributes:
        model: the directory's name or the hub id.
        model_type: from config.json.
        device: with its reserves.
        request: what the model shall do at once.
        double_quant: NF4 with double quantization.
        tied_head: the head is the embedding.
        components: the weights by part.
        kv: what a token costs.
        image: what an image costs.
        photographs: the user's own, the dearest of which is what the request's images are; None where none were given.
        caps: the most `pixels` or `tiles` of an image, where the user bounded them.
        processor_known: the image processor's config was there; otherwise tokens are counted with its defaults.
        phases: the moments that decide; the largest is the need.
        needed_bytes: at the largest of them, without the system's reserve.
        fits: the need is within the device's budget, and the images leave room for text in the context.
        spare_bytes: what is left of the budget; what is missing, where it is negative.
        reason: why, in a sentence or two for a person.
        changes: single changes that would make it fit; empty where it fits or none would.
    """

    otherwise = "is not a memory plan"

    version: Literal["edgeq.memory/1"] = MEMORY_VERSION
    model: str
    model_type: str
    device: DeviceProfile
    request: Workload
    double_quant: bool
    tied_head: bool
    components: tuple[PartWeights, ...]
    kv: KvCache
    image: ImageMemory
    photographs: PhotographCount | None = None
    caps: dict[str, int] = Field(default_factory=dict)
    processor_known: bool = True
    phases: tuple[Phase, ...]
    needed_bytes: int
    fits: bool
    spare_bytes: int
    reason: str
    changes: tuple[Change, ...]

    @property
    def weights_bytes(self) -> int:
        """All weights."""
        return sum(component.bytes for component in self.components)

    @property
    def parameters(self) -> int:
        """All parameters, tied ones once."""
        return sum(component.parameters for component in self.components)

    @property
    def room(self) -> int:
        """Tokens of the context that the images leave for text; negative where they exceed it."""
        return self.request.context - self.request.images * (self.image.tokens + self.image.markers)

    @property
    def tightest(self) -> Phase:
        """The moment that needs most."""
        return max(self.phases, key=lambda phase: phase.bytes)


def plan_memory(
    model: VlmDescription,
    device: DeviceProfile,
    *,
    context: int = 2048,
    images: int = 1,
    batch: int = 1,
    image_size: Size | None = None,
    photographs: PhotographCount | None = None,
    caps: Mapping[str, int] | None = None,
    precision: Choice | Mapping[str, Precision] = asymmetric,
    double_quant: bool = True,
) -> MemoryPlan:
    """Plan a model's memory on a device.

    Args:
        model: from `read_vlm`, with its images bounded by `caps`.
        device: from `device_profile`.
        context: tokens of a sequence in all: images, question and answer.
        images: in each sequence.
        batch: sequences at once.
        image_size: height and width in pixels; by default the dearest photograph's, or what the encoder was made for.
        photographs: the user's own, counted.
        caps: the bounds on an image's `pixels` or `tiles` that `model` has.
        precision: what each layer is stored in, as a function of component and layer or by the layer's full name.
        double_quant: NF4 with double quantization.

    Raises:
        InputError: context, images or batch is less than 1 (images: 0).
        ModelError: the configs lack a number, or the family's rule for images is not known.
        PlanError: the precisions do not fit the model.
    """
    if context < 1 or batch < 1 or images < 0:
        raise InputError(f"a context of {context}, {images} images and a batch of {batch} make no request")
    size = image_size or (photographs.size if photographs else native_size(model.vision))
    request = Workload(context=context, images=images, batch=batch, image_size=size)
    choice = by_name(precision) if isinstance(precision, Mapping) else precision
    weights = weigh(model, choice, double_quant=double_quant)
    image = image_cost(model, request.image_size)
    moments = phases(model, device, request, weights)
    needed = max(phase.bytes for phase in moments)
    short = images > 0 and text_room(request, image) < TEXT_TOKENS
    fits = needed <= device.budget_bytes and not short
    return MemoryPlan(
        model=model.name,
        model_type=model.model_type,
        device=device,
        request=request,
        double_quant=double_quant,
        tied_head=model.tied_head,
        components=weights.parts,
        kv=kv_cache(model.text),
        image=_image(image, kv_cache(model.text)),
        photographs=photographs,
        caps=dict(caps or {}),
        processor_known=bool(model.preprocessor),
        phases=moments,
        needed_bytes=needed,
        fits=fits,
        spare_bytes=device.budget_bytes - needed,
        reason=_short(request, image) if short else _reason(device, moments, weights),
        changes=() if fits else changes(model, device, request, choice, double_quant=double_quant),
    )


def _image(cost: ImageCost, cache: KvCache) -> ImageMemory:
    """An image's cost with its share of the KV cache; sliding windows may forget a part of that again."""
    kept = cost.tokens * cache.bytes_per_token + cost.cross_tokens * cache.cross_bytes_per_token
    return ImageMemory(**asdict(cost), kv_bytes=kept)


def _short(request: Workload, image: ImageCost) -> str:
    """Why the context is too short, for a person."""
    room = text_room(request, image)
    taken = request.context - room
    if room < 0:
        return f"the images alone take {taken:,} tokens, more than the context of {request.context:,}"
    return (
        f"the images take {taken:,} of the context's {request.context:,} tokens, and {room} are too few for chat "
        "template, question and answer"
    )


def _reason(device: DeviceProfile, moments: tuple[Phase, ...], weights: Weights) -> str:
    """Why it fits or does not, for a person."""
    worst = max(moments, key=lambda phase: phase.bytes)
    room = f"{_gigabytes(device.budget_bytes)} that {device.title} leaves for it"
    if worst.bytes <= device.budget_bytes:
        return f"it needs {_gigabytes(worst.bytes)} at most, while {worst.name}, of the {room}"
    if weights.bytes() > device.budget_bytes:
        return f"the weights alone take {_gigabytes(weights.bytes())}, more than the {room}"
    return f"the weights take {_gigabytes(weights.bytes())} and fit, the whole does not: {_largest(worst)} come to " + (
        f"{_gigabytes(worst.bytes)} while {worst.name}, more than the {room}"
    )


def _largest(phase: Phase) -> str:
    """The three largest things besides weights."""
    others = [item for item in phase.items if not item.name.endswith(" weights") or item.name == "unpacked weights"]
    largest = sorted(others, key=lambda item: -item.bytes)[:3]
    return "with " + ", ".join(f"{item.name} {_gigabytes(item.bytes)}" for item in largest) + " they"


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
