"""Components of vision-language models from their configs, against published counts and against transformers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers
from vlm import FAMILIES, tiny_vlm, write_vlm

from edgeq.errors import ModelError
from edgeq.families.modules import read_modules, read_vlm
from edgeq.families.structure import Module

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "vlm-configs"
EXPECTED: dict[str, dict[str, Any]] = json.loads((GOLDEN / "expected.json").read_text())

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = {**SMALL, "num_key_value_heads": 1, "vocab_size": 100, "head_dim": 16, "bos_token_id": 1, "eos_token_id": 2}
EYES = {**SMALL, "image_size": 56, "patch_size": 14}


def others() -> dict[str, Any]:
    """Configs of the families that `vlm.py` does not have."""
    siglip = {"model_type": "siglip_vision_model", **EYES}
    qwen2 = {"model_type": "qwen2", **TEXT}
    intern = {"model_type": "internvl_vision", **EYES, "image_size": [56, 56], "patch_size": [14, 14]}
    qwen3 = {"depth": 2, "hidden_size": 32, "num_heads": 2, "out_hidden_size": 32, "deepstack_visual_indexes": [0]}
    return {
        "llava_onevision": transformers.LlavaOnevisionConfig(vision_config=siglip, text_config=qwen2),
        "gemma3": transformers.Gemma3Config(
            vision_config=siglip, text_config={"model_type": "gemma3_text", **TEXT}, mm_tokens_per_image=4
        ),
        "internvl": transformers.InternVLConfig(vision_config=intern, text_config=qwen2),
        "qwen2_5_vl": transformers.Qwen2_5_VLConfig(
            vision_config={"depth": 2, "hidden_size": 32, "num_heads": 2, "out_hidden_size": 32}, text_config=TEXT
        ),
        "qwen3_vl": transformers.Qwen3VLConfig(vision_config=qwen3, text_config=TEXT),
        "smolvlm": transformers.SmolVLMConfig(
            vision_config={"model_type": "smolvlm_vision", **EYES}, text_config={"model_type": "llama", **TEXT}
        ),
    }


def broken(directory: Path, **changed: Any) -> Path:
    """A copy of the 7B's config with keys replaced; None removes one."""
    config = json.loads((GOLDEN / "llava-1.5-7b" / "config.json").read_text()) | changed
    directory.mkdir(exist_ok=True)
    kept = {key: value for key, value in config.items() if value is not None}
    (directory / "config.json").write_text(json.dumps(kept))
    return directory


@pytest.mark.parametrize("name", EXPECTED)
def test_the_counts_of_published_models(name: str) -> None:
    expected, model = EXPECTED[name], read_vlm(GOLDEN / name)
    found = {part: model.component(part).parameters for part in ("vision", "connector", "head")}
    assert found == {part: expected[part] for part in found}
    assert model.parameters == expected["total"]
    assert not model.tied_head

    language = [*model.component("language").layers, *model.component("cross-attention").layers]
    embedding = sum(layer.parameters for layer in language if layer.kind == "embedding")
    linear = sum(
        layer.parameters - layer.bias for layer in language if layer.op == "Linear" and isinstance(layer, Module)
    )
    assert (embedding, linear) == (expected["embed"], expected["lm_linear"])
    rest = sum(layer.parameters for layer in language) - embedding - linear
    assert rest == expected["lm_other"]


def test_cross_attention_is_a_component_of_its_own() -> None:
    """Eight layers: q and o are 4096 x 4096, k and v 1024 x 4096 (8 heads of 128), a norm of 128 each for q and k."""
    model = read_vlm(GOLDEN / "llama-3.2-11b-vision")
    crossing = model.component("cross-attention")
    assert crossing.parameters == 8 * (2 * 4096 * 4096 + 2 * 1024 * 4096 + 2 * 128)
    assert all(".cross_attn." in layer.name for layer in crossing.layers)
    gates = [layer for layer in model.component("language").layers if layer.kind == "parameter"]
    assert [layer.parameters for layer in gates] == [1] * 16


def test_a_loose_parameter_joins_the_connector() -> None:
    layers = read_vlm(GOLDEN / "llava-1.6-mistral-7b").component("connector").layers
    assert next((layer.name, layer.kind, layer.parameters) for layer in layers) == (
        "model.image_newline",
        "parameter",
        4096,
    )


def test_what_a_layer_is() -> None:
    kinds = {layer.name: layer.kind for part in read_modules(GOLDEN / "qwen2.5-vl-7b") for layer in part.layers}
    block, vision_encoder = "model.language_model.layers.0", "model.visual.blocks.0"
    assert kinds[f"{block}.self_attn.q_proj"] == kinds[f"{block}.self_attn.k_proj"] == "attention query/key"
    assert kinds[f"{block}.self_attn.v_proj"] == kinds[f"{block}.self_attn.o_proj"] == "attention value/output"
    assert kinds[f"{vision_encoder}.attn.qkv"] == "attention query/key", (
        "queries, keys and values in one: as its worst part"
    )
    assert kinds[f"{block}.mlp.down_proj"] == "feed-forward"
    assert kinds[f"{block}.input_layernorm"] == "normalization"
    assert kinds["model.language_model.embed_tokens"] == "embedding"
    assert kinds["model.visual.patch_embed.proj"] == "convolution"
    assert kinds["lm_head"] == "linear"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_is_counted_once(tmp_path: Path, family: str) -> None:
    model = read_vlm(write_vlm(tmp_path / family, family))
    real = tiny_vlm(family)
    names = [layer.name for part in model.components for layer in part.layers]
    assert len(names) == len(set(names))
    assert model.parameters == sum(parameter.numel() for parameter in real.parameters())
    assert sum(part.bytes for part in model.components) == 2 * model.parameters, "stored as FP16"
    assert model.tied_head == (family == "paligemma")
    assert (model.component("head").parameters == 0) == model.tied_head
    assert {"vision", "connector", "language", "head"} <= {part.name for part in model.components}


