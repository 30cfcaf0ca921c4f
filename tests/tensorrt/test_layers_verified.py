"""What an engine's inspector proves of a plan, what contradicts it, and what it leaves open."""

from __future__ import annotations

import pytest

from edgeq.errors import QuantizeError
from edgeq.tensorrt.inspector import EngineLayer
from edgeq.tensorrt.precisions import DataType, LayerPrecision
from edgeq.tensorrt.verify import verify_tensorrt


def planned(**layers: tuple[str, DataType]) -> tuple[LayerPrecision, ...]:
    return tuple(
        LayerPrecision(name=name, op=op, precision=precision, outputs=(precision,))
        for name, (op, precision) in layers.items()
    )


NETWORK = planned(
    conv1=("Conv", "int8"),
    relu1=("Relu", "int8"),
    conv2=("Conv", "int8"),
    sum=("Add", "int8"),
    flat=("Flatten", "float16"),
    head=("MatMul", "float32"),
    logits=("Softmax", "float32"),
)


def kernel(
    name: str, kinds: str = "", weights: DataType | None = None, *, metadata: str = "", kind: str = ""
) -> EngineLayer:
    """A kernel; `kinds` are what it reads and writes: "int8,float32>float32"."""
    types: dict[str, DataType] = {"int8": "int8", "float16": "float16", "float32": "float32"}
    reads, _, writes = kinds.partition(">")
    listed = [tuple(types[word] for word in side.split(",") if word) for side in (reads, writes)]
    return EngineLayer(name=name, kind=kind, metadata=metadata, reads=listed[0], writes=listed[1], weights=weights)


def onnx(*names: str) -> str:
    return "\x1f".join(f"[ONNX Layer: {name}]" for name in names)


ENGINE = {
    "copy": kernel("Reformatting CopyNode for Input Tensor 0 to conv1 + relu1", "float32>int8"),
    "first": kernel("conv1.weight + conv1 + PWN(relu1)", "int8>int8", "int8"),
    "second": kernel("conv2 + sum", "int8,int8>float32", "int8"),
    "head": kernel("head + bias + (Unnamed Layer* 9) [Shuffle]", "float32>float32", "float32"),
    "logits": kernel("PWN(PWN(logits), (Unnamed Layer* 10) [ElementWise])", "float32>float32"),
    "shuffle": kernel("(Unnamed Layer* 12) [Shuffle]", "float32>float32"),
}
"""Names in the forms that engines write; flat is merged away."""


def verify(*layers: EngineLayer, **replaced: EngineLayer) -> tuple[str, ...]:
    return verify_tensorrt(NETWORK, [*(ENGINE | replaced).values(), *layers])


def faults(*layers: EngineLayer, **replaced: EngineLayer) -> list[str]:
    with pytest.raises(QuantizeError) as caught:
        verify(*layers, **replaced)
    return list(caught.value.causes)


def test_an_engine_as_planned() -> None:
    assert verify() == ()


def test_every_layer_of_a_kernel_is_named() -> None:
    assert faults(first=kernel("conv1 + relu1", "float16>float16", "float16")) == [
        "conv1: planned int8, the engine has float16 to float16 with float16 weights in conv1 + relu1",
        "relu1: planned int8, the engine has float16 to float16 with float16 weights in conv1 + relu1",
    ]


def test_a_head_with_int8_weights_is_no_fp32_head() -> None:
    # It reads and writes float32 as well: what counts is what is multiplied.
    assert faults(head=kernel("head", "float32>float32", "int8")) == [
        "head: planned float32, the engine has float32 to float32 with int8 weights"
    ]
    # Without weights of its own to show, what is narrowest among what it reads.
    assert faults(head=kernel("head", "float32,float16>float32"))[0].startswith("head: planned float32")


