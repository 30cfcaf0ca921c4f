"""A LLaVA with a CLIP vision encoder as the two GGUF files that llama.cpp runs; needs the package gguf.

    python -m benchmarks.peers.llava_gguf MODEL OUTPUT

writes `OUTPUT/language.gguf` with its tokenizer and chat template, and `OUTPUT/mmproj.gguf` with vision encoder and
connector, matrices in FP16. Names and settings are those that llama.cpp's `clip.cpp` reads for its projector `mlp`; its
GELU is the tangent formula, where transformers has the exact one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.llama_gguf import tensors, write_language

_MARK: Final = "<__media"
_TEMPLATE: Final = (
    "{% for message in messages %}{{ message['role'] | upper }}: "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{{ part['text'] }}"
    "{{ '\\n' if part['text'].startswith('" + _MARK + "') }}{% endfor %}{% endif %}"
    "{{ ' ' if message['role'] == 'user' else eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""That of the demo's model for llama.cpp, which puts a marker of text in an image's place."""

_BLOCK: Final = {
    "layer_norm1": "ln1",
    "layer_norm2": "ln2",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_out",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
}
_WHOLE: Final = {
    "embeddings.class_embedding": "v.class_embd",
    "embeddings.patch_embedding.weight": "v.patch_embd.weight",
    "embeddings.position_embedding.weight": "v.position_embd.weight",
    "pre_layrnorm.weight": "v.pre_ln.weight",
    "pre_layrnorm.bias": "v.pre_ln.bias",
}


def main() -> None:
    """Write both."""
    model, output = Path(sys.argv[1]), Path(sys.argv[2])
    output.mkdir(parents=True, exist_ok=True)
    write_language(model, output / "language.gguf", lambda writer: _add_tokenizer(writer, model))
    _write_eyes(model, output / "mmproj.gguf")


def _add_tokenizer(writer: Any, model: Path) -> None:
    """Byte-level BPE, as GPT-2's."""
    import gguf

    whole = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    text = config["text_config"]
    tokens: dict[int, str] = {place: token for token, place in whole["model"]["vocab"].items()}
    special = {added["id"]: added["content"] for added in whole["added_tokens"]}
    tokens |= special
    count = text["vocab_size"]
    kinds = [
        gguf.TokenType.CONTROL
        if place in special
        else gguf.TokenType.NORMAL
        if place in tokens
        else gguf.TokenType.UNUSED
        for place in range(count)
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([tokens.get(place, f"[PAD{place}]") for place in range(count)])
    writer.add_token_types(kinds)
    merges = whole["model"]["merges"]
    writer.add_token_merges([each if isinstance(each, str) else " ".join(each) for each in merges])
    writer.add_bos_token_id(text["bos_token_id"])
    writer.add_eos_token_id(text["eos_token_id"])
    writer.add_pad_token_id(text["pad_token_id"])
    writer.add_add_bos_token(True)  # and so the chat template has none
    writer.add_chat_template(_TEMPLATE)


def _write_eyes(model: Path, output: Path) -> None:
    import gguf

    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    images = json.loads((model / "preprocessor_config.json").read_text(encoding="utf-8"))
    vision = config["vision_config"]
    layers = vision["num_hidden_layers"]
    writer = gguf.GGUFWriter(output, "clip")
    writer.add_type("mmproj")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_bool("clip.has_llava_projector", True)
    writer.add_clip_projector_type("mlp")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_vision_image_size(vision["image_size"])
    writer.add_vision_patch_size(vision["patch_size"])
    writer.add_vision_embedding_length(vision["hidden_size"])
    writer.add_vision_feed_forward_length(vision["intermediate_size"])
    writer.add_vision_head_count(vision["num_attention_heads"])
    writer.add_vision_block_count(layers)
    writer.add_vision_projection_dim(config["text_config"]["hidden_size"])
    writer.add_vision_attention_layernorm_eps(vision["layer_norm_eps"])
    writer.add_vision_image_mean(images["image_mean"])
    writer.add_vision_image_std(images["image_std"])
    writer.add_vision_use_gelu(vision["hidden_act"] == "gelu")
    writer.add_array("clip.vision.feature_layer", [config["vision_feature_layer"] % (layers + 1)])
    for name, values in _eyes(model):
        halves = values.ndim > 1 and "embd.weight" not in name.replace("patch_embd", "")
        writer.add_tensor(name, values if halves else values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _eyes(model: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    """Under llama.cpp's names; CLIP's last norm is for its class token, which no LLaVA reads."""
    for name, values in tensors(model, "vision_tower."):
        if name.startswith("encoder.layers."):
            place, _, rest = name.removeprefix("encoder.layers.").partition(".")
            part, _, kind = rest.rpartition(".")
            yield f"v.blk.{place}.{_BLOCK[part]}.{kind}", values
        elif not name.startswith("post_layernorm."):
            yield _WHOLE[name], values
    for name, values in tensors(model, "multi_modal_projector."):
        layer, kind = name.removeprefix("linear_").split(".")
        yield f"mm.{2 * int(layer) - 2}.{kind}", values


if __name__ == "__main__":
    main()
