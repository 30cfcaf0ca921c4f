"""Tiny models that llama.cpp has, with tokenizers that it has, and what a GGUF file says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from whole_vlms import SPECIAL, WHOLE

__all__ = ["SAID", "VOCABULARY", "byte_level", "read_gguf", "sentence_piece", "write_model"]

VOCABULARY = 512
SAID = (
    "There is a severe hairline crack at the top right. Mark its ends, and look again in a month.",
    "The surface is sound: no action is needed. The dark patch at the left is only a shadow.",
    "  two  spaces, 1,234 numbers and naïve café: 東京 🚀\n\nIsn't it?",
)
_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | upper }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE\n{% else %}{{ part['text'] }}{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def write_model(directory: Path, name: str, dtype: torch.dtype = torch.float16) -> Path:
    """A model of `whole_vlms.WHOLE`, with drawn weights and more tokens: LLaVA-NeXT's are SentencePiece's."""
    kind = WHOLE[name]
    config = kind.config()
    config.text_config.vocab_size = VOCABULARY
    if name == "llava_next":
        config.text_config.sliding_window = None
    if name == "qwen2_5_vl":
        config.vision_config.window_size = 112
    torch.manual_seed(0)
    transformers.AutoModelForImageTextToText.from_config(config).to(dtype).save_pretrained(directory)
    (directory / "preprocessor_config.json").write_text(json.dumps(kind.processor))
    tokenizer = sentence_piece() if name == "llava_next" else byte_level()
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    assert kind.image is not None
    wrapped.chat_template = _TEMPLATE.replace("IMAGE", kind.image)
    wrapped.save_pretrained(directory)
    return directory


def byte_level() -> Tokenizer:
    """As GPT-2's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 8, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SAID * 3, trainer)
    return tokenizer


def sentence_piece() -> Tokenizer:
    """As Llama's and Mistral's: a token for each byte, a space before every text, `<s>` before a text alone."""
    pieces = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    pieces.pre_tokenizer = pre_tokenizers.Metaspace()
    numbers = [f"<0x{number:02X}>" for number in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY - 8, special_tokens=[*SPECIAL, *numbers], show_progress=False)
    pieces.train_from_iterator(SAID[:2] * 3, trainer)
    made = json.loads(pieces.to_str())
    made |= {"pre_tokenizer": None, "decoder": None}
    made["added_tokens"] = [token for token in made["added_tokens"] if token["content"] in SPECIAL]
    made["model"]["fuse_unk"] = True
    tokenizer = Tokenizer.from_str(json.dumps(made))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", SPECIAL.index("<s>"))]
    )
    return tokenizer


def read_gguf(file: Path) -> tuple[dict[str, Any], dict[str, str], dict[str, NDArray[np.float32]]]:
    """Keys, types of tensors by name, and their values in float32, as the package gguf reads them."""
    reader = gguf.GGUFReader(file)
    keys = {name: field.contents() for name, field in reader.fields.items()}
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    values = {
        tensor.name: np.array(gguf.dequantize(tensor.data, tensor.tensor_type), np.float32).reshape(
            tuple(reversed([int(side) for side in tensor.shape]))
        )
        for tensor in reader.tensors
    }
    return keys, types, values
