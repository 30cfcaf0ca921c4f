"""Tiny random CLIP and SigLIP models, each with a tokenizer of its own kind and its image processor's settings."""

from __future__ import annotations

import json
import string
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

__all__ = [
    "CONTEXT",
    "PATCH",
    "SENTENCES",
    "SIDE",
    "TWO_TOWERS",
    "write_clip_tokenizer",
    "write_gemma_tokenizer",
    "write_siglip_tokenizer",
    "write_text_tower",
    "write_two_tower",
]

SIDE: Final = 32
"""Height and width of what the vision encoder takes, in pixels."""

PATCH: Final = 8
"""Height and width of a patch."""

CONTEXT: Final = 16
"""Tokens of a text, at most."""

TWO_TOWERS: Final = ("clip", "clip_legacy", "siglip")
"""Kinds: CLIP that pools at the first end of text, CLIP whose config has the old one (largest id), SigLIP."""

SENTENCES: Final = (
    "a photo of a cat",
    "a photo of two dogs in the snow",
    "the red car stands in front of a house",
    "a woman rides a bicycle along the river",
    "an aerial view of a harbour at night",
    "it's a drawing of a tree, isn't it?",
    "a bowl of soup on a wooden table",
    "people walking across the street in the rain",
    "ein Foto von einem Pferd auf der Wiese",
    "une photo d'un bateau à voile près de l'île",
)
"""What the tokenizers were made from."""

_WIDTH = 32
_START, _END = "<|startoftext|>", "<|endoftext|>"
_VISION: Mapping[str, Any] = {
    "hidden_size": _WIDTH,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
}
_TEXT: Mapping[str, Any] = {
    "hidden_size": _WIDTH,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": CONTEXT,
}


def write_two_tower(directory: Path, kind: str) -> Path:
    """A model directory as transformers saves it: config, weights, tokenizer, image processor.

    Args:
        directory: made where it is missing.
        kind: one of `TWO_TOWERS`, or `siglip2`, whose image processor takes 18 patches at most.
    """
    torch.manual_seed(0)
    if kind == "siglip":
        size, processor = write_siglip_tokenizer(directory), _siglip_processor()
        model = transformers.SiglipModel(
            transformers.SiglipConfig(vision_config=dict(_VISION), text_config={**_TEXT, "vocab_size": size})
        )
    elif kind == "siglip2":
        size, processor = write_gemma_tokenizer(directory), {"image_processor_type": "Siglip2ImageProcessor"}
        processor |= {"patch_size": PATCH, "max_num_patches": 18}
        vision = {name: value for name, value in _VISION.items() if name != "image_size"}
        model = transformers.Siglip2Model(
            transformers.Siglip2Config(
                vision_config={**vision, "num_patches": 25}, text_config={**_TEXT, "vocab_size": size}
            )
        )
    else:
        size, processor = write_clip_tokenizer(directory), _clip_processor()
        ends = {"bos_token_id": 0, "eos_token_id": 2} if kind == "clip_legacy" else _clip_ends(size)
        text = {**_TEXT, "vocab_size": size, "pad_token_id": 1, **ends}
        model = transformers.CLIPModel(
            transformers.CLIPConfig(vision_config=dict(_VISION), text_config=text, projection_dim=24)
        )
    _draw(model).save_pretrained(directory)
    (directory / "preprocessor_config.json").write_text(json.dumps(processor))
    return directory


def write_text_tower(directory: Path, kind: str) -> Path:
    """A text encoder alone as transformers saves it: config, weights, tokenizer.

    Args:
        directory: made where it is missing.
        kind: `CLIPTextModelWithProjection`, `CLIPTextModel`, `SiglipTextModel` or `Siglip2TextModel`.
    """
    torch.manual_seed(0)
    if kind.startswith("CLIP"):
        size = write_clip_tokenizer(directory)
        own = {**_clip_ends(size), "pad_token_id": 1, "projection_dim": 24}
    else:
        size = (write_gemma_tokenizer if kind == "Siglip2TextModel" else write_siglip_tokenizer)(directory)
        own = {"projection_size": 24}
    made: Any = getattr(transformers, kind)
    _draw(made(made.config_class(**_TEXT, **own, vocab_size=size))).save_pretrained(directory)
    return directory


