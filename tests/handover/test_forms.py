"""Forms of INT4 weights: what is packed is what the makers of each form unpack."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest
import torch

from edgeq.errors import InputError
from edgeq.handover.auto_awq import AutoAwq
from edgeq.handover.compressed_tensors import CompressedTensors
from edgeq.handover.form import QuantizedLayer, WeightLayout
from edgeq.handover.forms import FORMS
from edgeq.handover.modelopt import ModelOpt
from edgeq.model.checkpoint.packed_weights import WeightScheme, pack_integers

ROWS, COLUMNS = 24, 256


def layer(name: str = "layers.0.up_proj", group: int | None = 128, bits: int = 4, rows: int = ROWS) -> QuantizedLayer:
    return QuantizedLayer(name, f"model.{name}", (rows, COLUMNS), WeightScheme(bits, group))


def layout(*layers: QuantizedLayer) -> WeightLayout:
    return WeightLayout({each.name: each for each in layers}, ("vision_tower",), ("lm_head",), "F16")


def drawn(group: int = 128) -> tuple[torch.Tensor, torch.Tensor]:
    """Integers from -8 to 7, all of them, and scales."""
    draw = torch.Generator().manual_seed(0)
    values = torch.randint(-8, 8, (ROWS, COLUMNS), generator=draw, dtype=torch.int8)
    scales = (0.01 + torch.rand(ROWS, COLUMNS // group, generator=draw)).half()
    return values, scales


def meant(values: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """The weight, in float32."""
    return (values.float().reshape(ROWS, scales.shape[1], -1) * scales.float()[:, :, None]).reshape(ROWS, COLUMNS)


def made(
    form: AutoAwq | ModelOpt | CompressedTensors, one: QuantizedLayer, group: int = 128
) -> dict[str, torch.Tensor]:
    values, scales = drawn(group)
    found = form.tensors(one, pack_integers(values, 4), scales)
    slots = {slot.name: slot for slot in form.slots(one)}
    assert found.keys() == slots.keys()
    for name, tensor in found.items():
        assert tuple(tensor.shape) == slots[name].shape
    return {name.removeprefix(f"{one.name}."): tensor for name, tensor in found.items()}


def from_awq(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """(qweight - qzeros) * scales, number by number, as AutoAWQ's paper code lays eight outputs into a word."""
    rows, columns, order = ROWS, COLUMNS, (0, 2, 4, 6, 1, 3, 5, 7)
    found = torch.zeros(rows, columns)
    group = columns // tensors["qzeros"].shape[0]
    for word in range(rows // 8):
        for place, which in enumerate(order):
            integers = (tensors["qweight"][:, word] >> (4 * place)) & 15
            zeros = (tensors["qzeros"][:, word] >> (4 * place)) & 15
            scales = tensors["scales"][:, 8 * word + which].float()
            for column in range(columns):
                found[8 * word + which, column] = (integers[column] - zeros[column // group]) * scales[column // group]
    return found


@pytest.mark.parametrize("smallest", [128, 32])
def test_awq_means_the_same_weight(smallest: int) -> None:
    """Where another layer has smaller groups, this one's scales are repeated."""
    one = layer()
    form = AutoAwq(layout(one, layer("layers.0.down_proj", smallest)))
    tensors = made(form, one)
    assert form.config()["group_size"] == smallest
    assert tensors["qzeros"].shape[0] == COLUMNS // smallest
    assert torch.equal(from_awq(tensors), meant(*drawn()))


def autoawq() -> ModuleType:
    """AutoAWQ's own packing code, without what the package imports."""
    found = importlib.util.find_spec("awq")
    if found is None or not found.submodule_search_locations:
        pytest.skip("pip install --no-deps --no-build-isolation autoawq: it is no longer maintained")
    spec = importlib.util.spec_from_file_location(
        "packing_utils", Path(found.submodule_search_locations[0]) / "utils" / "packing_utils.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_autoawq_unpacks_what_was_packed() -> None:
    code, one = autoawq(), layer()
    tensors = made(AutoAwq(layout(one)), one)
    found = code.dequantize_gemm(tensors["qweight"], tensors["qzeros"], tensors["scales"], 4, 128)
    assert torch.allclose(found.float().t(), meant(*drawn()), rtol=1e-3, atol=0)


@pytest.mark.parametrize("smallest", [128, 64])
def test_modelopt_means_the_same_weight(smallest: int) -> None:
    one = layer()
    tensors = made(ModelOpt(layout(one, layer("layers.0.down_proj", smallest))), one)
    found = torch.zeros(ROWS, COLUMNS, dtype=torch.int8)
    for row in range(ROWS):
        nibbles = (tensors["weight"][row // 2] >> (4 * (row % 2))) & 15
        found[row] = torch.where(nibbles > 7, nibbles.to(torch.int8) - 16, nibbles.to(torch.int8))
    assert torch.equal(meant(found, tensors["weight_scale"]), meant(*drawn()))


def test_modelopt_packs_it_so_itself() -> None:
    quant_utils = pytest.importorskip("modelopt.torch.export.quant_utils", reason="pip install nvidia-modelopt")
    one, (values, scales) = layer(), drawn()
    tensors = made(ModelOpt(layout(one)), one)
    theirs = quant_utils.pack_int4_in_uint8(meant(values, scales), scales.float(), 128)
    assert torch.equal(tensors["weight"], theirs)


def test_compressed_tensors_unpacks_what_was_packed() -> None:
    helpers = pytest.importorskip(
        "compressed_tensors.compressors.pack_quantized.helpers", reason="pip install compressed-tensors"
    )
    one, (values, _) = layer(), drawn()
    tensors = made(CompressedTensors(layout(one)), one)
    unpacked = helpers.unpack_from_int32(tensors["weight_packed"], 4, torch.Size(tensors["weight_shape"].tolist()))
    assert torch.equal(unpacked, values)


def test_compressed_tensors_names_layers_where_groups_differ() -> None:
    """By names that vLLM renames, both as they are stored and as transformers builds them."""
    found = CompressedTensors(layout(layer(), layer("layers.0.down_proj", 64))).config()["config_groups"]
    assert [(each["weights"]["group_size"], each["targets"]) for each in found.values()] == [
        (128, ["model.layers.0.up_proj", "layers.0.up_proj"]),
        (64, ["model.layers.0.down_proj", "layers.0.down_proj"]),
    ]
    alone = CompressedTensors(layout(layer())).config()
    assert [each["targets"] for each in alone["config_groups"].values()] == [["Linear"]]
    assert alone["ignore"] == [r"re:(.*\.)?vision_tower(\..*)?$", "lm_head"]


def test_compressed_tensors_own_model_of_the_config_takes_it() -> None:
    quantization = pytest.importorskip("compressed_tensors.quantization", reason="pip install compressed-tensors")
    for config in (
        CompressedTensors(layout(layer())).config(),
        CompressedTensors(layout(layer(), layer("layers.0.down_proj", 64))).config(),
        CompressedTensors(layout(layer(bits=8, group=None))).config(),
    ):
        assert quantization.QuantizationConfig.model_validate(config).format == "pack-quantized"


@pytest.mark.parametrize("name", ["awq", "modelopt"])
def test_what_a_form_cannot_hold_is_refused(name: str) -> None:
    form = FORMS[name]
    with pytest.raises(InputError, match="INT8"):
        form(layout(layer(bits=8, group=None)))
    with pytest.raises(InputError, match="packs outputs by"):
        form(layout(layer(rows=13)))
