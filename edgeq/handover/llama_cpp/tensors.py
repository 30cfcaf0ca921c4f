"""Tensors of a checkpoint under the names and in the types of GGUF."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import InputError, ModelError, QuantizeError
from edgeq.families.base import LlamaCppForm
from edgeq.handover.llama_cpp.blocks import BLOCK, KINDS, blocks_of
from edgeq.handover.llama_cpp.gguf_file import GgufTensor
from edgeq.handover.whole import Copied, Packed, Unpacked, WholeModel
from edgeq.handover.write_whole import as_stored
from edgeq.quantize.language.read import read_tensors
from edgeq.quantize.language.source import Source

if TYPE_CHECKING:
    import torch

__all__ = ["language_tensors", "vision_tensors"]

_ENDS: Final = (".weight", ".bias")
_INTERLEAVED: Final = frozenset({"llama"})
"""Architectures that turn neighbours of a query or key, where transformers turns its first half with its second."""

_LARGEST: Final = float(np.finfo(np.float16).max)
_HALVES: Final = {"float16": "F16", "bfloat16": "BF16"}
_UNSTORED: Final = ".rotary_emb.inv_freq"

Order = Callable[["torch.Tensor"], "torch.Tensor"]


def language_tensors(whole: WholeModel, architecture: str) -> Iterator[GgufTensor]:
    """The language model: integers as they are, norms and biases in FP32, all else in the checkpoint's 16-bit type.

    Args:
        whole: what is handed over.
        architecture: GGUF's name of the language model's.

    Raises:
        InputError: a layer's inputs do not fill blocks.
        ModelError: llama.cpp's model has no such tensor.
    """
    names = _names(architecture, int(whole.described.text["num_hidden_layers"]))
    for item in whole.items:
        if isinstance(item, Packed | Unpacked):
            name = item.packed.name.removesuffix("_packed")
            yield _packed(item, _named(names, name), _order(whole, architecture, name), whole)
        elif item.in_language and not item.source.name.endswith(_UNSTORED):
            name = item.source.name
            yield _copied(item, _named(names, name), _order(whole, architecture, name), whole)


def vision_tensors(whole: WholeModel, form: LlamaCppForm) -> Iterator[GgufTensor]:
    """Encoder and connector: matrices and kernels in FP16, all else and the table of positions in FP32.

    Args:
        whole: what is handed over.
        form: the family's.

    Raises:
        ModelError: llama.cpp's encoder has no such tensor.
    """
    stored = [item for item in whole.items if isinstance(item, Copied)]
    numbers = [int(part) for item in stored for part in item.name.split(".") if part.isdigit()]
    names = _names("clip", max(numbers) + 1)
    for item in stored:
        for name, take in () if item.in_language else form.pieces(item.name.removeprefix("model.")):
            known = name if name.startswith(("v.", "mm.")) else _named(names, name)
            shape = _shape(item.source, take)
            halves = len(shape) > 1 and "position_embd" not in known
            yield GgufTensor(known, shape, "F16" if halves else "F32", _floats(item.source, take, halves=halves))


def _names(architecture: str, blocks: int) -> Any:
    import gguf

    arch = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    return gguf.get_tensor_name_map(arch, blocks)


def _named(names: Any, name: str) -> str:
    known: str | None = names.get_name(name, try_suffixes=_ENDS)
    if known is None:
        raise ModelError(f"{name} has no name in GGUF", causes=("llama.cpp's model of this kind has no such part",))
    return known


def _order(whole: WholeModel, architecture: str, name: str) -> Order:
    """In which order a tensor's rows are stored, by its name in the language model alone."""
    text = whole.described.text
    counts = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
    key = counts.get(name.rpartition(".")[0].rpartition(".")[2])
    if key is None or architecture not in _INTERLEAVED:
        return lambda tensor: tensor
    heads = int(text.get(key) or text["num_attention_heads"])
    return lambda tensor: tensor.reshape(heads, 2, -1, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)


def _packed(item: Packed | Unpacked, name: str, order: Order, whole: WholeModel) -> GgufTensor:
    if item.shape[1] % BLOCK:
        raise InputError(f"llama.cpp has blocks of {BLOCK} numbers, and {name} is {item.shape[1]} wide")

    def make() -> NDArray[Any]:
        (scale,) = read_tensors([item.scale], whole.kind)
        return blocks_of(order(as_stored(item.packed)), order(scale), item.bits)

    return GgufTensor(name, item.shape, KINDS[item.bits], make)


def _copied(item: Copied, name: str, order: Order, whole: WholeModel) -> GgufTensor:
    shape = item.source.stored.shape
    if len(shape) == 1:
        return GgufTensor(name, shape, "F32", _floats(item.source, order, halves=False))

    def make() -> NDArray[Any]:
        import torch

        (tensor,) = read_tensors([item.source], whole.kind)
        return order(tensor).contiguous().view(torch.int16).numpy()

    return GgufTensor(name, shape, _HALVES[whole.kind], make)


def _shape(source: Source, take: Order) -> tuple[int, ...]:
    import torch

    return tuple(take(torch.empty(source.stored.shape, device="meta")).shape)


def _floats(source: Source, take: Order, *, halves: bool) -> Callable[[], NDArray[Any]]:
    """A part of a stored tensor in float16 or float32."""

    def make() -> NDArray[Any]:
        found = take(as_stored(source)).float()
        peak = float(found.abs().max()) if found.numel() else 0.0
        if not peak <= (_LARGEST if halves else float("inf")):
            raise QuantizeError(
                f"{source.name} holds {peak:.6g}, which float16 does not", next_step="run it with edgeq"
            )
        return (found.half() if halves else found).numpy()

    return make
