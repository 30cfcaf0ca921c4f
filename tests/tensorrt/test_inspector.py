"""The inspector's JSON, in hand-made samples of the forms that engines write."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgeq.errors import EngineError
from edgeq.tensorrt.inspector import EngineLayer, data_type, read_layers


def tensor(said: str, key: str = "Format/Datatype") -> dict[str, Any]:
    return {"Name": "t", "Location": "Device", "Dimensions": [-1, 3, 8, 8], key: said}


def read(*layers: Any) -> tuple[EngineLayer, ...]:
    return read_layers(json.dumps({"Layers": layers, "Bindings": ["pixel_values", "logits"]}))


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("Row major linear FP32", "float32"),
        ("Channel major FP32 format where channel % 4 == 0", "float32"),
        ("Float", "float32"),
        ("Row major linear FP16 format", "float16"),
        ("Half", "float16"),
        ("Thirty-two wide channel vectorized row major Int8 format", "int8"),
        ("Channel major INT8 format where channel % 16 == 0", "int8"),
        ("Int8", "int8"),
        ("Row major linear UInt8 format", None),
        ("Row major linear BFloat16 format", None),
        ("BFloat16", None),
        ("Row major linear Int32", None),
        ("FloatComplex", None),
        ("Row major linear FP8 format", None),
        ("Row major linear BOOL", None),
        ("N/A due to dynamic shapes", None),
        ("", None),
    ],
)
def test_types_in_the_inspectors_words(said: str, kind: str | None) -> None:
    assert data_type(said) == kind


def test_a_convolution_in_int8() -> None:
    (layer,) = read(
        {
            "Name": "conv1.weight + /conv1/Conv + /Relu",
            "LayerType": "CaskConvolution",
            "Inputs": [tensor("Four wide channel vectorized row major Int8 format")],
            "Outputs": [tensor("Row major linear FP16 format")],
            "ParameterType": "Convolution",
            "Weights": {"Type": "Int8", "Count": 432},
            "Bias": {"Type": "Float", "Count": 16},
            "TacticName": "sm80_xmma_fprop_implicit_gemm_i8f16_i8i32_f32_nhwckrsc_nhwc_tilesize64x32x64_stage1",
            "TacticValue": "0x1",
            "StreamId": 0,
            "Metadata": "[ONNX Layer: /conv1/Conv]\x1e[ONNX Layer: /Relu]",
        }
    )
    assert layer == EngineLayer(
        name="conv1.weight + /conv1/Conv + /Relu",
        kind="CaskConvolution",
        metadata="[ONNX Layer: /conv1/Conv]\x1e[ONNX Layer: /Relu]",
        reads=("int8",),
        writes=("float16",),
        weights="int8",
    )


def test_with_a_free_batch_axis_weights_and_kernels_are_left() -> None:
    unknown = tensor("N/A due to dynamic shapes")
    by_weights, by_name, by_nothing = read(
        {"Name": "a", "LayerType": "CaskConvolution", "Inputs": [unknown], "Weights": {"Type": "Half", "Count": 8}},
        {
            "Name": "b",
            "LayerType": "gemm",
            "Outputs": [unknown],
            "TacticName": "sm86_xmma_gemm_f16f16_f16f32_f16_tn_n_t",
        },
        {"Name": "c", "LayerType": "TiledPooling", "Inputs": [unknown], "Outputs": [unknown], "TacticValue": "0x1"},
    )
    assert (by_weights.weights, by_name.weights, by_nothing.weights) == ("float16", "float16", None)
    assert by_nothing.reads == by_nothing.writes == ()


@pytest.mark.parametrize(
    ("tactic", "kind"),
    [
        ("sm80_xmma_fprop_implicit_gemm_i8i8_i8i32_f32_nchw_vect_c_32kcrs_vect_c_32", "int8"),
        ("sm80_xmma_fprop_implicit_gemm_interleaved_i8f32_i8i32_f32_nchw", "int8"),
        ("sm80_xmma_gemm_f32f32_tf32f32_f32_tn_n_tilesize32x32x64", "float32"),
        ("sm80_xmma_gemm_bf16bf16_bf16f32_f32_tn_n", None),
        ("__myl_AddMeanSqrt_0x5ce2f4c4a6", None),
        ("", None),
    ],
)
def test_operands_in_the_name_of_a_kernel(tactic: str, kind: str | None) -> None:
    (layer,) = read({"Name": "a", "LayerType": "gemm", "TacticName": tactic})
    assert layer.weights == kind


def test_a_fused_kernel_with_types_under_another_key() -> None:
    (layer,) = read(
        {
            "Name": "__myl_Soft_myl0_3",
            "LayerType": "kgen",
            "Inputs": [tensor("Half", "Datatype"), tensor("Bool", "Datatype")],
            "Outputs": [tensor("Float", "Datatype")],
            "Metadata": "[ONNX Layer: softmax]",
        }
    )
    assert (layer.reads, layer.writes) == (("float16",), ("float32",))


def test_control_characters_may_stand_in_the_text_as_they_are() -> None:
    text = '{"Layers": [{"Name": "a", "Metadata": "[ONNX Layer: x]\x1f[ONNX Layer: y]"}]}'
    assert read_layers(text)[0].metadata == "[ONNX Layer: x]\x1f[ONNX Layer: y]"


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "JSONDecodeError"),
        ("[]", "TypeError"),
        ('{"Bindings": []}', "KeyError"),
        ('{"Layers": []}', "no layers"),
        ('{"Layers": ["a + b", "c"]}', "by name only"),
        ('{"Layers": [{"LayerType": "gemm"}]}', "KeyError"),
        ('{"Layers": [{"Name": "a", "Inputs": ["t"]}]}', "AttributeError"),
    ],
)
def test_what_cannot_be_read(text: str, cause: str) -> None:
    with pytest.raises(EngineError) as caught:
        read_layers(text)
    assert cause in caught.value.causes[0]
