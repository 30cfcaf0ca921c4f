"""The matrix products of a torch network, by their place in the order in which it computes them.

A product is a linear layer or a product of two computed tensors; torch is asked for both by function, so nothing here
depends on what a network's modules are called. Convolutions, such as a patch embedding, are no products here, and the
last linear layer is the head: neither is ever quantized.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from benchmarks.simulate.uniform import Quantizer
from edgeq.errors import ModelError

__all__ = ["Network", "Observed", "Product", "Quantized", "find_products", "observe", "simulated"]

Network = Callable[[torch.Tensor], torch.Tensor]
"""Pixels, float32 [n, 3, H, W], to logits, float32 [n, classes]: a network in eval mode, with eager attention."""

Role = Literal["plain", "softmax", "gelu"]

_MATMULS: Final = (torch.matmul, torch.bmm, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.Tensor.bmm)
_MAKERS: Final[dict[Callable[..., Any], Role]] = {
    functional.softmax: "softmax",
    torch.softmax: "softmax",
    torch.Tensor.softmax: "softmax",
    functional.gelu: "gelu",
}
_EXACT_CLASSES: Final = 16
_DRAWS: Final = 16


@dataclass(frozen=True)
class Product:
    """One product: left [..., n, k] times right [..., k, m], or times the transpose of a weight [m, k].

    Attributes:
        index: its place in the order of computing.
        linear: right is a weight.
        left: what made the left side.
    """

    index: int
    linear: bool
    left: Role

    def __call__(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """Compute it, without a bias."""
        return functional.linear(left, right) if self.linear else torch.matmul(left, right)


@dataclass(frozen=True)
class Observed:
    """What a product saw over some images.

    Attributes:
        product: which.
        left, right: its sides, over all images; a weight as it is stored.
        importance: of each output number, non-negative, in the output's shape: the diagonal of the Fisher information.
    """

    product: Product
    left: torch.Tensor
    right: torch.Tensor
    importance: torch.Tensor


@dataclass(frozen=True)
class Quantized:
    """The fake quantizers of a product's two sides."""

    left: Quantizer
    right: Quantizer


