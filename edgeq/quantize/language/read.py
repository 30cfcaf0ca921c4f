"""Read tensors of a checkpoint one after the other, in one 16-bit type; files are mapped, one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgeq.errors import ModelError, QuantizeError
from edgeq.quantize.language.source import Source

if TYPE_CHECKING:
    import torch

__all__ = ["FloatType", "read_tensors"]

FloatType = Literal["float16", "bfloat16"]


def read_tensors(sources: Sequence[Source], kind: FloatType) -> Iterator[torch.Tensor]:
    """Each tensor in its own shape [...] and with dtype `kind`; those that are in one file should stand together.

    Raises:
        ModelError: a file is not what its header says.
        QuantizeError: a tensor holds NaN, infinity, or a number that `kind` does not hold.
    """
    import torch

    dtype: torch.dtype = getattr(torch, kind)
    for path, group in groupby(sources, key=lambda source: source.file):
        with _opened(path) as file:
            for source in group:
                tensor: torch.Tensor = file.get_tensor(source.name)
                _check_range(source, tensor, dtype)
                yield tensor.to(dtype)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file, mapped."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except (SafetensorError, FileNotFoundError) as error:
        raise ModelError(
            f"{path} is not the safetensors file that its header says: {error}",
            causes=("it was damaged or exchanged while it was read",),
            next_step=f"copy {path.name} again from where the model came",
        ) from error


def _check_range(source: Source, tensor: torch.Tensor, dtype: torch.dtype) -> None:
    """Raise QuantizeError for a number that is not one, or that the 16-bit type cannot hold."""
    import torch

    from edgeq.model.graph.element_types import LARGEST  # with onnx, which a language model does not need

    low, high = torch.aminmax(tensor)
    peak = float(torch.maximum(low.abs(), high.abs()))
    if not peak <= (LARGEST if dtype is torch.float16 else torch.finfo(dtype).max):
        raise QuantizeError(
            f"{source.name} holds {peak:.6g}, which {str(dtype).removeprefix('torch.')} does not",
            causes=("the checkpoint is damaged", "the model was trained in bfloat16 and stored in float32"),
            next_step="store the checkpoint in bfloat16: load it with dtype=torch.bfloat16 and save it again",
        )
