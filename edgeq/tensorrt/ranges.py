"""Ranges of tensors that no calibration cache can name (implicit quantization).

An INT8 layer has a kernel where every float tensor that it reads or writes has a range. A cache names ONNX tensors;
TensorRT's parser makes others, of which only the network that it parsed knows the names:

- a MatMul's or Gemm's weights are the output of a Constant layer, behind a Shuffle where they lack axes; convolutions
  hold theirs inside (NVIDIA/TensorRT#3131 lists such tensors as missing);
- a Gemm is a product, perhaps its scaling, and the addition of its bias: the sum alone has the ONNX tensor's name;
- a one-dimensional convolution stands between Shuffles.

Their ranges follow from the weights and from what is known of their neighbours. They are set on the tensors beside the
calibrator; that TensorRT takes both together was not seen on a device. Without one an obeyed INT8 constraint fails
after everything else was timed, so a tensor of which nothing follows is refused before the build.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import EngineError
from edgeq.tensorrt.precisions import LayerPrecision
from edgeq.tensorrt.settings import BuildSettings

__all__ = ["set_ranges"]

_MOVES: Final = frozenset({"SHUFFLE", "IDENTITY", "SQUEEZE", "UNSQUEEZE"})
"""Kinds of layers whose output has the numbers of their first input."""

_NAMED: Final = 10
_OF_ZEROS: Final = 1.0
"""The range of a constant that is zero everywhere: any will do, and zero is none."""


def set_ranges(trt: ModuleType, network: Any, settings: BuildSettings, known: Mapping[str, float] | None) -> None:
    """Give a range to each tensor of the planned INT8 layers that has none.

    Args:
        trt: TensorRT's module.
        network: an `INetworkDefinition`, as the parser made it; is changed.
        settings: with the planned layers.
        known: the largest magnitude of each tensor that the calibration cache has, by name; None where TensorRT
            measures on images: then it finds all but those of constants.

    Raises:
        EngineError: a tensor of an INT8 layer has no range, and none follows from others.
    """
    tensors = _Tensors(trt, network, known or {})
    missing: list[str] = []
    for name, tensor in tensors.touched({layer.name: layer for layer in settings.layers}).items():
        if name in tensors.known or tensor.is_network_output:
            continue
        found = tensors.magnitude(name)
        if found is None and name in tensors.floats:
            found = tensors.bound(name)
        if found is not None:
            _set(tensor, found or _OF_ZEROS)
        elif known is not None and name in tensors.required:
            missing.append(name)
    if missing:
        raise EngineError(
            f"{len(missing)} tensors of INT8 layers have no range, and none follows from what is known",
            expected="a range for everything that an INT8 layer reads or writes: no kernel takes it otherwise",
            causes=(*missing[:_NAMED], *((f"and {len(missing) - _NAMED} more",) if len(missing) > _NAMED else ())),
            next_step="leave --quantization implicit out: the Q/DQ graph needs no ranges; or calibrate with --images",
        )


def _set(tensor: Any, magnitude: float) -> None:
    if not tensor.set_dynamic_range(-magnitude, magnitude):
        raise EngineError(f"TensorRT does not take the range +-{magnitude:g} of {tensor.name}")


class _Tensors:
    """The float tensors of a network: what makes and what reads each, and how large it is.

    Attributes:
        known: name -> largest magnitude.
        required, floats: names of what INT8 layers themselves touch, and of what they write in floating point, after
            `touched`.
    """

    def __init__(self, trt: ModuleType, network: Any, known: Mapping[str, float]) -> None:
        self._trt = trt
        self._layers = [network.get_layer(index) for index in range(network.num_layers)]
        self.known = known
        self.required: set[str] = set()
        self.floats: set[str] = set()
        self._maker = {tensor.name: layer for layer in self._layers for tensor in _outputs(layer)}
        self._readers: dict[str, list[Any]] = {}
        for layer in self._layers:
            for tensor in _inputs(layer):
                self._readers.setdefault(tensor.name, []).append(layer)

    def touched(self, planned: Mapping[str, LayerPrecision]) -> dict[str, Any]:
        """The float tensors of INT8 layers, of what the parser put behind them for a bias, and of what only moves
        numbers before them, by name.
        """
        own = [layer for layer in self._layers if layer.name in planned and planned[layer.name].precision == "int8"]
        found = {tensor.name: tensor for layer in own for tensor in (*_inputs(layer), *_outputs(layer))}
        self.required = set(found)
        for layer in own:
            kinds = zip(_outputs(layer), planned[layer.name].outputs, strict=False)
            self.floats |= {tensor.name for tensor, kind in kinds if kind != "int8"}
        written = [tensor.name for layer in own for tensor in _outputs(layer)]
        for added in (reader for name in written for reader in self._readers.get(name, [])):
            if added.name not in planned:
                found |= {tensor.name: tensor for tensor in (*_inputs(added), *_outputs(added))}
        for name in list(found):
            found |= {tensor.name: tensor for tensor in self._moved(name)}
        types = (self._trt.float32, self._trt.float16)
        return {name: tensor for name, tensor in found.items() if tensor.dtype in types}

    def _moved(self, name: str) -> Iterator[Any]:
        """The tensors whose numbers a tensor of no known range has."""
        maker = self._maker.get(name)
        while maker is not None and maker.type.name in _MOVES and name not in self.known:
            tensor = next(_inputs(maker))
            yield tensor
            name, maker = tensor.name, self._maker.get(tensor.name)

    def magnitude(self, name: str, asked: frozenset[str] = frozenset()) -> float | None:
        """The largest magnitude of a tensor; None where it does not follow from what is known."""
        if name in self.known:
            return self.known[name]
        if name in asked:  # a maker and a reader would ask each other for ever
            return None
        asked |= {name}
        found = self._constant(name)
        maker, readers = self._maker.get(name), self._readers.get(name, [])
        if found is None and maker is not None and maker.type.name in _MOVES:
            found = self.magnitude(next(_inputs(maker)).name, asked)
        if found is None and len(readers) == 1:
            found = self._before(name, readers[0], asked)
        return found

    def _constant(self, name: str) -> float | None:
        """A bound of what is a constant, or is computed from constants; None of all else."""
        maker = self._maker.get(name)
        if maker is None or maker.num_outputs != 1:
            return None
        if maker.type == self._trt.LayerType.CONSTANT:
            values = _values(self._trt, maker)
            return None if values is None else _finite(float(max(values.max(), -values.min())))
        if maker.type.name in _MOVES:
            return self._constant(next(_inputs(maker)).name)
        if maker.type != self._trt.LayerType.ELEMENTWISE:
            return None
        left, right = (self._constant(tensor.name) for tensor in _inputs(maker))
        kinds, kind = self._trt.ElementWiseOperation, _operation(self._trt, maker)
        if left is None or right is None or kind not in (kinds.SUM, kinds.PROD):
            return None
        return _finite(left + right if kind == kinds.SUM else left * right)

    def _before(self, name: str, layer: Any, asked: frozenset[str]) -> float | None:
        """How large what a layer reads may be, for what it writes to be within its range."""
        if layer.type.name in _MOVES:
            return self.magnitude(next(_outputs(layer)).name, asked)
        if layer.type != self._trt.LayerType.ELEMENTWISE:
            return None
        others = [self._constant(tensor.name) for tensor in _inputs(layer) if tensor.name != name]
        written = self.magnitude(next(_outputs(layer)).name, asked)
        if len(others) != 1 or others[0] is None or written is None:
            return None
        kinds, kind = self._trt.ElementWiseOperation, _operation(self._trt, layer)
        if kind == kinds.SUM:
            return written + others[0]
        if kind == kinds.PROD and others[0] > 0.0:  # by a Gemm's alpha, one number
            return written / others[0]
        return written if kind in (kinds.MIN, kinds.MAX) else None  # what lies beyond is clipped there as well

    def bound(self, name: str) -> float | None:
        """A bound of a product by weights, for one that is written in floating point: no number is rounded by it, and
        without any range the product would have no INT8 kernel.
        """
        maker = self._maker.get(name)
        if maker is None or maker.type != self._trt.LayerType.MATRIX_MULTIPLY:
            return None
        left, right = _inputs(maker)
        read, weights = self.magnitude(left.name), self._weights(right.name)
        if read is None or weights is None:
            return None
        return _finite(read * float(np.abs(weights, dtype=np.float64).sum()))

    def _weights(self, name: str) -> NDArray[np.floating[Any]] | None:
        """The numbers of a constant, whatever moves them; None of what is computed."""
        names = [name, *(tensor.name for tensor in self._moved(name))]
        maker = self._maker.get(names[-1])
        return _values(self._trt, maker) if maker is not None and maker.type == self._trt.LayerType.CONSTANT else None


def _values(trt: ModuleType, constant_layer: Any) -> NDArray[np.floating[Any]] | None:
    """None where numpy lacks the type, or there are none."""
    constant_layer.__class__ = trt.IConstantLayer  # the bindings give every layer as an ILayer
    values = np.asarray(constant_layer.weights)
    return values if values.dtype.kind == "f" and values.size else None


def _finite(magnitude: float) -> float | None:
    return magnitude if np.isfinite(magnitude) else None


def _operation(trt: ModuleType, elementwise_layer: Any) -> Any:
    elementwise_layer.__class__ = trt.IElementWiseLayer
    return elementwise_layer.op


def _inputs(layer: Any) -> Iterator[Any]:
    tensors = (layer.get_input(index) for index in range(layer.num_inputs))
    return (tensor for tensor in tensors if tensor is not None)  # an optional input may be none


def _outputs(layer: Any) -> Iterator[Any]:
    return (layer.get_output(index) for index in range(layer.num_outputs))
