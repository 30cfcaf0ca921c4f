"""`edgeq handover --for llama.cpp`: both files hold what bundle and model hold, and what cannot be is refused."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from command import Edgeq, assert_refused
from numpy.typing import NDArray
from packed_bundles import dequantized, pack_bundle, unpacked_tensors
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from whole_vlms import write_whole_vlm

from edgeq.handover.write import HandedOver, write_handover
from edgeq.plan.precision import Precision

gguf = pytest.importorskip("gguf", reason="pip install gguf")

from gguf_models import SAID, byte_level, read_gguf, sentence_piece, write_model  # noqa: E402  # they need gguf

from edgeq.handover.llama_cpp.blocks import blocks_of, rounded_scales  # noqa: E402
from edgeq.handover.llama_cpp.chat_template import with_media_marks  # noqa: E402
from edgeq.handover.llama_cpp.language import language_settings, rope_tensors  # noqa: E402
from edgeq.handover.llama_cpp.vocabulary import vocabulary  # noqa: E402
from edgeq.model.checkpoint.packed_weights import pack_integers  # noqa: E402

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "bundles-0.1.0" / "vlm"

_LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_OTHERS = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, tuple[Path, Path]]:
    """Name -> a model and its bundle: two families and precisions, both 16-bit types."""
    found = {}
    kinds = {"llava": (torch.float16, Precision.INT4), "qwen2_5_vl": (torch.bfloat16, Precision.INT8)}
    for name, (dtype, precision) in kinds.items():
        place = tmp_path_factory.mktemp(name)
        model = write_model(place / "drawn", name, dtype)
        found[name] = (model, pack_bundle(model, place / "bundle", precision))
    return found


@pytest.fixture(scope="module")
def written(made: Mapping[str, tuple[Path, Path]], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Name -> what is handed over of it."""
    found = {}
    for name, (model, bundle) in made.items():
        found[name] = tmp_path_factory.mktemp("written") / name
        write_handover(bundle, "llama.cpp", found[name], model=model)
    return found


def test_embeddings_and_head_in_int8_are_blocks_too(made: Mapping[str, tuple[Path, Path]], tmp_path: Path) -> None:
    model, _ = made["llava"]
    bundle = pack_bundle(model, tmp_path / "bundle", Precision.INT4, embeddings=Precision.INT8)
    write_handover(bundle, "llama.cpp", tmp_path / "out", model=model)
    _, types, values = read_gguf(tmp_path / "out" / "drawn-Q4_0.gguf")
    half = load_file(bundle / "language" / "model.safetensors")
    for layer in ("model.embed_tokens", "lm_head"):
        name, scale = _OTHERS[f"{layer}.weight"], half[f"{layer}.weight_scale"].float()
        assert types[name] == "Q8_0"
        assert np.array_equal(values[name], dequantized(half[f"{layer}.weight_packed"], scale, 8).numpy())


def hand_over(edgeq: Edgeq, model: Path, bundle: Path, output: Path) -> HandedOver:
    done = edgeq("handover", bundle, "--for", "llama.cpp", "--model", model, "-o", output, "--json")
    assert done.status == 0, done.err
    return HandedOver.model_validate_json(done.out)


def gguf_name(name: str) -> str:
    """The name in GGUF of a tensor of a language model alone."""
    if name in _OTHERS:
        return _OTHERS[name]
    _, _, block, rest = name.split(".", 3)
    module, _, kind = rest.rpartition(".")
    return f"blk.{block}.{_LAYER[module]}.{kind}"


