"""The tracing exporter: several inputs and outputs with names, types and free axes; what came is what was asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.errors import ExportError
from edgeq.export.late_weights import simplify_with_weights
from edgeq.export.simplify import simplify
from edgeq.export.tracing import trace
from edgeq.families.base import Arrays, GraphInput

pytestmark = pytest.mark.usefixtures("one_torch_thread")

ROWS, PICKED = GraphInput("rows", {0: "rows"}), GraphInput("picked", {0: "picked"}, "int64")
OUTPUTS = {"first": {0: "picked"}, "second": {0: "rows"}}


class Picking(torch.nn.Module):
    """Rows by number through a linear layer, and all rows on a table of integers' worth."""

    order: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(6, 3)
        self.register_buffer("order", torch.tensor([5, 4, 3, 2, 1, 0]))

    def forward(self, rows: torch.Tensor, picked: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[rows, 6] and [picked] to [picked, 3] and [rows, 6]."""
        return self.linear(rows[picked]), rows[:, self.order]


def feeds(rows: int, picked: int) -> Arrays:
    rng = np.random.default_rng(rows)
    numbers: NDArray[np.float32] = rng.normal(size=(rows, 6)).astype(np.float32)
    return {"rows": numbers, "picked": rng.integers(0, rows, picked)}


@pytest.mark.parametrize("inside", [True, False])
def test_other_lengths_than_those_of_the_example(inside: bool) -> None:
    """The weights are in the graph, or come in at the end, integers among them."""
    network = Picking().eval()
    made = trace(network, feeds(4, 3), source=Path("m"), inputs=(ROWS, PICKED), outputs=OUTPUTS, weights=inside)
    if not inside:
        made = simplify_with_weights(made, {name: value.numpy() for name, value in network.state_dict().items()})
    engine = OnnxRuntimeEngine(made.SerializeToString(), threads=1)
    assert (engine.inputs, engine.outputs) == (("rows", "picked"), ("first", "second"))
    for lengths in ((4, 3), (9, 2), (1, 7)):
        given = feeds(*lengths)
        found = engine.run(given)
        with torch.inference_mode():
            wanted = network(*(torch.from_numpy(given[name]) for name in ("rows", "picked")))
        for name, value in zip(OUTPUTS, wanted, strict=True):
            np.testing.assert_allclose(found[name], value.numpy(), rtol=0, atol=1e-6)


class Folding(torch.nn.Module):
    """Patches taken apart and put together, as MobileViT V2 does; the tracing exporter knows no `fold`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(3, 4, 3, padding=1, bias=False), torch.nn.BatchNorm2d(4)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """[n, 3, 8, 8] to [n, 4, 8, 8]."""
        patches = torch.nn.functional.unfold(self.norm(self.conv(pixels)), 2, stride=2)
        return torch.nn.functional.fold(patches.relu(), (8, 8), 2, stride=2)


def test_what_the_tracing_exporter_does_not_know_the_newer_one_writes() -> None:
    torch.manual_seed(0)
    network = Folding().eval()
    pixels = np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype(np.float32)
    image, free = GraphInput("pixels", {0: "n"}), {0: "n"}
    made = trace(network, {"pixels": pixels[:2]}, source=Path("m"), inputs=(image,), outputs={"y": free})
    assert [opset.version for opset in made.opset_import] == [18]
    assert "BatchNormalization" in {node.op_type for node in made.graph.node}, "left to edgeq.export.fold"
    with torch.inference_mode():
        wanted = network(torch.from_numpy(pixels)).numpy()
    for graph in (made, simplify(made)):
        found = OnnxRuntimeEngine(graph.SerializeToString(), threads=1).run({"pixels": pixels})["y"]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
    assert "Col2Im" not in {node.op_type for node in simplify(made).graph.node}


def test_what_neither_knows_is_refused_with_both_reasons() -> None:
    class Solving(torch.nn.Module):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            made: torch.Tensor = torch.linalg.eigvals(rows[:, :6]).real.expand(len(rows), -1)
            return made

    with pytest.raises(ExportError, match="cannot be exported to ONNX") as caught:
        trace(Solving(), {"rows": feeds(4, 3)["rows"]}, source=Path("m"), inputs=(ROWS,), outputs={"y": {0: "rows"}})
    assert [cause[:8] for cause in caught.value.causes] == ["opset 17", "opset 18"]


def test_nothing_is_kept_for_a_backward_pass() -> None:
    """Else memory holds the attention scores of all layers at once."""
    network, kept = Picking().eval(), []
    network.linear.register_forward_hook(lambda _layer, _given, made: kept.append(made.requires_grad))
    trace(network, feeds(4, 3), source=Path("m"), inputs=(ROWS, PICKED), outputs=OUTPUTS)
    assert kept
    assert not any(kept)


def test_axes_that_are_not_free_are_fixed() -> None:
    fixed = GraphInput("picked", {}, "int64")
    made = trace(
        Picking().eval(),
        feeds(4, 3),
        source=Path("m"),
        inputs=(ROWS, fixed),
        outputs={"first": {}, "second": {0: "rows"}},
    )
    shapes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in made.graph.input
    }
    assert shapes == {"rows": ["rows", 6], "picked": [3]}


@pytest.mark.parametrize(
    ("inputs", "outputs", "words"),
    [
        ((ROWS, GraphInput("picked", {0: "picked"})), OUTPUTS, "inputs .*picked"),
        ((ROWS, PICKED), {"first": {0: "picked"}, "second": {5: "rows"}}, "outputs|cannot be exported"),
        ((ROWS, PICKED), {"first": {0: "picked"}}, "outputs|cannot be exported"),
    ],
    ids=["a type", "an axis", "a name"],
)
def test_what_was_not_asked_for_is_refused(
    inputs: tuple[GraphInput, ...], outputs: dict[str, dict[int, str]], words: str
) -> None:
    with pytest.raises(ExportError, match=f"(?s){words}"):
        trace(Picking().eval(), feeds(4, 3), source=Path("m"), inputs=inputs, outputs=outputs)
