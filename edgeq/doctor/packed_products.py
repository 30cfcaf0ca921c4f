"""A part of the torch probe: products with weights in INT4 and INT8, by the kernels that answer requests.

They are compared with NumPy's in float64, for the rows of a decode step and of a prompt. Needs torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.doctor.child import tell

if TYPE_CHECKING:
    import torch

    from edgeq.runtime.vlm.packed.layer import PackedLinear

__all__ = ["packed_products", "tell_packed"]

_OUT: Final = 256
_IN: Final = 512
_GROUP: Final = 128
_ROWS: Final = (1, 2, 3, 4, 8, 96)


def tell_packed(device: torch.device) -> None:
    """Tell `packed`: bits -> kernel and largest relative error; or `packed_fault`, why there are none."""
    try:
        tell("packed", packed_products(device))
    except Exception as fault:  # a torch may fail here in any way; what is told later matters, too
        tell("packed_fault", str(fault).partition("\n")[0])


def packed_products(device: torch.device) -> dict[str, tuple[str, float]]:
    """Bits -> the kernel's name, and its largest error as a part of the largest number, of all numbers of rows."""
    import torch

    from edgeq.model.checkpoint.packed_weights import WeightScheme, pack_integers
    from edgeq.runtime.vlm.packed.layer import PackedLinear

    found = {}
    for scheme in (WeightScheme(4, _GROUP), WeightScheme(8, None)):
        draw = np.random.default_rng(scheme.bits)
        integers = draw.integers(scheme.lowest, scheme.highest, (_OUT, _IN), dtype=np.int8, endpoint=True)
        scales = draw.uniform(0.01, 0.02, (_OUT, scheme.scales(_IN))).astype(np.float16)
        layer = PackedLinear(_IN, _OUT, scheme, bias=False, dtype=torch.float16).to(device)
        layer.weight_packed.data.copy_(pack_integers(torch.from_numpy(integers), scheme.bits))
        layer.weight_scale.data.copy_(torch.from_numpy(scales))
        layer.weight_shape.data.copy_(torch.tensor([_OUT, _IN]))
        layer.repack()
        matrix = integers.astype(np.float64) * np.repeat(scales.astype(np.float64), _IN // scales.shape[1], 1)
        errors = [_error(layer, matrix, rows, device) for rows in _ROWS]
        found[str(scheme.bits)] = (
            type(layer.product).__name__,
            max(errors, key=lambda error: (np.isnan(error), error)),
        )
    return found


def _error(layer: PackedLinear, matrix: NDArray[np.float64], rows: int, device: torch.device) -> float:
    import torch

    given = np.random.default_rng(rows).standard_normal((rows, _IN)).astype(np.float16)
    with torch.inference_mode():
        product = layer(torch.from_numpy(given).to(device)).double().cpu().numpy()
    expected = given.astype(np.float64) @ matrix.T
    return float(np.abs(product - expected).max() / np.abs(expected).max())
