"""What others ask of a language half in NF4: transformers without edgeq, on one device and two, and vLLM's loader.

What is said of vLLM was read in version 0.33.0 and in vllm-bnb-plugin 0.0.3 (`bitsandbytes_loader.py`, `quantization/
config.py`, `quantization/utils.py`, `models/registry.py`). The last tests run vLLM itself where it is installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from bitsandbytes.functional import QuantState, dequantize_4bit, quantize_4bit
from safetensors.torch import load_file
from vllm_loading import VllmModel
from vlm import FAMILIES, TEXT, in_four_bits, write_vlm

from edgeq.families.modules import read_modules
from edgeq.plan.precision import Precision, Rule
from edgeq.plan.rules import plan_modules
from edgeq.quantize.language.checkpoint import SHARD_BYTES
from edgeq.quantize.language.source import on_meta
from edgeq.quantize.nf4.skip_list import fused_modules
from edgeq.quantize.nf4.write import write_nf4

ALONE = ("llava", "mllama", "idefics3", "paligemma")
"""Families whose language half transformers has as a model of its own."""


def write_half(
    directory: Path, family: str = "llava", *, layers: int | None = None, spared: Sequence[str] = (), **options: Any
) -> Path:
    """A tiny model's language half in NF4, in `directory / "nf4"`; the whole model is beside it.

    Args:
        directory: that exists.
        family: of the model.
        layers: of the language model, if not two.
        spared: patterns of layers that stay FP16.
        options: of `write_nf4`.
    """
    if layers is None:
        write_vlm(directory / "whole", family)
    else:
        config = FAMILIES[family]()
        config.text_config.num_hidden_layers = layers
        torch.manual_seed(0)
        whole = transformers.AutoModelForImageTextToText.from_config(config).to(torch.float16)
        whole.save_pretrained(directory / "whole", save_original_format=False)
    rules = [Rule(name=f"spare-{name}", layer=name, precision=Precision.FP16, reason="test") for name in spared]
    plan = plan_modules(read_modules(directory / "whole"), rules=rules)
    write_nf4(directory / "whole", plan, directory / "nf4", **options)
    return directory / "nf4"


def stored(directory: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in directory.glob("*.safetensors"):
        found |= load_file(path)
    return found


def config_of(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "config.json").read_text())
    return found


# transformers


WITHOUT_EDGEQ = """
import json, sys
sys.modules["edgeq"] = None
import torch, transformers
where = json.loads(sys.argv[2])
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], device_map=where)
print(model.generate(torch.tensor([[1, 5, 9, 30]]), max_new_tokens=6, do_sample=False).tolist())
"""


def test_transformers_loads_it_without_edgeq_module_by_module(tmp_path: Path) -> None:
    half = write_half(tmp_path)
    places = ("model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm", "model.rotary_emb", "lm_head")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EDGEQ, str(half), json.dumps(dict.fromkeys(places, "cpu"))],
        capture_output=True,
        text=True,
        check=True,
    )
    whole = in_four_bits(tmp_path / "whole")
    expected = whole.generate(input_ids=torch.tensor([[1, 5, 9, 30]]), max_new_tokens=6, do_sample=False)
    assert done.stdout.strip() == str(expected.tolist())


def prepared(half: Path) -> tuple[Any, Any]:
    """The model on the meta device as `from_pretrained` prepares it, and its quantizer."""
    from transformers.quantizers.auto import AutoHfQuantizer

    config = transformers.AutoConfig.from_pretrained(half)
    model: Any = on_meta(config)
    model.to(torch.float16).tie_weights()
    quantizer = AutoHfQuantizer.from_config(config.quantization_config, pre_quantized=True)
    quantizer.preprocess_model(model=model, device_map=None)
    return model, quantizer


@pytest.mark.parametrize("family", ALONE)
def test_two_gpus_share_whole_layers(tmp_path: Path, family: str) -> None:
    """The rule behind device_map="auto", with two GPUs that are said to be there."""
    from transformers.integrations.accelerate import compute_module_sizes, infer_auto_device_map

    model, quantizer = prepared(write_half(tmp_path, family, layers=8))
    all_bytes = compute_module_sizes(model, quantizer)[0][""]
    where = infer_auto_device_map(
        model,
        max_memory={0: int(0.6 * all_bytes), 1: int(0.9 * all_bytes)},
        no_split_module_classes=model._no_split_modules,
        hf_quantizer=quantizer,
        clean_result=False,
    )
    assert set(where.values()) == {0, 1}
    layers = {name: device for name, device in where.items() if name.startswith("model.layers.")}
    assert list(layers) == [f"model.layers.{number}" for number in range(8)]
    assert list(layers.values()) == sorted(layers.values())


@pytest.mark.parametrize("family", ALONE)
def test_max_memory_must_leave_room_for_the_magnitudes(tmp_path: Path, family: str) -> None:
    """transformers counts half a byte for a 4-bit number, and nothing for what else it needs."""
    from transformers.integrations.accelerate import compute_module_sizes

    half = write_half(tmp_path, family)
    model, quantizer = prepared(half)
    tensors = stored(half)
    beside = [name for name in tensors if ".weight." in name]
    buffers = sum(buffer.nbytes for buffer in model.buffers())
    counted = sum(tensor.nbytes for name, tensor in tensors.items() if name not in beside)
    assert len(beside) > 50
    assert compute_module_sizes(model, quantizer)[0][""] == counted + buffers


def test_a_file_is_no_longer_than_asked_header_and_all(tmp_path: Path) -> None:
    assert SHARD_BYTES <= 2_000_000_000
    limit = 30_000
    half = write_half(tmp_path, layers=8, shard_bytes=limit)
    sizes = {path.name: path.stat().st_size for path in half.glob("*.safetensors")}
    assert len(sizes) > 4
    assert max(sizes.values()) <= limit
    index = json.loads((half / "model.safetensors.index.json").read_text())["weight_map"]
    assert {name: path.name for path in half.glob("*.safetensors") for name in load_file(path)} == index


LARGE = {
    **TEXT,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
}

IN_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
import torch
from edgeq.families.modules import read_modules
from edgeq.plan.rules import plan_modules
from edgeq.quantize.nf4.write import write_nf4

def make(source):
    write_nf4(source, plan_modules(read_modules(source)), source.parent / f"{source.name}.nf4")

torch.set_num_threads(1)
large, small, room = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
make(small)  # whatever is imported on the way is there now
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
limit = int(status["VmData"].split()[0]) * 1024 + room
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    torch.zeros(2 * room, dtype=torch.uint8)  # all weights; a thread that ends may leave its stack to others
    print("no limit")
except RuntimeError:
    make(large)
"""


