"""A small classifier with everything a mobile network has, and the directory that a user would give."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeq.export.stage import FP32, export_model
from edgeq.model.checkpoint.source import ModelSource, open_model
from edgeq.model.images.image_set import ImageSet
from edgeq.pipeline.stages import parity_images
from edgeq.plan.precision import Precision, PrecisionPlan
from edgeq.quality.latency import Timing

CLASSES = ("blue", "green", "red")
SIDE = 16  # pixels
CHANNELS = 16
BATCHNORMS = 3

ALLOWED = {"EQ107": "drawn pictures, to try it out", "EQ108": "accuracy is not looked at"}
"""For tests on a few pictures, or that judge by those they calibrate on."""

QUICK = Timing(rounds=1, block_seconds=0.01)
"""Latency measured once: the figure is not looked at."""

PARAMETERS = {
    "stem": CHANNELS * 3 * 3 * 3,
    "stem_bn": 2 * CHANNELS,  # gamma and beta; the running mean and variance are not learned
    "depthwise": CHANNELS * 3 * 3,
    "depthwise_bn": 2 * CHANNELS,
    "pointwise": CHANNELS * CHANNELS,
    "pointwise_bn": 2 * CHANNELS,
    "head": len(CLASSES) * CHANNELS + len(CLASSES),
}
"""Learned numbers of each layer of `tiny_network`, from its shapes."""

PREPROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": SIDE, "width": SIDE},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.25, 0.25, 0.25],
}

PREPROCESS_FLAGS = ("--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25", "--size", str(SIDE))
"""The same as PREPROCESSOR, on the command line."""


def tiny_network(seed: int = 0) -> onnx.ModelProto:
    """Conv+BN+Relu, depthwise Conv+BN+Clip(0, 6), pointwise Conv+BN, residual Add, Relu, pooling, Flatten, Gemm.

    float32 [batch, 3, SIDE, SIDE] -> [batch, 3 classes]; weights are drawn from `seed`.
    """
    rng = np.random.default_rng(seed)
    constants: dict[str, NDArray[np.float32]] = {
        "stem.weight": _weight(rng, CHANNELS, 3, 3, 3),
        "depthwise.weight": _weight(rng, CHANNELS, 1, 3, 3),
        "pointwise.weight": _weight(rng, CHANNELS, CHANNELS, 1, 1),
        "head.weight": _weight(rng, len(CLASSES), CHANNELS),
        "head.bias": rng.uniform(-0.1, 0.1, len(CLASSES)).astype(np.float32),
        "zero": np.array(0, np.float32),
        "six": np.array(6, np.float32),
    }
    for name in ("stem", "depthwise", "pointwise"):
        constants |= _statistics(rng, f"{name}_bn")
    nodes = [
        _conv("stem", "pixel_values", pads=[1, 1, 1, 1]),
        _batchnorm("stem_bn", "stem"),
        helper.make_node("Relu", ["stem_bn"], ["stem_relu"], name="stem_relu"),
        _conv("depthwise", "stem_relu", pads=[1, 1, 1, 1], group=CHANNELS),
        _batchnorm("depthwise_bn", "depthwise"),
        helper.make_node("Clip", ["depthwise_bn", "zero", "six"], ["depthwise_clip"], name="depthwise_clip"),
        _conv("pointwise", "depthwise_clip"),
        _batchnorm("pointwise_bn", "pointwise"),
        helper.make_node("Add", ["pointwise_bn", "stem_relu"], ["residual"], name="residual"),
        helper.make_node("Relu", ["residual"], ["residual_relu"], name="residual_relu"),
        helper.make_node("GlobalAveragePool", ["residual_relu"], ["pooled"], name="pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], name="flatten"),
        helper.make_node("Gemm", ["flat", "head.weight", "head.bias"], ["logits"], name="head", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(CLASSES)])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def planned_int8(bundle: Path) -> list[onnx.NodeProto]:
    """The nodes of a bundle's FP32 graph that its plan has in INT8."""
    layers = PrecisionPlan.load(bundle / "plan.yaml").layers(Precision.INT8)
    return [node for node in onnx.load(bundle / "model.fp32.onnx").graph.node if node.name in layers]


def write_model(directory: Path, *, seed: int = 0, preprocessor: bool = True) -> Path:
    """A MODEL directory with `tiny_network`, config.json and, if wanted, preprocessor_config.json."""
    directory.mkdir(parents=True)
    onnx.save(tiny_network(seed), directory / "model.onnx")
    config = {"id2label": {str(index): name for index, name in enumerate(CLASSES)}}
    (directory / "config.json").write_text(json.dumps(config))
    if preprocessor:
        (directory / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return directory


def _weight(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    """Normal weights that keep the size of what goes through (He)."""
    return (rng.standard_normal(shape) * math.sqrt(2 / math.prod(shape[1:]))).astype(np.float32)


def _statistics(rng: np.random.Generator, name: str) -> dict[str, NDArray[np.float32]]:
    return {
        f"{name}.gamma": rng.uniform(0.5, 1.5, CHANNELS).astype(np.float32),
        f"{name}.beta": rng.uniform(-0.5, 0.5, CHANNELS).astype(np.float32),
        f"{name}.mean": rng.uniform(-0.5, 0.5, CHANNELS).astype(np.float32),
        f"{name}.var": rng.uniform(0.25, 2.0, CHANNELS).astype(np.float32),
    }


def _conv(name: str, data: str, *, pads: list[int] | None = None, group: int = 1) -> onnx.NodeProto:
    inputs = [data, f"{name}.weight"]
    return helper.make_node("Conv", inputs, [name], name=name, pads=pads or [0, 0, 0, 0], group=group)


def _batchnorm(name: str, data: str) -> onnx.NodeProto:
    parameters = [f"{name}.{role}" for role in ("gamma", "beta", "mean", "var")]
    return helper.make_node("BatchNormalization", [data, *parameters], [name], name=name)


def export_tiny(directory: Path, images: ImageSet) -> tuple[Path, ModelSource]:
    """The tiny network exported into `directory`: its FP32 graph, and the model it came from."""
    write_model(directory / "model")
    source = open_model(directory / "model")
    export_model(source, directory, parity_images(images, source))
    return directory / FP32, source
