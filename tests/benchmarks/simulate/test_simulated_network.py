"""Products of a network, what they see, the search, and the network with rounded products."""

from __future__ import annotations

import pytest
import torch
from networks import CLASSES, SIDE
from torch.nn import functional
from vits import BLOCKS, tiny_vit

from benchmarks.simulate.families import channels, symmetric_range
from benchmarks.simulate.products import (
    Network,
    Observed,
    Product,
    Quantized,
    find_products,
    observe,
    simulated,
)
from benchmarks.simulate.schemes import SCHEMES, Bits, Fitter, Scheme
from benchmarks.simulate.search import loss_by_channel, search
from benchmarks.simulate.uniform import Uniform, affine, symmetric
from edgeq.errors import ModelError


@pytest.fixture(scope="module")
def network() -> Network:
    model = tiny_vit()
    return lambda pixels: model(pixel_values=pixels).logits


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.randn(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def observed(network: Network, pixels: torch.Tensor) -> dict[int, Observed]:
    return observe(network, pixels, [product.index for product in find_products(network, pixels)], batch=3)


@pytest.fixture(scope="module")
def fitter(observed: dict[int, Observed]) -> Fitter:
    return Fitter(observed, weights="per-channel")


def answers(network: Network, pixels: torch.Tensor, scheme: dict[int, Quantized]) -> torch.Tensor:
    with torch.no_grad(), simulated(scheme):
        return network(pixels)


def test_products_are_found_without_the_head(network: Network, pixels: torch.Tensor) -> None:
    products = find_products(network, pixels)
    # Query, key, value; scores; the mix; output; first and second linear layer of the feed-forward part.
    block = [(True, "plain")] * 3 + [(False, "plain"), (False, "softmax"), (True, "plain"), (True, "plain")]
    assert [(product.linear, product.left) for product in products] == [*block, (True, "gelu")] * BLOCKS
    assert [product.index for product in products] == list(range(8 * BLOCKS))


def test_attention_in_one_piece_is_refused(pixels: torch.Tensor) -> None:
    model = tiny_vit("sdpa")
    with pytest.raises(ModelError, match="softmax"):
        find_products(lambda images: model(pixel_values=images).logits, pixels)


def test_what_a_product_saw(network: Network, pixels: torch.Tensor, observed: dict[int, Observed]) -> None:
    mix = observed[4]
    torch.testing.assert_close(mix.left.sum(dim=-1), torch.ones(4, 2, 17))  # images, heads, tokens: a softmax
    assert mix.right.shape == (4, 2, 17, 8)
    first = observed[6]
    assert (first.left.shape, first.right.shape, first.importance.shape) == ((4, 17, 16), (32, 16), (4, 17, 32))
    at_once = observe(network, pixels, [4], batch=4)
    torch.testing.assert_close(at_once[4].importance, mix.importance)


@pytest.mark.parametrize("classes", [3, 16])
def test_importance_of_logits_is_known(classes: int) -> None:
    # The Fisher information of logits is diag(p) - p p', so its diagonal is p (1 - p).
    images = torch.randn(5, classes, generator=torch.Generator().manual_seed(2))
    seen = observe(lambda given: functional.linear(given, torch.eye(classes)), images, [0], batch=2)
    p = images.softmax(dim=1)
    torch.testing.assert_close(seen[0].importance, p * (1.0 - p))


def test_importance_of_many_classes_is_drawn() -> None:
    # |e_c - p|^2 = 1 - 2 p_c + |p|^2, which for p = 1 / 20 is 19 / 20 whatever is drawn.
    weight = torch.zeros(20, 4)
    seen = observe(lambda given: functional.linear(given, weight), torch.ones(3, 4), [0])
    torch.testing.assert_close(seen[0].importance.sum(dim=1), torch.full((3,), 0.95))


def test_the_loss_by_hand() -> None:
    product = Product(0, linear=True, left="plain")
    left, right = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    seen = Observed(product, left, right, torch.tensor([[4.0, 0.5]]))
    rounded = torch.tensor([[1.5, 4.0]])  # half too much in the first channel, 2 in the second
    assert loss_by_channel(seen, left, rounded, right, "output").tolist() == [0.25, 4.0]
    assert loss_by_channel(seen, left, rounded, right, "hessian").tolist() == [1.0, 2.0]


def test_the_hessian_gives_up_what_does_not_matter() -> None:
    # One token is ten times as large as the others, and nothing depends on it.
    left = torch.tensor([[100.0], *([value] for value in torch.linspace(-10, 10, 50).tolist())])
    importance = torch.tensor([[0.0], *([[1.0]] * 50)])
    seen = Observed(Product(0, True, "plain"), left, torch.tensor([[1.0]]), importance)
    lefts, rights = symmetric_range(left, 4), symmetric_range(seen.right, 8)
    steps = {}
    for objective in ("output", "hessian"):
        found = search(seen, lefts, rights, objective).left
        assert isinstance(found, Uniform)
        steps[objective] = float(found.step)
    assert steps["output"] > 0.8 * 100 / 7.5
    assert steps["hessian"] < 1.2 * 10 / 7.5


@pytest.mark.parametrize("place", [3, 4, 6, 7])
def test_a_search_never_ends_worse_than_it_began(observed: dict[int, Observed], place: int) -> None:
    seen = observed[place]
    linear, exact = seen.product.linear, seen.product(seen.left, seen.right)
    losses = []
    for rights in (symmetric_range, channels) if linear else (symmetric_range,):
        lefts, candidates = symmetric_range(seen.left, 4), rights(seen.right, 4)
        for chosen in (Quantized(lefts[0], candidates[0]), search(seen, lefts, candidates, "hessian")):
            rounded = chosen.left(seen.left), chosen.right(seen.right)
            losses.append(float(loss_by_channel(seen, exact, *rounded, "hessian").sum()))
    assert losses[1] < losses[0]
    if linear:  # a step for each channel costs less than one for all
        assert losses[3] < losses[2]
        assert losses[3] < losses[1]


def test_without_quantizers_nothing_changes(network: Network, pixels: torch.Tensor) -> None:
    with torch.no_grad():
        assert torch.equal(answers(network, pixels, {}), network(pixels))


def test_one_product_is_rounded_as_by_hand() -> None:
    weight = torch.tensor([[1.0, 0.4], [0.0, 1.0]])
    one = Quantized(affine(0.0, 3.0, 2), symmetric(torch.tensor(1.5), 2))  # both in steps of 1
    given = torch.tensor([[0.6, 5.0]])
    found = answers(lambda images: functional.linear(images, weight, torch.tensor([0.5, 0.0])), given, {0: one})
    assert found.tolist() == [[1.5, 3.0]]  # [1, 3] times [[1, 0], [0, 1]], and the bias as it is


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_every_scheme_loses_more_with_fewer_bits(
    scheme: Scheme, network: Network, pixels: torch.Tensor, fitter: Fitter
) -> None:
    exact = answers(network, pixels, {})
    errors = []
    for bits in (8, 3):
        chosen = fitter.fit(scheme, Bits(bits, bits))
        assert set(chosen) == set(range(8 * BLOCKS))
        errors.append(float((answers(network, pixels, chosen) - exact).norm() / exact.norm()))
    assert 0.0 < errors[0] < 0.15  # more bits give log2 smaller powers, and no finer ones
    assert errors[0] < errors[1]
    assert exact.shape == (4, len(CLASSES))


def test_a_search_is_shared_between_schemes(observed: dict[int, Observed]) -> None:
    fitter = Fitter({place: observed[place] for place in (6, 7)})
    by_name = {scheme.name: fitter.fit(scheme, Bits(6, 6)) for scheme in SCHEMES}
    plain, twins = by_name["search, Hessian"], by_name["Hessian + twin GELU"]
    assert plain[6] is twins[6]
    assert plain[7] is not twins[7]
