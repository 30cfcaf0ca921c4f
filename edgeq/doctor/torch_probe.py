"""A probe: torch, its CUDA device, and an NF4 product computed by bitsandbytes' own kernels.

The product is compared with one that NumPy computes from the same packed bytes, by the table of QLoRA's appendix E
(Dettmers et al., 2023, https://arxiv.org/abs/2305.14314). One row and eight rows are multiplied: on a GPU these are
different kernels, the one that decodes a token and the one that reads a prompt.

Run as `python -m edgeq.doctor.torch_probe`, by `edgeq.doctor.child.run_probe`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.doctor.child import tell

if TYPE_CHECKING:
    import torch

__all__ = ["NF4_CODE", "decode_nf4", "main"]

NF4_CODE: Final = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
"""The sixteen numbers of NF4."""

_BLOCK: Final = 64
_OUT: Final = 256
_IN: Final = 512
_ROWS: Final = (1, 8)


def decode_nf4(packed: NDArray[np.uint8], absmax: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float64]:
    """The matrix that packed bytes stand for, float64 [out, in].

    Args:
        packed: two numbers a byte, the first in the upper half; [shape[0] * shape[1] / 2].
        absmax: the largest magnitude of each block of 64 numbers.
        shape: [out, in].
    """
    halves = np.stack([packed >> 4, packed & 15], axis=-1).reshape(-1, _BLOCK)
    return (np.asarray(NF4_CODE)[halves] * absmax[:, None].astype(np.float64)).reshape(shape)


def main() -> None:
    """Tell what there is, in the order in which it may fail."""
    import torch

    tell("torch", torch.__version__)
    tell("cuda_built", torch.version.cuda)
    tell("cuda", torch.cuda.is_available())
    if torch.cuda.is_available():
        tell("gpu", _gpu(torch.cuda.get_device_properties(0)))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tell("computes", float(torch.ones(4, device=device).sum()) == 4)
    _tell_nf4(device)


def _gpu(properties: Any) -> dict[str, object]:
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "integrated": bool(getattr(properties, "is_integrated", False)),
        "bytes": properties.total_memory,
    }


def _tell_nf4(device: torch.device) -> None:
    """Import bitsandbytes, quantize, multiply, compare; the relative error is the worst of all rows."""
    import bitsandbytes

    tell("bitsandbytes", bitsandbytes.__version__)
    tell("nf4_device", device.type)
    tell("nf4_error", max(_error(device, rows) for rows in _ROWS))


def _error(device: torch.device, rows: int) -> float:
    """The largest difference from NumPy's product, as a part of the largest number in that."""
    import torch
    from bitsandbytes import matmul_4bit
    from bitsandbytes.functional import quantize_4bit

    kind = torch.float16 if device.type == "cuda" else torch.float32
    random = np.random.default_rng(rows)
    weight = torch.from_numpy(random.standard_normal((_OUT, _IN), dtype=np.float32)).to(device, kind)
    inputs = torch.from_numpy(random.standard_normal((rows, _IN), dtype=np.float32)).to(device, kind)
    packed, state = quantize_4bit(weight, blocksize=_BLOCK, quant_type="nf4", compress_statistics=False)
    absmax = state.absmax.cpu().numpy()  # before the product: on some CPUs it rearranges the weight in place
    matrix = decode_nf4(packed.cpu().numpy().reshape(-1), absmax, (_OUT, _IN))
    product = matmul_4bit(inputs, packed.t(), quant_state=state).double().cpu().numpy()
    expected = inputs.double().cpu().numpy() @ matrix.T
    return float(np.abs(product - expected).max() / np.abs(expected).max())


if __name__ == "__main__":
    main()
