"""The detector on disk: weights read, and the ONNX file that is quantized."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file

from benchmarks.detector.labelled import PREPROCESSING
from benchmarks.detector.network import BINS, STRIDES, Detector
from benchmarks.detector.scenes import LABELS, SIDE

__all__ = ["WEIGHTS", "WEIGHTS_FILE", "export", "load", "write_settings"]

WEIGHTS: Final = Path(__file__).resolve().parents[1] / "weights" / "detector"
WEIGHTS_FILE: Final = "model.safetensors"

_OPSET: Final = 18


def load(folder: Path) -> Detector:
    """The trained network in float32, ready to answer."""
    network = Detector()
    network.load_state_dict({name: value.to(_kept(value)) for name, value in load_file(folder / WEIGHTS_FILE).items()})
    return network.eval()


def export(folder: Path, output: Path) -> Path:
    """The ONNX file, `output/model.onnx`, with its configuration beside it; BatchNorm is still in it."""
    output.mkdir(parents=True, exist_ok=True)
    graph = output / "model.onnx"
    torch.onnx.export(
        load(folder),
        (torch.zeros(2, 3, SIDE, SIDE),),
        graph,
        input_names=["images"],
        output_names=["detections"],
        dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1, max=1024)}},
        opset_version=_OPSET,
        external_data=False,
        dynamo=True,
        verbose=False,
    )
    write_settings(output)
    return graph


def write_settings(folder: Path) -> None:
    """What the network is, and what it wants to see."""
    config = {
        "architecture": "detector",
        "image_size": SIDE,
        "strides": STRIDES,
        "bins": BINS,
        "id2label": dict(enumerate(LABELS)),
    }
    for name, content in {"config.json": config, "preprocessor_config.json": PREPROCESSING}.items():
        (folder / name).write_text(json.dumps(content, indent=1) + "\n")


def _kept(value: torch.Tensor) -> torch.dtype:
    return torch.float32 if value.is_floating_point() else value.dtype
