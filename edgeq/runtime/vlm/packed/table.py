"""An embedding whose table is stored as integers, and heads: of that table, or of one of their own. Needs torch."""

from __future__ import annotations

from typing import Final

import torch

from edgeq.errors import ModelError
from edgeq.model.checkpoint.packed_weights import WeightScheme, unpack_integers
from edgeq.runtime.vlm.packed.layer import PackedLinear, PackedWeight, multiplied
from edgeq.runtime.vlm.packed.products import Int8, Product

__all__ = ["PackedEmbedding", "PackedHead", "TiedHead", "embedding_factor"]

_INT8: Final = 8

_LIKELIEST: Final = 8
"""Words whose logits are computed once more: the kernel's are bfloat16, whose steps from 16 on are an eighth."""


class PackedEmbedding(PackedWeight):
    """In the place of `torch.nn.Embedding`: rows are looked up in integers, and these alone become floats.

    Args:
        words: rows of the table.
        width: numbers of a row.
        scheme: how the table is stored: INT8 with a scale for each row.
        dtype: of scales, and of what is looked up.
        factor: that every row is multiplied by, as in Gemma, rounded to `dtype`; None for none.

    Attributes:
        scales: [words, 1] in `dtype`, as they are stored.
        factor: the same, rounded.

    Raises:
        ModelError: the table is stored in another way.
    """

    scales: torch.Tensor

    def __init__(
        self, words: int, width: int, scheme: WeightScheme, *, dtype: torch.dtype, factor: float | None = None
    ) -> None:
        if scheme != WeightScheme(_INT8, None):
            raise ModelError(
                f"an embedding is stored in {scheme.bits} bits, with {scheme.scales(width)} scales for each word",
                expected="INT8 with one scale for each word, which alone edgeq reads",
            )
        super().__init__(width, words, scheme, dtype=dtype)
        self.factor = None if factor is None else torch.tensor(factor, dtype=dtype, device="cpu").item()

    @torch.inference_mode()
    def repack(self) -> None:
        """As a linear layer; the scales stay as they are stored besides, which kernels have in bfloat16."""
        self.scales = self.weight_scale.data.clone()
        super().repack()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Rows of the table: int64 [...] to [..., width] in the type of the scales."""
        rows = self.product.weight[inputs]
        if rows.dtype == torch.int32:  # where no kernel serves, words stay packed
            rows = unpack_integers(rows.flatten(0, -2), _INT8).view(*inputs.shape, -1)
        found = rows.to(self.scales.dtype) * self.scales[inputs]
        return found if self.factor is None else found * self.factor


class PackedHead(PackedLinear):
    """A head with a weight of its own."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """float32, float16 or bfloat16 [..., width] to [..., words] of the same dtype."""
        return _logits(self.product, inputs, self.out_features, self.bias)


class TiedHead(torch.nn.Module):
    """A head without a weight of its own: it multiplies by the integers of the embedding.

    Args:
        embedding: repacked before this is called.
    """

    def __init__(self, embedding: PackedEmbedding) -> None:
        super().__init__()
        self._tied = (embedding,)  # in a tuple: its tensors are not this module's

    @property
    def product(self) -> Product:
        """That of the embedding."""
        return self._tied[0].product

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """float32, float16 or bfloat16 [..., width] to [..., words] of the same dtype."""
        return _logits(self.product, inputs, self._tied[0].out_features)


def _logits(product: Product, inputs: torch.Tensor, words: int, bias: torch.Tensor | None = None) -> torch.Tensor:
    """As a linear layer has them, and those of the likeliest words in float32 where the model's type shows it.

    Else two words would be equally likely eight times as often as for a head in FP16, and an answer may turn there.
    """
    found = multiplied(product, inputs, words, bias)
    if not isinstance(product, Int8) or inputs.dtype == torch.bfloat16:
        return found
    at = found.topk(min(_LIKELIEST, words), sorted=False).indices
    exact = (product.weight[at].float() * inputs[..., None, :].float()).sum(-1) * product.scales[at].float()
    if bias is not None:
        exact += bias[at].float()
    return found.scatter(-1, at, exact.to(found.dtype))


def embedding_factor(table: torch.nn.Embedding) -> float | None:
    """What an embedding multiplies its rows by; None for a plain one.

    Raises:
        ModelError: its class does something else, which is not known.
    """
    if type(table) is torch.nn.Embedding:
        return None
    factor = getattr(table, "scalar_embed_scale", None)
    if not isinstance(factor, float):
        raise ModelError(
            f"edgeq does not know what {type(table).__name__} does with its rows",
            expected="a plain embedding, or one whose rows are scaled, as Gemma's",
            next_step="prepare the model with --embeddings fp16",
        )
    return factor