@pytest.mark.parametrize("family", others())
def test_the_other_families_are_found_by_structure(tmp_path: Path, family: str) -> None:
    config = others()[family]
    config.save_pretrained(tmp_path)
    model = read_vlm(tmp_path)
    assert model.model_type == family
    assert all(model.component(part).parameters for part in ("vision", "connector", "language"))
    assert all(layer.name.startswith(model.parts.language) for layer in model.component("language").layers)
    assert all(layer.name.startswith(model.parts.vision) for layer in model.component("vision").layers)


@pytest.mark.parametrize("family", FAMILIES)
def test_names_of_the_hub_and_new_names_are_both_known(tmp_path: Path, family: str) -> None:
    new = read_vlm(write_vlm(tmp_path / "new", family, shard="100KB"))
    old = read_vlm(write_vlm(tmp_path / "old", family, shard="100KB", hub=True))
    assert old.components == new.components
    assert family == "idefics3" or old.stored.keys() != new.stored.keys(), "Idefics3 never changed its names"


def test_a_tied_head_need_not_be_stored(tmp_path: Path) -> None:
    model = read_vlm(write_vlm(tmp_path / "m", "paligemma"))
    assert not any("lm_head" in name for name in model.stored)


def test_another_models_config_is_noticed(tmp_path: Path) -> None:
    directory = write_vlm(tmp_path / "m", "llava")
    config = json.loads((directory / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 160
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"stored as \[.*128.*\], the config makes it \[.*160"):
        read_vlm(directory)


def test_a_missing_and_a_surplus_layer_are_noticed(tmp_path: Path) -> None:
    directory = write_vlm(tmp_path / "m", "llava")
    config = json.loads((directory / "config.json").read_text())
    for layers, message in ((3, "parameters are not stored"), (1, "which LlavaForConditionalGeneration does not have")):
        config["text_config"] |= {"num_hidden_layers": layers, "layer_types": None}
        (directory / "config.json").write_text(json.dumps(config))
        with pytest.raises(ModelError, match=message):
            read_vlm(directory)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    directory = write_vlm(tmp_path / "m", "llava", shard="100KB")
    shards = sorted(directory.glob("*.safetensors"))
    assert len(shards) > 1
    shards[0].unlink()
    with pytest.raises(ModelError, match=shards[0].name):
        read_vlm(directory)


def test_a_model_that_sees_nothing(tmp_path: Path) -> None:
    transformers.LlamaConfig(**TEXT).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="not a vision-language model"):
        read_vlm(tmp_path)


def test_a_config_without_a_vision_part(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no vision part"):
        read_vlm(broken(tmp_path, vision_config=None))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model_type": None}, "has no model_type"),
        ({"model_type": "no_such_model"}, "cannot build a model"),
        ({"text_config": {"model_type": "llama", "num_hidden_layers": 10**9}}, "num_hidden_layers is 1,000,000,000"),
        ({"text_config": {"model_type": "llama", "hidden_size": -4}}, "cannot build a model"),
        ({"text_config": {"model_type": "llama", "hidden_size": 10**12}}, "cannot build a model"),
        ({"text_config": "llama"}, "cannot build a model"),
    ],
)
def test_a_damaged_config(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read_vlm(broken(tmp_path, **changed))


def test_no_such_directory(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a directory"):
        read_vlm(tmp_path / "nothing" / "here")


def test_a_hub_id_offline_says_so(tmp_path: Path) -> None:
    code = (
        "from edgeq.families.modules import read_vlm\n"
        "from edgeq.errors import ModelError\n"
        "try:\n    read_vlm('nobody/nothing')\n"
        "except ModelError as error:\n    print(error)\n"
    )
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert "could not be read from Hugging Face" in done.stdout
    assert "HF_HUB_OFFLINE is set" in done.stdout


def test_ninety_billion_parameters_take_no_memory(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "llama-3.2-90b-vision" / "config.json", tmp_path)
    code = (  # not ru_maxrss, which begins with the peak of the process that started this one
        "import sys\n"
        "from pathlib import Path\n"
        "from edgeq.families.modules import read_vlm\n"
        "parameters = read_vlm(sys.argv[1]).parameters\n"
        "status = dict(line.split(':') for line in Path('/proc/self/status').read_text().splitlines())\n"
        "print(parameters, status['VmHWM'].split()[0])\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    parameters, kibibytes = map(int, done.stdout.split())
    assert parameters == EXPECTED["llama-3.2-90b-vision"]["total"]
    assert kibibytes * 1024 < 1_000_000_000
