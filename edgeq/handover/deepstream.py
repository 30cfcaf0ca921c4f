"""NVIDIA DeepStream: the configuration of `nvinfer`, with labels.

Keys: DeepStream, Gst-nvinfer, "Gst-nvinfer File Configuration Specifications". It computes
y = net-scale-factor * (x - offset), with one factor for all channels and an offset for each.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from edgeq.errors import InputError
from edgeq.handover.base import HandOver, Subject
from edgeq.handover.trtexec import line, script, with_data
from edgeq.model.images.geometry import Fit
from edgeq.model.images.preprocess import Preprocess

__all__ = ["deepstream", "one_factor"]

_ENGINE: Final = "model.plan"
_COLOURS: Final = {"rgb": 0, "bgr": 1, "grey": 2}
_FILTERS: Final = {0: 0, 2: 1}
"""Pillow's filter -> nvinfer's `scaling-filter`: nearest and bilinear."""


def deepstream(subject: Subject) -> HandOver:
    """The configuration of a classifier of whole frames, its labels, and the script that builds its engine.

    Raises:
        InputError: the graph has several outputs, or free axes beside the batch.
    """
    model, graph = subject.classifier()
    build, steps = subject.builds[0], model.preprocess
    if len(graph.outputs) != 1 or len(graph.inputs) != 1:
        raise InputError(f"{subject.bundle}: nvinfer's classifier has one input and one output")
    factor, offsets, apart = one_factor(steps)
    values = {
        "gpu-id": 0,
        "onnx-file": build.graph,
        "model-engine-file": _ENGINE,
        "labelfile-path": "labels.txt",
        "network-type": 1,
        "process-mode": 1,
        "batch-size": 1,
        "infer-dims": f"{steps.channels};{steps.height};{steps.width}",
        "model-color-format": _COLOURS[steps.channel_order],
        "net-scale-factor": f"{factor:.9g}",
        "offsets": ";".join(f"{each:.9g}" for each in offsets),
        "output-blob-names": graph.outputs[0].name,
        "maintain-aspect-ratio": int(isinstance(steps.resize, Fit)),
        "scaling-filter": _FILTERS.get(steps.resample, 1),
        "classifier-threshold": 0,
    }
    notes = tuple(_differences(steps, apart))
    text = "".join(f"# {note}.\n" for note in notes) + "[property]\n" + "".join(f"{k}={v}\n" for k, v in values.items())
    files = {
        "config_infer.txt": text,
        "labels.txt": ";".join(model.labels or ()) + "\n",
        "build.sh": script([line(build, build.graph, _ENGINE)]),
    }
    return HandOver(files, {name: name for name in with_data(build.graph, subject.digests)}, notes)


def one_factor(steps: Preprocess) -> tuple[float, tuple[float, ...], float]:
    """nvinfer's factor and offsets for a preprocessing, and by what part of itself a channel's own factor differs."""
    std = steps.std or (1.0,) * steps.channels
    mean = steps.mean or (0.0,) * steps.channels
    factors = [steps.scale / (each * each if steps.include_top else each) for each in std]
    offsets = [(each + steps.rescale_offset) / steps.scale for each in mean]
    if steps.channel_order == "bgr":
        offsets.reverse()
    factor = sum(factors) / len(factors)
    return factor, tuple(offsets), max(abs(each / factor - 1) for each in factors)


def _differences(steps: Preprocess, apart: float) -> Iterator[str]:
    """What nvinfer does otherwise, in sentences without their full stop."""
    yield "nvinfer takes the largest logit for a probability, and gives no class where it is below 0"
    if apart > 1e-6:
        yield (
            f"nvinfer has one factor for all channels: the mean of std's is taken, by which a channel is up to "
            f"{100 * apart:.2g} % apart. Export the normalization into the graph to have it exact"
        )
    if steps.center_crop and steps.resize is not None:
        yield "nvinfer resizes the whole frame, where the bundle cuts out the middle after resizing"
    if isinstance(steps.resize, Fit):
        yield "nvinfer fills up with black, at the right and below"
    if steps.resample not in _FILTERS:
        yield "nvinfer has no such filter for resizing: bilinear is taken"
