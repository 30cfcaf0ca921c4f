"""Products with integers against the weights that they stand for, multiplied in float64."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from edgeq.errors import ModelError
from edgeq.model.checkpoint.packed_weights import WeightScheme, pack_integers
from edgeq.runtime.vlm.packed import products
from edgeq.runtime.vlm.packed.layer import PackedLinear, joined_packed
from edgeq.runtime.vlm.packed.products import MOST_ROWS, Int4Cpu, Int8, Unpacking, _at_once, product_of

CLOSE = 0.02
"""Of a sum's terms, taken as independent: activations, scales and weights are rounded to bfloat16, each by 2 ** -9 at
the most. So is the sum itself."""

GROUPED = [(4, 128), (4, 64), (4, 32)]
CHANNELS = [(8, None), (4, None)]


def weight(
    out_features: int, in_features: int, scheme: WeightScheme, dtype: torch.dtype = torch.float16
) -> tuple[torch.Tensor, torch.Tensor]:
    """Integers int8 [out, in] of all values, and scales."""
    draw = torch.Generator().manual_seed(out_features * in_features)
    integers = torch.randint(scheme.lowest, scheme.highest + 1, (out_features, in_features), generator=draw)
    scales = 0.01 + 0.05 * torch.rand(out_features, scheme.scales(in_features), generator=draw)
    return integers.to(torch.int8), scales.to(dtype)


def layer(
    out_features: int, in_features: int, bits: int, group: int | None, *, bias: bool = False, dtype: str = "float16"
) -> tuple[PackedLinear, torch.Tensor]:
    """A layer, and the weight that its integers stand for, float64 [out, in]."""
    scheme, kind = WeightScheme(bits, group), getattr(torch, dtype)
    integers, scales = weight(out_features, in_features, scheme, kind)
    made = PackedLinear(in_features, out_features, scheme, bias=bias, dtype=kind)
    made.weight_packed.data.copy_(pack_integers(integers, bits))
    made.weight_scale.data.copy_(scales)
    made.weight_shape.data.copy_(torch.tensor([out_features, in_features]))
    if made.bias is not None:
        made.bias.data.copy_(torch.linspace(-9, 9, out_features))
    made.repack()
    return made, integers.double() * scales.double().repeat_interleave(in_features // scales.shape[1], 1)


def inputs(*shape: int, dtype: torch.dtype = torch.float16, largest: float = 1.0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(sum(shape))
    return (largest * (2 * torch.rand(*shape, generator=draw) - 1)).to(dtype)


def check(made: PackedLinear, expected: torch.Tensor, given: torch.Tensor) -> None:
    with torch.inference_mode():
        found = made(given)
    summed = given.double() @ expected.T
    wanted = summed + (0 if made.bias is None else made.bias.double())
    assert found.dtype == given.dtype
    assert found.shape == wanted.shape
    bound = CLOSE * (given.double().square() @ expected.square().T).sqrt() + 2**-8 * (summed.abs() + wanted.abs())
    assert bool(((found.double() - wanted).abs() <= bound).all())


@pytest.mark.parametrize(("bits", "group"), [*GROUPED, *CHANNELS])
@pytest.mark.parametrize("out_features", [1, 17, 64, 200, 1000])
@pytest.mark.parametrize("rows", [1, 4, 33, 100])
def test_products_of_odd_widths_and_batches(bits: int, group: int | None, out_features: int, rows: int) -> None:
    """By the kernel for few rows and by unpacking for many; 1,000 channels are unpacked in two goes."""
    made, expected = layer(out_features, 384, bits, group)
    assert isinstance(made.product, Int4Cpu if bits == 4 else Int8)
    check(made, expected, inputs(rows, 384))


@pytest.mark.parametrize(("bits", "group", "in_features"), [(8, None, 20), (8, 32, 64), (4, None, 40)])
@pytest.mark.parametrize("rows", [1, 65])
def test_what_no_kernel_takes_is_unpacked(bits: int, group: int | None, in_features: int, rows: int) -> None:
    """An input that the kernel for INT8 would read beyond, groups of INT8, and channels of an odd length in INT4."""
    made, expected = layer(600, in_features, bits, group, bias=True)
    assert isinstance(made.product, Unpacking)
    check(made, expected, inputs(rows, in_features))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (5,), (1, 70)])
def test_types_shapes_and_biases(bits: int, dtype: str, shape: Sequence[int]) -> None:
    made, expected = layer(96, 128, bits, 128 if bits == 4 else None, bias=True, dtype="bfloat16")
    check(made, expected, inputs(*shape, 128, dtype=getattr(torch, dtype)))
    turned = inputs(128, *shape, dtype=getattr(torch, dtype)).movedim(0, -1)
    check(made, expected, turned)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("rows", [2, 80])
def test_sums_beyond_fp16_are_no_fault_where_what_comes_out_is_not(bits: int, rows: int) -> None:
    """Two sums of 128 terms that cancel: float16 holds none of them on the way."""
    scheme = WeightScheme(bits, 128 if bits == 4 else None)
    made = layer(64, 256, bits, scheme.group)[0]
    integers = torch.full((64, 256), scheme.highest, dtype=torch.int8)
    scales = torch.full((64, scheme.scales(256)), 0.05, dtype=torch.float16)
    made.product = product_of(pack_integers(integers, bits), scales, scheme)
    half = 128 * 60_000 * scheme.highest * 0.05
    given = torch.full((rows, 256), 60_000.0, dtype=torch.float16)
    given[:, 128:] = -60_000.0
    with torch.inference_mode():
        assert float(made(given).abs().max()) <= 2**-20 * half


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("bias", [False, True])
@torch.inference_mode()
def test_layers_joined_give_the_bits_that_they_give_alone(bits: int, bias: bool) -> None:
    group = 128 if bits == 4 else None
    layers = [layer(out_features, 256, bits, group, bias=bias)[0] for out_features in (128, 64, 192)]
    for rows in (1, 3, MOST_ROWS[bits] + 1):
        given = inputs(rows, 1, 256)
        before = torch.cat([one(given) for one in layers], -1)
        together = joined_packed(layers)
        assert together is not None
        assert torch.equal(together(given), before)
        assert torch.equal(torch.cat([one(given) for one in layers], -1), before)
    assert len({one.product.weight.untyped_storage().data_ptr() for one in layers}) == 1
    assert joined_packed(layers) is together


@torch.inference_mode()
def test_layers_that_are_not_joined() -> None:
    """Whose output channels do not fill the layout; of other groups, bits or biases; and what no kernel takes."""
    first = layer(64, 256, 4, 128)[0]
    others = [
        layer(65, 256, 4, 128)[0],
        layer(64, 256, 4, 64)[0],
        layer(64, 256, 8, None)[0],
        layer(64, 256, 4, 128, bias=True)[0],
    ]
    assert all(joined_packed([first, other]) is None for other in others)
    assert joined_packed([layer(64, 20, 8, None)[0], layer(64, 20, 8, None)[0]]) is None


@pytest.mark.parametrize(("bits", "group"), [(4, 128), (8, None)])
def test_a_kernel_that_fails_or_is_wrong_is_not_taken(
    bits: int, group: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = Int4Cpu if bits == 4 else Int8

    def refuse(_self: object, _rows: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError("not for this device")

    def wrong(self: Int4Cpu | Int8, rows: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(rows), self.out_features)

    for broken in (refuse, wrong):
        products._kernel.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(kind, "__call__", broken)
            made, expected = layer(64, 128, bits, group)
        assert isinstance(made.product, Unpacking)
        check(made, expected, inputs(3, 128))
    products._kernel.cache_clear()
    assert isinstance(layer(64, 128, bits, group)[0].product, kind)


def test_another_layout_is_multiplied_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor whose layout is not known has the kernel for many rows, too."""
    monkeypatch.setattr(products, "_lies_in_blocks", lambda: False)
    made, expected = layer(64, 128, 4, 32)
    check(made, expected, inputs(MOST_ROWS[4] + 1, 128))


