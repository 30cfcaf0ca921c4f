"""Integers in words of 32 bits, and what a config.json says of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from edgeq.errors import ModelError
from edgeq.model.checkpoint.packed_weights import (
    WeightScheme,
    pack_integers,
    packed_bytes,
    packed_scheme,
    packed_slots,
    quantization_config,
    read_schemes,
    unpack_integers,
)

GROUPED, CHANNELS = WeightScheme(4, 128), WeightScheme(8, None)


def test_words_by_hand() -> None:
    """The first integer lies in the lowest bits, and 8 is added to each of four bits."""
    values = torch.tensor([[-8, -7, -6, -5, -4, -3, -2, 7]], dtype=torch.int8)
    assert pack_integers(values, 4).tolist() == [[0xF6543210 - (1 << 32)]]
    assert pack_integers(torch.tensor([[-128, -127, 0, 127]], dtype=torch.int8), 8).tolist() == [
        [0xFF800100 - (1 << 32)]
    ]


@pytest.mark.parametrize("bits", [4, 8])
def test_there_and_back(bits: int) -> None:
    values = torch.randint(-(1 << (bits - 1)), 1 << (bits - 1), (7, 96), dtype=torch.int8)
    assert torch.equal(unpack_integers(pack_integers(values, bits), bits), values)


@pytest.mark.parametrize("bits", [4, 8])
def test_as_compressed_tensors_packs(bits: int) -> None:
    helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    values = torch.randint(-(1 << (bits - 1)), 1 << (bits - 1), (5, 64), dtype=torch.int8)
    assert torch.equal(helpers.pack_to_int32(values, bits), pack_integers(values, bits))


@pytest.mark.parametrize(
    ("bits", "columns", "group"),
    [(4, 4096, 128), (4, 128, 128), (4, 192, 64), (4, 11008, 128), (4, 96, 32), (4, 80, 0), (8, 80, None), (8, 82, 0)],
)
def test_which_group(bits: int, columns: int, group: int | None) -> None:
    assert packed_scheme(bits, columns) == (None if group == 0 else WeightScheme(bits, group))


def test_bytes_by_hand() -> None:
    """4096 x 11008 in groups of 128: half a byte a weight, 86 scales a row, and the shape."""
    assert packed_bytes((4096, 11008), GROUPED) == 4096 * 11008 // 2 + 4096 * 86 * 2 + 16
    assert packed_bytes((10, 8), CHANNELS) == 80 + 10 * 2 + 16
    assert [slot.shape for slot in packed_slots("l", (4, 256), GROUPED, "BF16")] == [(4, 32), (4, 2), (2,)]


def test_config_there_and_back() -> None:
    layers = ["model.layers.0.q_proj", "model.layers.0.o_proj", "lm_head"]
    schemes = {"model.layers.0.q_proj": GROUPED, "model.layers.0.o_proj": WeightScheme(4, 64)}
    assert read_schemes(quantization_config(schemes, ["lm_head"]), layers) == schemes
    one = dict.fromkeys(layers[:2], CHANNELS)
    config = quantization_config(one, ["lm_head"])
    assert config["config_groups"]["group_0"]["targets"] == ["Linear"]
    assert read_schemes(config, layers) == one


@pytest.mark.parametrize("linear", [GROUPED, CHANNELS])
def test_an_embedding_is_meant_by_its_name(linear: WeightScheme) -> None:
    """A target `Linear` means none, also where embedding and layers are stored alike."""
    schemes = {"model.embed_tokens": CHANNELS, "model.layers.0.q_proj": linear}
    layers, tables = ["model.layers.0.q_proj", "lm_head"], ["model.embed_tokens", "model.positions"]
    config = quantization_config(schemes, ["lm_head"], ["model.embed_tokens"])
    assert read_schemes(config, layers, tables) == schemes
    for group in config["config_groups"].values():
        group["targets"] = [target for target in group["targets"] if target == "Linear"]
    assert read_schemes(config, layers, tables) == {"model.layers.0.q_proj": linear}


def test_embeddings_by_their_class() -> None:
    config = quantization_config({"l": CHANNELS}, [])
    config["config_groups"]["group_0"]["targets"] = ["Embedding"]
    assert read_schemes(config, ["l"], ["t"]) == {"t": CHANNELS}


def changed(**weights: Any) -> dict[str, Any]:
    config = quantization_config({"l": GROUPED}, [])
    config["config_groups"]["group_0"]["weights"] |= weights
    return config


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"quant_method": "gptq"}, "gptq"),
        ({**changed(), "format": "marlin-24"}, "marlin-24"),
        ({**changed(), "config_groups": {}}, "no config_groups"),
        (changed(symmetric=False), "zero points"),
        (changed(type="float"), "floats"),
        (changed(actorder="group"), "another order"),
        (changed(num_bits=3), "3 bits"),
        (changed(group_size=16), "by group 16"),
    ],
)
def test_other_forms_are_refused(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        read_schemes(config, ["l"])


def test_quantized_activations_are_refused() -> None:
    config = changed()
    config["config_groups"]["group_0"]["input_activations"] = {"num_bits": 8}
    with pytest.raises(ModelError, match="quantized activations"):
        read_schemes(config, ["l"])
