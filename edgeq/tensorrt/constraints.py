"""Put the planned precisions on a network that TensorRT parsed from ONNX (implicit quantization).

TensorRT's parser names a layer after its ONNX node. Some nodes become several layers: of a Gemm only the multiplication
has the node's name, the addition of the bias is called "(Unnamed Layer* 12) [ElementWise]". Such layers are in no plan
and are left to TensorRT, with one exception: one that reads what an FP32 layer writes is FP32 as well. Otherwise the
bias of an FP32 head could be added in FP16.

`set_output_type` says what a layer writes, and leaves the binding's type as it is; that is set on the binding itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from edgeq.errors import EngineError
from edgeq.tensorrt.precisions import VANISHING, BindingType, LayerPrecision
from edgeq.tensorrt.settings import BuildSettings

__all__ = ["check_bindings", "constrain"]


def constrain(trt: ModuleType, network: Any, settings: BuildSettings) -> None:
    """Set precision and output types of the planned layers, and the types of the network's bindings.

    Args:
        trt: TensorRT's module.
        network: an `INetworkDefinition`; is changed.
        settings: with the planned layers.

    Raises:
        EngineError: the network lacks a planned layer or output.
    """
    planned = {layer.name: layer for layer in settings.layers}
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    _check_names(planned, {layer.name for layer in layers})
    exact: set[str] = set()
    for layer in layers:
        wanted = planned.get(layer.name)
        if wanted is None and _added(layer, planned) and _reads(layer) & exact and _writes_float(trt, layer):
            wanted = LayerPrecision(
                name=layer.name, op="", precision="float32", outputs=("float32",) * layer.num_outputs
            )
        if wanted is not None:
            _set(trt, layer, wanted)
            if wanted.precision == "float32":
                exact |= set(_names(layer.get_output, layer.num_outputs))
    for name, output in _outputs(network, settings.output_types).items():
        output.dtype = getattr(trt, settings.output_types[name])


def check_bindings(trt: ModuleType, network: Any, settings: BuildSettings) -> None:
    """On explicit quantization the graph says the types of its outputs: compare them.

    Args:
        trt: TensorRT's module.
        network: an `INetworkDefinition`.
        settings: with the types that are wanted.

    Raises:
        EngineError: one is missing, or of another type.
    """
    for name, output in _outputs(network, settings.output_types).items():
        wanted: BindingType = settings.output_types[name]
        if output.dtype != getattr(trt, wanted):
            raise EngineError(
                f"the graph gives {name} in {output.dtype}",
                expected=wanted,
                causes=("the file is not the one that the bundle describes",),
            )


def _set(trt: ModuleType, layer: Any, wanted: LayerPrecision) -> None:
    layer.precision = getattr(trt, wanted.precision)
    for index, kind in zip(range(layer.num_outputs), wanted.outputs, strict=False):  # Split is a layer for each output
        if kind is not None:
            layer.set_output_type(index, getattr(trt, kind))


def _check_names(planned: Mapping[str, LayerPrecision], present: set[str]) -> None:
    # Of the others the parser may make no layer at all.
    missing = [name for name, layer in planned.items() if name not in present and layer.op not in VANISHING]
    if missing:
        raise EngineError(
            f"TensorRT's network lacks {len(missing)} of {len(planned)} planned layers",
            expected="a layer for each ONNX node, under its name",
            causes=tuple(missing[:10]),
            next_step="build with explicit quantization, which needs no names",
        )


def _added(layer: Any, planned: Mapping[str, LayerPrecision]) -> bool:
    """Whether the parser added it for the sake of another: it has no name of its own, or a node's with a number."""
    node = str(layer.metadata).removeprefix("[ONNX Layer: ").removesuffix("]")
    return layer.name.startswith("(Unnamed Layer*") or node in planned


def _reads(layer: Any) -> set[str]:
    return set(_names(layer.get_input, layer.num_inputs))


def _names(get: Any, count: int) -> Iterator[str]:
    tensors = (get(index) for index in range(count))
    return (tensor.name for tensor in tensors if tensor is not None)  # an optional input may be none


def _writes_float(trt: ModuleType, layer: Any) -> bool:
    return all(layer.get_output(index).dtype == trt.float32 for index in range(layer.num_outputs))


def _outputs(network: Any, wanted: Mapping[str, BindingType]) -> dict[str, Any]:
    """The network's outputs by name."""
    found = [network.get_output(index) for index in range(network.num_outputs)]
    outputs = {output.name: output for output in found}
    if set(outputs) != set(wanted):
        raise EngineError(
            f"the network gives {', '.join(sorted(outputs)) or 'nothing'}", expected=", ".join(sorted(wanted))
        )
    return outputs
