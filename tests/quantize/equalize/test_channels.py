"""Where channels go: through heads, windows and splits, and what stops them."""

from __future__ import annotations

import blocks
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeq.quantize.equalize.channels import Fixed, Reach, follow

WIDTH = blocks.WIDTH


def reach(model: onnx.ModelProto, tensor: str, channels: int = WIDTH) -> Reach:
    return follow(Fixed(model, (blocks.SIDE, blocks.SIDE)), tensor, channels)


def behind(*steps: tuple[str, list[str], dict[str, object]], rank: int = 4, **constants: object) -> Reach:
    """pixels [n, 3, 4, 4] through `steps` to a linear layer of 4 inputs; each step reads the one before it first."""
    graph = blocks.Graph(np.random.default_rng(0))
    for name, value in constants.items():
        graph.put(name, np.asarray(value))
    tensor = graph.add("Relu", ["pixels"], "start")
    for index, (op, others, attributes) in enumerate(steps):
        tensor = graph.add(op, [tensor, *others], f"step{index}", **attributes)
    graph.add("MatMul", [tensor, graph.drawn("w", 4, 2)], "y")
    target: list[int | str] = [f"axis{index}" for index in range(rank)]
    return follow(Fixed(graph.model(["n", 3, 4, 4], target, "y"), (4, 4)), "start", 4)


def test_a_normalization_reaches_query_key_and_value() -> None:
    found = reach(blocks.transformer(), "0.before")
    assert [reader.node for reader in found.readers] == ["0.q", "0.k", "0.v"]
    assert all((reader.channels == np.arange(WIDTH)).all() for reader in found.readers)
    assert found.scalable.all()
    assert found.shiftable


def test_the_value_reaches_the_output_projection_through_the_heads() -> None:
    found = reach(blocks.transformer(), "0.v.out")
    assert [reader.node for reader in found.readers] == ["0.o"]
    assert (found.readers[0].channels == np.arange(WIDTH)).all()
    assert found.scalable.all()
    assert not found.shiftable


def test_of_a_fused_projection_only_the_value_can_be_scaled() -> None:
    found = reach(blocks.transformer(fused=True), "0.qkv.out", 3 * WIDTH)
    assert found.scalable.tolist() == [False] * 2 * WIDTH + [True] * WIDTH
    assert "0.scores reads it" in found.reason
    assert (found.readers[0].channels == 2 * WIDTH + np.arange(WIDTH)).all()


@pytest.mark.parametrize(("relu", "scalable"), [(False, False), (True, True)])
def test_a_relu_lets_a_scale_through_and_gelu_does_not(relu: bool, scalable: bool) -> None:
    found = reach(blocks.transformer(relu=relu), "0.up.out", 2 * WIDTH)
    assert found.scalable.all() == found.scalable.any() == scalable
    assert not (scalable and found.shiftable)


def test_a_channel_that_changes_its_place_is_followed() -> None:
    found = behind(("Gather", ["places"], {"axis": 3}), places=[3, 1, 0, 2])
    assert found.readers[0].channels.tolist() == [3, 1, 0, 2]
    assert found.scalable.all()


def test_windows_that_are_rolled_keep_the_channels() -> None:
    found = behind(
        ("Slice", ["one", "end", "two"], {}),
        ("Transpose", [], {"perm": [0, 2, 1, 3]}),
        ("Reshape", ["rows"], {}),
        one=[1],
        end=[4],
        two=[2],
        rows=[-1, 3, 4],
        rank=3,
    )
    assert found.scalable.all()
    assert found.shiftable


def test_values_that_change_channels_keep_their_scale() -> None:
    found = behind(("Transpose", [], {"perm": [0, 1, 3, 2]}))
    assert not found.scalable.any()
    assert "mixes it" in found.reason


@pytest.mark.parametrize(("fill", "scalable"), [(0.0, True), (1.0, False)])
def test_padding_with_zeros_scales_but_does_not_shift(fill: float, scalable: bool) -> None:
    found = behind(("Pad", ["pads", "fill"], {}), pads=[0, 0, 1, 0, 0, 0, 0, 0], fill=np.float32(fill))
    assert found.scalable.all() == found.scalable.any() == scalable
    assert not (scalable and found.shiftable)


def test_beside_other_values_only_whole_columns_are_channels() -> None:
    found = behind(
        ("Slice", ["zero", "end", "last"], {}),
        ("Concat", ["others"], {"axis": 3}),
        zero=[0],
        end=[2],
        last=[3],
        others=np.ones((2, 3, 4, 2), np.float32),
    )
    assert found.readers[0].channels.tolist() == [0, 1, -1, -1]


def test_an_output_of_the_graph_keeps_its_scale() -> None:
    model = blocks.transformer()
    model.graph.output.append(helper.make_tensor_value_info("0.before", TensorProto.FLOAT, None))
    found = reach(model, "0.before")
    assert not found.scalable.any()
    assert found.reason == "it is an output of the graph"


def test_a_second_reader_that_is_no_linear_layer_stops_it() -> None:
    found = reach(blocks.transformer(), "last")
    assert found.reason == "ReduceMean pooled reads it"
    assert found.readers == ()
