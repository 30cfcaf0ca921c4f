"""Attention as torch writes it for a fixed number of images, which are on the second axis and joined with heads."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from export_graphs import graph, random, run
from numpy.typing import NDArray
from onnx import helper

from edgeq.errors import ExportError
from edgeq.export.rewrites.batch_axis import Traced, freed_shape
from edgeq.export.stage import _prove_batch, fold_graph

IMAGE = (3, 8, 8)
TOKENS, HEADS, PART = 4, 2, 4
WIDTH = HEADS * PART
QUERIES = 3

Nodes = list[onnx.NodeProto]
Constants = dict[str, NDArray[Any]]


def tokens(batch: int) -> tuple[Nodes, Constants]:
    """`t` [tokens, images, width]."""
    nodes = [
        helper.make_node("Conv", ["x", "patch"], ["c"], strides=[4, 4]),
        helper.make_node("Reshape", ["c", "flat"], ["f"]),
        helper.make_node("Transpose", ["f"], ["t"], perm=[2, 0, 1]),
    ]
    return nodes, {"patch": random(1, WIDTH, 3, 4, 4), "flat": np.array([batch, WIDTH, TOKENS])}


def attend(query: str, key: str, value: str, batch: int, rows: int) -> tuple[Nodes, Constants]:
    """`y` [rows, images, width] of `query` [images * heads, rows, part], and `key` and `value` [tokens, images, width].

    Args:
        query, key, value: names of tensors.
        batch: images that it is written for.
        rows: of the query.
    """
    nodes = [
        helper.make_node("Reshape", [key, "split"], ["ks"]),
        helper.make_node("Transpose", ["ks"], ["k"], perm=[1, 2, 0]),
        helper.make_node("Reshape", [value, "split"], ["vs"]),
        helper.make_node("Transpose", ["vs"], ["v"], perm=[1, 0, 2]),
        helper.make_node("MatMul", [query, "k"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["shares"], axis=-1),
        helper.make_node("MatMul", ["shares", "v"], ["mixed"]),
        helper.make_node("Transpose", ["mixed"], ["back"], perm=[1, 0, 2]),
        helper.make_node("Reshape", ["back", "rows"], ["joined"]),
        helper.make_node("Gemm", ["joined", "out"], ["projected"]),
        helper.make_node("Reshape", ["projected", "whole"], ["y"]),
    ]
    constants = {
        "split": np.array([TOKENS, batch * HEADS, PART]),
        "rows": np.array([rows * batch, WIDTH]),
        "whole": np.array([rows, batch, WIDTH]),
        "out": random(5, WIDTH, WIDTH),
    }
    return nodes, constants


def check(nodes: Nodes, constants: Constants, batch: int) -> None:
    """Three images at once give, on the second axis, what each gives alone in the graph as it came."""
    model = graph(nodes, constants, (batch, *IMAGE), opset=13)
    made, _ = fold_graph(model)
    pixels = random(9, 3, *IMAGE)
    alone = [run(model, np.repeat(one[None], batch, axis=0))["y"][:, :1] for one in pixels]
    np.testing.assert_allclose(run(made, pixels)["y"], np.concatenate(alone, axis=1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 2])
def test_heads_are_joined_with_images(batch: int) -> None:
    first, constants = tokens(batch)
    projections = [helper.make_node("MatMul", ["t", f"w{name}"], [name]) for name in "qkv"]
    heads = [
        helper.make_node("Reshape", ["q", "split"], ["qs"]),
        helper.make_node("Transpose", ["qs"], ["query"], perm=[1, 0, 2]),
    ]
    rest, more = attend("query", "k", "v", batch, TOKENS)
    renamed = [_renamed(node, {"k": "keys", "v": "values"}) for node in rest]
    weights = {f"w{name}": random(place, WIDTH, WIDTH) for place, name in enumerate("qkv")}
    check([*first, *projections, *heads, *renamed], {**constants, **more, **weights}, batch)


def _renamed(node: onnx.NodeProto, names: dict[str, str]) -> onnx.NodeProto:
    """With other names for the tensors made: `k` and `v` are the projections here."""
    made = onnx.NodeProto()
    made.CopyFrom(node)
    if made.op_type == "Transpose":
        made.output[0] = names.get(made.output[0], made.output[0])
    if made.op_type == "MatMul":
        made.input[1] = names[made.input[1]]
    return made


@pytest.mark.parametrize("batch", [1, 2])
def test_query_key_and_value_come_from_one_layer(batch: int) -> None:
    """[tokens, images, 3 * width] as [1, tokens, images, 3, width], whose first axis changes places with the three."""
    first, constants = tokens(batch)
    packed = [
        helper.make_node("MatMul", ["t", "packed"], ["p"]),
        helper.make_node("Reshape", ["p", "three"], ["p5"]),
        helper.make_node("Transpose", ["p5"], ["turned"], perm=[3, 1, 2, 0, 4]),
        helper.make_node("Squeeze", ["turned", "fourth"], ["stacked"]),
        *(helper.make_node("Gather", ["stacked", f"at{place}"], [f"part{place}"], axis=0) for place in range(3)),
        helper.make_node("Reshape", ["part0", "split"], ["qs"]),
        helper.make_node("Transpose", ["qs"], ["query"], perm=[1, 0, 2]),
    ]
    rest, more = attend("query", "part1", "part2", batch, TOKENS)
    constants |= {
        **more,
        "packed": random(2, WIDTH, 3 * WIDTH),
        "three": np.array([1, TOKENS, batch, 3, WIDTH]),
        "fourth": np.array([3]),
        **{f"at{place}": np.array(place) for place in range(3)},
    }
    check([*first, *packed, *rest], constants, batch)


@pytest.mark.parametrize("batch", [1, 2])
def test_learned_queries_are_the_same_for_each_image(batch: int) -> None:
    """A decoder's, folded to [images * heads, queries, part]; the product with keys would not run with more images."""
    nodes, constants = tokens(batch)
    rest, more = attend("queries", "t", "t", batch, QUERIES)
    check(
        [*nodes, *rest],
        {**constants, **more, "queries": np.tile(random(3, HEADS, QUERIES, PART), (batch, 1, 1))},
        batch,
    )


