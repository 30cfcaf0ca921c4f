"""Write what the device needs to build TensorRT engines of a bundle: `engine.json`, and a classifier's ranges.

TensorRT's implicit quantization wants a range for every tensor that an INT8 layer reads or writes, the one between a
convolution and its ReLU too. The scales of the Q/DQ graphs lack that one, because the ReLU is applied while the
convolution writes. It gets the range of the ReLU's (or Clip's) output, and nothing is lost by that: what lies beyond
the range saturates at the same value before and behind the ReLU.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import onnx
from onnx import TensorProto, helper

from edgeq.bundle.vision_report import TOKENS, VISION_FP16, VISION_FP32
from edgeq.calibrate.scales import Scales
from edgeq.calibrate.tensorrt_scales import cache_from_scales
from edgeq.errors import CalibrationError, QuantizeError
from edgeq.export.stage import FP32
from edgeq.families.base import AxisRange
from edgeq.families.modules import VlmDescription
from edgeq.families.pictures import native_size
from edgeq.families.registry import exportable, image_cost
from edgeq.files import sha256_file
from edgeq.model.graph.element_types import element_types
from edgeq.model.graph.external_data import all_tensors
from edgeq.model.graph.tensors import constant_names, constant_tensors
from edgeq.plan.precision import Precision, PrecisionPlan
from edgeq.plan.rules import FUSED_ACTIVATIONS
from edgeq.quantize.fp16.vision import VISION_PLAN
from edgeq.quantize.int8.qdq import placement_of
from edgeq.quantize.int8.registry import USUAL
from edgeq.quantize.int8.stage import FP16, PLAN
from edgeq.quantize.int8.tensorrt import LOWERING as TENSORRT
from edgeq.quantize.tensorrt_precisions import tensorrt_precisions
from edgeq.tensorrt.bundled_cache import CALIBRATION_CACHE, WRITTEN_FOR
from edgeq.tensorrt.calibration_cache import CalibrationCache
from edgeq.tensorrt.inputs import BATCH, ENGINE_INPUTS, Binding, EngineGraph, EngineInputs
from edgeq.tensorrt.precisions import BindingType, DataType, LayerPrecision

__all__ = [
    "axis_ranges",
    "calibration_cache",
    "most_pictures",
    "write_classifier_inputs",
    "write_float_inputs",
    "write_text_inputs",
    "write_vision_inputs",
]

_DATA_TYPES: Final[dict[int, DataType]] = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.INT8: "int8",
}
_BINDING_TYPES: Final[dict[int, BindingType]] = {**_DATA_TYPES, TensorProto.INT64: "int64"}
_MOST_TILES: Final = 12
_SHOWN: Final = 8


def write_classifier_inputs(directory: Path, plan: PrecisionPlan, scales: Scales) -> EngineInputs:
    """Write `engine.json` of a classifier, and `calibration.cache` unless its plan has no INT8 layer.

    Args:
        directory: with the graphs and the plan, as `edgeq.quantize.int8.stage.quantize` left it.
        plan: that of the graphs.
        scales: that they were made with.

    Raises:
        CalibrationError: a tensor of an INT8 layer has no range.
        QuantizeError: the plan asks for what TensorRT does not have.
    """
    model, int8 = onnx.load(directory / FP32), bool(plan.layers(Precision.INT8))
    plan = TENSORRT.planned(model, plan)
    layers = tensorrt_precisions(plan, model)
    inputs = EngineInputs(
        precision="int8" if int8 else "fp16",
        graphs={
            "implicit": _graph(directory / FP32, layers),
            "explicit": _graph(directory / TENSORRT.file, _in_pairs(layers)),
        },
        plan_sha256=sha256_file(directory / PLAN),
    )
    if int8:
        calibration_cache(model, plan, scales).save(directory / CALIBRATION_CACHE)
    inputs.save(directory / ENGINE_INPUTS)
    return inputs


def write_float_inputs(
    directory: Path, plan: PrecisionPlan, *, plan_file: str = PLAN, name: str = ENGINE_INPUTS
) -> EngineInputs:
    """Write `engine.json` of a classifier or encoder that stays in floating point.

    Args:
        directory: with `model.fp32.onnx`, `model.fp16.onnx` and the plan.
        plan: that of the FP16 graph.
        plan_file: name of its file.
        name: of the file that is written.

    Raises:
        QuantizeError: the plan asks for what TensorRT does not have.
    """
    layers = tensorrt_precisions(plan, _open(directory / FP32))
    inputs = EngineInputs(
        precision="fp16",
        graphs={
            "implicit": _graph(directory / FP32, layers),
            "explicit": _graph(directory / FP16, _as_cast(layers, _open(directory / FP16))),
        },
        plan_sha256=sha256_file(directory / plan_file),
    )
    inputs.save(directory / name)
    return inputs


def write_vision_inputs(
    directory: Path, *, pictures: int = 1, ranges: Mapping[str, AxisRange] | None = None, encoder: str = ""
) -> EngineInputs:
    """Write `engine.json` of a vision encoder, which is the same graph on both modes.

    Args:
        directory: with both graphs and the plan, as `edgeq.quantize.fp16.vision.quantize_vision` left it.
        pictures: most that one image becomes.
        ranges: of the free axes, from `axis_ranges`; of the batch of pictures where it is not that of one image.
        encoder: its name in a bundle with several.

    Raises:
        QuantizeError: the plan asks for what TensorRT does not have.
    """
    plan, ranges = PrecisionPlan.load(directory / VISION_PLAN), dict(ranges or {})
    layers = tensorrt_precisions(plan, _open(directory / VISION_FP32))
    casts = _as_cast(layers, _open(directory / VISION_FP16))
    graph = _graph(directory / VISION_FP16, casts, free=frozenset((*ranges, TOKENS)))
    inputs = EngineInputs(
        precision="fp16",
        graphs={"implicit": graph, "explicit": graph},
        pictures=pictures,
        ranges=ranges,
        plan_sha256=sha256_file(directory / VISION_PLAN),
    )
    (directory / encoder).mkdir(exist_ok=True)
    inputs.save(directory / encoder / ENGINE_INPUTS)
    return inputs


def write_text_inputs(
    directory: Path,
    encoder: str,
    plan: Path,
    *,
    batch: AxisRange,
    lengths: Mapping[str, tuple[AxisRange, ...]],
    half: bool = False,
) -> EngineInputs:
    """Write `engine.json` of a text encoder, which is in a directory of its own.

    In INT8 it is for explicit quantization alone: ranges for every tensor between LayerNorm and softmax would be needed
    otherwise, and TensorRT fuses no attention there.

    Args:
        directory: of the bundle.
        encoder: the directory in it with the FP32 graph, and the FP16 graph or the one with Q/DQ pairs.
        plan: of that graph, in the same directory.
        batch: texts in one run.
        lengths: the ranges of a text's length that each get an optimization profile, by the name of the axis; empty
            where the length is fixed.
        half: it was kept in floating point.

    Raises:
        QuantizeError: the plan asks for what TensorRT does not have.
    """
    folder = directory / encoder
    model = _open(folder / FP32)
    layers = tensorrt_precisions(TENSORRT.planned(model, PrecisionPlan.load(plan)), model)
    file = folder / (FP16 if half else TENSORRT.file)
    typed = _as_cast(layers, _open(file)) if half else _in_pairs(layers)
    graph = _graph(file, typed, free=frozenset(lengths), bundle=directory)
    inputs = EngineInputs(
        precision="fp16" if half else "int8",
        graphs={"implicit": graph, "explicit": graph} if half else {"explicit": graph},
        ranges={BATCH: batch},
        buckets=dict(lengths),
        plan_sha256=sha256_file(plan),
    )
    inputs.save(folder / ENGINE_INPUTS)
    return inputs


def axis_ranges(seen: Mapping[str, AxisRange], largest: Mapping[str, int]) -> dict[str, AxisRange]:
    """Least, usual and largest length of the free axes of a vision graph, but for the batch of pictures.

    Args:
        seen: with the photographs of the proof, from `VisionReport.lengths`; they are small ones.
        largest: with the user's photographs at full resolution, from `PhotographCount.lengths`.
    """
    return {name: (least, usual, max(most, largest.get(name, most))) for name, (least, usual, most) in seen.items()}


def most_pictures(model: VlmDescription) -> int:
    """The most pictures that the vision graph is given of one image, whatever the image's shape.

    A processor that cuts images into tiles is asked for images that fill each grid of up to 12 x 12 tiles. Tiles that
    attend to each other are one picture.

    Raises:
        ExportError: the model's vision half is no graph.
        ModelError: the family's rule is not known.
    """
    if not exportable(model.model_type, model.vision).pictures:
        return 1
    height, width = native_size(model.vision)
    sides = range(1, _MOST_TILES + 1)
    return max(image_cost(model, (rows * height, columns * width)).sequences for rows in sides for columns in sides)


def calibration_cache(model: onnx.ModelProto, plan: PrecisionPlan, scales: Scales) -> CalibrationCache:
    """The ranges that TensorRT's implicit quantization needs, in the graph's order, for the release of JetPack 6.

    Both sides of an INT8 addition, and both ends of a layer that computes nothing, get one scale, as in ONNX Runtime's
    Q/DQ graph.

    Args:
        model: the FP32 graph.
        plan: for that graph.
        scales: for that graph and plan.

    Raises:
        CalibrationError: a tensor of an INT8 layer has no range.
        ArtifactError: a tensor's name cannot be written into a cache.
    """
    plan = TENSORRT.planned(model, plan)
    placement = placement_of(model, plan, USUAL)
    groups = placement.groups()
    known = dict(cache_from_scales(scales, WRITTEN_FOR, groups=groups).scales)
    int8 = plan.layers(Precision.INT8)
    for node in model.graph.node:
        if node.op_type in FUSED_ACTIVATIONS and node.name in int8 and node.output[0] in known:
            known.setdefault(node.input[0], known[node.output[0]])
    _require(known, tuple(_touched(model, int8)))
    return CalibrationCache(WRITTEN_FOR, tuple((name, known[name]) for name in _in_order(model) if name in known))


def _touched(model: onnx.ModelProto, layers: frozenset[str]) -> Iterator[str]:
    """The float tensors that `layers` read or write, but for constants and what the network gives its caller."""
    types, left_out = element_types(model), constant_names(model.graph) | {value.name for value in model.graph.output}
    for node in model.graph.node:
        if node.name in layers:
            for name in (*node.input, *node.output):
                if types.get(name) == TensorProto.FLOAT and name not in left_out:
                    yield name


def _require(known: Mapping[str, float], names: tuple[str, ...]) -> None:
    missing = list(dict.fromkeys(name for name in names if name not in known))
    if missing:
        raise CalibrationError(
            f"{len(missing)} tensors of INT8 layers have no range: {', '.join(missing[:_SHOWN])}",
            causes=("the scales were made for another plan",),
            next_step="run edgeq calibrate again",
        )


def _in_order(model: onnx.ModelProto) -> Iterator[str]:
    """Every tensor once, the inputs first."""
    names = [value.name for value in model.graph.input]
    names += [name for node in model.graph.node for name in node.output]
    yield from dict.fromkeys(names)


def _open(path: Path) -> onnx.ModelProto:
    """A graph without the weights that are in a file beside it: types and sizes say enough."""
    return onnx.load(path, load_external_data=False)


def _graph(
    path: Path,
    layers: tuple[LayerPrecision, ...],
    free: frozenset[str] = frozenset(),
    bundle: Path | None = None,
) -> EngineGraph:
    """A graph as a device must know it; `free` are names of axes, and others that are free have none.

    Args:
        path: of the file.
        layers: what each computes in.
        free: names of axes.
        bundle: that the file lies below; None takes its directory.
    """
    model = _open(path)
    constants, casts = constant_tensors(model.graph), [node.name for node in model.graph.node if node.op_type == "Cast"]
    return EngineGraph(
        file=path.relative_to(bundle or path.parent).as_posix(),
        sha256=sha256_file(path),
        weight_bytes=sum(_bytes(tensor) for tensor in all_tensors(model.graph)),
        inputs=tuple(_binding(value, free) for value in model.graph.input if value.name not in constants),
        outputs=tuple(_binding(value, free) for value in model.graph.output),
        layers=layers,
        casts=tuple(casts),
        half=not casts and any(tensor.data_type == TensorProto.FLOAT16 for tensor in all_tensors(model.graph)),
    )


def _bytes(tensor: onnx.TensorProto) -> int:
    size = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return int(math.prod(tensor.dims) * size)


def _binding(value: onnx.ValueInfoProto, free: frozenset[str]) -> Binding:
    tensor = value.type.tensor_type
    if tensor.elem_type not in _BINDING_TYPES:
        raise QuantizeError(
            f"{value.name} holds {TensorProto.DataType.Name(tensor.elem_type)}, which an engine is not given here",
            expected=f"one of {', '.join(_BINDING_TYPES.values())}",
        )
    named = (axis.dim_param if axis.dim_param in free else None for axis in tensor.shape.dim)
    shape = tuple(axis.dim_value or name for axis, name in zip(tensor.shape.dim, named, strict=True))
    return Binding(name=value.name, dtype=_BINDING_TYPES[tensor.elem_type], shape=shape)


def _in_pairs(layers: tuple[LayerPrecision, ...]) -> tuple[LayerPrecision, ...]:
    """Layers as the Q/DQ graph has them: one in floating point writes its own type, and a Cast follows if need be."""
    return tuple(
        layer
        if layer.precision == "int8"
        else layer.model_copy(update={"outputs": tuple(kind and layer.precision for kind in layer.outputs)})
        for layer in layers
    )


def _as_cast(layers: tuple[LayerPrecision, ...], model: onnx.ModelProto) -> tuple[LayerPrecision, ...]:
    """Layers with the types that they write in a graph with Casts, which stand behind them where others are wanted."""
    types, written = element_types(model), {node.name: node.output for node in model.graph.node}
    return tuple(
        layer.model_copy(update={"outputs": tuple(_DATA_TYPES.get(types.get(name, 0)) for name in written[layer.name])})
        for layer in layers
    )
