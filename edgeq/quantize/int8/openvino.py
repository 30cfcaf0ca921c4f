"""OpenVINO: ONNX Runtime's grids and pairs, with biases left in FP32 and nothing held back.

OpenVINO's low-precision transformations take UINT8 activations with any zero point and INT8 weights per channel; a bias
is added in FP32 behind the integer product, so weights need no scale under which it would fit INT32. It quantizes
nothing by itself, and takes an activation function into the kernel before it. An addition with one bare side, as
TensorRT wants it, is not fused.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import ClassVar, Final

import onnx
import onnx_graphsurgeon as gs

from edgeq.engine.onnxruntime import BACKEND as ONNXRUNTIME
from edgeq.engine.openvino import BACKEND, executed_layers
from edgeq.errors import QuantizeError
from edgeq.plan.precision import PrecisionPlan
from edgeq.quantize.int8.grid import Grid
from edgeq.quantize.int8.onnxruntime import OnnxRuntimeLowering, carry_integers
from edgeq.quantize.int8.verify import int8_layers

__all__ = ["LOWERING", "OpenVinoLowering"]

_X86: Final = ("x86_64", "AMD64")


class OpenVinoLowering(OnnxRuntimeLowering):
    """What OpenVINO's integer kernels on a CPU want."""

    backend = BACKEND
    ranges_of: ClassVar[str] = ONNXRUNTIME.name  # on the same grids, so what was tried there holds here
    integer_bias: ClassVar[bool] = False
    always: ClassVar[bool] = False

    def after_pairs(self, graph: gs.Graph, grids: dict[str, Grid], int8: frozenset[str]) -> None:
        """Layers that only move values move integers."""
        carry_integers(graph, grids, int8)

    def check(self, graph: Path, plan: PrecisionPlan) -> None:
        """Each layer planned INT8 must multiply integers; asked on x86 alone, where OpenVINO has a kernel for each."""
        if platform.machine() not in _X86:
            return
        found = executed_layers(graph)
        outputs = {node.name: node.output[0] for node in onnx.load(graph, load_external_data=False).graph.node}
        names = [decision.layer for decision in int8_layers(plan)]
        floats = [name for name in names if "i8" not in (found.get(name), found.get(outputs.get(name, "")))]
        if floats:
            raise QuantizeError(
                f"OpenVINO runs {len(floats)} layers in floating point that were planned INT8, such as {floats[0]}",
                expected="integers multiplied in every INT8 layer",
                causes=("this OpenVINO, or this processor, has no integer kernel for a layer of the plan",),
                next_step="report this with the model and the version of OpenVINO",
            )


LOWERING: Final = OpenVinoLowering()
