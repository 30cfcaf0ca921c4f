"""A probe: torch, its CUDA device, and products in INT4, INT8 and NF4 by the kernels that answer requests.

The layer in NF4 is as in a bundle, with scales that are quantized themselves ("double quantization"), and runs as
`edgeq.runtime.vlm.linear` has it. The products are compared with what NumPy computes from the same packed bytes, by the
table of QLoRA's appendix E (Dettmers et al., 2023, https://arxiv.org/abs/2305.14314). As many rows are multiplied
as there are requests in a decode step, one to four, and eight, as of a prompt: by their number bitsandbytes chooses
among kernels.

Run as `python -m edgeq.doctor.torch_probe`, by `edgeq.doctor.child.run_probe`.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.doctor.child import tell
from edgeq.doctor.packed_products import tell_packed

if TYPE_CHECKING:
    import torch

__all__ = ["NF4_CODE", "decode_nf4", "main", "nested_scales"]

NF4_CODE: Final = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
"""The sixteen numbers of NF4."""

_BLOCK: Final = 64
_OUT: Final = 256
_IN: Final = 512
_ROWS: Final = (1, 2, 3, 4, 8)
_NESTED: Final = 256


def decode_nf4(packed: NDArray[np.uint8], absmax: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float64]:
    """The matrix that packed bytes stand for, float64 [out, in].

    Args:
        packed: two numbers a byte, the first in the upper half; [shape[0] * shape[1] / 2].
        absmax: the largest magnitude of each block of 64 numbers.
        shape: [out, in].
    """
    halves = np.stack([packed >> 4, packed & 15], axis=-1).reshape(-1, _BLOCK)
    return (np.asarray(NF4_CODE)[halves] * absmax[:, None].astype(np.float64)).reshape(shape)


def nested_scales(
    numbers: NDArray[np.uint8], code: NDArray[np.float32], absmax: NDArray[np.float32], offset: float
) -> NDArray[np.float32]:
    """The scales of blocks that were quantized themselves, float32 [blocks].

    Args:
        numbers: of each block; [blocks].
        code: what each of the 256 numbers stands for.
        absmax: the largest magnitude of each 256 scales, in order; [blocks / 256, rounded up].
        offset: that was taken from the scales before.
    """
    return code[numbers] * np.repeat(absmax, _NESTED)[: len(numbers)] + np.float32(offset)


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
    tell_packed(device)
    _tell_nf4(device)


def _gpu(properties: Any) -> dict[str, object]:
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "integrated": bool(getattr(properties, "is_integrated", False)),
        "bytes": properties.total_memory,
    }


def _tell_nf4(device: torch.device) -> None:
    """Import bitsandbytes, quantize, multiply, compare; the relative error is the worst of all numbers of rows."""
    import bitsandbytes

    tell("bitsandbytes", bitsandbytes.__version__)
    tell("nf4_device", device.type)
    tell("nf4_library", _library_fault(device))
    layer, matrix = _layer(device)
    errors = {}
    for rows in _ROWS:
        tell("nf4_launching", rows)  # which one it was that ended the process
        errors[rows] = _error(layer, matrix, rows)
    tell("nf4_errors", errors)
    tell("nf4_error", max(errors.values(), key=lambda error: (np.isnan(error), error)))


def _library_fault(device: torch.device) -> str:
    """Why bitsandbytes does without its own library on a CPU, where torch stands in for it; empty where it has it."""
    from bitsandbytes import cextension

    if device.type != "cpu" or not isinstance(cextension.lib, cextension.ErrorHandlerMockBNBNativeLibrary):
        return ""
    try:
        ctypes.CDLL(str(Path(cextension.__file__).parent / "libbitsandbytes_cpu.so"))
    except OSError as error:
        return str(error)
    return "libbitsandbytes_cpu.so was not loaded"


def _layer(device: torch.device) -> tuple[Any, NDArray[np.float64]]:
    """A layer of a language model as it is served, and the matrix that its bytes stand for, float64 [out, in]."""
    import torch
    from bitsandbytes.nn import Linear4bit

    from edgeq.runtime.vlm.linear import use_fast_kernels

    kind = torch.float16 if device.type == "cuda" else torch.float32
    weight = np.random.default_rng(0).standard_normal((_OUT, _IN), dtype=np.float32)
    layer = Linear4bit(_IN, _OUT, bias=False, compute_dtype=kind, compress_statistics=True, quant_type="nf4")
    layer.load_state_dict({"weight": torch.from_numpy(weight).to(kind)})
    model = torch.nn.Sequential(layer).to(device).eval()
    matrix = _matrix(layer.weight)  # before the first product: on some CPUs it rearranges the weight in place
    with torch.inference_mode():
        model(torch.zeros(1, 1, _IN, dtype=kind, device=device))
    use_fast_kernels(model)
    return layer, matrix


def _matrix(weight: Any) -> NDArray[np.float64]:
    state = weight.quant_state
    nested = state.state2
    scales = nested_scales(
        state.absmax.cpu().numpy(), nested.code.cpu().numpy(), nested.absmax.cpu().numpy(), float(state.offset)
    )
    return decode_nf4(weight.data.cpu().numpy().reshape(-1), scales, (_OUT, _IN))


def _error(layer: Any, matrix: NDArray[np.float64], rows: int) -> float:
    """The largest difference from NumPy's product, as a part of the largest number in that."""
    import torch

    random = np.random.default_rng(rows)
    given = torch.from_numpy(random.standard_normal((rows, 1, _IN), dtype=np.float32))
    inputs = given.to(layer.weight.device, layer.compute_dtype)
    with torch.inference_mode():
        product = layer(inputs)[:, 0].double().cpu().numpy()
    expected = inputs[:, 0].double().cpu().numpy() @ matrix.T
    return float(np.abs(product - expected).max() / np.abs(expected).max())


if __name__ == "__main__":
    main()
