"""What TensorRT's parser takes, by its published table: onnx-tensorrt, docs/operators.md, release 10.1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from onnx import TensorProto

__all__ = ["CONSTANT_INPUTS", "INTEGER_FORMS", "OPSETS", "TAKEN"]

OPSETS: Final = (9, 20)
"""The oldest and the newest opset that the parser of TensorRT 10.0 to 10.3 is documented to read."""

_FLOAT: Final = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})
_NUMBERS: Final = _FLOAT | {TensorProto.INT32, TensorProto.INT64}
_ANY: Final = _NUMBERS | {TensorProto.BOOL}
_CAST: Final = _ANY | {TensorProto.UINT8}
_QUANTIZED: Final = frozenset({TensorProto.INT8, TensorProto.INT4, TensorProto.FLOAT8E4M3FN})
_PAIR: Final = _FLOAT | _QUANTIZED  # the table names the integers; scales have the floats' type

TAKEN: Final[Mapping[str, frozenset[int]]] = {
    **dict.fromkeys(
        (
            *("Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "AveragePool", "BatchNormalization", "Ceil", "Celu"),
            *("Clip", "Conv", "ConvTranspose", "Cos", "Cosh", "CumSum", "DeformConv", "Dropout", "Einsum", "Elu"),
            *("Erf", "Exp", "Floor", "GRU", "Gemm", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool"),
            *("GridSample", "GroupNormalization", "HardSigmoid", "HardSwish", "Hardmax", "ImageScaler"),
            *("InstanceNormalization", "IsInf", "LRN", "LSTM", "LayerNormalization", "LeakyRelu", "Log"),
            *("LogSoftmax", "LpNormalization", "LpPool", "MatMul", "MaxPool", "MeanVarianceNormalization", "Mish"),
            *("NonMaxSuppression", "NonZero", "PRelu", "ParametricSoftplus", "Pow", "RNN", "RandomNormal"),
            *("RandomNormalLike", "RandomUniform", "RandomUniformLike", "Reciprocal", "Resize", "RoiAlign", "Round"),
            *("ScaledTanh", "Scan", "Selu", "Sigmoid", "Sin", "Sinh", "Softmax", "Softplus", "Softsign", "Sqrt"),
            *("Tan", "Tanh", "ThresholdedRelu", "Upsample"),
        ),
        _FLOAT,
    ),
    **dict.fromkeys(
        (
            *("Abs", "Add", "ArgMax", "ArgMin", "DepthToSpace", "Div", "IsNaN", "Max", "Mean", "Min", "Mod", "Mul"),
            *("Neg", "Pad", "Range", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax"),
            *("ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu", "Scatter"),
            *("ScatterElements", "ScatterND", "Shrink", "Sign", "SpaceToDepth", "Sub", "Sum", "TopK"),
        ),
        _NUMBERS,
    ),
    "Gelu": _NUMBERS | {TensorProto.INT8},
    **dict.fromkeys(
        (
            *("Concat", "Constant", "ConstantOfShape", "Equal", "Expand", "EyeLike", "Flatten", "Gather"),
            *("GatherElements", "GatherND", "Greater", "GreaterOrEqual", "Identity", "If", "Less", "LessOrEqual"),
            *("Loop", "OneHot", "Reshape", "ReverseSequence", "Shape", "Size", "Slice", "Split", "Squeeze", "Tile"),
            *("Transpose", "Trilu", "Unsqueeze", "Where"),
        ),
        _ANY,
    ),
    **dict.fromkeys(("And", "Not", "Or", "Xor"), frozenset({TensorProto.BOOL})),
    **dict.fromkeys(("Cast", "CastLike"), _CAST),
    **dict.fromkeys(("DequantizeLinear", "QuantizeLinear"), _PAIR),
}
"""Operator -> the element types that it is taken with; what is compared, counted or chosen by is BOOL or an integer."""

CONSTANT_INPUTS: Final[Mapping[str, int]] = {
    "CumSum": 1,
    "OneHot": 1,
    "Pad": 3,
    "Slice": 3,
    "Squeeze": 1,
    "Unsqueeze": 1,
    **dict.fromkeys(
        (
            *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin"),
            *("ReduceProd", "ReduceSum", "ReduceSumSquare"),
        ),
        1,
    ),
}
"""Operator -> which of its inputs, axes or a depth, must be constant."""

INTEGER_FORMS: Final = frozenset(
    {
        *("ConvInteger", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul"),
        *("com.microsoft::DynamicQuantizeMatMul", "com.microsoft::MatMulIntegerToFloat", "com.microsoft::MatMulNBits"),
        *("com.microsoft::QAttention", "com.microsoft::QGemm", "com.microsoft::QLinearAdd"),
        *("com.microsoft::QLinearAveragePool", "com.microsoft::QLinearConcat"),
        *("com.microsoft::QLinearGlobalAveragePool", "com.microsoft::QLinearLeakyRelu", "com.microsoft::QLinearMul"),
        *("com.microsoft::QLinearSigmoid", "com.microsoft::QLinearSoftmax", "com.microsoft::DynamicQuantizeLSTM"),
        *("com.microsoft::QLinearReduceMean", "com.microsoft::QLinearWhere", "com.microsoft::QEmbedLayerNormalization"),
    }
)
"""Operators in which the quantization is, in the place of Q/DQ pairs: ONNX Runtime's, or dynamic quantization."""