def write_clip_tokenizer(directory: Path) -> int:
    """CLIP's kind: pairs of bytes, the end of a word marked, in small letters, start and end of text the last tokens.

    Returns:
        How many tokens it has.
    """
    vocabulary, merges = _clip_pairs()
    tokenizer = transformers.CLIPTokenizer(dict(vocabulary), list(merges), model_max_length=CONTEXT)
    tokenizer.save_pretrained(directory)
    return len(vocabulary)


def write_siglip_tokenizer(directory: Path) -> int:
    """SigLIP's kind: likeliest pieces, without punctuation, in small letters, no start, an end of text that also pads.

    Returns:
        How many tokens it has.
    """
    tokenizer = _siglip_pieces()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="</s>",
        pad_token="</s>",
        unk_token="<unk>",
        model_max_length=CONTEXT,
    ).save_pretrained(directory)
    return tokenizer.get_vocab_size()


def write_gemma_tokenizer(directory: Path) -> int:
    """Gemma's kind, as SigLIP 2's: pieces and bytes, an end of text, another token that pads on the right.

    Returns:
        How many tokens it has.
    """
    tokens = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256)))
    vocabulary = {token: number for number, token in enumerate((*tokens, "▁", *string.ascii_lowercase))}
    transformers.GemmaTokenizer(
        vocabulary, [], add_bos_token=False, add_eos_token=True, padding_side="right", model_max_length=CONTEXT
    ).save_pretrained(directory)
    return len(vocabulary)


def _clip_ends(size: int) -> dict[str, int]:
    return {"bos_token_id": size - 2, "eos_token_id": size - 1}


@cache
def _clip_pairs() -> tuple[Mapping[str, int], tuple[tuple[str, str], ...]]:
    """Vocabulary and merges, in the order of the published ones: bytes, bytes at a word's end, merges, start, end."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    empty = transformers.CLIPTokenizer().backend_tokenizer
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = empty.normalizer, empty.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    merges = tuple((left, right) for left, right in json.loads(tokenizer.to_str())["model"]["merges"])
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet), *(left + right for left, right in merges)]
    tokens += [_START, _END]
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}, merges


def _siglip_pieces() -> Tokenizer:
    """Letters, pairs of letters and words, the longer the likelier; normalized as big_vision does it."""
    text = " ".join(SENTENCES).lower()
    words = ["".join(letter for letter in word if letter.isalpha()) for word in text.split()]
    letters = dict.fromkeys(
        "▁" + string.ascii_lowercase + string.digits + "àéîäöüßабвгдежзийклмнопрстуфхцчшщъыьэюя中日本"
    )
    pairs = dict.fromkeys(word[at : at + 2] for word in words for at in range(len(word) - 1))
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((letter, -9.0) for letter in letters)]
    pieces += [(pair, -11.5 - at / 100) for at, pair in enumerate(pairs)]
    pieces += [(f"▁{word}", -12.0 - at / 100) for at, word in enumerate(dict.fromkeys(words)) if len(word) > 1]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""), ""),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    end = {"normalized": False, "special": True, "lstrip": True, "rstrip": True}
    tokenizer.add_special_tokens([AddedToken("</s>", **end), AddedToken("<unk>", **end)])
    return tokenizer


def _draw(model: Any) -> Any:
    """Weights that let an embedding depend on what was given."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim > 1:
                value.normal_(std=1.0 if "embedding" in name else 1.2 / value[0].numel() ** 0.5)
            elif name == "logit_scale":
                value.fill_(2.5)
            elif name == "logit_bias":
                value.fill_(-3.0)
    return model.eval()


def _clip_processor() -> dict[str, Any]:
    return {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": SIDE},
        "crop_size": {"height": SIDE, "width": SIDE},
    }


def _siglip_processor() -> dict[str, Any]:
    return {"image_processor_type": "SiglipImageProcessor", "size": {"height": SIDE, "width": SIDE}}
