"""What would make a model fit: one change at a time, each no larger than it has to be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

from pydantic import BaseModel, ConfigDict

from edgeq.device import DeviceProfile
from edgeq.errors import InputError, PlanError
from edgeq.families.modules import VlmDescription
from edgeq.families.registry import cap, caps_of, image_cost
from edgeq.model.graph.components import Component, Layer
from edgeq.plan.budget import TEXT_TOKENS, Workload, phases, text_room
from edgeq.plan.precision import PACKED_BITS, Precision
from edgeq.plan.weights import LINEAR_KINDS, Choice, Weights, asymmetric, weigh

__all__ = ["Change", "changes"]

_STEP: Final = 64
_PIXELS: Final = 1024
_SIZES: Final = ((1080, 1920), (720, 1280), (672, 672), (480, 640), (448, 448), (336, 336), (224, 224))


Attempt = Callable[[str, str, Workload], "Change | None"]
"""Tries a request, under the name and value of what is changed in it; None where it does not fit."""


class Change(BaseModel):
    """One change that is enough by itself.

    Attributes:
        what: context, max pixels, max tiles, image size, images, batch, embeddings or precision.
        value: what it becomes, for a person.
        needed_bytes: what the model needs then.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    what: str
    value: str
    needed_bytes: int

    @property
    def flag(self) -> str:
        """The option of `edgeq plan` that makes it, with its value; empty for precision, which rules change."""
        if self.what == "precision":
            return ""
        value = self.value.replace(",", "").replace(" x ", "x")
        return f"--{self.what.replace(' ', '-')} {value}"


def changes(
    model: VlmDescription, device: DeviceProfile, request: Workload, choice: Choice, *, double_quant: bool
) -> tuple[Change, ...]:
    """The single changes to `request` or to the weights' precision that make the model fit; may be none.

    Args:
        model: described, not loaded.
        device: that it should fit.
        request: what it shall do at once.
        choice: the precision of each layer.
        double_quant: whether the magnitudes of NF4 weights are quantized, too.
    """
    weights = weigh(model, choice, double_quant=double_quant)

    def attempt(
        what: str, value: str, asked: Workload, stored: Weights = weights, described: VlmDescription = model
    ) -> Change | None:
        needed = max(phase.bytes for phase in phases(described, device, asked, stored))
        room = text_room(asked, image_cost(described, asked.image_size))
        holds = needed <= device.budget_bytes and (room >= TEXT_TOKENS or not asked.images)
        return Change(what=what, value=value, needed_bytes=needed) if holds else None

    def bounded(what: str, most: int) -> Change | None:
        with suppress(InputError):  # a bound below what the family can do
            return attempt(f"max {what}", f"{most:,}", request, weights, cap(model, {what: most}))
        return None

    tables = _int8_tables(model, choice, double_quant=double_quant)
    found = [
        _context(model, request, attempt),
        *(_bound(what, model, request, bounded) for what in caps_of(model.model_type) if request.images),
        _size(request, attempt),
        _fewer(request, "images", attempt),
        _fewer(request, "batch", attempt),
        attempt("embeddings", "int8", request, tables) if tables else None,
        *(attempt("precision", value, request, smaller) for value, smaller in _smaller_weights(model, choice, weights)),
    ]
    return tuple(change for change in found if change is not None)


def _context(model: VlmDescription, request: Workload, attempt: Attempt) -> Change | None:
    """The longest context that fits, in steps of 64; the shortest that holds the images, where they are too long.

    None beyond the positions that the model was made for.
    """
    wanted = request.context - text_room(request, image_cost(model, request.image_size)) + TEXT_TOKENS
    least = -(-wanted // _STEP)
    most = min(max(least, request.context // _STEP), int(model.text.get("max_position_embeddings") or wanted) // _STEP)
    return _most(
        least, most, lambda step: attempt("context", f"{step * _STEP:,}", _with(request, context=step * _STEP))
    )


def _bound(
    what: str, model: VlmDescription, request: Workload, bounded: Callable[[str, int], Change | None]
) -> Change | None:
    """The largest bound on an image's tiles or pixels (in steps of 1,024) that fits."""
    if what == "pixels":
        steps = request.image_size[0] * request.image_size[1] // _PIXELS
        return _most(1, steps, lambda step: bounded(what, step * _PIXELS))
    tiles = range(image_cost(model, request.image_size).tiles - 1, 0, -1)
    return next((change for most in tiles if (change := bounded(what, most)) is not None), None)


def _fewer(request: Workload, field: str, attempt: Attempt) -> Change | None:
    """Fewer images or sequences."""
    return _most(
        1, getattr(request, field) - 1, lambda count: attempt(field, f"{count}", _with(request, **{field: count}))
    )


def _most(low: int, high: int, attempt: Callable[[int], Change | None]) -> Change | None:
    """The change with the largest number of `low` to `high` that fits; need grows with it, so halving finds it."""
    best = None
    while low <= high:
        middle = (low + high) // 2
        change = attempt(middle)
        low, high, best = (middle + 1, high, change) if change else (low, middle - 1, best)
    return best


def _size(request: Workload, attempt: Attempt) -> Change | None:
    """The largest of the usual smaller image sizes that fits, upright where the image is."""
    height, width = request.image_size
    sizes = [(size[1], size[0]) if height > width else size for size in _SIZES]
    smaller = [size for size in sizes if size[0] * size[1] < height * width]
    found = (attempt("image size", f"{size[0]} x {size[1]}", _with(request, image_size=size)) for size in smaller)
    return next((change for change in found if change is not None), None)


def _with(request: Workload, **changed: object) -> Workload:
    """A request with something else in it."""
    return request.model_copy(update=changed)


def _int8_tables(model: VlmDescription, choice: Choice, *, double_quant: bool) -> Weights | None:
    """INT8 for input embedding and head; None beside NF4, whose checkpoints cannot hold it."""

    def tables_in_int8(component: Component, layer: Layer) -> Precision:
        table = component.name == "head" or (component.name == "language" and layer.kind == "embedding")
        found = choice(component, layer)
        return Precision.INT8 if table and found is Precision.FP16 else found

    language = model.component("language")
    if not any(choice(language, layer) in PACKED_BITS for layer in language.layers if layer.kind in LINEAR_KINDS):
        return None
    with suppress(PlanError):  # rows that do not fill words
        return weigh(model, tables_in_int8, double_quant=double_quant)
    return None


def _smaller_weights(model: VlmDescription, choice: Choice, weights: Weights) -> Iterator[tuple[str, Weights]]:
    """Ways to smaller weights, in the order of what they cost; 4 bits for the image encoder is never among them."""
    ways = (
        ("NF4 with double quantization", choice),
        ("asymmetric: vision FP16, language NF4", _smaller(choice, asymmetric)),
        ("asymmetric, and cross-attention NF4", _smaller(choice, _crossing)),
    )
    least = weights.bytes()
    for name, way in ways:
        found = weigh(model, way, double_quant=True)
        if found.bytes() < least:
            least = found.bytes()
            yield name, found


def _crossing(component: Component, layer: Layer) -> Precision:
    """NF4 for the cross-attention as well."""
    if component.name == "cross-attention" and layer.kind in LINEAR_KINDS:
        return Precision.NF4
    return asymmetric(component, layer)


def _smaller(choice: Choice, other: Choice) -> Choice:
    """`other` where it quantizes, else `choice`, or FP16 where that is FP32."""

    def choose(component: Component, layer: Layer) -> Precision:
        precision = other(component, layer)
        if precision is Precision.NF4:
            return precision
        present = choice(component, layer)
        return Precision.FP16 if present is Precision.FP32 else present

    return choose
