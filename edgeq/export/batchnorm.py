"""What a BatchNormalization node computes: y = scale * x + shift, one pair of figures per channel.

In inference, with epsilon, gamma, beta, mean and variance from the node (ONNX operators, opsets 7 to 18):
scale = gamma / sqrt(variance + epsilon), shift = beta - mean * scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeq.errors import ExportError
from edgeq.model.graph.wiring import Wiring, attribute, label, operator

__all__ = ["Affine", "Refused", "is_batchnorm", "read_affine"]

# The order of the node's inputs after the data.
_PARAMETERS = ("scale", "bias", "mean", "variance")


class Refused(Exception):  # noqa: N818  an answer, not a fault: it never leaves this room
    """A BatchNorm cannot be folded; the message is the reason."""


@dataclass(frozen=True)
class Affine:
    """y = scale * x + shift along axis 1; both float64 of shape [channels]."""

    scale: NDArray[np.float64]
    shift: NDArray[np.float64]

    @property
    def channels(self) -> int:
        """The length of axis 1."""
        return int(self.scale.size)

    def repeated(self, times: int) -> Affine:
        """The same map after each channel was laid out as `times` neighbours (Flatten)."""
        return Affine(np.repeat(self.scale, times), np.repeat(self.shift, times))


def is_batchnorm(node: onnx.NodeProto) -> bool:
    """Whether `node` is ONNX's own BatchNormalization."""
    return operator(node) == "BatchNormalization"


def read_affine(wiring: Wiring, node: onnx.NodeProto, opset: int) -> Affine:
    """The channel-wise map that a BatchNorm applies.

    Args:
        wiring: of the graph.
        node: the BatchNorm.
        opset: of the graph.

    Raises:
        Refused: it is not a fixed map: training mode, or parameters that are computed.
        ExportError: it is no map at all: NaN or infinite parameters, a variance of -epsilon or less.
    """
    _refuse_training(node, opset)
    gamma, beta, mean, variance = (_parameter(wiring, node, index) for index in range(1, 5))
    if len({gamma.shape, beta.shape, mean.shape, variance.shape}) > 1 or gamma.ndim != 1:
        shapes = ", ".join(str(list(value.shape)) for value in (gamma, beta, mean, variance))
        raise ExportError(
            f"BatchNorm {label(node)} has parameters of shapes {shapes}", expected="four vectors of one length"
        )
    divisor = variance + float(attribute(node, "epsilon", 1e-5))
    if not divisor.min(initial=np.inf) > 0:
        channel = int(divisor.argmin())
        raise ExportError(
            f"BatchNorm {label(node)} divides by the root of {divisor[channel]:g} in channel {channel}",
            expected="variance + epsilon above zero",
            causes=("the checkpoint is damaged", "the running variance was never trained or was overwritten"),
        )
    scale = gamma / np.sqrt(divisor)
    return Affine(scale, beta - mean * scale)


def _refuse_training(node: onnx.NodeProto, opset: int) -> None:
    if opset < 7:
        raise Refused(f"opset {opset} is too old to tell training from inference")
    if attribute(node, "training_mode", 0):
        raise Refused("it is in training mode (training_mode=1): it normalizes by the statistics of each batch")
    if any(node.output[1:]):
        raise Refused("its statistics outputs are used, as in training")
    if not attribute(node, "spatial", 1):
        raise Refused("it normalizes each position by itself (spatial=0)")


def _parameter(wiring: Wiring, node: onnx.NodeProto, index: int) -> NDArray[np.float64]:
    role = _PARAMETERS[index - 1]
    value = wiring.constant(node.input[index]) if index < len(node.input) else None
    if value is None:
        raise Refused(f"its {role} is not constant")
    exact = np.asarray(value, dtype=np.float64)
    if not np.isfinite(exact).all():
        raise ExportError(
            f"BatchNorm {label(node)} has a {role} that is NaN or infinite",
            expected="finite parameters",
            causes=("training diverged", "the checkpoint is damaged"),
        )
    return exact