def write_zeros(directory: Path, config: Any) -> int:
    """A checkpoint of zeros, a file for each layer, with holes that take no room on the disk; its length."""
    with torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(config)
    config.save_pretrained(directory)
    parts: dict[str, list[tuple[str, torch.Tensor]]] = {}
    for name, weight in model.named_parameters():
        numbers = [part for part in name.split(".") if part.isdigit()]
        parts.setdefault(f"model-{'-'.join(numbers) or 'rest'}.safetensors", []).append((name, weight))
    length = sum(write_hole(directory / file, weights) for file, weights in parts.items())
    index = {name: file for file, weights in parts.items() for name, _ in weights}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return length


def write_hole(file: Path, weights: Sequence[tuple[str, torch.Tensor]]) -> int:
    """A safetensors file of float16 zeros; the length of its numbers."""
    header, place = {}, 0
    for name, weight in weights:
        end = place + 2 * weight.numel()
        header[name] = {"dtype": "F16", "shape": list(weight.shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header).encode()
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + place)
    return place


def test_a_language_half_larger_than_memory(tmp_path: Path) -> None:
    """A process that may hold no more than half of the weights makes the checkpoint."""
    config = FAMILIES["llava"]()
    config.text_config = transformers.LlamaConfig(**LARGE)
    length = write_zeros(tmp_path / "large", config)
    small = write_vlm(tmp_path / "small", "llava")
    done = subprocess.run(
        [sys.executable, "-c", IN_LITTLE_MEMORY, str(tmp_path / "large"), str(small), str(length // 2)],
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "1048576"},  # what is freed is given back at once
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert (tmp_path / "large.nf4" / "model.safetensors").stat().st_size > length // 4


# vLLM, as its code was read

BESIDE = ("absmax", "quant_map", "nested_absmax", "nested_quant_map", "bitsandbytes")
"""A tensor belongs to a 4-bit weight where one of these is in the last part of its name."""

KNOWN = (
    *("GemmaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM", "LlamaForCausalLM", "MistralForCausalLM"),
    *("Qwen2ForCausalLM", "Qwen3ForCausalLM"),
)
"""Architectures of language halves in its registry. MllamaForCausalLM is not, nor any of the Qwen-VL halves."""

READS: dict[str, object] = {
    "quant_method": "bitsandbytes",
    "load_in_8bit": False,
    "load_in_4bit": True,
    "bnb_4bit_quant_storage": "uint8",  # anything else is refused
    "bnb_4bit_quant_type": "nf4",  # what is done depends on the names of the tensors alone
    "bnb_4bit_use_double_quant": True,  # likewise
    "bnb_4bit_compute_dtype": "float16",  # not used: it computes in bfloat16
}
"""Keys of quantization_config that it reads, and what they must be for it to load the checkpoint as it is."""


def parts_of(tensors: dict[str, torch.Tensor], weight: str) -> dict[str, Any]:
    """What vLLM takes for the state of a weight: whatever has the weight's name and a dot anywhere in its own."""
    return {
        name: tensor
        for name, tensor in tensors.items()
        if f"{weight}." in name and any(word in name.split(".")[-1] for word in BESIDE)
    }


@pytest.mark.parametrize("double_quant", [True, False])
def test_vllm_finds_the_state_of_each_weight(tmp_path: Path, double_quant: bool) -> None:
    half = write_half(tmp_path, layers=12, double_quant=double_quant)  # layers 1 and 11 must not be taken for one
    tensors = stored(half)
    weights = [
        name.removesuffix(".quant_state.bitsandbytes__nf4")
        for name in tensors
        if name.endswith(".quant_state.bitsandbytes__nf4")
    ]
    assert len(weights) == 12 * 7
    whole = stored(tmp_path / "whole")
    for weight in weights:
        state = QuantState.from_dict(parts_of(tensors, weight), device=torch.device("cpu"))
        source = whole[weight.replace("model", "model.language_model", 1)]
        packed, expected = quantize_4bit(source, compress_statistics=double_quant, quant_type="nf4")
        assert torch.equal(tensors[weight], packed)
        assert torch.equal(dequantize_4bit(tensors[weight], state), dequantize_4bit(packed, expected))


def test_vllm_takes_no_other_tensor_for_a_part_of_a_weight(tmp_path: Path) -> None:
    tensors = stored(write_half(tmp_path))
    beside = {name for name in tensors if any(word in name.split(".")[-1] for word in BESIDE)}
    assert beside == {name for name in tensors if ".weight." in name}
    assert not [name for name in tensors if name.lower().endswith((".scb", ".weight_format"))]


def test_what_vllm_reads_of_quantization_config(tmp_path: Path) -> None:
    settings = config_of(write_half(tmp_path))["quantization_config"]
    assert {key: settings[key] for key in READS} == READS


@pytest.mark.parametrize("family", ALONE)
def test_which_architectures_vllm_knows(tmp_path: Path, family: str) -> None:
    (architecture,) = config_of(write_half(tmp_path, family))["architectures"]
    assert (architecture in KNOWN) is (family != "mllama")


def test_what_vllm_would_answer_wrongly_says_so_in_its_config(tmp_path: Path) -> None:
    """The Gemma and Gemma 2 of vLLM attend causally whatever the config says; PaliGemma's prompts attend both ways."""
    for family in ("llava", "idefics3", "paligemma"):
        (tmp_path / family).mkdir()
        both_ways = config_of(write_half(tmp_path / family, family)).get("use_bidirectional_attention")
        assert bool(both_ways) is (family == "paligemma")


def skipped_by_vllm(layer: str, skipped: Sequence[str]) -> bool:
    """Its rule: an entry is the layer's full name, the beginning of it up to a dot, or one part of it."""
    parts = layer.split(".")
    beginnings = {".".join(parts[:count]) for count in range(1, len(parts) + 1)}
    return any(entry in parts or entry in beginnings for entry in skipped)


SPARED = ("model.language_model.layers.0.*_proj",)
JOINED = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
"""The linear layers of a decoder layer as vLLM holds them."""


def test_vllm_leaves_out_what_the_plan_leaves_out(tmp_path: Path) -> None:
    half = write_half(tmp_path, spared=SPARED)
    skipped = config_of(half)["quantization_config"]["llm_int8_skip_modules"]
    for layer in JOINED:
        assert skipped_by_vllm(f"model.layers.0.{layer}", skipped)
        assert not skipped_by_vllm(f"model.layers.1.{layer}", skipped)


def test_layers_that_vllm_holds_as_one_are_named_only_together() -> None:
    attention = ["a.q_proj", "a.k_proj", "a.v_proj"]
    assert fused_modules([*attention, "m.gate_proj", "lm_head"]) == ["a.qkv_proj"]
    assert fused_modules(attention[:2]) == []
    assert fused_modules(["b.up_proj", "c.gate_proj", "b.gate_proj"]) == ["b.gate_up_proj"]


# vLLM itself


@pytest.fixture
def in_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], VllmModel]:
    """Loads a checkpoint as vLLM does."""
    pytest.importorskip("vllm_bnb_plugin", reason="vLLM and vllm-bnb-plugin are not installed")
    return lambda path: VllmModel(path, tmp_path, monkeypatch)