@pytest.mark.parametrize(("in_features", "tiles"), [(2048, 8), (192, 4), (96, 2)])
def test_the_layout_of_a_gpu_by_torchs_shapes(in_features: int, tiles: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On no device, as no GPU is here: [out / 8, in / 16 t, 32, t / 2], output channels filled up to 64."""
    asked: list[tuple[torch.Size, torch.dtype, int]] = []
    packing = torch.ops.aten._convert_weight_to_int4pack

    def noted(values: torch.Tensor, count: int) -> torch.Tensor:
        asked.append((values.shape, values.dtype, count))
        found: torch.Tensor = packing(values.to("meta"), count)
        return found

    monkeypatch.setattr(torch.ops.aten, "_convert_weight_to_int4pack", noted)
    scheme = WeightScheme(4, 32)
    integers, scales = weight(100, in_features, scheme)
    made = products.Int4Cuda.of(pack_integers(integers, 4), scales, 32)
    assert asked == [(torch.Size([128, in_features // 2]), torch.uint8, tiles)]
    assert made.weight.shape == (16, in_features // (16 * tiles), 32, tiles // 2)
    assert made.scales.shape == (in_features // 32, 128, 2)
    assert made.scales.dtype == torch.bfloat16


def test_a_weight_that_says_another_shape() -> None:
    made = PackedLinear(128, 64, WeightScheme(4, 128), bias=False, dtype=torch.float16)
    made.weight_shape.data.copy_(torch.tensor([128, 64]))
    with pytest.raises(ModelError, match=r"\[128, 64\], expected \(64, 128\)"):
        made.repack()


def test_a_gpu_unpacks_no_more_than_128_mib_at_once() -> None:
    """Of a head of 152,064 x 3,584 some 18,724 words; a layer of a language model is mostly whole."""
    assert 2 * 3584 * _at_once(torch.device("cuda"), 3584) <= 1 << 27
    assert _at_once(torch.device("cuda"), 4096) > 11_008
    assert _at_once(torch.device("cpu"), 3584) == 512