def test_a_softmax_between_fp16_products_is_found() -> None:
    attention = planned(scores=("MatMul", "float16"), weights=("Softmax", "float32"), mixed=("MatMul", "float16"))
    fused = kernel("_gemm_mha_v2_myl0_4", "float16,float16>float16", metadata=onnx("scores", "weights", "mixed"))
    with pytest.raises(QuantizeError) as caught:
        verify_tensorrt(attention, [fused], casts=("elsewhere.Cast",))
    assert caught.value.causes == (
        "weights: planned float32, the engine has float16/float16 to float16 in _gemm_mha_v2_myl0_4",
    )


def test_a_kernel_with_casts_inside_leaves_it_open() -> None:
    # Half in, half out, and between two Casts what was planned: no type of the kernel says it.
    normal = planned(norm=("LayerNormalization", "float32"))
    fused = kernel("__myl_CastMeanCast", "float16>float16", metadata=onnx("in.Cast", "norm", "out.Cast"))
    (unseen,) = verify_tensorrt(normal, [fused], casts=("in.Cast", "out.Cast"), quantization="explicit")
    assert unseen == "norm: planned float32, the engine has float16 to float16 in __myl_CastMeanCast"


def test_types_that_are_not_shown_are_left_open() -> None:
    assert verify(head=kernel("head")) == ("head: planned float32, the engine has types that it does not show",)


def test_layers_without_weights_may_run_wider_between_q_and_dq() -> None:
    pool = planned(pool=("MaxPool", "int8"), sum=("Add", "int8"))
    engine = [kernel("pool", "float32>float32"), kernel("sum", "float32,float32>float32")]
    assert verify_tensorrt(pool, engine, quantization="explicit") == ()
    with pytest.raises(QuantizeError, match="2 places"):
        verify_tensorrt(pool, engine, quantization="implicit")


def test_a_convolution_may_not() -> None:
    with pytest.raises(QuantizeError, match="1 places"):
        verify_tensorrt(
            planned(conv=("Conv", "int8")), [kernel("conv", "float32>float32", "float32")], quantization="explicit"
        )


def test_a_layer_that_the_engine_does_not_name() -> None:
    # A weight that is nowhere is a fault. A softmax may have been merged into something; it is left open.
    assert faults(head=kernel("other", "float32>float32")) == ["head: planned float32, and the engine does not name it"]
    assert verify(logits=kernel("other", "float32>float32")) == (
        "logits: planned float32, and the engine does not name it",
    )


def test_metadata_goes_before_names() -> None:
    first = kernel(
        "__myl_0", "int8>int8", "int8", metadata="[ONNX Layer: conv1 | Local Function: f]\x1e[ONNX Layer: relu1]"
    )
    assert verify(first=first) == ()
    assert len(faults(first=kernel("__myl_0", "int8>int8", "float32", metadata=onnx("conv1")))) == 1


def test_blocks_of_which_only_the_ends_are_named() -> None:
    heads = kernel("{ForeignNode[head...logits]}", "float32>float32")
    assert verify(head=heads, logits=ENGINE["copy"]) == ()
    narrow = kernel("{ForeignNode[head...PWN(logits)]}", "float16>float16")
    assert [fault.split(":")[0] for fault in faults(head=narrow, logits=ENGINE["copy"])] == ["head", "logits"]
    # With several precisions inside, or Casts, the ends say nothing of what lies between.
    mixed = kernel("{ForeignNode[conv2 + sum...logits]}", "int8>float32")
    unseen = verify(second=mixed, head=ENGINE["copy"], logits=ENGINE["copy"])
    assert [sentence.split(":")[0] for sentence in unseen] == ["flat", "head"]


def test_a_block_between_unknown_names_hides_the_rest() -> None:
    block = kernel("{ForeignNode[(Unnamed Layer* 3) [Shuffle]...whatever]}", "float32>float32")
    assert [unseen.split(":")[0] for unseen in verify(head=block)] == ["head"]


def test_kernels_that_prepare_a_layer_do_not_count() -> None:
    move = kernel("__myl_Move", "float16>float16", metadata=onnx("head"))
    reformat = kernel("head.weight reformatted", "float16>float16", kind="Reformat", metadata=onnx("logits"))
    assert verify(move, reformat) == ()


