"""Vision graphs as `edgeq.export.vision` makes them, from modules in memory, and what they compute."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from edgeq.export.late_weights import simplify_with_weights
from edgeq.export.tracing import trace
from edgeq.families.base import Arrays, Config, VisionGraph
from edgeq.model.graph.tensors import name_nodes
from edgeq.plan.precision import PrecisionPlan
from edgeq.quantize.fp16.convert import to_fp16
from edgeq.quantize.fp16.fp16_simulation import simulate_fp16

__all__ = ["computed", "drawn_weights", "in_half", "traced"]


def drawn_weights(model: Any) -> Any:
    """Weights that let every layer do something, tables and gates too."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "embed" in name or value.ndim < 2:
                value.add_(torch.randn_like(value) * 0.3)
            else:
                value.normal_(std=1.5 / np.sqrt(value[0].numel()))
    return model.eval()


def traced(graph: VisionGraph, vision: Any, connector: Any, feeds: Arrays, config: Config) -> onnx.ModelProto:
    """The FP32 graph.

    Args:
        graph: the family's.
        vision, connector: transformers' modules, which stay as they are.
        feeds: of the run that is traced.
        config: the whole model's.
    """
    module = graph.build(copy.deepcopy(vision), copy.deepcopy(connector), None).eval()
    free = {0: "batch" if graph.pictures else "tokens"}
    outputs = dict.fromkeys(graph.outputs(config), free)
    made = trace(module, feeds, source=Path("tiny"), inputs=graph.inputs, outputs=outputs, weights=False)
    return name_nodes(simplify_with_weights(made, {name: value.numpy() for name, value in module.state_dict().items()}))


def in_half(model: onnx.ModelProto, plan: PrecisionPlan) -> onnx.ModelProto:
    """What the graph is in FP16, each result rounded."""
    return simulate_fp16(to_fp16(model, plan))


def computed(model: onnx.ModelProto, feeds: Arrays) -> Arrays:
    """The graph's outputs by name."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))
