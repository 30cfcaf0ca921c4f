"""torch's tracing exporter, asked so that nothing is folded on the way, and what it made compared with what was asked.

Nodes are named after their modules (`/vision/encoder/layers.0/mlp/fc1/MatMul`), the opset is 17, and every size but the
batch becomes a constant.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.errors import ExportError, first_line
from edgeq.model.graph.onnx_file import MAX_IR_VERSION, load_onnx

if TYPE_CHECKING:
    import onnx
    import torch

__all__ = ["OPSET", "quiet", "trace"]

OPSET = 17
# Two images, so that an axis that happens to be the batch is not taken for a constant one.
_TRACED_BATCH = 2


def trace(
    network: torch.nn.Module,
    image: tuple[int, ...],
    *,
    source: Path,
    inputs: str,
    outputs: str,
    weights: bool = True,
) -> onnx.ModelProto:
    """A network of one tensor in and one out as an ONNX graph with a dynamic batch axis, as the tracer writes it.

    Args:
        network: in eval mode, float32, on the CPU.
        image: what it takes without the batch axis, such as (3, 224, 224).
        source: where it came from, for errors.
        inputs, outputs: names for the two tensors.
        weights: put them into the graph; otherwise each is one more input, with its name in the network.

    Raises:
        ExportError: the network cannot be exported, or the exporter made another graph than was asked for.
    """
    import torch

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "traced.onnx"
        try:
            with quiet():
                torch.onnx.export(
                    network,
                    (torch.zeros(_TRACED_BATCH, *image),),
                    str(path),
                    dynamo=False,
                    opset_version=OPSET,
                    export_params=weights,
                    # With eval mode or constant folding here, versions of the exporter fold BatchNorm.
                    training=torch.onnx.TrainingMode.PRESERVE,
                    do_constant_folding=False,
                    input_names=[inputs],
                    output_names=[outputs],
                    dynamic_axes={inputs: {0: "batch"}, outputs: {0: "batch"}},
                )
        except Exception as error:  # the exporter's errors share no base class
            raise ExportError(
                f"the network in {source} cannot be exported to ONNX opset {OPSET}", causes=(first_line(error),)
            ) from error
        model = load_onnx(path)
    own = set() if weights else set(network.state_dict())
    _verify(model, [inputs, outputs], image, own)
    return model


def _verify(model: onnx.ModelProto, wanted: list[str], image: tuple[int, ...], weights: set[str]) -> None:
    """What was asked for is what came: exporters change an opset without a word."""
    opsets = {item.domain: item.version for item in model.opset_import}
    values = [value for value in (*model.graph.input, *model.graph.output) if value.name not in weights]
    names, shapes = [value.name for value in values], [_shape(value) for value in values]
    faults = []
    if opsets != {"": OPSET}:
        faults.append(f"opsets {opsets}")
    if model.ir_version > MAX_IR_VERSION:
        faults.append(f"IR {model.ir_version}")
    if names != wanted or shapes[0] != ["batch", *image] or shapes[1][:1] != ["batch"]:
        faults.append(f"inputs and outputs {names} of shapes {shapes}")
    if faults:
        raise ExportError("the exporter made another graph than was asked for", causes=faults)


def _shape(value: onnx.ValueInfoProto) -> list[int | str]:
    return [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]


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
