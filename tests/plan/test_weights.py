"""Bytes of weights: by hand, and against what bitsandbytes stores."""

from __future__ import annotations

from pathlib import Path

import bitsandbytes
import pytest
import torch
from vlm import write_vlm

from edgeq.errors import PlanError
from edgeq.families.modules import VlmDescription, read_vlm
from edgeq.families.structure import Module
from edgeq.model.graph.components import Component
from edgeq.plan.precision import Precision
from edgeq.plan.rules import plan_modules
from edgeq.plan.weights import Choice, Weights, asymmetric, by_name, layer_bytes, nf4_bytes, uniform, weigh

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "vlm-configs"


def linear(rows: int, columns: int, bias: int = 0, kind: str = "linear") -> Module:
    size = rows * columns + bias
    return Module("l", "Linear", kind, size, 4 * size, "l", (rows, columns), bias)  # type: ignore[arg-type]


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("shape", [(64, 64), (96, 128), (8, 24), (1024, 2048), (7, 9)])
def test_nf4_as_bitsandbytes_stores_it(shape: tuple[int, int], double: bool) -> None:
    packed, state = bitsandbytes.functional.quantize_4bit(
        torch.randn(shape), quant_type="nf4", blocksize=64, compress_statistics=double
    )
    tensors = [packed, *(value for value in state.as_dict().values() if isinstance(value, torch.Tensor))]
    stored = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    offset = 4 if double else 0  # kept in the state's JSON, or as a tensor of its own
    assert nf4_bytes(shape[0] * shape[1], double_quant=double) - stored in (0, offset)


def test_nf4_of_a_large_matrix_by_hand() -> None:
    """2^24 weights: half a byte each, 2^18 blocks, 2^10 nested blocks."""
    tables = 16 * 4
    assert nf4_bytes(1 << 24, double_quant=False) == (1 << 23) + 4 * (1 << 18) + tables
    assert nf4_bytes(1 << 24) == (1 << 23) + (1 << 18) + 4 * (1 << 10) + 4 + 256 * 4 + tables


def test_a_bias_by_hand() -> None:
    layer = linear(100, 64, bias=100)
    assert layer_bytes(layer, Precision.FP32) == 4 * 6500
    assert layer_bytes(layer, Precision.FP16) == 2 * 6500
    scales, shape = 100 * 2, 2 * 8
    assert layer_bytes(layer, Precision.INT8) == 6400 + scales + shape + 200
    assert layer_bytes(layer, Precision.INT4) == 3200 + scales + shape + 200  # its one group is of 64
    assert layer_bytes(layer, Precision.NF4) == nf4_bytes(6400) + 200


def test_a_tied_head_takes_nothing() -> None:
    tied = Module("lm_head", "Linear", "linear", 0, 0, "lm_head")
    assert {layer_bytes(tied, precision) for precision in Precision} == {0}


def test_an_embedding_cannot_be_nf4() -> None:
    with pytest.raises(PlanError, match=r"l \(embedding\) cannot be NF4"):
        layer_bytes(linear(8, 8, kind="embedding"), Precision.NF4)


def test_the_asymmetric_plan_leaves_the_eyes_alone() -> None:
    for part in read_vlm(GOLDEN / "llama-3.2-11b-vision").components:
        found = {layer.name for layer in part.layers if asymmetric(part, layer) is Precision.NF4}
        wanted = {layer.name for layer in part.layers if part.name == "language" and layer.op == "Linear"}
        assert found == wanted


def test_a_mapping_by_name() -> None:
    component = Component("language", (linear(8, 8),))
    assert by_name({"l": Precision.INT8})(component, component.layers[0]) is Precision.INT8
    with pytest.raises(PlanError, match=r"no precision for l \(language\)"):
        by_name({})(component, component.layers[0])


def test_the_parts_add_up() -> None:
    model = read_vlm(GOLDEN / "qwen2.5-vl-7b")
    weights = weigh(model, uniform(Precision.FP16))
    assert [part.name for part in weights.parts] == ["vision", "connector", "embedding", "language", "head"]
    assert weights.bytes() == 2 * model.parameters
    assert weights.bytes("embedding", "head") == 2 * 2 * 152_064 * 3584
    assert weights.unpacked == 0
    assert weigh(model, asymmetric).unpacked == 2 * 3584 * 18944, "the largest layer of the language model"


def test_what_the_kernels_of_int4_and_int8_need_beside() -> None:
    """LLaVA-1.5-7B: 6,476.0 M weights of the language model in groups of 128; the largest layer is 4096 x 11008."""
    model = read_vlm(GOLDEN / "llava-1.5-7b")
    layers = [
        layer for part in model.components if part.name == "language" for layer in part.layers if layer.op == "Linear"
    ]
    weights = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    assert sum(layer.parameters for layer in layers) == weights

    def of(precision: Precision) -> Choice:
        return lambda part, layer: precision if asymmetric(part, layer) is Precision.NF4 else Precision.FP16

    int4, int8 = weigh(model, of(Precision.INT4)), weigh(model, of(Precision.INT8))
    assert (int4.unpacked, int4.zeros) == (0, 2 * weights // 128)
    assert (int8.unpacked, int8.zeros) == (2 * 4096 * 11008, 0)
    assert weigh(model, asymmetric).zeros == 0


def with_int8_tables(model: VlmDescription) -> Weights:
    plan = plan_modules(model.components, language=Precision.INT4, embeddings=Precision.INT8)
    return weigh(model, by_name({decision.layer: decision.precision for decision in plan.decisions}))


def test_embedding_and_head_in_int8() -> None:
    """Qwen2.5-VL-7B: 152,064 rows of 3,584, each with a 16-bit scale, and 16 bytes of shape; twice."""
    weights = with_int8_tables(read_vlm(GOLDEN / "qwen2.5-vl-7b"))
    assert weights.bytes("embedding", "head") == 2 * (152_064 * 3584 + 2 * 152_064 + 16)
    assert weights.unpacked == 2 * (1 << 26), "a part of the head, on a GPU that has no kernel for it"


def test_a_tied_head_in_int8_has_no_bytes_of_its_own(tmp_path: Path) -> None:
    """96 rows of 64, which are multiplied by as well."""
    model = read_vlm(write_vlm(tmp_path / "model", "paligemma"))
    assert model.tied_head
    weights = with_int8_tables(model)
    assert weights.bytes("embedding", "head") == 96 * 64 + 2 * 96 + 16
    assert weights.unpacked == 2 * 96 * 64
