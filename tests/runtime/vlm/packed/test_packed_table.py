"""Embeddings and heads in INT8, loaded: rows that are looked up, logits, and what a head gives one row and several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from decoders import open_parts
from packed_bundles import unpacked_tensors
from safetensors.torch import load_file
from torch import nn
from vlm import write_vlm

from edgeq.errors import ModelError
from edgeq.families.causal import causal_class
from edgeq.families.modules import read_modules
from edgeq.model.checkpoint.packed_weights import WeightScheme, pack_integers, unpack_integers
from edgeq.plan.precision import Precision
from edgeq.plan.rules import plan_modules
from edgeq.quantize.weight_only.write import write_packed
from edgeq.runtime.vlm.packed.checkpoint import check_packed
from edgeq.runtime.vlm.packed.loading import config_for_loading
from edgeq.runtime.vlm.packed.products import MOST_ROWS, Unpacking
from edgeq.runtime.vlm.packed.table import PackedEmbedding, TiedHead, embedding_factor

IDS = torch.arange(3, 75)[None]
CHANNELS = WeightScheme(8, None)
KINDS = [
    ("llava", Precision.INT4),
    ("llava", Precision.INT8),
    ("paligemma", Precision.INT4),
    ("mllama", Precision.INT8),
]


def written(place: Path, family: str, precision: Precision) -> Path:
    source = write_vlm(place / "whole", family)
    plan = plan_modules(read_modules(source), language=precision, embeddings=Precision.INT8)
    write_packed(source, plan, place / "made", precision=precision)
    return place / "made"


def loaded(directory: Path) -> Any:
    kind = causal_class(json.loads((directory / "config.json").read_text())["architectures"][0])
    config = config_for_loading(kind, directory, check_packed(directory))
    return kind.from_pretrained(directory, config=config, device_map={"": "cpu"}, dtype="auto").eval()


def unpacked(directory: Path) -> Any:
    """transformers' model in float32, with each integer times its scale."""
    tensors = unpacked_tensors(load_file(directory / "model.safetensors"))
    config = transformers.AutoConfig.from_pretrained(directory)
    del config.quantization_config
    kind = causal_class(json.loads((directory / "config.json").read_text())["architectures"][0])
    model = kind(config).float()
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}
    model.tie_weights()
    return model.eval()


@pytest.mark.parametrize(("family", "precision"), KINDS)
def test_logits_are_those_of_the_weights_that_the_integers_stand_for(
    family: str, precision: Precision, tmp_path: Path
) -> None:
    """But for rounding to 16 bits: a table of its own, one that is the head, one whose rows are scaled."""
    directory = written(tmp_path, family, precision)
    ours, theirs = loaded(directory), unpacked(directory)
    words = {"cross_attention_states": torch.linspace(-1, 1, 320).view(1, 5, 64)} if family == "mllama" else {}
    with torch.inference_mode():
        expected = theirs(input_ids=IDS, **words).logits
        found = ours(input_ids=IDS, **{name: value.half() for name, value in words.items()}).logits.float()
        rows = theirs.get_input_embeddings()(IDS)
        assert torch.equal(ours.get_input_embeddings()(IDS), rows.half()), "rounded once"
    assert (found - expected).abs().max() <= 0.02 * expected.abs().max()
    assert isinstance(ours.get_output_embeddings(), TiedHead) == (family == "paligemma")
    floats = [name for name, value in ours.named_parameters() if value.dim() == 2 and "cross_attn" not in name]
    assert not floats, "nothing is kept of the checkpoint's form, and no table in 16 bits"


def table_of(width: int, words: int = 1000, factor: float | None = None) -> PackedEmbedding:
    draw = torch.Generator().manual_seed(width)
    table = PackedEmbedding(words, width, CHANNELS, dtype=torch.float16, factor=factor)
    integers = torch.randint(-128, 128, (words, width), dtype=torch.int8, generator=draw)
    table.weight_packed.data.copy_(pack_integers(integers, 8))
    table.weight_scale.data.copy_(torch.rand(words, 1, generator=draw) / 100)
    table.weight_shape.data.copy_(torch.tensor([words, width]))
    table.repack()
    return table


