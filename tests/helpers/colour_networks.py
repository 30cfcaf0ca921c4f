"""Classifiers of colours made by hand: right for every drawn picture in FP32, and losing in INT8 what a test wants."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from chains import model_of
from networks import CLASSES, PREPROCESSOR, SIDE
from numpy.typing import NDArray
from onnx import helper
from PIL import Image

__all__ = ["CHANNELS", "colour_network", "draw_close_colours", "write_colour_network"]

CHANNELS = 16
_DIFFERENCES = ((0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1))
"""The channels red, green, blue that are subtracted from each other, one for each channel of the first layer."""


def colour_network(*, wider: float = 1.0, offset: float = 0.0, gain: float = 1.0) -> onnx.ModelProto:
    """Conv, Relu, Conv, Relu, Conv, mean, Gemm: how much more of one colour there is, to logits of blue, green and red.

    Args:
        wider: a channel that no class needs is so many times as large between the first two layers.
        offset: every channel is so much larger there.
        gain: of the first layer.
    """
    first = np.zeros((CHANNELS, 3, 3, 3), np.float32)
    for channel, (more, less) in enumerate(_DIFFERENCES):
        first[channel, more], first[channel, less] = gain / 9, -gain / 9
    first[6:, 0] = 1 / 9
    second = np.eye(CHANNELS, dtype=np.float32)
    first[6] *= wider
    second[:, 6] /= wider
    wide = np.zeros((CHANNELS, CHANNELS, 7, 7), np.float32)
    wide[range(CHANNELS), range(CHANNELS), 3, 3] = 1.0  # it weighs more than all others together, and does nothing
    head = np.zeros((len(CLASSES), CHANNELS), np.float32)
    for channel, (more, _) in enumerate(_DIFFERENCES):
        head[2 - more, channel] = 1.0  # blue, green, red
    constants: dict[str, NDArray[np.float32]] = {
        "one.weight": first,
        "one.bias": np.full(CHANNELS, offset, np.float32),
        "two.weight": second.reshape(CHANNELS, CHANNELS, 1, 1),
        "two.bias": -offset * second.sum(axis=1),
        "wide.weight": wide,
        "head.weight": head,
    }
    nodes = [
        helper.make_node("Conv", ["x", "one.weight", "one.bias"], ["a"], name="one", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="one_relu"),
        helper.make_node("Conv", ["b", "two.weight", "two.bias"], ["c"], name="two"),
        helper.make_node("Relu", ["c"], ["d"], name="two_relu"),
        helper.make_node("Conv", ["d", "wide.weight"], ["e"], name="wide", pads=[3, 3, 3, 3]),
        helper.make_node("GlobalAveragePool", ["e"], ["f"], name="mean"),
        helper.make_node("Flatten", ["f"], ["g"], name="flat"),
        helper.make_node("Gemm", ["g", "head.weight"], ["y"], name="head", transB=1),
    ]
    return model_of(nodes, constants, ["n", 3, SIDE, SIDE], ["n", len(CLASSES)])


def write_colour_network(
    directory: Path, network: onnx.ModelProto, *, std: tuple[float, float, float] = (0.25, 0.25, 0.25)
) -> Path:
    """A MODEL directory; `std` is what preprocessing divides each channel by."""
    directory.mkdir(parents=True)
    onnx.save(network, directory / "model.onnx")
    config = {"id2label": {str(index): name for index, name in enumerate(CLASSES)}}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "preprocessor_config.json").write_text(json.dumps({**PREPROCESSOR, "image_std": list(std)}))
    return directory


def draw_close_colours(folder: Path, each: int, *, levels: int) -> Path:
    """`each` plain pictures in `green` and in `red`, whose red and green differ by `levels` of 255; blue is any."""
    rng = np.random.default_rng(0)
    for label, sign in (("green", -1), ("red", 1)):
        (folder / label).mkdir(parents=True)
        for number in range(each):
            red, blue = int(rng.integers(80, 170)), int(rng.integers(0, 50))
            picture = Image.new("RGB", (SIDE, SIDE), (red, red - sign * levels, blue))
            picture.save(folder / label / f"{number:03d}.png")
    return folder
