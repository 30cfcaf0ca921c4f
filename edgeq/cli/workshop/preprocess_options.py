"""The flags that say the preprocessing, alone or over what a model's file says."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from edgeq.errors import ModelError
from edgeq.model.images.preprocess_flags import RESAMPLES, PreprocessFlags

__all__ = ["PREPROCESS_FLAGS", "parse_size", "preprocess_options"]

F = TypeVar("F", bound=Callable[..., Any])

_WITHOUT_FILE = "over preprocessor_config.json, or where it is missing"

_OPTIONS: Final = (
    click.option("--mean", help=f"Of the pixels, {_WITHOUT_FILE}: R,G,B (or one number), in 0..1 by default."),
    click.option("--std", help="Likewise: the standard deviation. --mean, --std and --size together replace the file."),
    click.option("--size", help="SIDE or HEIGHTxWIDTH in pixels: what images are resized to."),
    click.option(
        "--crop",
        help="SIDE or HEIGHTxWIDTH: cut out of the middle after resizing, where --size SIDE is the shorter edge.",
    ),
    click.option(
        "--crop-pct",
        type=click.FloatRange(0.0, 1.0, min_open=True),
        help="timm's: resize the shorter edge to --size divided by this, and cut --size out of the middle.",
    ),
    click.option(
        "--letterbox",
        type=click.Choice(["center", "top-left"]),
        help="Keep the aspect ratio inside --size, and fill up: around (Ultralytics), or below and right (YOLOX).",
    ),
    click.option(
        "--pad-value", type=click.IntRange(0, 255), default=114, show_default=True, help="With --letterbox: of a pixel."
    ),
    click.option("--resample", type=click.Choice(list(RESAMPLES)), help="Filter of resizing.  [default: bilinear]"),
    click.option(
        "--rescale-factor",
        metavar="FACTOR",
        help="Pixels 0..255 are multiplied by it before --mean and --std; 1 leaves them.  [default: 1/255]",
    ),
    click.option(
        "--channel-order",
        type=click.Choice(["rgb", "bgr", "grey"]),
        help="Of the network's input. --mean and --std stay in the order R,G,B.  [default: rgb]",
    ),
)

PREPROCESS_FLAGS: Final = (
    *("mean", "std", "size", "crop", "crop_pct", "letterbox", "pad_value"),
    *("resample", "rescale_factor", "channel_order"),
)
"""Names of the options' parameters."""


def preprocess_options(function: F) -> F:
    """The flags, which the function gets as one argument `preprocess`: PreprocessFlags, or None where none is given."""

    @functools.wraps(function)
    def collected(*arguments: Any, **options: Any) -> Any:
        given = {name: options.pop(name) for name in PREPROCESS_FLAGS}
        return function(*arguments, preprocess=_flags(**given), **options)

    decorated: Any = collected
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]


def _flags(*, pad_value: int, **given: Any) -> PreprocessFlags | None:
    """What was given.

    Raises:
        click.UsageError: it is malformed, or contradicts itself.
    """
    if all(value is None for value in given.values()):
        return None
    mean, std, size, crop, factor, resample = (
        given[name] for name in ("mean", "std", "size", "crop", "rescale_factor", "resample")
    )
    side = size is not None and crop is not None and "x" not in size.lower()
    try:
        return PreprocessFlags(
            mean=None if mean is None else _numbers("--mean", mean),
            std=None if std is None else _numbers("--std", std),
            size=None if size is None else parse_size("--size", size)[0] if side else parse_size("--size", size),
            crop=None if crop is None else parse_size("--crop", crop),
            crop_pct=given["crop_pct"],
            letterbox=given["letterbox"],
            pad_value=pad_value,
            resample=None if resample is None else RESAMPLES[resample],
            rescale_factor=None if factor is None else _factor(factor),
            channel_order=given["channel_order"],
        )
    except ModelError as error:
        raise click.UsageError(error.what) from None


def _numbers(flag: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise click.UsageError(f"{flag} {text}: expected three numbers, such as 0.485,0.456,0.406") from None


def _factor(text: str) -> float:
    """A number, or a fraction such as 1/255."""
    above, _, below = text.partition("/")
    try:
        return float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        raise click.UsageError(f"--rescale-factor {text}: expected a number, such as 1 or 1/255") from None


def parse_size(flag: str, text: str) -> tuple[int, int]:
    """Height and width in pixels from SIDE or HEIGHTxWIDTH; raises click.UsageError, which names the flag."""
    height, _, width = text.lower().partition("x")
    try:
        return int(height), int(width or height)
    except ValueError:
        raise click.UsageError(f"{flag} {text}: expected SIDE or HEIGHTxWIDTH, such as 224 or 480x640") from None