@pytest.mark.parametrize("width", [48, 64, 2048])
@torch.inference_mode()
def test_a_row_gives_a_tied_head_the_bits_that_it_gives_beside_others(width: int) -> None:
    """So that an answer does not depend on who else is answered; a head in floating point has two rows for that."""
    head = TiedHead(table_of(width))
    assert head.product.rows_alike
    rows = torch.randn(MOST_ROWS[8], width, generator=torch.Generator().manual_seed(1)).half()
    together = head(rows)
    for count in (1, 2, 3, 7):
        for start in range(0, len(rows) - count, 5):
            assert torch.equal(head(rows[start : start + count]), together[start : start + count])


@torch.inference_mode()
def test_the_likeliest_words_are_as_far_apart_as_the_weights_say() -> None:
    """Two words whose logits, about 20, differ by less than a bfloat16 tells."""
    table = table_of(64)
    table.product.weight[:] = 1
    table.product.scales[:] = 0.125
    table.product.weight[[100, 700]] = 5
    table.product.weight[700, 0] = 6
    rows = torch.full((3, 64), 0.5)
    rows[:, 0] = 0.25  # 0.03 between the two, where a bfloat16 has steps of 0.125
    logits = TiedHead(table)(rows.half())
    assert logits.dtype == torch.float16
    assert logits.argmax(-1).tolist() == [700] * 3
    expected = (5 * rows[0].sum() + torch.tensor([0.0, 0.25])) / 8
    assert logits[0, [100, 700]].tolist() == expected.tolist()
    wide = TiedHead(table)(rows.bfloat16())
    assert torch.equal(wide[:, 100], wide[:, 700]), "as any head of a model in bfloat16"


@torch.inference_mode()
def test_a_width_that_no_kernel_takes() -> None:
    """20 is no multiple of 16: words are kept as they are stored, and rows looked up in them."""
    table = table_of(20)
    assert isinstance(table.product, Unpacking)
    assert not TiedHead(table).product.rows_alike
    weight = unpack_integers(table.product.weight, 8).half() * table.scales
    ids = torch.tensor([[0, 999, 5], [5, 1, 0]])
    assert torch.equal(table(ids), weight[ids])
    rows = torch.randn(3, 20).half()
    torch.testing.assert_close(TiedHead(table)(rows).float(), rows.float() @ weight.float().T, rtol=1e-2, atol=1e-2)


def test_decoding_gives_the_head_no_row_more_than_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One slot: one row of an INT8 head, and two of one in floating point."""
    given: dict[Precision, int] = {}
    for embeddings in (Precision.INT8, Precision.FP16):
        parts = open_parts(tmp_path / embeddings.value, "llava", Precision.INT4, embeddings)
        step = parts.decoder()._step
        fused = step._fused
        assert fused is not None
        head = fused._head
        shape = next(shape for shape in step.shapes if shape.slots == 1)

        def counted(rows: torch.Tensor, head: Any = head, kind: Precision = embeddings) -> torch.Tensor:
            given[kind] = len(rows)
            found: torch.Tensor = head(rows)
            return found

        monkeypatch.setattr(fused, "head", counted)
        with torch.inference_mode():
            step._in_few(fused, shape)
    assert given == {Precision.INT8: 1, Precision.FP16: 2}


def test_an_embedding_in_another_form_is_refused() -> None:
    with pytest.raises(ModelError, match="an embedding is stored in 4 bits, with 2 scales for each word"):
        PackedEmbedding(8, 256, WeightScheme(4, 128), dtype=torch.float16)


def test_what_an_embedding_does_with_its_rows() -> None:
    class Other(nn.Embedding):
        """Not known."""

    assert embedding_factor(nn.Embedding(4, 4)) is None
    with pytest.raises(ModelError, match="does not know what Other does with its rows"):
        embedding_factor(Other(4, 4))
