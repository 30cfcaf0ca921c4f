"""What joins an image's features, be they on the host or on the GPU: an engine may leave them where it computed them.

Numbers of rows, which both take as they are, come from NumPy. torch is imported where a tensor of it is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    FeatureArray = NDArray[np.float32] | torch.Tensor
else:
    FeatureArray = Any

__all__ = ["FeatureArray", "concatenated", "like", "on_host"]


def concatenated(parts: Sequence[Any], axis: int = 0) -> Any:
    """Arrays, or tensors, one behind the other along an axis."""
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts, axis)
    import torch

    return torch.cat(list(parts), dim=axis)


def like(values: NDArray[np.float32], other: Any) -> Any:
    """Numbers where `other` is, to compute with it; in float32."""
    return values if isinstance(other, np.ndarray) else other.new_tensor(values)


def on_host(values: Any) -> NDArray[np.float32]:
    """An array as it is, or a tensor's numbers as one: float32 [..., hidden]."""
    if isinstance(values, np.ndarray):
        return values
    copied: NDArray[np.float32] = values.cpu().numpy()
    return copied