@pytest.mark.parametrize("batch", [1, 2])
def test_a_class_token_stands_before_tokens_on_the_first_axis(batch: int) -> None:
    nodes, constants = tokens(batch)
    token = np.repeat(random(4, 1, 1, WIDTH), batch, axis=1)
    place = np.repeat(random(6, TOKENS + 1, 1, WIDTH), batch, axis=1)
    more = [
        helper.make_node("Concat", ["token", "t"], ["all"], axis=0),
        helper.make_node("Add", ["all", "place"], ["y"]),
    ]
    check([*nodes, *more], {**constants, "token": token, "place": place}, batch)


def test_queries_that_differ_between_images_stay() -> None:
    nodes, constants = tokens(2)
    rest, more = attend("queries", "t", "t", 2, QUERIES)
    own = {"queries": random(3, 2 * HEADS, QUERIES, PART)}
    made, _ = fold_graph(graph([*nodes, *rest], {**constants, **more, **own}, (2, *IMAGE), opset=13))
    with pytest.raises(ExportError, match="does not run on a batch of three images"):
        _prove_batch(lambda pixels: (run(made, pixels)["y"],), random(0, 3, *IMAGE))


SECOND = Traced((4, 1, 8), axis=1, outer=1)


@pytest.mark.parametrize(
    ("wanted", "source", "batch", "right"),
    [
        ((4, 2, 4), SECOND, 1, (4, -1, 4)),  # images and heads
        ((4, 8), Traced((4, 1, 2, 4), 1, 1), 1, (-1, 8)),  # tokens and images: the last axis is a layer's
        ((4, 1, 8), Traced((4, 8), 0, 4), 1, (4, -1, 8)),  # and back
        ((1, 4, 8), Traced((4, 8), 0, 1), 1, (-1, 4, 8)),  # images before tokens
        ((2, 2, 4, 8), Traced((1, 4, 4, 8), 0, 1), 1, (-1, 2, 4, 8)),  # rows of windows
        ((1, 8, 4), Traced((1, 8, 2, 2), 0, 1), 1, (0, 8, 4)),
        ((4, 4, 4), Traced((4, 2, 8), 1, 1), 2, (4, -1, 4)),
        ((0, -1, 4), SECOND, 1, None),  # right as it is
        ((3, 3), Traced((9,), 0, 2), 1, None),  # cuts through an image
    ],
)
def test_what_a_reshape_must_say(
    wanted: tuple[int, ...], source: Traced, batch: int, right: tuple[int, ...] | None
) -> None:
    lengths = dict(enumerate(source.lengths))
    rest = int(np.prod(source.lengths)) // abs(
        int(np.prod([lengths[a] if n == 0 else n for a, n in enumerate(wanted)]))
    )
    made = [lengths[axis] if number == 0 else rest if number == -1 else number for axis, number in enumerate(wanted)]
    assert freed_shape(wanted, made, source, batch) == right
