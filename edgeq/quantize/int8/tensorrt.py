"""TensorRT: signed symmetric INT8, FP16 beside it, one side of a residual addition left to the convolution before it.

TensorRT fuses backwards from the inputs and adds a residual in the accumulator of the convolution before it: it wants a
pair on every input, save the one that comes straight from that convolution (TensorRT Developer Guide, "Q/DQ placement
recommendations"). It takes no INT32 DequantizeLinear. Whether each layer runs in INT8 is seen on the device, from the
built engine (`edgeq.tensorrt.verify`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Final

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from edgeq.calibrate.scales import TensorRange
from edgeq.engine.tensorrt import BACKEND
from edgeq.plan.precision import PrecisionPlan
from edgeq.plan.rules import STORED_IN_INT8
from edgeq.quantize.int8.base import Lowering
from edgeq.quantize.int8.grid import Grid, half_scale
from edgeq.quantize.int8.grids import signed_grids
from edgeq.quantize.int8.half_types import half_types
from edgeq.quantize.int8.placement import Placement
from edgeq.quantize.int8.tensorrt_kernels import integer_inputs, with_kernels

__all__ = ["LOWERING", "TensorRtLowering"]


class TensorRtLowering(Lowering):
    """What TensorRT's fusions want."""

    backend = BACKEND
    ranges_of: ClassVar[str] = BACKEND.name
    activation_types: ClassVar[frozenset[int]] = frozenset({onnx.TensorProto.INT8})
    integer_bias: ClassVar[bool] = False
    stores_outputs: ClassVar[bool] = False
    half_scales: ClassVar[bool] = True

    def planned(self, model: onnx.ModelProto, plan: PrecisionPlan) -> PrecisionPlan:
        """Convolutions without an INT8 kernel in FP16, and what TensorRT alone has in INT8, by
        `edgeq.quantize.int8.tensorrt_kernels`: ConvTranspose, and additions in a convolution's accumulator."""
        return with_kernels(model, plan)

    def also_reads(self, node: gs.Node) -> Sequence[gs.Variable]:
        """The pixels that are averaged, and what a convolution gives to a Resize."""
        return integer_inputs(node)

    def reads(self, node: gs.Node, tensors: Sequence[gs.Variable], int8: frozenset[str]) -> Sequence[gs.Variable]:
        """All but the side of an addition that an INT8 layer with weights makes for it alone."""
        if node.op != "Add":
            return tensors
        fused = next((tensor for tensor in tensors if _from_convolution(tensor, int8)), None)
        return [tensor for tensor in tensors if tensor is not fused]

    def grids(self, ranges: dict[str, TensorRange], placement: Placement) -> dict[str, Grid]:
        """Symmetric grids, zero point 0, the scales numbers of FP16."""
        grids = signed_grids(ranges, placement)
        scales = half_scale(np.array([grid.scale for grid in grids.values()], np.float32))
        return {name: replace(grids[name], scale=float(scale)) for name, scale in zip(grids, scales, strict=True)}

    def types(self, lowered: onnx.ModelProto, plan: PrecisionPlan) -> onnx.ModelProto:
        """FP16 beside the pairs, FP32 where the plan says so."""
        return half_types(lowered, plan)

    def unquantized_inputs(self, node: onnx.NodeProto) -> int:
        """The residual's side that is added in the accumulator."""
        return 1 if node.op_type == "Add" else 0


LOWERING: Final = TensorRtLowering()


def _from_convolution(tensor: gs.Variable, int8: frozenset[str]) -> bool:
    """Whether an INT8 layer with weights makes this tensor for one reader alone."""
    makers = [node for node in tensor.inputs if node.op in STORED_IN_INT8 and node.name in int8]
    return bool(makers) and len(tensor.outputs) == 1
