"""Weights of linear layers are not there while a graph is simplified, and are there in the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from edgeq.export import late_weights
from edgeq.export.simplify import simplify
from edgeq.export.tracing import trace
from edgeq.families.base import GraphInput


class TwoLinear(torch.nn.Module):
    """One layer that exports as MatMul of a turned weight, one that exports as Gemm; one weight used in two ways."""

    def __init__(self) -> None:
        super().__init__()
        self.turned, self.straight, self.twice = (torch.nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows: torch.Tensor = self.straight(self.turned(x).reshape(-1, 8))
        made: torch.Tensor = self.twice(rows) + self.twice.weight.sum()
        return made


def test_weights_come_in_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    module = TwoLinear().eval()
    seen: list[str] = []

    def watched(model: onnx.ModelProto) -> onnx.ModelProto:
        seen.extend(tensor.name for tensor in model.graph.initializer)
        return simplify(model)

    monkeypatch.setattr(late_weights, "simplify", watched)
    x = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)
    inputs = (GraphInput("x", {0: "batch"}),)
    model = trace(module, {"x": x}, source=Path("tiny"), inputs=inputs, outputs={"y": {0: "rows"}}, weights=False)
    weights: dict[str, Any] = {name: value.numpy() for name, value in module.state_dict().items()}
    made = late_weights.simplify_with_weights(model, weights)

    assert sorted(seen) == ["straight.bias", "turned.bias", "twice.bias", "twice.weight"]
    assert {node.op_type for node in made.graph.node} >= {"MatMul", "Gemm"}
    assert [value.name for value in made.graph.input] == ["x"]
    onnx.checker.check_model(made, full_check=True)
    found = onnxruntime.InferenceSession(made.SerializeToString()).run(None, {"x": x})[0]
    with torch.inference_mode():
        np.testing.assert_allclose(found, module(torch.from_numpy(x)).numpy(), rtol=0, atol=1e-5)