def neighbours(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of queries or keys as llama.cpp turns them: row j of a head's first half, then row j of its second."""
    size = len(weight) // heads
    order = [
        head * size + half * size // 2 + row for head in range(heads) for row in range(size // 2) for half in (0, 1)
    ]
    return weight[order]


def language_half(bundle: Path) -> dict[str, NDArray[np.float32]]:
    """What a bundle's language half stands for, in float32."""
    half: dict[str, torch.Tensor] = {}
    for file in (bundle / "language").glob("*.safetensors"):
        half |= load_file(file)
    return {name: tensor.numpy() for name, tensor in unpacked_tensors(half).items()}


def test_the_language_model_is_the_bundles(made: Mapping[str, tuple[Path, Path]], written: Mapping[str, Path]) -> None:
    """INT4 in groups of 64 and 128, rows of queries and keys in llama.cpp's order: every number equal."""
    model, bundle = made["llava"]
    keys, types, values = read_gguf(written["llava"] / "drawn-Q4_0.gguf")
    expected = language_half(bundle)
    assert len(expected) == len(values)
    for name, weight in expected.items():
        heads = {"q_proj": 4, "k_proj": 2}.get(name.split(".")[-2])
        assert np.array_equal(values[gguf_name(name)], neighbours(weight, heads) if heads else weight), name
    assert {kind for name, kind in types.items() if name.startswith("blk.") and "norm" not in name} == {"Q4_0"}
    assert {kind for name, kind in types.items() if "norm" in name} == {"F32"}
    assert {types["token_embd.weight"], types["output.weight"]} == {"F16"}
    config = transformers.AutoConfig.from_pretrained(model).text_config
    assert keys["general.architecture"] == "llama"
    assert keys["general.file_type"] == gguf.LlamaFileType.MOSTLY_Q4_0
    assert keys["llama.block_count"] == config.num_hidden_layers
    assert keys["llama.attention.head_count_kv"] == config.num_key_value_heads
    assert keys["llama.rope.freq_base"] == config.rope_parameters["rope_theta"]
    assert keys["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(config.rms_norm_eps)
    settings = json.loads((bundle / "pair.json").read_text())
    assert f"--ctx-size {settings['context']} \\\n" in (written["llava"] / "llama-cpp.txt").read_text()


def test_the_encoder_is_the_models(made: Mapping[str, tuple[Path, Path]], written: Mapping[str, Path]) -> None:
    keys, types, values = read_gguf(written["llava"] / "mmproj-drawn-F16.gguf")
    source = load_file(made["llava"][0] / "model.safetensors")
    for ours, theirs in {
        "v.class_embd": "vision_tower.embeddings.class_embedding",
        "v.patch_embd.weight": "vision_tower.embeddings.patch_embedding.weight",
        "v.position_embd.weight": "vision_tower.embeddings.position_embedding.weight",
        "v.pre_ln.bias": "vision_tower.pre_layrnorm.bias",
        "v.blk.1.attn_out.weight": "vision_tower.encoder.layers.1.self_attn.out_proj.weight",
        "v.blk.2.ffn_down.bias": "vision_tower.encoder.layers.2.mlp.fc2.bias",
        "mm.0.weight": "multi_modal_projector.linear_1.weight",
        "mm.2.bias": "multi_modal_projector.linear_2.bias",
    }.items():
        assert np.array_equal(values[ours], source[theirs].float().numpy()), ours
    left = [name for name in source if name.startswith(("vision_tower.", "multi_modal_projector."))]
    assert len(values) == sum("post_layernorm" not in name for name in left)
    assert types["v.patch_embd.weight"] == types["mm.2.weight"] == "F16"
    assert types["v.position_embd.weight"] == types["v.class_embd"] == "F32"
    assert keys["clip.projector_type"] == "mlp"
    assert keys["clip.vision.feature_layer"] == [2]  # the last but one of 3 blocks and what is before them
    assert "clip.use_gelu" not in keys  # CLIP's quick GELU is what llama.cpp has by default


def test_qwen_in_bfloat16(made: Mapping[str, tuple[Path, Path]], written: Mapping[str, Path]) -> None:
    """INT8 by row, rows in their own order; queries, keys and values of the encoder apart; a kernel for each frame."""
    model, bundle = made["qwen2_5_vl"]
    keys, types, values = read_gguf(written["qwen2_5_vl"] / "drawn-Q8_0.gguf")
    expected = language_half(bundle)
    assert len(expected) == len(values)
    for name, weight in expected.items():
        assert np.array_equal(values[gguf_name(name)], weight), name
    assert (types["blk.0.attn_q.weight"], types["blk.0.attn_q.bias"]) == ("Q8_0", "F32")
    assert types["token_embd.weight"] == "BF16"
    assert keys["general.architecture"] == "qwen2vl"
    assert keys["qwen2vl.rope.dimension_sections"] == [2, 3, 3, 0]
    keys, _, values = read_gguf(written["qwen2_5_vl"] / "mmproj-drawn-F16.gguf")
    source = {name.removeprefix("model."): tensor for name, tensor in load_file(model / "model.safetensors").items()}
    joined = source["visual.blocks.1.attn.qkv.weight"].half().float().numpy()
    parts = [values[f"v.blk.1.attn_{part}.weight"] for part in "qkv"]
    assert np.array_equal(np.concatenate(parts), joined)
    kernel = source["visual.patch_embed.proj.weight"].half().float().numpy()
    assert np.array_equal(values["v.patch_embd.weight"], kernel[:, :, 0])
    assert np.array_equal(values["v.patch_embd.weight.1"], kernel[:, :, 1])
    assert (keys["clip.projector_type"], keys["clip.vision.n_wa_pattern"]) == ("qwen2.5vl_merger", 2)
    recipe = (written["qwen2_5_vl"] / "llama-cpp.txt").read_text()
    assert "--image-min-tokens 4 \\\n" in recipe  # 56 x 56 pixels
    assert "--image-max-tokens " in recipe


def test_llava_next_has_its_grids_and_its_newline(edgeq: Edgeq, tmp_path: Path) -> None:
    """And SentencePiece's tokens with a Mistral."""
    model = write_model(tmp_path / "drawn", "llava_next")
    bundle = pack_bundle(model, tmp_path / "bundle")
    told = hand_over(edgeq, model, bundle, tmp_path / "out")
    assert told.files == ("drawn-Q4_0.gguf", "llama-cpp.txt", "mmproj-drawn-F16.gguf")
    assert any("without the newlines" in note for note in told.notes)
    keys, _, values = read_gguf(tmp_path / "out" / "mmproj-drawn-F16.gguf")
    assert keys["clip.vision.image_grid_pinpoints"][:4] == [56, 28, 28, 56]  # widths first
    source = load_file(model / "model.safetensors")
    newline = next(tensor for name, tensor in source.items() if name.endswith("image_newline"))
    assert np.array_equal(values["v.image_newline"], newline.float().numpy())
    keys, _, _ = read_gguf(tmp_path / "out" / "drawn-Q4_0.gguf")
    assert (keys["general.architecture"], keys["tokenizer.ggml.model"]) == ("llama", "llama")


@pytest.mark.parametrize("bits", [4, 8])
def test_blocks_are_what_gguf_reads(bits: int) -> None:
    """All integers of the type, with a scale for four blocks, for two, for one, for a whole row."""
    kind = {4: gguf.GGMLQuantizationType.Q4_0, 8: gguf.GGMLQuantizationType.Q8_0}[bits]
    draw = torch.Generator().manual_seed(0)
    values = torch.randint(-(1 << (bits - 1)), 1 << (bits - 1), (6, 256), generator=draw).to(torch.int8)
    for group in (128, 64, 32, 256):
        scale = (torch.rand(6, 256 // group, generator=draw) / 50).half()
        found = gguf.dequantize(blocks_of(pack_integers(values, bits), scale, bits), kind)
        meant = values.float() * scale.float().repeat_interleave(group, 1)
        assert np.array_equal(found, meant.numpy())


def test_scales_that_float16_rounds_are_counted() -> None:
    scales = torch.tensor([[1.0, 2.0**-20, 3 * 2.0**-24, 1.25 * 2.0**-24]], dtype=torch.bfloat16)
    assert rounded_scales(scales) == 1


def pieces(text: str, keys: Mapping[str, Any]) -> list[int]:
    """llama.cpp's tokens of a text: neighbours are joined whose text has the best score, the left ones of equals."""
    places = {token: place for place, token in enumerate(keys["tokenizer.ggml.tokens"])}
    scores = keys["tokenizer.ggml.scores"]
    space = " " if keys["tokenizer.ggml.add_space_prefix"] else ""
    symbols = list((space + text).replace(" ", "\u2581"))
    while True:
        joined = [left + right for left, right in pairwise(symbols)]
        known = [(-scores[places[each]], at) for at, each in enumerate(joined) if each in places]
        if not known:
            break
        at = min(known)[1]
        symbols[at : at + 2] = [joined[at]]
    found: list[int] = []
    for symbol in symbols:
        found += [places[symbol]] if symbol in places else [places[f"<0x{each:02X}>"] for each in symbol.encode()]
    return found


def tokenizer_files(directory: Path, tokenizer: Tokenizer) -> Path:
    directory.mkdir()
    tokenizer.save(str(directory / "tokenizer.json"))
    special = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "unk_token": "<unk>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(special))
    return directory


def test_scores_make_the_tokens_of_sentence_piece(tmp_path: Path) -> None:
    tokenizer = sentence_piece()
    keys = vocabulary(tokenizer_files(tmp_path / "t", tokenizer), 600, (2,))
    for text in SAID:
        assert pieces(text, keys) == tokenizer.encode(text, add_special_tokens=False).ids
    assert len(keys["tokenizer.ggml.tokens"]) == 600
    kinds = dict(zip(keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"], strict=True))
    assert kinds["<unk>"] == gguf.TokenType.UNKNOWN
    assert kinds["<image>"] == gguf.TokenType.CONTROL
    assert kinds["<0x0A>"] == gguf.TokenType.BYTE
    assert kinds["[PAD599]"] == gguf.TokenType.UNUSED
    assert keys["tokenizer.ggml.add_bos_token"]


def test_byte_level_tokens_and_merges(tmp_path: Path) -> None:
    tokenizer = byte_level()
    keys = vocabulary(tokenizer_files(tmp_path / "t", tokenizer), 512, (1, 2))
    assert (keys["tokenizer.ggml.model"], keys["tokenizer.ggml.pre"]) == ("gpt2", "gpt-2")
    assert {token: place for place, token in enumerate(keys["tokenizer.ggml.tokens"]) if "[PAD" not in token} == (
        tokenizer.get_vocab()
    )
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    assert [tuple(merge.split(" ")) for merge in keys["tokenizer.ggml.merges"]] == [tuple(merge) for merge in merges]
    assert (keys["tokenizer.ggml.eos_token_id"], keys["tokenizer.ggml.eot_token_id"]) == (2, 1)
    assert not keys["tokenizer.ggml.add_bos_token"]


def talk(*texts: str, image: str | None) -> list[dict[str, Any]]:
    """Turns of a user and an assistant; with a mark, as llama-server writes them: an image stands before the first."""
    roles = ("user", "assistant")
    if image is not None:
        texts = (image + texts[0], *texts[1:])
        return [{"role": roles[place % 2], "content": text} for place, text in enumerate(texts)]
    parts = [[{"type": "text", "text": text}] for text in texts]
    parts[0].insert(0, {"type": "image"})
    return [{"role": roles[place % 2], "content": part} for place, part in enumerate(parts)]


_MARK = "<__media_x1__>"
_STRINGS = (
    "{% for message in messages %}{{ message['role'] }}: {% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{{ '<image>\n' if part['type'] == 'image' else part['text'] }}"
    "{% endfor %}{% endif %}{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}\n"
)


@pytest.mark.parametrize("texts", [("What is it?",), ("What's on\nthe left?", "A 'crack'.", "Where?")])
def test_the_chat_template_writes_what_the_models_does(texts: Sequence[str]) -> None:
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=byte_level(), bos_token="<s>", eos_token="</s>", chat_template=_STRINGS
    )
    arguments = {"tokenize": False, "add_generation_prompt": True}
    expected = tokenizer.apply_chat_template(talk(*texts, image=None), **arguments)
    assert expected.count("<image>\n") == 1
    wrapped = with_media_marks(_STRINGS, "<image>")
    found = tokenizer.apply_chat_template(talk(*texts, image=_MARK), chat_template=wrapped, **arguments)
    assert found == expected.replace("<image>", _MARK)
    spaced = with_media_marks(_STRINGS, "<image>", space=True)
    assert tokenizer.apply_chat_template(talk(*texts, image=_MARK), chat_template=spaced, **arguments) == f" {found}"
    alone = [{"role": "user", "content": texts[0]}]
    assert tokenizer.apply_chat_template(alone, chat_template=wrapped, **arguments) == (
        tokenizer.apply_chat_template(alone, **arguments)
    )


def test_two_images_have_their_marks_in_order() -> None:
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=byte_level(), eos_token="</s>")
    message = {"role": "user", "content": "<__media_a__>left<__media_b__>right"}
    found = tokenizer.apply_chat_template(
        [message], chat_template=with_media_marks(_STRINGS, "<image>"), tokenize=False, add_generation_prompt=False
    )
    assert found == "user: <__media_a__>\nleft<__media_b__>\nright</s>\n"


def test_frequencies_of_llama_3_are_transformers_own() -> None:
    """A divisor for each frequency, and nothing for others."""
    rope = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "original_max_position_embeddings": 64}
    rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config = transformers.LlamaConfig(hidden_size=64, num_attention_heads=2, rope_parameters=rope)
    scaled, _ = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 5e5 ** -(np.arange(0, 32, 2) / 32)
    (tensor,) = rope_tensors(config.to_dict())
    assert (tensor.name, tensor.shape) == ("rope_freqs.weight", (16,))
    assert plain / tensor.make() == pytest.approx(scaled.numpy(), rel=1e-5)
    assert not rope_tensors(transformers.LlamaConfig().to_dict())
    with pytest.raises(Exception, match="longrope"):
        language_settings({**config.to_dict(), "rope_parameters": {**rope, "rope_type": "longrope"}}, "llama")


def refused(edgeq: Edgeq, bundle: Path, model: Path, output: Path, *words: str) -> None:
    arguments = ("--for", "llama.cpp", "--model", model, "-o", output)
    assert_refused(edgeq("handover", bundle, *arguments), *words)
    assert not output.exists()


def test_what_llama_cpp_does_not_run_is_refused(
    edgeq: Edgeq, tmp_path: Path, made: Mapping[str, tuple[Path, Path]]
) -> None:
    out = tmp_path / "out"
    model, bundle = made["llava"]
    refused(edgeq, GOLDEN, model, out, "NF4", "--language int4-awq")
    assert_refused(edgeq("handover", bundle, "--for", "llama.cpp", "-o", out), "--model")
    options = ("--model", model, "-o", out)
    assert_refused(edgeq("handover", bundle, "--for", "llama.cpp", "--form", "awq", *options), "--form means nothing")
    assert_refused(
        edgeq("handover", bundle, "--for", "llama.cpp", "--batch", 1, 2, 4, *options), "--batch means nothing"
    )
    mllama = write_whole_vlm(tmp_path / "mllama", "mllama")
    refused(edgeq, pack_bundle(mllama, tmp_path / "m"), mllama, out, "mllama", "cross-attention")
    words = write_whole_vlm(tmp_path / "words", "llava")
    refused(edgeq, pack_bundle(words, tmp_path / "w"), words, out, "WordLevel")
    windows = write_whole_vlm(tmp_path / "windows", "qwen2_5_vl")
    refused(edgeq, pack_bundle(windows, tmp_path / "q"), windows, out, "windows of 112")
    refused(edgeq, bundle, made["qwen2_5_vl"][0], out, "was not made of")
    out.mkdir()
    assert_refused(edgeq("handover", bundle, "--for", "llama.cpp", *options), "exists")


def test_a_damaged_bundle_leaves_nothing(edgeq: Edgeq, tmp_path: Path, made: Mapping[str, tuple[Path, Path]]) -> None:
    """Its weights, or its tokenizer."""
    model, bundle = made["llava"]
    for name in ("language/model.safetensors", "tokenizer.json"):
        changed = tmp_path / name.replace("/", "-")
        shutil.copytree(bundle, changed)
        raw = bytearray((changed / name).read_bytes())
        raw[-2] ^= 1
        (changed / name).write_bytes(raw)
        refused(edgeq, changed, model, tmp_path / "out", "not the file")
    assert not [file for file in tmp_path.iterdir() if "out" in file.name]


def test_a_full_disk_leaves_nothing(
    edgeq: Edgeq, tmp_path: Path, made: Mapping[str, tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """NumPy's error says how many bytes were written, and has no number."""

    def short(*_arguments: object, **_options: object) -> None:
        raise OSError("1024 requested and 16 written")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", short)
    model, bundle = made["llava"]
    done = edgeq("handover", bundle, "--for", "llama.cpp", "--model", model, "-o", tmp_path / "out")
    assert done.status == 2
    assert os.strerror(errno.ENOSPC) in done.err or "full" in done.err
    assert not list(tmp_path.iterdir())


def test_a_number_beyond_float16_is_refused(edgeq: Edgeq, tmp_path: Path) -> None:
    """In an encoder whose file has bfloat16."""
    model = write_model(tmp_path / "drawn", "qwen2_vl", torch.bfloat16)
    drawn = load_file(model / "model.safetensors")
    name = next(name for name in drawn if name.endswith("visual.merger.mlp.0.weight"))
    drawn[name][0, 0] = 1e5
    save_file(drawn, model / "model.safetensors", {"format": "pt"})
    bundle = pack_bundle(model, tmp_path / "bundle")
    done = edgeq("handover", bundle, "--for", "llama.cpp", "--model", model, "-o", tmp_path / "out")
    assert done.status != 0
    assert "float16 does not" in done.err
    assert not (tmp_path / "out").exists()