class _Walk(TorchFunctionMode):
    """Counts products while a network runs, and hands each to `visit`."""

    def __init__(self) -> None:
        super().__init__()
        self._count = 0
        self._made: dict[Role, torch.Tensor] = {}

    def visit(self, product: Product, left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The sides to compute with."""
        raise NotImplementedError

    def computed(self, product: Product, output: torch.Tensor) -> None:
        """Called with what a product gave."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        linear = func is functional.linear
        if not linear and func not in _MATMULS:
            result = func(*args, **kwargs)
            if func in _MAKERS:
                self._made[_MAKERS[func]] = result
            return result
        product = Product(self._count, linear, self._role(args[0]))
        self._count += 1
        left, right = self.visit(product, args[0], args[1])
        output = func(left, right, *args[2:], **kwargs)
        self.computed(product, output)
        return output

    def _role(self, tensor: torch.Tensor) -> Role:
        """What made a tensor; dropout that is off, a view or a cast to the same type leaves the memory where it is."""
        places = {made.data_ptr(): role for role, made in self._made.items()}
        return places.get(tensor.data_ptr(), "plain")


class _Find(_Walk):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[Product] = []

    def visit(self, product: Product, left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.found.append(product)
        return left, right


class _Observe(_Walk):
    def __init__(self, wanted: Collection[int]) -> None:
        super().__init__()
        self._wanted = wanted
        self.sides: dict[Product, tuple[torch.Tensor, torch.Tensor]] = {}
        self.outputs: dict[Product, torch.Tensor] = {}

    def visit(self, product: Product, left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if product.index in self._wanted:
            self.sides[product] = left.detach(), right.detach()
        return left, right

    def computed(self, product: Product, output: torch.Tensor) -> None:
        if product.index in self._wanted:
            self.outputs[product] = output


class _Simulate(_Walk):
    def __init__(self, scheme: Mapping[int, Quantized]) -> None:
        super().__init__()
        self._scheme = scheme

    def visit(self, product: Product, left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = self._scheme.get(product.index)
        return (left, right) if chosen is None else (chosen.left(left), chosen.right(right))


def find_products(network: Network, pixels: torch.Tensor) -> tuple[Product, ...]:
    """Every product of a network, in order, without the head.

    Raises:
        ModelError: no side of a product comes from a softmax: there is no attention, or it is computed in one piece.
    """
    with torch.no_grad(), _Find() as walk:
        network(pixels[:1])
    if not any(product.left == "softmax" for product in walk.found):
        raise ModelError(
            "no product behind a softmax was found",
            expected="a vision transformer with plain products in its attention",
            causes=("it was loaded without attn_implementation='eager'", "it has no attention"),
        )
    head = max((product.index for product in walk.found if product.linear), default=-1)
    return tuple(product for product in walk.found if product.index != head)


def observe(
    network: Network, pixels: torch.Tensor, wanted: Collection[int], *, batch: int = 8, seed: int = 0
) -> dict[int, Observed]:
    """The sides of some products over images, and how much each of their outputs matters.

    The importance is the diagonal of the Fisher information of the network's own answer: the expected square of
    d log p(c) / d output over classes c drawn as the network's p says. It is what the second derivative of the loss is
    replaced by in PTQ4ViT's objective. Up to 16 classes the expectation is exact; of more, 16 are drawn for each image.

    Args:
        network: is run as it is, with gradients.
        pixels: float32 [n, 3, H, W].
        wanted: places of the products; all that they see is held at once.
        batch: images that run together.
        seed: of the draws.
    """
    random = torch.Generator().manual_seed(seed)
    parts: dict[Product, list[tuple[torch.Tensor, ...]]] = {}
    for images in torch.split(pixels, batch):
        with torch.enable_grad(), _Observe(wanted) as walk:
            logits = network(images.detach().requires_grad_())
        squares = _squared_gradients(logits, list(walk.outputs.values()), random)
        for (product, (left, right)), square in zip(walk.sides.items(), squares, strict=True):
            parts.setdefault(product, []).append((left, right, square))
    return {product.index: _joined(product, seen) for product, seen in parts.items()}


def _squared_gradients(
    logits: torch.Tensor, outputs: list[torch.Tensor], random: torch.Generator
) -> list[torch.Tensor]:
    """The expected square of the gradient of log p, for each of `outputs`, which no other image touches."""
    logs = functional.log_softmax(logits, dim=1)
    likely = logs.detach().exp()
    count = logits.shape[1]
    if count <= _EXACT_CLASSES:
        classes = torch.arange(count).expand(len(logits), count)
        weights = likely
    else:
        classes = torch.multinomial(likely, _DRAWS, replacement=True, generator=random)
        weights = torch.full(classes.shape, 1.0 / _DRAWS)
    totals = [torch.zeros_like(output) for output in outputs]
    for chosen, weight in zip(classes.T, weights.T, strict=True):
        # The square of a gradient scaled by the root of a weight is the weighted square.
        loss = (weight.sqrt() * logs.gather(1, chosen[:, None])[:, 0]).sum()
        for total, gradient in zip(totals, torch.autograd.grad(loss, outputs, retain_graph=True), strict=True):
            total += gradient.square()
    return totals


def _joined(product: Product, seen: list[tuple[torch.Tensor, ...]]) -> Observed:
    left, right, importance = zip(*seen, strict=True)
    return Observed(product, torch.cat(left), right[0] if product.linear else torch.cat(right), torch.cat(importance))


def simulated(scheme: Mapping[int, Quantized]) -> AbstractContextManager[object]:
    """Within, one forward pass of the network takes its products' sides through the quantizers of `scheme`.

    Args:
        scheme: by the product's place; those it lacks stay in floating point.
    """
    return _Simulate(scheme) if scheme else nullcontext()
