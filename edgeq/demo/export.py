"""Writes the trained network as an ONNX model directory such as people bring along: BatchNormalization still in it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnxscript.optimizer import fold_constants, remove_unused_nodes

from edgeq.demo.network import InspectionNet
from edgeq.demo.scenes import KINDS, SIZE
from edgeq.errors import ExportError, ParityError

__all__ = ["IMAGE_MEAN", "IMAGE_STD", "TOLERANCE", "write_configs", "write_onnx"]

IMAGE_MEAN = (0.5, 0.5, 0.5)
IMAGE_STD = (0.25, 0.25, 0.25)

TOLERANCE = 1e-4
"""Largest difference of a logit between torch and ONNX Runtime; both add in float32, in different orders."""


def write_onnx(model: InspectionNet, path: Path) -> None:
    """Writes `pixel_values` [batch, 3, SIZE, SIZE] float32 to `logits` [batch, classes] at opset 18, unfolded.

    Raises:
        ExportError: the exporter gives nothing.
        ParityError: ONNX Runtime computes something else from the file than torch from the model.
    """
    model.eval()
    example = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    program = torch.onnx.export(
        model,
        (example,),
        input_names=["pixel_values"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        opset_version=18,
        dynamo=True,
        optimize=False,
        verbose=False,
    )
    if program is None:
        raise ExportError("torch.onnx.export gave no program")
    # The exporter's own optimizer would fold BatchNormalization; this only computes what depends on no input.
    fold_constants(program.model)
    remove_unused_nodes(program.model)
    graph = without_traces(program.model_proto)
    onnx.checker.check_model(graph, full_check=True)
    path.write_bytes(graph.SerializeToString())
    check_parity(model, path)


def without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model at IR 10 without the exporter's notes, which hold source paths and an eighth of the file."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    bare.ir_version = min(bare.ir_version, 10)
    graph = bare.graph
    for item in (bare, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del item.metadata_props[:]
    return bare


def check_parity(model: InspectionNet, path: Path) -> None:
    """Compares file and model on a batch of another size than the one exported with; ParityError beyond TOLERANCE."""
    batch = torch.randn(5, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = model(batch).numpy()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"pixel_values": batch.numpy()})
    difference = float(np.abs(logits - expected).max())
    if not difference <= TOLERANCE:
        raise ParityError(
            f"{path} differs from the network it was made from by {difference:.2g}",
            expected=f"logits within {TOLERANCE:g}",
        )


def write_configs(folder: Path) -> None:
    """Writes config.json and preprocessor_config.json in the form that Hugging Face's loaders read."""
    labels = {str(index): kind for index, kind in enumerate(KINDS)}
    config = {
        "architectures": [InspectionNet.__name__],
        "num_labels": len(KINDS),
        "id2label": labels,
        "label2id": {kind: int(index) for index, kind in labels.items()},
    }
    preprocessor = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": False,
        "size": {"height": SIZE, "width": SIZE},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": IMAGE_MEAN,
        "image_std": IMAGE_STD,
    }
    for name, content in (("config.json", config), ("preprocessor_config.json", preprocessor)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
