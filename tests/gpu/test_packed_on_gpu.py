"""INT4 and INT8 on a real GPU: which kernel is taken, what it gives, and that a graph takes it.

`make test-gpu` runs it, as `test_real_engines.py`.
"""

from __future__ import annotations

import os

import pytest
import torch

from edgeq.doctor.kernels import BOUND
from edgeq.doctor.packed_products import packed_products
from edgeq.model.checkpoint.packed_weights import WeightScheme, pack_integers
from edgeq.runtime.vlm.packed.products import Int4Cuda, Product, product_of

pytestmark = pytest.mark.skipif(
    os.environ.get("EDGEQ_GPU") != "1", reason="no GPU: make test-gpu runs this where there is one"
)

SCHEMES = [WeightScheme(4, 128), WeightScheme(4, 32), WeightScheme(8, None)]


def product(scheme: WeightScheme) -> tuple[Product, torch.Tensor]:
    """192 x 256 on the GPU, and the weight in float64 on the host."""
    draw = torch.Generator().manual_seed(scheme.bits)
    integers = torch.randint(scheme.lowest, scheme.highest + 1, (192, 256), generator=draw).to(torch.int8)
    scales = (0.01 + 0.01 * torch.rand(192, scheme.scales(256), generator=draw)).half()
    made = product_of(pack_integers(integers, scheme.bits).cuda(), scales.cuda(), scheme)
    return made, integers.double() * scales.double().repeat_interleave(256 // scales.shape[1], 1)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("rows", [1, 4, 33, 600])
@torch.inference_mode()
def test_products(scheme: WeightScheme, rows: int) -> None:
    made, weight = product(scheme)
    if scheme.bits == 4 and torch.cuda.get_device_capability()[0] >= 8:
        assert isinstance(made, Int4Cuda)
    given = torch.randn(rows, 256, generator=torch.Generator().manual_seed(rows)).half()
    found = made(given.cuda())[:, :192].double().cpu()
    expected = given.double() @ weight.T
    assert (found - expected).abs().max() <= BOUND * expected.abs().max()


@pytest.mark.parametrize("scheme", SCHEMES)
@torch.inference_mode()
def test_a_graph_gives_the_bits_of_the_operators(scheme: WeightScheme) -> None:
    made, _ = product(scheme)
    given = torch.randn(2, 256, device="cuda").half()
    expected = made(given).clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = made(given)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(found, expected)


def test_what_the_doctor_launches() -> None:
    assert all(error <= BOUND for _, error in packed_products(torch.device("cuda")).values())
