"""Multiplications of layers, against numbers worked out by hand."""

from __future__ import annotations

import pytest
from blocks import CLASSES, TOKENS, WIDTH, transformer
from residuals import CHANNELS, SIDE, residual_network

from edgeq.quantize.search.multiplications import multiplication_shares


def test_a_convolution_uses_each_weight_at_each_place() -> None:
    places = SIDE * SIDE
    stem, block = places * CHANNELS * 3 * 9, places * CHANNELS * CHANNELS * 9
    total = stem + 2 * block + 3 * CHANNELS
    shares = multiplication_shares(residual_network(1))
    assert shares == pytest.approx(
        {
            name: 100.0 * count / total
            for name, count in (("stem", stem), ("one0", block), ("two0", block), ("head", 3 * CHANNELS))
        }
    )


def test_a_product_of_matrices_is_done_for_each_token() -> None:
    shares = multiplication_shares(transformer(layers=1))
    up, patch, head = TOKENS * WIDTH * 2 * WIDTH, TOKENS * WIDTH * 3 * 4 * 4, WIDTH * CLASSES
    assert shares["0.up"] / shares["patch"] == pytest.approx(up / patch)
    assert shares["0.up"] / shares["head"] == pytest.approx(up / head)
    assert sum(shares.values()) == pytest.approx(100.0)


def test_where_a_length_is_not_known_nothing_is_told() -> None:
    model = residual_network(1)
    shape = model.graph.input[0].type.tensor_type.shape
    shape.dim[2].ClearField("dim_value")
    shape.dim[2].dim_param = "height"
    assert multiplication_shares(model) == {}
