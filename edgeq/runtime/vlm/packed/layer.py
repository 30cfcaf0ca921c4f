"""A weight that is stored as integers, and a linear layer with one. Needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch

from edgeq.errors import ModelError
from edgeq.model.checkpoint.packed_weights import WeightScheme, packed_slots
from edgeq.runtime.vlm.packed.products import Product, join, product_of

__all__ = ["JoinedLayers", "PackedLinear", "PackedWeight", "joined_packed", "multiplied"]


class PackedWeight(torch.nn.Module):
    """A module of one weight: first it takes the checkpoint's tensors, from `repack` on it computes.

    Args:
        in_features, out_features: of the weight.
        scheme: how it is stored.
        dtype: of its scales.

    Attributes:
        in_features, out_features, scheme: the same.
        product: what multiplies.
    """

    product: Product
    weight_packed: torch.nn.Parameter
    weight_scale: torch.nn.Parameter
    weight_shape: torch.nn.Parameter

    def __init__(self, in_features: int, out_features: int, scheme: WeightScheme, *, dtype: torch.dtype) -> None:
        super().__init__()
        self.in_features, self.out_features, self.scheme = in_features, out_features, scheme
        for slot in packed_slots("", (out_features, in_features), scheme, ""):
            kind = {"I32": torch.int32, "I64": torch.int64}.get(slot.dtype, dtype)
            assert slot.shape is not None
            empty = torch.empty(slot.shape, dtype=kind)
            self.register_parameter(slot.name.removeprefix("."), torch.nn.Parameter(empty, requires_grad=False))

    @torch.inference_mode()
    def repack(self) -> None:
        """Put the weight into the layout of this device's kernel, and forget the checkpoint's.

        Raises:
            ModelError: the checkpoint says that the weight has another shape.
        """
        shape = (self.out_features, self.in_features)
        if tuple(self.weight_shape.tolist()) != shape:
            raise ModelError(
                f"a weight of the checkpoint says that its shape is {self.weight_shape.tolist()}, expected {shape}",
                causes=("the checkpoint is damaged, or was not written for this model",),
            )
        self.product = product_of(self.weight_packed.data, self.weight_scale.data, self.scheme)
        del self.weight_packed, self.weight_scale, self.weight_shape


class PackedLinear(PackedWeight):
    """In the place of `torch.nn.Linear`.

    Args:
        in_features, out_features: of the layer.
        scheme: how its weight is stored.
        bias: whether it has one.
        dtype: of scales and bias.

    Attributes:
        bias: None where it has none.
    """

    bias: torch.nn.Parameter | None

    def __init__(
        self, in_features: int, out_features: int, scheme: WeightScheme, *, bias: bool, dtype: torch.dtype
    ) -> None:
        super().__init__(in_features, out_features, scheme, dtype=dtype)
        given = torch.nn.Parameter(torch.empty(out_features, dtype=dtype), requires_grad=False) if bias else None
        self.register_parameter("bias", given)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Linear: a float dtype [..., in] to [..., out] of the same one."""
        return multiplied(self.product, inputs, self.out_features, self.bias)


class JoinedLayers:
    """Several layers of one input as one.

    Args:
        product: of all their weights.
        bias: of all; None where they have none.
    """

    def __init__(self, product: Product, bias: torch.Tensor | None) -> None:
        self._product, self._bias = product, bias

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Float [..., in] to [..., out of all] of the same type."""
        return multiplied(self._product, inputs, self._product.out_features, self._bias)


_JOINED: WeakKeyDictionary[PackedLinear, JoinedLayers] = WeakKeyDictionary()
"""By the first of them: several decoders of one model share what was joined."""


@torch.inference_mode()
def joined_packed(layers: Sequence[PackedLinear]) -> JoinedLayers | None:
    """As `edgeq.runtime.vlm.linear.joined`; None too where a layer's output channels do not fill its layout."""
    first = layers[0]
    if first in _JOINED:
        return _JOINED[first]
    if len({layer.bias is None for layer in layers}) != 1:
        return None
    if any(layer.product.out_features != layer.out_features for layer in layers):
        return None
    inputs = torch.linspace(-2, 2, 3 * first.in_features, device=first.product.weight.device).reshape(3, -1)
    alone = torch.cat([layer(inputs) for layer in layers], -1)
    product = join([layer.product for layer in layers])
    if product is None:
        return None
    biases: list[torch.Tensor] = [layer.bias for layer in layers if layer.bias is not None]
    bias = torch.cat(biases) if biases else None
    together = JoinedLayers(product, bias)
    if not torch.equal(together(inputs), alone):
        return None
    _JOINED[first] = together
    return together


def multiplied(
    product: Product, inputs: torch.Tensor, out_features: int, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """What a linear layer gives.

    Args:
        product: of its weight, whose output may be filled up.
        inputs: float32, float16 or bfloat16 [..., in].
        out_features: of the layer.
        bias: float [out_features]; None for none.

    Returns:
        [..., out_features] in the dtype of the inputs.
    """
    rows = inputs.reshape(-1, inputs.shape[-1])
    found = product(rows)[:, :out_features].to(inputs.dtype)
    if bias is not None:
        found = found + bias.to(inputs.dtype)
    return found.reshape(*inputs.shape[:-1], out_features)