HALF = planned(
    conv1=("Conv", "int8"),
    sigmoid=("Sigmoid", "float16"),
    silu=("Mul", "float16"),
    conv2=("Conv", "float16"),
    norm=("LayerNormalization", "float16"),
    linear=("MatMul", "int8"),
    pool=("GlobalAveragePool", "int8"),
    head=("Gemm", "float32"),
)
"""Of a Q/DQ graph in FP16, with an FP32 head."""

HALF_ENGINE = {
    "input": kernel("pixels.QuantizeLinear", "float32>int8"),
    "first": kernel("conv1 + PWN(PWN(sigmoid), silu)", "int8>float16", "int8"),
    "second": kernel("conv2", "float16>float16", "float16"),
    "norm": kernel("__myl_Norm", "float16>int8", metadata=onnx("norm", "linear.in.QuantizeLinear")),
    "linear": kernel("__myl_Mat", "int8,int8>float16", metadata=onnx("linear.in.DequantizeLinear", "linear")),
    "pool": kernel("pool", "float16>float16"),
    "head": kernel("head + bias", "float32>float32", "float32"),
}


def verify_half(**replaced: EngineLayer) -> tuple[str, ...]:
    return verify_tensorrt(HALF, [*(HALF_ENGINE | replaced).values()], casts=("head.Cast",), quantization="explicit")


def test_int8_with_fp16_beside_it_and_an_fp32_head() -> None:
    assert verify_half() == ()


@pytest.mark.parametrize(
    ("name", "other", "layer"),
    [
        ("first", kernel("conv1 + PWN(PWN(sigmoid), silu)", "float16>float16", "float16"), "conv1"),
        ("linear", kernel("__myl_Mat", "float16,float16>float16", metadata=onnx("linear")), "linear"),
        ("second", kernel("conv2", "float32>float32", "float32"), "conv2"),
        ("second", kernel("conv2", "int8>float16", "int8"), "conv2"),
        ("norm", kernel("norm", "float32>float32"), "norm"),
        ("head", kernel("head + bias", "float16>float32", "float16"), "head"),
        ("head", kernel("head + bias", "float16>float16"), "head"),
    ],
)
def test_each_of_them_in_another_type_is_found(name: str, other: EngineLayer, layer: str) -> None:
    with pytest.raises(QuantizeError, match="in 1 places") as caught:
        verify_half(**{name: other})
    assert caught.value.causes[0].startswith(f"{layer}: planned ")


def test_what_is_computed_behind_a_dequantizelinear_is_left_open() -> None:
    """An activation function inside the kernel of an INT8 convolution, which reads and writes integers."""
    fused = kernel("conv1 + PWN(PWN(sigmoid), silu)", "int8>int8", "int8")
    unseen = verify_half(first=fused)
    assert [sentence.split(":")[0] for sentence in unseen] == ["sigmoid", "silu"]
    with pytest.raises(QuantizeError, match="2 places"):  # a weakly typed network says of each what it computes in
        verify_tensorrt(HALF[:3], [fused], quantization="implicit")


def test_a_product_behind_its_own_quantizelinear_is_left_open() -> None:
    inside = onnx("norm", "norm.out.QuantizeLinear", "linear")
    unseen = verify_half(norm=kernel("__myl_NormMat", "float16>float16", metadata=inside), linear=ENGINE["copy"])
    assert [sentence.split(":")[0] for sentence in unseen] == ["linear"]
    shown = kernel("__myl_NormMat", "float16>float16", "float16", metadata=inside)
    with pytest.raises(QuantizeError, match="1 places"):  # its weights say otherwise
        verify_half(norm=shown, linear=ENGINE["copy"])


def test_a_cast_in_the_heads_kernel_leaves_it_open() -> None:
    cast = kernel("__myl_CastGemm", "float16>float32", metadata=onnx("head.Cast", "head"))
    (unseen,) = verify_half(head=cast)
    assert unseen.startswith("head: planned float32, the engine has float16 to float32")
