"""Make a graph as small as it can be without changing what it computes.

Exporters write shape arithmetic, constants as nodes, and nodes that do nothing. Each would be one more tensor to plan
and to quantize, so they go first: local functions are inlined, whatever depends on constants alone is computed (with
ONNX Runtime, through onnx-graphsurgeon), padding goes into convolutions, a LayerNorm in pieces becomes one node, no-ops
and dead code are removed.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

import onnx
import onnx.inliner
import onnx.numpy_helper
import onnx_graphsurgeon as gs
import onnxruntime
from onnx_graphsurgeon.logger import G_LOGGER
from onnx_graphsurgeon.util.exception import OnnxGraphSurgeonException

from edgeq.errors import ExportError
from edgeq.export.rewrites.casts import settle_casts
from edgeq.export.rewrites.folds import write_out_folds
from edgeq.export.rewrites.layer_norms import join_layer_norms
from edgeq.export.rewrites.noops import bypass_noops
from edgeq.export.rewrites.pads import give_pads_to_convolutions
from edgeq.export.rewrites.reshapes import settle_reshapes
from edgeq.export.rewrites.scalars import make_scalars
from edgeq.export.rewrites.sequences import split_sequences
from edgeq.export.rewrites.shapes import slice_shapes
from edgeq.model.graph.onnx_file import MAX_IR_VERSION
from edgeq.model.graph.tensors import drop_constant_inputs, give_constants_types

__all__ = ["quiet", "simplify"]

# A constant above this size is computed while running, not stored: a file of some bytes may ask for gigabytes.
_LARGEST_CONSTANT = 512 * 1024 * 1024
# Each round may uncover work for the next; real graphs settle in two or three.
_MOST_ROUNDS = 20
# ONNX Runtime's severities; warnings and above are what it writes when nobody said otherwise.
_WARNING, _FATAL = 2, 4


def simplify(model: onnx.ModelProto, *, join_norms: bool = True) -> onnx.ModelProto:
    """A smaller graph that computes the same; `model` is not changed.

    Graph inputs and outputs keep their names, order and shapes (a dynamic batch axis stays dynamic), nodes that stay
    keep their names, and a node without one gets its first output's. The IR version is at most 10.

    Args:
        model: any.
        join_norms: a LayerNorm in pieces becomes one node, which has the name of the last piece.

    Raises:
        ExportError: the graph has a cycle, is not well formed, or is too large for shape inference (2 GB).
    """
    made = _own_copy(model)
    size = -1
    for number in range(_MOST_ROUNDS):
        made = _one_round(made, join_norms=join_norms and number > 0)
        if len(made.graph.node) == size:
            break
        size = len(made.graph.node)
    _name_nodes(made)
    del made.graph.output[:]
    made.graph.output.extend(model.graph.output)
    made.ir_version = min(max(model.ir_version, 4), MAX_IR_VERSION)
    made.doc_string = model.doc_string
    made.metadata_props.extend(model.metadata_props)
    return made


def _own_copy(model: onnx.ModelProto) -> onnx.ModelProto:
    """The main graph alone: local functions inlined, initializers that are no inputs."""
    if model.functions:
        made = onnx.inliner.inline_local_functions(model)
    else:
        made = onnx.ModelProto()
        made.CopyFrom(model)
    drop_constant_inputs(made)
    give_constants_types(made)  # onnx-graphsurgeon 0.6.1 takes a bare float, and no numbers at all, for doubles
    return made


def _one_round(model: onnx.ModelProto, *, join_norms: bool) -> onnx.ModelProto:
    """Once more; norms are joined once constants were computed, and what changes nothing is gone."""
    inferred = _inferred(model)
    if join_norms:
        join_layer_norms(inferred)
    try:
        with quiet():
            return _reduced(gs.import_onnx(inferred))
    except OnnxGraphSurgeonException as error:
        raise ExportError("the graph is not well formed", causes=(str(error).strip()[:300],)) from error


def _reduced(graph: gs.Graph) -> onnx.ModelProto:
    slice_shapes(graph)
    settle_casts(graph)
    _fold_constants(graph)
    split_sequences(graph)
    write_out_folds(graph)
    settle_reshapes(graph)
    make_scalars(graph)
    give_pads_to_convolutions(graph)
    bypass_noops(graph.cleanup().toposort())
    made: onnx.ModelProto = gs.export_onnx(graph.cleanup().toposort(), do_type_check=False)
    return made


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with shapes as inference finds them: what the file claims about them is not evidence."""
    del model.graph.value_info[:]
    for value in (value for value in model.graph.output if value.type.HasField("tensor_type")):
        value.type.tensor_type.ClearField("shape")
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError) as error:
        raise ExportError("the shapes of the graph cannot be worked out", causes=(str(error).strip()[:300],)) from error


def _fold_constants(graph: gs.Graph) -> None:
    """All at once, which is quick; piece by piece where ONNX Runtime refuses some piece."""
    try:
        graph.fold_constants(error_ok=False, size_threshold=_LARGEST_CONSTANT)
    except Exception:  # whatever ONNX Runtime raises: its exceptions share no base class
        graph.fold_constants(partitioning="recursive", size_threshold=_LARGEST_CONSTANT)


def _name_nodes(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if not node.name and node.output:
            node.name = node.output[0]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing on stdout, which belongs to the result and where graphsurgeon prints its log; no ONNX Runtime chatter."""
    onnxruntime.set_default_logger_severity(_FATAL)
    try:
        with G_LOGGER.suppress(severity=G_LOGGER.CRITICAL), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        onnxruntime.set_default_logger_severity(_WARNING)
