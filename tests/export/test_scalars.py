"""One-element constants where ONNX has scalars."""

from __future__ import annotations

import numpy as np
import pytest
from export_graphs import assert_same, graph, random
from onnx import helper, numpy_helper

from edgeq.export.simplify import simplify


@pytest.mark.parametrize("shape", [(), (1,)])
def test_bounds_of_a_clip(shape: tuple[int, ...]) -> None:
    bounds = {"low": np.zeros(shape, np.float32), "high": np.ones(shape, np.float32)}
    model = graph([helper.make_node("Clip", ["x", "low", "high"], ["y"])], bounds, ("batch", 4))
    made = simplify(model)
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    assert [values[name].shape for name in made.graph.node[0].input[1:]] == [(), ()]
    assert_same(model, made, random(1, 3, 4))
    np.testing.assert_array_equal([values[name] for name in made.graph.node[0].input[1:]], [0.0, 1.0])


def test_what_pads() -> None:
    constants = {"pads": np.array([0, 1, 0, 1]), "fill": np.full(1, 2.0, np.float32)}
    model = graph([helper.make_node("Pad", ["x", "pads", "fill"], ["y"])], constants, ("batch", 4))
    made = simplify(model)
    fill = next(tensor for tensor in made.graph.initializer if tensor.name == made.graph.node[0].input[2])
    assert tuple(fill.dims) == ()
    assert_same(model, made, random(1, 3, 4))
