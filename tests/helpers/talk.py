"""What a tiny vision-language model needs to be talked to: tokenizer, chat template, image processor."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from vlm import IMAGE_TOKEN, write_vlm

from edgeq.bundle.vlm_settings import VlmSettings

__all__ = ["QUESTION", "chatty_vlm", "tiny_settings", "write_processor"]

QUESTION = "what is it?"

_TEMPLATE = (
    "<s>{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}:{% endif %}"
)
_SPECIAL = {
    **{0: "<pad>", 1: "<s>", 2: "</s>", 3: "<unk>", IMAGE_TOKEN: "<image>"},
    **{91: "<fake_token_around_image>", 92: "<global-img>", 93: "<end_of_utterance>"},
    **{94: "<row_1_col_1>", 95: "<row_1_col_2>"},
}
_LETTERS = string.ascii_letters + string.digits + " \n?:.,;!-'" + '"()/{+=*}&@[]_'
_SQUARE = {"do_resize": True, "do_rescale": True, "do_normalize": True, "resample": 3}
_PROCESSORS: dict[str, dict[str, Any]] = {
    "llava": {
        **_SQUARE,
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 28},
        "do_center_crop": True,
        "crop_size": {"height": 28, "width": 28},
    },
    "idefics3": {
        **_SQUARE,
        "image_processor_type": "Idefics3ImageProcessor",
        "do_image_splitting": True,
        "size": {"longest_edge": 56},
        "max_image_size": {"longest_edge": 28},
    },
    "paligemma": {
        **_SQUARE,
        "image_processor_type": "SiglipImageProcessor",
        "image_seq_length": 4,
        "size": {"height": 28, "width": 28},
    },
}


def tiny_settings(family: str = "llava", *, tokens: int = 4, context: int = 128) -> VlmSettings:
    """Of a model that `write_processor` gave a tokenizer; the bundle has no vision graph."""
    return VlmSettings(
        model_type=family,
        vision="none.onnx",
        image_token="<image>",
        image_token_id=IMAGE_TOKEN,
        tokens=tokens,
        context=context,
        stop=(2,),
    )


def chatty_vlm(directory: Path, family: str = "llava", dtype: torch.dtype = torch.float16) -> Path:
    """A directory with a tiny model of random weights, and all that it takes to ask it something."""
    write_vlm(directory, family, dtype)
    write_processor(directory, family)
    return directory


def write_processor(directory: Path, family: str = "llava") -> None:
    """A tokenizer with a token for each character, a chat template, and the family's image processor."""
    letters = iter(_LETTERS)
    tokens = [_SPECIAL.get(number) or next(letters) for number in range(96)]
    tokenizer = Tokenizer(models.WordLevel({token: number for number, token in enumerate(tokens)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _SPECIAL.values()])
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    wrapped.chat_template = _TEMPLATE
    wrapped.save_pretrained(directory)
    (directory / "preprocessor_config.json").write_text(json.dumps(_PROCESSORS[family]))
