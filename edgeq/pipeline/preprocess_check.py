"""Is the preprocessing the network's own? Looked for where FP32 itself can say it: on a few labelled images.

Blue before red costs points and no warning; other scales cost everything. Each is tried on images that are there, and
named as the flag that says it, with what FP32 gains.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import EdgeqError
from edgeq.model.checkpoint.source import ModelSource
from edgeq.model.images.preprocess import GREY, ChannelOrder, Preprocess
from edgeq.quality.judge import Quality, compare_preprocessing
from edgeq.quality.tasks.base import Examples, Headline, ImageTask

__all__ = ["better_ways", "nearly_black"]

_FIRST: Final = 64
_MOST: Final = 200
"""Images that each way is tried on at first, and those that a promising one is then held against; at the most."""
_SHARE: Final = 0.04
"""Of the time that preparing has taken, what looking for blue before red may take where nothing points at it."""
_CHANCE_SHARE: Final = 0.1
"""The same where FP32 guesses, and there is something to find."""
_FEWEST: Final = 24
"""Images, below which the difference of two orders says nothing."""
_DEVIATIONS: Final = 2.5
"""Standard errors, of the paired difference, that a way must gain: by chance, one of some hundred networks."""
_DARK: Final = 15
"""The brightest pixel of an image that has 12 bits in 16 and does not say so: 4095 / 256."""

_IMAGENET: Final = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def nearly_black(pixels: NDArray[np.float32], preprocess: Preprocess) -> tuple[str, ...]:
    """A warning where more than half of the images hold no pixel brighter than 15 of 255.

    Args:
        pixels: float32 [n, C, H, W], of `preprocess`.
        preprocess: that made them.
    """
    brightest = preprocess.values[:, _DARK].reshape(-1, 1, 1)
    inner = (
        pixels
        if preprocess.pad is None or preprocess.pad.value is None
        else np.where(pixels == preprocess.values[:, preprocess.pad.value].reshape(-1, 1, 1), -np.inf, pixels)
    )
    dark = int((inner <= brightest).all(axis=(1, 2, 3)).sum())
    if 2 * dark <= len(pixels):
        return ()
    return (
        f"{dark} of {len(pixels)} images are nearly black: no pixel is above {_DARK} of 255. 12 bits in files of 16 "
        "are read right only where the file says so (sBIT in PNG, MaxSampleValue in TIFF): scale them up, or say it",
    )


def better_ways(
    graph: Path,
    task: ImageTask[Any],
    examples: Examples[Any] | None,
    source: ModelSource,
    quality: Quality,
    *,
    at_chance: bool,
    seconds: float,
    threads: int | None = None,
) -> tuple[str, ...]:
    """Flags with which FP32 would be right more often, each as a warning with its figures.

    Where FP32 does better than chance, only blue before red is looked for, on so many images as take a twenty-fifth of
    the time spent so far, and on none where these are too few. Only what gains more there than its standard error is
    held against four times as many.

    Args:
        graph: FP32 ONNX file.
        task: what the network is for.
        examples: labelled images; None looks for nothing.
        source: gives the preprocessing.
        quality: of FP32 and the quantized network, for the time of one image.
        at_chance: whether FP32 is no better than guessing.
        seconds: that were spent so far.
        threads: of one operator; None takes every processor there is.
    """
    if examples is None or quality.headline is None or not quality.headline.labelled:
        return ()
    ways = dict(_orders(source.preprocess, ""))
    if at_chance:
        ways |= dict(_scales(source.preprocess))
    share = _CHANCE_SHARE if at_chance else _SHARE
    first = min(_FIRST, int(share * seconds / ((len(ways) + 1) * quality.latency[0].reference_ms / 1000)))
    if not ways or (first < _FEWEST and not at_chance):
        return ()
    first = max(first, _FEWEST)
    most = min(_MOST, 4 * first)
    flags, others = list(ways), list(ways.values())
    compared = _compared(graph, task, examples, source, others, first, threads)
    gains = {
        place: -each.drop
        for place, each in enumerate(compared)
        if each is not None and -each.drop > (each.standard_error or 0.0)
    }
    if not gains:
        return ()
    best = max(gains, key=lambda place: gains[place])
    (headline,) = (
        _compared(graph, task, examples, source, [others[best]], most, threads)
        if len(examples) > first
        else (compared[best],)
    )
    if headline is None or -headline.drop <= _DEVIATIONS * (headline.standard_error or 0.0):
        return ()
    return (_said(flags[best], headline),)


def _compared(
    graph: Path,
    task: ImageTask[Any],
    examples: Examples[Any],
    source: ModelSource,
    others: Sequence[Preprocess],
    count: int,
    threads: int | None,
) -> tuple[Headline | None, ...]:
    """Each way on some of the images; none where they cannot be judged by."""
    some = examples.part(examples.images.sample(count))
    try:
        return compare_preprocessing(graph, task, some, source, others, threads=threads)
    except EdgeqError:  # such as a figure for which these images are too few
        return (None,) * len(others)


def _said(flags: str, headline: Headline) -> str:
    return (
        f"with {flags} FP32 has {headline.name} {headline.candidate:.1f} % on {headline.examples} labelled images, as "
        f"given {headline.reference:.1f} %: the preprocessing may be another"
    )


def _orders(preprocess: Preprocess, before: str) -> Iterator[tuple[str, Preprocess]]:
    """The other order of the channels."""
    if preprocess.channel_order != GREY:
        other: ChannelOrder = "rgb" if preprocess.channel_order == "bgr" else "bgr"
        yield f"{before}--channel-order {other}", replace(preprocess, channel_order=other)


def _scales(preprocess: Preprocess) -> Iterator[tuple[str, Preprocess]]:
    """Other scales that pixels are usually given in, each in both orders of the channels."""
    channels, mean, std = preprocess.channels, preprocess.mean, preprocess.std
    plain = replace(preprocess, mean=(), std=(), include_top=False, rescale_offset=False)
    ways: dict[str, Preprocess] = {}
    factor, text = (1.0, "1") if preprocess.scale < 1 else (1 / 255, "1/255")
    if std:
        ways[f"--rescale-factor {text}"] = replace(preprocess, scale=factor, rescale_offset=False)
        if all(value > 0 for value in mean):
            ways[f"--mean {_numbers(std)} --std {_numbers(mean)}"] = replace(preprocess, mean=std, std=mean)
    for said, scale in (("1", 1.0), ("1/255", 1 / 255)):
        nothing = f"--rescale-factor {said} --mean 0 --std 1"
        ways[nothing] = replace(plain, scale=scale, mean=(0.0,) * channels, std=(1.0,) * channels)
    halves = replace(plain, scale=1 / 255, mean=(0.5,) * channels, std=(0.5,) * channels)
    ways["--rescale-factor 1/255 --mean 0.5 --std 0.5"] = halves
    if channels == 3:
        given = f"--rescale-factor 1/255 --mean {_numbers(_IMAGENET[0])} --std {_numbers(_IMAGENET[1])}"
        ways[given] = replace(plain, scale=1 / 255, mean=_IMAGENET[0], std=_IMAGENET[1])
    for flags, way in ways.items():
        yield flags, way
        yield from _orders(way, f"{flags} ")


def _numbers(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)
