"""NVIDIA Triton: a model repository, for its ONNX Runtime backend or for TensorRT's.

Fields: https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

from edgeq.handover.base import HandOver, Subject
from edgeq.handover.trtexec import line, script, with_data
from edgeq.model.images.preprocess import Preprocess
from edgeq.tensorrt.inputs import Binding

__all__ = ["triton", "triton_tensorrt"]

_RUNS: Final = ("model.int8.ort.onnx", "model.fp32.onnx")
"""The graph for ONNX Runtime: the first of them that a bundle has."""
_LABELS: Final = "labels.txt"
_TYPES: Final = {"float32": "TYPE_FP32", "int64": "TYPE_INT64"}


def triton(subject: Subject) -> HandOver:
    """A repository whose model runs in ONNX Runtime, ready to be served."""
    subject.classifier()
    graph = next(name for name in _RUNS if name in subject.digests)
    copies = {
        f"{subject.name}/1/model.onnx{name.removeprefix(graph)}": name for name in with_data(graph, subject.digests)
    }
    return _repository(subject, "onnxruntime", copies)


def triton_tensorrt(subject: Subject) -> HandOver:
    """A repository whose model is an engine, and the script that builds it there: on the device that will serve it."""
    build = subject.builds[0]
    made = _repository(subject, "tensorrt", {name: name for name in with_data(build.graph, subject.digests)})
    lines = [line(build, build.graph, f"{subject.name}/1/model.plan")]
    return HandOver({**made.files, "build.sh": script([f"mkdir -p {subject.name}/1", *lines])}, made.copies, made.notes)


def _repository(subject: Subject, backend: str, copies: dict[str, str]) -> HandOver:
    model, graph = subject.classifier()
    most = max(each.max[0] for each in subject.builds[0].profile) if subject.builds[0].profile else 0
    outputs = [_tensor(each, batched=most > 0) for each in graph.outputs]
    if model.labels and len(graph.outputs) == 1:
        outputs[0].append(f"label_filename: {_text(_LABELS)}")
    config = [
        f"name: {_text(subject.name)}",
        f"backend: {_text(backend)}",
        f"max_batch_size: {most}",
        *_listed("input", [_tensor(each, batched=most > 0) for each in graph.inputs]),
        *_listed("output", outputs),
        *(["dynamic_batching { }"] if most > 1 else []),
    ]
    files = {f"{subject.name}/config.pbtxt": "\n".join(config) + "\n"}
    if model.labels:
        files[f"{subject.name}/{_LABELS}"] = "".join(f"{name}\n" for name in model.labels)
    return HandOver(files, copies, (_pixels(model.preprocess),))


def _tensor(binding: Binding, *, batched: bool) -> list[str]:
    axes = binding.shape[1:] if batched else binding.shape
    dims = ", ".join(str(axis if isinstance(axis, int) else -1) for axis in axes)
    return [f"name: {_text(binding.name)}", f"data_type: {_TYPES[binding.dtype]}", f"dims: [ {dims} ]"]


def _listed(name: str, items: Iterable[list[str]]) -> list[str]:
    blocks = ["  {\n" + "\n".join(f"    {field}" for field in each) + "\n  }" for each in items]
    return [f"{name} [\n" + ",\n".join(blocks) + "\n]"]


def _text(value: str) -> str:
    """A string of protobuf's text format, which takes JSON's escapes of ASCII."""
    return json.dumps(value)


def _pixels(steps: Preprocess) -> str:
    return (
        f"Triton is given prepared pixels: float32 [batch, {steps.channels}, {steps.height}, {steps.width}], by the "
        "steps of preprocessor_config.json, which its client has to do"
    )
