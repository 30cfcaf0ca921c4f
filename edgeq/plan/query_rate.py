"""Whether a device can answer so many queries a second at all: a two-tower model's operations against its peak.

Counted from the config alone. What comes out is a ceiling that nothing reaches: no program keeps every tensor core
busy, and tokenizing, decoding and searching come on top. What is above the ceiling is impossible; what is far below is
plausible, and must be measured.

Multiplications and additions are counted as one each, of linear layers, of attention (4 n^2 d a layer), and of the
convolution that embeds patches; what is elementwise is left out. Reading weights bounds what is asked one by one:
every layer's weights come from memory once a run, however small the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from edgeq.device import PROFILES
from edgeq.device.power_modes import POWER_MODES, PowerMode
from edgeq.errors import InputError, ModelError
from edgeq.families.two_tower import TwoTower, describe_two_tower

__all__ = ["SHORT_TEXT", "EncoderRate", "QueryRate", "query_rate"]

SHORT_TEXT: Final = 12
"""Tokens of a usual query, its start and end among them."""

Precision = Literal["int8", "fp16"]

_BYTES: Final[dict[Precision, int]] = {"int8": 1, "fp16": 2}

_PEAKS: Final[dict[str, PowerMode]] = {
    device: modes[0] for device, modes in POWER_MODES.items() if modes[0].int8_per_clock is not None
}
"""Devices whose peak in INT8 is known, in their fastest mode."""


class EncoderRate(BaseModel):
    """One encoder on a device.

    Attributes:
        what: is embedded, for people.
        precision: that edgeq gives its layers.
        operations: of one text or image.
        share: of the device's peak in this precision, for all queries a second; above 1 it is impossible.
        most: texts or images a second at the peak.
        most_alone: runs a second with one text or image each, by reading weights; at most `most`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    what: str
    precision: Precision
    operations: int
    share: float
    most: float
    most_alone: float

    @property
    def possible(self) -> bool:
        """Whether the peak would suffice."""
        return self.share <= 1


class QueryRate(BaseModel):
    """What a device's peak says of a model.

    Attributes:
        device: its name.
        title: of it, for people.
        per_second: queries that were asked about.
        encoders: texts, short and as long as the model takes them, and images.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str
    title: str
    per_second: float
    encoders: tuple[EncoderRate, ...]


def query_rate(config: Mapping[str, Any], device: str, per_second: float) -> QueryRate:
    """Hold a model against a device.

    Args:
        config: of the whole model, with all defaults.
        device: a name in `POWER_MODES`, whose fastest mode is taken.
        per_second: queries.

    Raises:
        InputError: the device's peak is not known.
        ModelError: the model's kind is not known, or a number is missing.
    """
    peak = _PEAKS.get(device)
    if peak is None:
        raise InputError(f"the peak of {device} is not known", expected=f"one of {', '.join(_PEAKS)}")
    described = describe_two_tower(config)
    try:
        works = list(_works(config["text_config"], config["vision_config"], described))
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelError(f"the config of the {described.model_type} model lacks {error}") from error
    rates = []
    for what, precision, work in works:
        per_second_at_most = peak.int8_per_second if precision == "int8" else peak.fp16_per_second
        assert per_second_at_most is not None, "others are not among the peaks"
        most = per_second_at_most / work.operations
        rates.append(
            EncoderRate(
                what=what,
                precision=precision,
                operations=work.operations,
                share=per_second / most,
                most=most,
                most_alone=min(peak.bytes_per_second / (work.weights * _BYTES[precision]), most),
            )
        )
    return QueryRate(device=device, title=PROFILES[device].title, per_second=per_second, encoders=tuple(rates))


@dataclass(frozen=True)
class _Work:
    """Of one run: operations, and numbers in the weights that it reads."""

    operations: int
    weights: int

    def __add__(self, other: _Work) -> _Work:
        return _Work(self.operations + other.operations, self.weights + other.weights)


def _works(
    text: Mapping[str, Any], image: Mapping[str, Any], described: TwoTower
) -> Iterator[tuple[str, Precision, _Work]]:
    """A short text where texts may be short, the longest one, and an image."""
    short = [SHORT_TEXT] if described.padding == "trim" and described.context > SHORT_TEXT else []
    for length in (*short, described.context):
        yield (
            f"text, {length} tokens",
            "int8",
            _layers(text, length) + _linear(text["hidden_size"], described.dimension),
        )
    width, patch = int(image["hidden_size"]), int(image["patch_size"])
    size = int(image["image_size"]) if "image_size" in image else isqrt(int(image["num_patches"])) * patch  # NaFlex
    patches = (size // patch) ** 2
    seen = _linear(int(image.get("num_channels", 3)) * patch**2, width, patches)
    if described.model_type == "clip":  # one place more, which stands for the image
        seen += _layers(image, patches + 1) + _linear(width, described.dimension)
    else:  # one question to all places (SiglipMultiheadAttentionPoolingHead)
        inner = int(image["intermediate_size"])
        asked = _linear(width, 2 * width, patches) + _linear(width, 2 * width) + _Work(4 * patches * width, 0)
        seen += _layers(image, patches) + asked + _linear(width, inner) + _linear(inner, width)
    yield f"image, {size} x {size}", "fp16", seen


def _layers(encoder: Mapping[str, Any], places: int) -> _Work:
    """All transformer layers: query, key, value, output, two feed-forward layers, and attention."""
    width, inner = int(encoder["hidden_size"]), int(encoder["intermediate_size"])
    layers = int(encoder["num_hidden_layers"])
    one = _linear(width, 4 * width, places) + _linear(width, inner, places) + _linear(inner, width, places)
    return _Work(layers * (one.operations + 4 * places**2 * width), layers * one.weights)


def _linear(given: int, made: int, places: int = 1) -> _Work:
    return _Work(2 * given * made * places, given * made)
