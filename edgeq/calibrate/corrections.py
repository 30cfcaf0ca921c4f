"""What is corrected of a layer's weights and bias before it is quantized, as a part of the scales."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from edgeq.errors import ArtifactError

__all__ = ["LayerCorrection"]


class LayerCorrection(BaseModel):
    """One layer's correction. Only an INT8 layer takes it.

    Attributes:
        rounding: int8 differences from the nearest integers of the weight, in its order, deflated (zlib), in base64;
            empty where the nearest are taken.
        biases: by backend, float32 numbers that are added to the bias, one for each output channel, in base64.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rounding: str = ""
    biases: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def pack(cls, rounding: NDArray[np.int8] | None, biases: Mapping[str, NDArray[np.float32]]) -> LayerCorrection:
        """Store a correction.

        Args:
            rounding: int8 [...], the weight's shape; None for the nearest integers.
            biases: by backend, float32 [channels].
        """
        deltas = "" if rounding is None else base64.b64encode(zlib.compress(rounding.tobytes(), 6)).decode()
        shifts = {name: base64.b64encode(value.astype("<f4").tobytes()).decode() for name, value in biases.items()}
        return cls(rounding=deltas, biases=shifts)

    def deltas(self, layer: str, shape: tuple[int, ...]) -> NDArray[np.int8] | None:
        """What is added to the nearest integers, int8 [...] of this shape, -1, 0 or 1; None for nothing.

        Args:
            layer: for the message.
            shape: of the weight.

        Raises:
            ArtifactError: it is damaged, or of a weight of another size.
        """
        if not self.rounding:
            return None
        size = int(np.prod(shape))
        try:
            data = zlib.decompressobj().decompress(base64.b64decode(self.rounding, validate=True), size + 1)
        except (ValueError, zlib.error) as error:
            raise _damaged(layer, f"{size} differences") from error
        values = np.frombuffer(data, np.int8)
        if len(values) != size or np.abs(values).max(initial=0) > 1:
            raise _damaged(layer, f"{size} differences of -1, 0 or 1")
        return values.reshape(shape)

    def shift(self, layer: str, backend: str, channels: int) -> NDArray[np.float32] | None:
        """What is added to the bias for a backend, float32 [channels]; None for nothing.

        Args:
            layer: for the message.
            backend: whose grids the activations have.
            channels: outputs of the layer.

        Raises:
            ArtifactError: it is damaged, not finite, or of another number of channels.
        """
        if backend not in self.biases:
            return None
        try:
            values = np.frombuffer(base64.b64decode(self.biases[backend], validate=True), "<f4").astype(np.float32)
        except ValueError as error:
            raise _damaged(layer, f"{channels} numbers") from error
        if len(values) != channels or not np.isfinite(values).all():
            raise _damaged(layer, f"{channels} finite numbers")
        return values


def _damaged(layer: str, expected: str) -> ArtifactError:
    return ArtifactError(
        f"the correction of {layer} in the scales file does not fit its weight",
        expected=expected,
        causes=("the scales were made for another graph", "the file is damaged"),
        next_step="run edgeq calibrate again on this graph",
    )
