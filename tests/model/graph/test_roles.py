"""What the linear layers of a transformer do: in graphs drawn by hand, and in real architectures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sketches import Node, sketch
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    Dinov2Config,
    Dinov2ForImageClassification,
    PreTrainedModel,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from edgeq.export.stage import fold_graph
from edgeq.export.torch_export import export_classifier
from edgeq.model.graph.components import read_layers
from edgeq.model.graph.onnx_file import load_onnx
from edgeq.model.graph.roles import roles

QK, VO, FF = "attention query/key", "attention value/output", "feed-forward"
SIDE = 32  # pixels

ATTENTION: tuple[Node, ...] = (
    ("MatMul", ("q", "k_turned"), "scores"),
    ("Div", ("scores", "w_scale"), "scaled"),
    ("Softmax", ("scaled",), "probabilities"),
    ("MatMul", ("probabilities", "v"), "mixed"),
    ("Reshape", ("mixed", "w_shape"), "joined"),
    ("MatMul", ("joined", "w_o"), "out"),
    ("Add", ("out", "x"), "y"),
)
SEPARATE: tuple[Node, ...] = (
    ("MatMul", ("x", "w_q"), "query"),
    ("Add", ("query", "w_bias"), "q"),
    ("MatMul", ("x", "w_k"), "key"),
    ("Transpose", ("key",), "k_turned"),
    ("MatMul", ("x", "w_v"), "value"),
    ("Reshape", ("value", "w_shape"), "v"),
)


def test_query_key_value_and_output() -> None:
    assert roles(sketch(*SEPARATE, *ATTENTION, output="y")) == {"query": QK, "key": QK, "value": VO, "out": VO}


def test_a_fused_projection_counts_as_query_and_key() -> None:
    fused: tuple[Node, ...] = (
        ("MatMul", ("x", "w_qkv"), "all"),
        ("Slice", ("all", "w_0"), "q"),
        ("Slice", ("all", "w_1"), "key"),
        ("Transpose", ("key",), "k_turned"),
        ("Slice", ("all", "w_2"), "v"),
    )
    assert roles(sketch(*fused, *ATTENTION, output="y")) == {"all": QK, "out": VO}


def test_rotary_embedding_and_a_norm_stand_between_projection_and_product() -> None:
    rotary: tuple[Node, ...] = (
        ("MatMul", ("x", "w_q"), "query"),
        ("LayerNormalization", ("query", "w_gamma"), "normed"),
        ("Neg", ("normed",), "turned"),
        ("Mul", ("normed", "w_cos"), "even"),
        ("Mul", ("turned", "w_sin"), "odd"),
        ("Add", ("even", "odd"), "q"),
    )
    assert roles(sketch(*rotary, *SEPARATE[2:], *ATTENTION, output="y"))["query"] == QK


def test_feed_forward_plain_and_gated_but_not_across_a_residual() -> None:
    behind: tuple[Node, ...] = (
        ("MatMul", ("y", "w_1"), "first"),
        ("Erf", ("first",), "bent"),
        ("Mul", ("first", "bent"), "gelu"),
        ("MatMul", ("gelu", "w_2"), "second"),
        ("Add", ("second", "y"), "z"),
        ("MatMul", ("z", "w_3"), "gate"),
        ("Sigmoid", ("gate",), "open"),
        ("MatMul", ("z", "w_4"), "up"),
        ("Mul", ("open", "up"), "gated"),
        ("MatMul", ("gated", "w_5"), "down"),
        ("Add", ("down", "z"), "sum"),
        ("MatMul", ("sum", "w_6"), "alone"),
        ("Add", ("alone", "sum"), "end"),
    )
    found = roles(sketch(*SEPARATE, *ATTENTION, *behind, output="end"))
    assert {name for name, role in found.items() if role == FF} == {"first", "second", "gate", "up", "down"}
    assert "alone" not in found


def test_without_attention_nothing_has_a_role() -> None:
    nodes: tuple[Node, ...] = (
        ("Gemm", ("x", "w_1"), "a"),
        ("Relu", ("a",), "b"),
        ("Gemm", ("b", "w_2"), "c"),
        ("Softmax", ("c",), "y"),
    )
    assert roles(sketch(*nodes, output="y")) == {}


def test_a_softmax_at_the_end_is_no_attention() -> None:
    head: tuple[Node, ...] = (("Gemm", ("y", "w_head"), "logits"), ("Softmax", ("logits",), "answers"))
    found = roles(sketch(*SEPARATE, *ATTENTION, *head, output="answers"))
    assert "logits" not in found
    assert len(found) == 4


def vit() -> PreTrainedModel:
    return ViTForImageClassification(
        ViTConfig(
            **{"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32},
            **{"image_size": SIDE, "patch_size": 16, "num_labels": 3},
        )
    )


def swin() -> PreTrainedModel:
    return SwinForImageClassification(
        SwinConfig(embed_dim=8, depths=[1, 1], num_heads=[2, 2], image_size=SIDE, window_size=4, num_labels=3)
    )


def dinov2() -> PreTrainedModel:
    return Dinov2ForImageClassification(
        Dinov2Config(
            **{"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "use_swiglu_ffn": True},
            **{"image_size": SIDE, "patch_size": 16, "num_labels": 3},
        )
    )


def convnext() -> PreTrainedModel:
    return ConvNextForImageClassification(
        ConvNextConfig(num_stages=2, hidden_sizes=[8, 16], depths=[1, 1], num_labels=3, image_size=SIDE)
    )


@pytest.mark.parametrize(
    ("network", "blocks", "feed_forward"),
    [(vit, 2, 2), (swin, 2, 2), (dinov2, 1, 3), (convnext, 0, 0)],  # SwiGLU: gate, up and down
)
def test_real_architectures(
    network: Callable[[], PreTrainedModel], blocks: int, feed_forward: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network().save_pretrained(tmp_path)
    export_classifier(tmp_path, tmp_path / "model.onnx", image_size=(SIDE, SIDE))
    model, _ = fold_graph(load_onnx(tmp_path / "model.onnx"))
    kinds = Counter(layer.kind for layer in read_layers(model))
    # Query, key, value and output are four layers, and two products of computed tensors.
    assert (kinds["attention query/key"], kinds["attention value/output"]) == (2 * blocks, 2 * blocks)
    assert kinds["attention"] == 2 * blocks
    assert kinds["softmax"] == blocks
    assert kinds["feed-forward"] == feed_forward * blocks