PARTS = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


@pytest.mark.parametrize("family", ["llava", "idefics3"])
@pytest.mark.parametrize("double_quant", [True, False])
def test_vllm_holds_the_same_bits(
    tmp_path: Path, in_vllm: Callable[[Path], VllmModel], family: str, double_quant: bool
) -> None:
    half = write_half(tmp_path, family, double_quant=double_quant, shard_bytes=40_000)
    tensors, seen = stored(half), set()
    for name, parts in in_vllm(half).four_bit().items():
        layer = name.split(".")[-2]
        for part, (packed, state) in zip(PARTS.get(layer, (layer,)), parts, strict=True):
            weight = name.replace(layer, part)
            own = QuantState.from_dict(parts_of(tensors, weight), device=torch.device("cpu"))
            ours = dequantize_4bit(tensors[weight], own).float()
            difference = (dequantize_4bit(packed, state).float().cpu() - ours).abs().max()
            assert torch.equal(packed.cpu(), tensors[weight])
            # It rounds the mean of the magnitudes, which double quantization keeps apart, to the model's 16 bits.
            assert difference <= (2**-10 * ours.abs().max() if double_quant else 0)
            seen.add(weight)
    assert seen == {name.rpartition(".quant_state.")[0] for name in tensors if ".quant_state." in name}


@pytest.mark.parametrize("spared", [(), SPARED])
def test_vllm_computes_the_same(tmp_path: Path, in_vllm: Callable[[Path], VllmModel], spared: tuple[str, ...]) -> None:
    half = write_half(tmp_path, spared=spared)
    tokens = torch.arange(3, 27)
    with torch.inference_mode():
        model = transformers.AutoModelForCausalLM.from_pretrained(half)
        embeddings = model.get_input_embeddings()(tokens)
        expected = model(tokens[None]).logits[0].float()
    loaded = in_vllm(half)
    device = next(loaded.model.parameters()).device
    found = loaded.logits(tokens.to(device)).cpu()[:, : expected.shape[1]]
    assert torch.nn.functional.cosine_similarity(found, expected).min() > 0.998
    assert torch.equal(loaded.logits(tokens.to(device), embeddings.to(device)).cpu()[:, : expected.shape[1]], found)
