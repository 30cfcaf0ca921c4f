"""NF4 checkpoints made without a model, bit for bit against those that transformers and bitsandbytes make with one."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
import transformers
from bitsandbytes.functional import quantize_4bit
from safetensors.torch import load_file, save_file
from vlm import PREFIXES, TEXT, write_vlm

from edgeq.errors import EdgeqError, ModelError, OutputError, QuantizeError
from edgeq.families.modules import read_modules
from edgeq.plan.precision import Decision, Precision, PrecisionPlan
from edgeq.plan.rules import plan_modules
from edgeq.quantize.language.source import language_plan, open_language
from edgeq.quantize.nf4 import tensor as nf4_tensor
from edgeq.quantize.nf4.skip_list import verify_modules
from edgeq.quantize.nf4.verify import verify_nf4
from edgeq.quantize.nf4.write import write_nf4

FAMILIES = ("llava", "mllama", "idefics3", "paligemma")
LINEARS = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128)
CLASSES = {"mllama": transformers.MllamaForCausalLM}


def loader(family: str) -> Any:
    return CLASSES.get(family, transformers.AutoModelForCausalLM)


def planned(directory: Path) -> PrecisionPlan:
    return plan_modules(read_modules(directory))


def stored(directory: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in directory.glob("*.safetensors"):
        found |= load_file(path)
    return found


def equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    """Whether two checkpoints hold the same names, types, shapes and bits."""
    same = ours.keys() == theirs.keys() and all(ours[name].dtype == theirs[name].dtype for name in ours)
    return same and all(torch.equal(ours[name], theirs[name]) for name in ours)


def by_transformers(directory: Path, family: str, skip: list[str], target: Path, *, double_quant: bool = True) -> None:
    """The same language model, loaded and quantized by transformers, and saved by it."""
    config = transformers.AutoConfig.from_pretrained(directory).get_text_config()
    prefix = PREFIXES[family].replace(".", r"\.")
    mapping = {r"^language_model\.model\.": "model.", r"^language_model\.lm_head": "lm_head", rf"^{prefix}\.": "model."}
    quantization = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=double_quant,
        bnb_4bit_compute_dtype=torch.float16,
        llm_int8_skip_modules=skip,
    )
    model = loader(family).from_pretrained(
        directory, config=config, key_mapping=mapping, quantization_config=quantization, dtype=torch.float16
    )
    model.save_pretrained(target, save_original_format=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_bit_equal_to_what_transformers_saves(tmp_path: Path, family: str) -> None:
    source = write_vlm(tmp_path / "whole", family)
    write_nf4(source, planned(source), tmp_path / "ours")
    skip = json.loads((tmp_path / "ours" / "config.json").read_text())["quantization_config"]["llm_int8_skip_modules"]
    assert "lm_head" in skip
    by_transformers(source, family, skip, tmp_path / "theirs")
    assert equal(stored(tmp_path / "ours"), stored(tmp_path / "theirs"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_plain_load_gives_four_bit_layers(tmp_path: Path, family: str) -> None:
    source = write_vlm(tmp_path / "whole", family)
    plan = planned(source)
    share = write_nf4(source, plan, tmp_path / "ours")
    model = loader(family).from_pretrained(tmp_path / "ours")
    own = language_plan(plan, open_language(source))
    assert verify_modules(model, own) == share
    assert model.dtype == torch.float16
    weights = stored(source)
    for name in share.modules:
        module, whole = model.get_submodule(name), name.replace("model", PREFIXES[family], 1)
        expected, state = quantize_4bit(weights[f"{whole}.weight"], compress_statistics=True, quant_type="nf4")
        assert isinstance(module, bnb.nn.Linear4bit)
        assert torch.equal(module.weight.data, expected)
        assert module.weight.quant_state.as_dict().keys() == state.as_dict().keys()
        assert module.weight.quant_state == state


def test_cross_attention_stays_fp16(tmp_path: Path) -> None:
    source = write_vlm(tmp_path / "whole", "mllama")
    share = write_nf4(source, planned(source), tmp_path / "ours")
    assert not [name for name in share.modules if "cross_attn" in name]
    # Two self-attention layers whole, and the feed-forward part of the cross-attention layer between them.
    assert share.parameters == LINEARS + 3 * 64 * 128


def test_without_double_quantization(tmp_path: Path) -> None:
    source = write_vlm(tmp_path / "whole", "llava")
    write_nf4(source, planned(source), tmp_path / "ours", double_quant=False)
    by_transformers(source, "llava", ["lm_head"], tmp_path / "theirs", double_quant=False)
    assert equal(stored(tmp_path / "ours"), stored(tmp_path / "theirs"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_hub_names_and_new_names_give_the_same(tmp_path: Path, dtype: torch.dtype) -> None:
    new = write_vlm(tmp_path / "new", "llava", dtype)
    hub = write_vlm(tmp_path / "hub", "llava", dtype, hub=True)
    assert stored(new).keys() != stored(hub).keys()
    for source in (new, hub):
        write_nf4(source, planned(source), tmp_path / f"{source.name}.nf4")
    assert equal(stored(tmp_path / "new.nf4"), stored(tmp_path / "hub.nf4"))
    config = json.loads((tmp_path / "new.nf4" / "config.json").read_text())
    assert config["dtype"] == ("bfloat16" if dtype is torch.bfloat16 else "float16")


def test_float32_is_rounded_as_transformers_rounds_it(tmp_path: Path) -> None:
    source = write_vlm(tmp_path / "whole", "llava", torch.float32)
    write_nf4(source, planned(source), tmp_path / "ours")
    by_transformers(source, "llava", ["lm_head"], tmp_path / "theirs")
    assert equal(stored(tmp_path / "ours"), stored(tmp_path / "theirs"))


def test_shards_in_and_out_change_nothing(tmp_path: Path) -> None:
    whole = write_vlm(tmp_path / "whole", "llava")
    parts = write_vlm(tmp_path / "parts", "llava", shard="50KB")
    assert len(list(parts.glob("*.safetensors"))) > 3
    write_nf4(whole, planned(whole), tmp_path / "one")
    write_nf4(parts, planned(parts), tmp_path / "many", shard_bytes=20_000)
    assert equal(stored(tmp_path / "one"), stored(tmp_path / "many"))
    files = sorted((tmp_path / "many").glob("*.safetensors"))
    assert [path.name for path in files] == [
        f"model-{n + 1:05}-of-{len(files):05}.safetensors" for n in range(len(files))
    ]
    # Five norms of 64 are the least beside embedding, head (96 x 64 x 2 bytes each) and 14 linears: over 80 kB in all.
    assert len(files) > 3
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    assert {name: path.name for path in files for name in load_file(path)} == index["weight_map"]
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "many")
    verify_modules(model, language_plan(planned(whole), open_language(whole)))


def test_a_plain_language_model(tmp_path: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**TEXT, tie_word_embeddings=True))
    model.to(torch.float16).save_pretrained(tmp_path / "plain")
    plan = by_class(model)
    share = write_nf4(tmp_path / "plain", plan, tmp_path / "ours")
    assert share.parameters == LINEARS
    made = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    verify_modules(made, plan)
    assert made.lm_head.weight is made.model.embed_tokens.weight
    assert torch.equal(made.lm_head.weight, model.lm_head.weight)


def by_class(model: Any) -> PrecisionPlan:
    """NF4 for linear layers inside the decoder, FP16 for the rest."""
    leaves = [(name, type(module).__name__) for name, module in model.named_modules() if not list(module.children())]
    return PrecisionPlan(
        decisions=tuple(
            decision(name, op, Precision.NF4 if op == "Linear" and "layers" in name else Precision.FP16)
            for name, op in leaves
            if name
        )
    )


def decision(layer: str, op: str, precision: Precision) -> Decision:
    return Decision(layer=layer, op=op, precision=precision, rule="test", reason="test")


@pytest.mark.parametrize("double_quant", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_pieces_change_no_bit(monkeypatch: pytest.MonkeyPatch, double_quant: bool, dtype: torch.dtype) -> None:
    monkeypatch.setattr(nf4_tensor, "_PIECE", 64 * 7)
    weight = torch.randn(100, 65, generator=torch.Generator().manual_seed(1)).to(dtype)  # the last block is not full
    ours = nf4_tensor.nf4_tensors("w", weight, double_quant=double_quant)
    packed, state = quantize_4bit(weight, blocksize=64, compress_statistics=double_quant, quant_type="nf4")
    theirs = {"w": packed} | {f"w.{key}": value for key, value in state.as_dict(packed=True).items()}
    assert equal(ours, theirs)
    slots = {slot.name: slot for slot in nf4_tensor.nf4_slots("w", (100, 65), double_quant=double_quant)}
    assert slots.keys() == ours.keys()
    assert all(slots[name].shape in (None, tuple(tensor.shape)) for name, tensor in ours.items())


def test_what_lies_beside_the_weights(tmp_path: Path) -> None:
    source = write_vlm(tmp_path / "whole", "llava")
    (source / "model.py").write_text("raise RuntimeError")
    write_nf4(source, planned(source), tmp_path / "ours")
    names = sorted(path.name for path in (tmp_path / "ours").iterdir())
    assert names == ["config.json", "generation_config.json", "model.safetensors", "tokenizer_config.json"]
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert (config["architectures"], config["model_type"]) == (["LlamaForCausalLM"], "llama")
    assert "vision_config" not in config


def test_progress_ends_at_the_language_models_size(tmp_path: Path) -> None:
    source = write_vlm(tmp_path / "whole", "llava")
    calls: list[tuple[str, int, int]] = []
    write_nf4(source, planned(source), tmp_path / "ours", progress=lambda *call: calls.append(call))
    size = LINEARS + 2 * 96 * 64 + 5 * 64
    assert calls[-1] == ("nf4", size, size)
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)


def lose_shard(source: Path) -> None:
    sorted(source.glob("*.safetensors"))[0].unlink()


def lie_about_offsets(source: Path) -> None:
    path = sorted(source.glob("*.safetensors"))[0]
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    first, second = list(header)[1:3]
    header[first]["data_offsets"] = header[second]["data_offsets"]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def lose_tensor(source: Path) -> None:
    for path in source.glob("*.safetensors"):
        tensors = load_file(path)
        tensors.pop("lm_head.weight", None)
        save_file(tensors, path, metadata={"format": "pt"})


def change_width(source: Path) -> None:
    config = json.loads((source / "config.json").read_text())
    config["text_config"]["vocab_size"] = 128
    (source / "config.json").write_text(json.dumps(config))


def lose_config(source: Path) -> None:
    (source / "config.json").unlink()


def be_a_classifier(source: Path) -> None:
    (source / "config.json").write_text(
        json.dumps({"model_type": "vit", "architectures": ["ViTForImageClassification"]})
    )


def be_nothing_known(source: Path) -> None:
    (source / "config.json").write_text(json.dumps({"model_type": "no_such_model"}))


@pytest.mark.parametrize(
    "spoil",
    [lose_shard, lie_about_offsets, lose_tensor, change_width, lose_config, be_a_classifier, be_nothing_known],
)
def test_bad_sources_are_model_errors(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    source = write_vlm(tmp_path / "whole", "llava", shard="50KB")
    plan = planned(source)
    spoil(source)
    with pytest.raises(ModelError):
        write_nf4(source, plan, tmp_path / "ours")
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


def test_a_language_model_that_cannot_stand_alone_is_named(tmp_path: Path) -> None:
    vision = {"depth": 1, "hidden_size": 32, "out_hidden_size": 64, "num_heads": 2, "intermediate_size": 64}
    config = transformers.Glm4vConfig(vision_config={**vision, "image_size": 28, "patch_size": 14}, text_config=TEXT)
    source = tmp_path / "whole"
    transformers.AutoModelForImageTextToText.from_config(config).half().save_pretrained(source)
    with pytest.raises(ModelError, match="cannot load the language model glm4v_text alone"):
        write_nf4(source, planned(source), tmp_path / "ours")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"model.language_model.embed_tokens": Precision.NF4}, "model.embed_tokens: nf4, which there is for"),
        ({"model.language_model.layers.0.mlp.up_proj": Precision.INT8}, "model.layers.0.mlp.up_proj: int8"),
        ({"model.language_model.norm": Precision.FP32}, "model.norm: fp32"),
        ({"lm_head": None}, "lm_head: no decision"),
    ],
)
def test_plans_that_a_checkpoint_cannot_be(tmp_path: Path, change: dict[str, Precision | None], fault: str) -> None:
    source = write_vlm(tmp_path / "whole", "llava")
    decisions = {made.layer: made for made in planned(source).decisions}
    for layer, precision in change.items():
        made = decisions.pop(layer)
        if precision is not None:
            decisions[layer] = made.model_copy(update={"precision": precision})
    with pytest.raises(QuantizeError) as caught:
        write_nf4(source, PrecisionPlan(decisions=tuple(decisions.values())), tmp_path / "ours")
    assert [cause.startswith(fault) for cause in caught.value.causes] == [True]


def test_a_tied_head_cannot_be_nf4(tmp_path: Path) -> None:
    source = write_vlm(tmp_path / "whole", "paligemma")
    decisions = [
        made.model_copy(update={"precision": Precision.NF4}) if made.layer == "lm_head" else made
        for made in planned(source).decisions
    ]
    with pytest.raises(QuantizeError, match="a tied head"):
        write_nf4(source, PrecisionPlan(decisions=tuple(decisions)), tmp_path / "ours")


def test_an_untied_head_can_be_nf4(tmp_path: Path) -> None:
    source = write_vlm(tmp_path / "whole", "llava")
    decisions = [
        made.model_copy(update={"precision": Precision.NF4}) if made.layer == "lm_head" else made
        for made in planned(source).decisions
    ]
    share = write_nf4(source, PrecisionPlan(decisions=tuple(decisions)), tmp_path / "ours")
    assert "lm_head" in share.modules
    by_transformers(source, "llava", [], tmp_path / "theirs")
    assert equal(stored(tmp_path / "ours"), stored(tmp_path / "theirs"))


@pytest.mark.parametrize("value", [7e4, float("nan"), float("inf")])
def test_numbers_that_float16_does_not_hold_name_their_tensor(tmp_path: Path, value: float) -> None:
    source = write_vlm(tmp_path / "whole", "llava", torch.float32)
    tensors = load_file(source / "model.safetensors")
    tensors["model.language_model.norm.weight"][3] = value
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(QuantizeError, match=r"model\.language_model\.norm\.weight holds"):
        write_nf4(source, planned(source), tmp_path / "ours")
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(QuantizeError, match="bitsandbytes, which is not installed"):
        write_nf4(tmp_path, PrecisionPlan(decisions=()), tmp_path / "ours")


def test_nothing_is_written_over(tmp_path: Path) -> None:
    source = write_vlm(tmp_path / "whole", "llava")
    (tmp_path / "ours").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        write_nf4(source, planned(source), tmp_path / "ours")


def _short_list(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    config["quantization_config"]["llm_int8_skip_modules"] = []
    (directory / "config.json").write_text(json.dumps(config))


def _no_quantization(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    del config["quantization_config"]
    (directory / "config.json").write_text(json.dumps(config))


def _edit(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        tensors = load_file(directory / "model.safetensors")
        change(tensors)
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})

    return edit


Q = "model.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (_short_list, "lm_head: 4-bit, not planned nf4"),
        (_no_quantization, "has no quantization_config"),
        (_edit(lambda tensors: tensors.pop(f"{Q}.nested_absmax")), f"{Q}.nested_absmax: not stored"),
        (_edit(lambda tensors: tensors.update({Q: torch.zeros(64, 64, dtype=torch.float16)})), f"{Q}: stored as F16"),
        (
            _edit(lambda tensors: tensors.update({"lm_head.weight": torch.zeros(96, 64)})),
            "lm_head.weight: stored as F32",
        ),
        (_edit(lambda tensors: tensors.update(extra=torch.zeros(1))), "extra: stored, and nothing needs it"),
    ],
)
def test_a_spoilt_checkpoint_is_found(tmp_path: Path, spoil: Callable[[Path], None], fault: str) -> None:
    source = write_vlm(tmp_path / "whole", "llava")
    plan = planned(source)
    write_nf4(source, plan, tmp_path / "ours")
    own = language_plan(plan, open_language(source))
    verify_nf4(tmp_path / "ours", own)
    spoil(tmp_path / "ours")
    with pytest.raises(EdgeqError) as caught:
        verify_nf4(tmp_path / "ours", own)
    assert fault in str(caught.value)
