"""torch's exporters, asked so that nothing is folded on the way, and what they made compared with what was asked.

By the tracing one nodes are named after their modules (`/vision/encoder/layers.0/mlp/fc1/MatMul`), the opset is 17, and
every size that is not said to be free becomes a constant. What it cannot write the newer one does, in opset 18.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from onnx import TensorProto

from edgeq.errors import ExportError, first_line
from edgeq.families.base import Arrays, GraphInput
from edgeq.model.graph.onnx_file import MAX_IR_VERSION, load_onnx

if TYPE_CHECKING:
    import onnx
    import torch

__all__ = ["OPSET", "quiet", "trace"]

OPSET: Final = 17
_NEWER_OPSET: Final = 18
"""Of torch's newer exporter, where the tracing one does not know an operator."""

Axes = Mapping[int, str]
"""Axes of a tensor whose length differs from run to run -> their names."""

_TYPES: Final = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}


def trace(
    network: torch.nn.Module,
    examples: Arrays,
    *,
    source: Path,
    inputs: Sequence[GraphInput],
    outputs: Mapping[str, Axes],
    weights: bool = True,
) -> onnx.ModelProto:
    """A network as an ONNX graph with free axes, as the tracer writes it.

    Args:
        network: in eval mode, float32, on the CPU; takes the inputs in their order.
        examples: an array for each input. An axis of length 1 is taken for a constant one in some places, so a free
            axis is longer.
        source: where it came from, for errors.
        inputs: of the network.
        outputs: names for what it gives, and which of their axes are free.
        weights: put them into the graph; otherwise each is one more input, with its name in the network.

    Raises:
        ExportError: the network cannot be exported, or the exporter made another graph than was asked for.
    """
    import torch

    given = tuple(torch.from_numpy(examples[entry.name]) for entry in inputs)
    options: dict[str, Any] = {
        "export_params": weights,
        "input_names": [entry.name for entry in inputs],
        "output_names": list(outputs),
    }
    axes = {entry.name: dict(entry.free) for entry in inputs}
    traced = {
        "dynamo": False,
        "opset_version": OPSET,
        # With eval mode or constant folding here, versions of the exporter fold BatchNorm.
        "training": torch.onnx.TrainingMode.PRESERVE,
        "do_constant_folding": False,
        "dynamic_axes": axes | {name: dict(free) for name, free in outputs.items()},
    }
    try:
        model = _exported(network, given, {**options, **traced})
    except Exception as error:  # the exporter's errors share no base class
        model = _exported_by_dynamo(network, given, source, options, axes, error)
    own = set() if weights else set(network.state_dict())
    _verify(model, {entry.name: _wanted(entry, examples[entry.name].shape) for entry in inputs}, outputs, own)
    return model


def _exported(network: torch.nn.Module, given: tuple[torch.Tensor, ...], options: Mapping[str, Any]) -> onnx.ModelProto:
    import torch

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "exported.onnx"
        with quiet(), torch.no_grad():  # else every layer's attention scores are kept for a backward pass
            torch.onnx.export(network, given, str(path), **options)
        return load_onnx(path)


def _exported_by_dynamo(
    network: torch.nn.Module,
    given: tuple[torch.Tensor, ...],
    source: Path,
    options: Mapping[str, Any],
    axes: Mapping[str, Axes],
    before: Exception,
) -> onnx.ModelProto:
    """What torch's newer exporter writes, which knows operators that the tracing one does not; it takes ten times as
    long.

    Args:
        network, given, source, options: as for the tracing one.
        axes: of each input, those whose length is free.
        before: why the tracing one could not.
    """
    import torch

    free = tuple({axis: torch.export.Dim(name) for axis, name in entry.items()} for entry in axes.values())
    newer = {"dynamo": True, "opset_version": _NEWER_OPSET, "dynamic_shapes": free, "optimize": False, "verbose": False}
    try:
        return _exported(network, given, {**options, **newer})
    except Exception as error:
        raise ExportError(
            f"the network in {source} cannot be exported to ONNX",
            causes=(f"opset {OPSET}: {first_line(before)}", f"opset {_NEWER_OPSET}: {first_line(error)}"),
        ) from before


def _wanted(given: GraphInput, shape: Sequence[int]) -> tuple[int, list[int | str]]:
    """Element type and axes that an input shall have."""
    return _TYPES[given.dtype], [given.free.get(axis, size) for axis, size in enumerate(shape)]


def _verify(
    model: onnx.ModelProto,
    inputs: Mapping[str, tuple[int, list[int | str]]],
    outputs: Mapping[str, Axes],
    weights: set[str],
) -> None:
    """What was asked for is what came: exporters change an opset without a word."""
    opsets = {item.domain: item.version for item in model.opset_import}
    faults = []
    if opsets not in ({"": OPSET}, {"": _NEWER_OPSET}):
        faults.append(f"opsets {opsets}")
    if model.ir_version > MAX_IR_VERSION:
        faults.append(f"IR {model.ir_version}")
    taken = {value.name: _form(value) for value in model.graph.input if value.name not in weights}
    if list(taken.items()) != list(inputs.items()):
        faults.append(f"inputs {taken} instead of {dict(inputs)}")
    made = {value.name: _form(value) for value in model.graph.output}
    if list(made) != list(outputs) or not all(_is_free(made[name], axes) for name, axes in outputs.items()):
        faults.append(f"outputs {made} instead of {dict(outputs)}")
    if faults:
        raise ExportError("the exporter made another graph than was asked for", causes=faults)


def _is_free(found: tuple[int, list[int | str]], axes: Axes) -> bool:
    """Whether an output is float32 and its free axes have come out free."""
    kind, shape = found
    return kind == TensorProto.FLOAT and all(shape[axis : axis + 1] == [name] for axis, name in axes.items())


def _form(value: onnx.ValueInfoProto) -> tuple[int, list[int | str]]:
    """Element type and axes."""
    tensor = value.type.tensor_type
    return tensor.elem_type, [axis.dim_param or axis.dim_value for axis in tensor.shape.dim]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, no warnings, no log lines from transformers and torch."""
    from transformers.utils import logging as chatter

    level, bars = chatter.get_verbosity(), chatter.is_progress_bar_enabled()
    exporter = logging.getLogger("torch.onnx")
    before = exporter.level
    chatter.set_verbosity(logging.CRITICAL)
    chatter.disable_progress_bar()
    exporter.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(before)
        chatter.set_verbosity(level)
        if bars:
            chatter.enable_progress_bar()
