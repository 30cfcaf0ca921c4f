"""`edgeq handover` for runtimes of whole checkpoints: every tensor under its name, and what cannot be is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import transformers
from command import Edgeq, assert_refused
from packed_bundles import dequantized, list_files, pack_bundle
from safetensors.torch import load_file, save_file
from vlm import write_vlm
from whole_vlms import write_whole_vlm

from edgeq.handover.write import HandedOver
from edgeq.plan.precision import Precision

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "bundles-0.1.0" / "vlm"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, tuple[Path, Path]]:
    """Family -> a model and its INT4 bundle. Its inputs are 64 and 128 wide, so that groups are of both sizes."""
    found = {}
    for family in ("llava", "qwen2_5_vl", "mllama"):
        place = tmp_path_factory.mktemp(family)
        model = write_whole_vlm(place / "model", family)
        found[family] = (model, pack_bundle(model, place / "bundle"))
    return found


@pytest.fixture(scope="module")
def eight(models: Mapping[str, tuple[Path, Path]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The LLaVA in INT8."""
    return pack_bundle(models["llava"][0], tmp_path_factory.mktemp("eight") / "bundle", Precision.INT8)


def tensors(directory: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in directory.glob("*.safetensors"):
        found |= load_file(file)
    return found


def alone(name: str) -> str:
    """The name that a LLaVA's stored tensor has in the language model alone."""
    return name.removeprefix("language_model.")


def test_every_tensor_is_the_models_or_the_bundles(
    edgeq: Edgeq, tmp_path: Path, models: Mapping[str, tuple[Path, Path]]
) -> None:
    model, bundle = models["llava"]
    done = edgeq("handover", bundle, "--for", "transformers", "--model", model, "-o", tmp_path / "out", "--json")
    assert done.status == 0, done.err
    assert "canaries and figures do not speak of" in done.err.replace("\n", " ")
    made = HandedOver.model_validate_json(done.out)
    assert set(made.files) == {file.name for file in (tmp_path / "out").iterdir()}
    assert {"tokenizer.json", "preprocessor_config.json", "chat_template.jinja", "config.json"} <= set(made.files)
    source, half, whole = tensors(model), tensors(bundle / "language"), tensors(tmp_path / "out")
    packed = {name.removesuffix("_packed") for name in half if name.endswith(".weight_packed")}
    assert len(packed) == 21
    for name, tensor in source.items():
        if alone(name) in packed:
            for part in ("packed", "scale", "shape"):
                assert torch.equal(whole.pop(f"{name}_{part}"), half[f"{alone(name)}_{part}"])
        else:
            assert torch.equal(whole.pop(name), half.get(alone(name), tensor))
    assert not whole


def test_names_are_those_of_the_models_files(edgeq: Edgeq, tmp_path: Path) -> None:
    """Both as transformers 5 builds the model and as checkpoints of the hub have them, in several files."""
    for hub in (False, True):
        place = tmp_path / str(hub)
        model = write_vlm(place / "model", "llava", shard="60KB", hub=hub)
        assert (model / "model.safetensors.index.json").exists()
        bundle = pack_bundle(model, place / "bundle")
        done = edgeq("handover", bundle, "--for", "transformers", "--model", model, "-o", place / "out")
        assert done.status == 0, done.err
        kept = {name.replace("weight_packed", "weight") for name in tensors(place / "out")}
        assert {name for name in kept if not name.endswith(("_scale", "_shape"))} == tensors(model).keys()


def test_float32_becomes_the_type_of_the_language_half(edgeq: Edgeq, tmp_path: Path) -> None:
    model = write_vlm(tmp_path / "model", "llava", torch.float32)
    config = json.loads((model / "config.json").read_text())
    assert config["dtype"] == "float32"
    bundle = pack_bundle(model, tmp_path / "bundle")
    done = edgeq("handover", bundle, "--for", "vllm", "--model", model, "-o", tmp_path / "out")
    assert done.status == 0, done.err
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float16"
    assert {tensor.dtype for tensor in tensors(tmp_path / "out").values()} == {torch.float16, torch.int32, torch.int64}


@pytest.mark.parametrize("precision", ["INT4", "INT8"])
def test_transformers_computes_with_the_weights_that_edgeq_means(
    edgeq: Edgeq, tmp_path: Path, models: Mapping[str, tuple[Path, Path]], eight: Path, precision: str
) -> None:
    """Its whole model, vision tower and all; its own dequantized weights give the same logits to the last bit."""
    pytest.importorskip("compressed_tensors", reason="pip install compressed-tensors")
    model, four = models["llava"]
    bundle, bits = (four, 4) if precision == "INT4" else (eight, 8)
    assert edgeq("handover", bundle, "--for", "transformers", "--model", model, "-o", tmp_path / "out").status == 0
    kind = transformers.AutoModelForImageTextToText
    loaded = kind.from_pretrained(tmp_path / "out", dtype=torch.float16).eval()
    expected = kind.from_pretrained(model, dtype=torch.float16).eval()
    half = tensors(bundle / "language")
    for name in [name.removesuffix(".weight_packed") for name in half if name.endswith(".weight_packed")]:
        weight = expected.get_parameter(f"{name.replace('model.', 'model.language_model.', 1)}.weight")
        weight.data.copy_(dequantized(half[f"{name}.weight_packed"], half[f"{name}.weight_scale"], bits))
    draw = torch.Generator().manual_seed(0)
    size = expected.config.vision_config.image_size
    image = torch.rand(1, 3, size, size, generator=draw).half()
    ids = torch.tensor([[1, *[expected.config.image_token_id] * 4, 60, 61, 62]])
    with torch.no_grad():
        assert torch.equal(
            loaded(input_ids=ids, pixel_values=image).logits, expected(input_ids=ids, pixel_values=image).logits
        )
        said = loaded.generate(input_ids=ids, pixel_values=image, max_new_tokens=8, do_sample=False)
        assert said.tolist() == (
            expected.generate(input_ids=ids, pixel_values=image, max_new_tokens=8, do_sample=False).tolist()
        )


@pytest.mark.parametrize(
    ("family", "target", "form"),
    [
        ("llava", "transformers", "compressed-tensors"),
        ("qwen2_5_vl", "vllm", "awq"),
        ("paligemma", "transformers", None),
    ],
)
def test_embeddings_in_int8_are_handed_over_as_floats(
    edgeq: Edgeq, tmp_path: Path, family: str, target: str, form: str | None
) -> None:
    """No loader reads them; they get their name, and the numbers that the integers stand for. PaliGemma's are tied."""
    model = write_whole_vlm(tmp_path / "model", family)
    bundle = pack_bundle(model, tmp_path / "bundle", Precision.INT4, Precision.INT8)
    arguments = ("--for", target, *(("--form", form) if form else ()), "--model", model, "-o", tmp_path / "out")
    done = edgeq("handover", bundle, *arguments)
    assert done.status == 0, done.err
    assert "embedding and head are INT8 in the bundle" in " ".join(done.err.split())
    source, half, whole = tensors(model), tensors(bundle / "language"), tensors(tmp_path / "out")
    tables = [name for name in source if name.endswith(("embed_tokens.weight", "lm_head.weight"))]
    assert len(tables) == (1 if family == "paligemma" else 2)
    for name in tables:
        inside = "lm_head" if "lm_head" in name else "model.embed_tokens"
        expected = dequantized(half[f"{inside}.weight_packed"], half[f"{inside}.weight_scale"], 8)
        assert torch.equal(whole[name], expected)
        assert not torch.equal(whole[name], source[name])
        assert f"{name}_packed" not in whole
    if target == "transformers":
        pytest.importorskip("compressed_tensors", reason="pip install compressed-tensors")
        kind = transformers.AutoModelForImageTextToText
        loaded = kind.from_pretrained(tmp_path / "out", dtype=torch.float16)
        assert torch.equal(loaded.get_input_embeddings().weight, whole[tables[0]]) or len(tables) == 2
    drawn = load_file(model / "model.safetensors")
    drawn[tables[0]][0] += 1
    save_weights(drawn, model)
    assert_refused(edgeq("handover", bundle, *arguments[:-1], tmp_path / "two"), "rows of")


def test_vllm_finds_the_vision_tower(edgeq: Edgeq, tmp_path: Path) -> None:
    """Its CLIP has a module `vision_model`, which files of transformers 5.2 and later do not name."""
    model = write_vlm(tmp_path / "model", "llava", hub=True)
    bundle = pack_bundle(model, tmp_path / "bundle")
    assert edgeq("handover", bundle, "--for", "vllm", "--model", model, "-o", tmp_path / "out").status == 0
    towers = {name for name in tensors(tmp_path / "out") if name.startswith("vision_tower.")}
    assert towers
    assert all(name.startswith("vision_tower.vision_model.") for name in towers)
    ignored = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["ignore"]
    assert ignored == [
        *(r"re:(.*\.)?vision_tower(\..*)?$", r"re:(.*\.)?multi_modal_projector(\..*)?$"),
        *("lm_head", "language_model.lm_head", "language_model.model.embed_tokens"),
    ]


def test_awq_for_vllm(edgeq: Edgeq, tmp_path: Path, models: Mapping[str, tuple[Path, Path]]) -> None:
    model, bundle = models["qwen2_5_vl"]
    done = edgeq("handover", bundle, "--for", "vllm", "--form", "awq", "--model", model, "-o", tmp_path / "out")
    assert done.status == 0, done.err
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert (config["quant_method"], config["group_size"], config["zero_point"]) == ("awq", 64, True)
    assert config["modules_to_not_convert"][:1] == ["visual"]
    whole, source = tensors(tmp_path / "out"), tensors(model)
    assert {name for name in source if name not in whole} == {
        name.replace(".qweight", ".weight") for name in whole if name.endswith(".qweight")
    }
    assert {word for name in whole if name.endswith(".qzeros") for word in whole[name].flatten().tolist()} == {
        -0x77777778
    }


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A Qwen2.5-VL whose layers TensorRT Edge-LLM's kernels take, and its bundle."""
    place = tmp_path_factory.mktemp("wide")
    rope = {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 1e4}
    config = transformers.Qwen2_5_VLConfig(
        vision_config={
            **{"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 128},
            **{"patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1]},
        },
        text_config={
            **{"vocab_size": 96, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 1},
            **{"num_attention_heads": 4, "num_key_value_heads": 2, "rope_parameters": rope},
        },
        image_token_id=90,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    transformers.AutoModelForImageTextToText.from_config(config).half().save_pretrained(place / "model")
    return place / "model", pack_bundle(place / "model", place / "bundle")


def test_edge_llm_gets_a_recipe_with_the_bundles_sizes(edgeq: Edgeq, tmp_path: Path, wide: tuple[Path, Path]) -> None:
    model, bundle = wide
    assert edgeq("handover", bundle, "--for", "edge-llm", "--model", model, "-o", tmp_path / "awq").status == 0
    settings = json.loads((bundle / "pair.json").read_text())
    text = (tmp_path / "awq" / "edge-llm.txt").read_text()
    assert f"--maxInputLen {settings['context']} \\\n" in text
    assert f"--maxImageTokensPerImage {settings['tokens']}\n" in text
    assert "were not run" in text
    assert any(name.endswith(".qweight") for name in tensors(tmp_path / "awq"))
    arguments = ("--form", "modelopt", "--model", model, "-o", tmp_path / "modelopt")
    assert edgeq("handover", bundle, "--for", "edge-llm", *arguments).status == 0
    says = json.loads((tmp_path / "modelopt" / "hf_quant_config.json").read_text())["quantization"]
    assert (says["quant_algo"], says["group_size"], says["exclude_modules"][0]) == ("W4A16_AWQ", 128, "*visual*")
    assert {tensor.dtype for tensor in tensors(tmp_path / "modelopt").values()} == {torch.float16, torch.uint8}


def test_what_a_runtime_does_not_take_is_refused_at_once(
    edgeq: Edgeq, tmp_path: Path, models: Mapping[str, tuple[Path, Path]], eight: Path
) -> None:
    out = ("-o", tmp_path / "out")
    llava, four = models["llava"]
    assert_refused(edgeq("handover", GOLDEN, "--for", "edge-llm", *out), "NF4", "--language int4-awq")
    assert_refused(edgeq("handover", GOLDEN.parent / "classifier", "--for", "vllm", *out), "no vision-language")
    assert_refused(edgeq("handover", four, "--for", "vllm", *out), "--model")
    assert_refused(edgeq("handover", four, "--for", "edge-llm", "--model", llava, *out), "family llava", "qwen3_vl")
    mllama, bundle = models["mllama"]
    assert_refused(edgeq("handover", bundle, "--for", "vllm", "--model", mllama, *out), "mllama", "0.10.2")
    qwen, bundle = models["qwen2_5_vl"]
    assert_refused(edgeq("handover", bundle, "--for", "edge-llm", "--model", qwen, *out), "groups of 128", "64 wide")
    arguments = ("--form", "awq", "--model", llava)
    assert_refused(edgeq("handover", eight, "--for", "vllm", *arguments, *out), "INT8", "compressed-tensors")
    assert_refused(edgeq("handover", four, "--for", "transformers", *arguments, *out), "does not load the form awq")
    assert_refused(edgeq("handover", four, "--for", "trtexec", "--model", llava, *out), "--model means nothing")
    batch = ("--model", llava, "--batch", 1, 2, 4)
    assert_refused(edgeq("handover", four, "--for", "vllm", *batch, *out), "--batch means nothing")
    assert not (tmp_path / "out").exists()


def test_another_model_is_refused(edgeq: Edgeq, tmp_path: Path, models: Mapping[str, tuple[Path, Path]]) -> None:
    """Of the same shape, with another embedding; of another family."""
    model, bundle = models["llava"]
    other = tmp_path / "other"
    shutil.copytree(model, other)
    drawn = load_file(other / "model.safetensors")
    drawn["language_model.model.embed_tokens.weight"][0] += 1
    save_weights(drawn, other)
    assert_refused(edgeq("handover", bundle, "--for", "vllm", "--model", other, "-o", tmp_path / "two"), "embed_tokens")
    assert_refused(
        edgeq("handover", bundle, "--for", "vllm", "--model", models["mllama"][0], "-o", tmp_path / "two"), "model_type"
    )
    assert not (tmp_path / "two").exists()


def save_weights(drawn: dict[str, torch.Tensor], directory: Path) -> None:
    save_file(drawn, directory / "model.safetensors", {"format": "pt"})


def test_a_changed_language_half_is_noticed(
    edgeq: Edgeq, tmp_path: Path, models: Mapping[str, tuple[Path, Path]]
) -> None:
    """By its digest, and where the manifest was changed too, by what config and model make of it."""
    model, bundle = models["llava"]
    changed = tmp_path / "bundle"
    shutil.copytree(bundle, changed)
    file = changed / "language" / "model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    arguments = ("--for", "vllm", "--model", model, "-o", tmp_path / "out")
    assert_refused(edgeq("handover", changed, *arguments), "not the file")
    half = load_file(bundle / "language" / "model.safetensors")
    del half["model.norm.weight"]
    save_weights(half, changed / "language")
    list_files(changed)
    assert_refused(edgeq("handover", changed, *arguments), "model.norm.weight is not stored")
    assert not (tmp_path / "out").exists()
