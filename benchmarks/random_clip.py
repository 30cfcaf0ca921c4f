"""A CLIP of ViT-B/32's shape with random weights: it finds nothing, and takes the time that the real one takes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final

from edgeq.demo.clip.pairs import CLIP_WEIGHTS

__all__ = ["write_tokenizer", "write_vit_b_32"]

_VOCABULARY: Final = 49_408
_CONTEXT: Final = 77
_PIXELS: Final = 224
_MARKS: Final = ("<|startoftext|>", "<|endoftext|>")


def write_vit_b_32(folder: Path) -> None:
    """Write a Hugging Face directory.

    Args:
        folder: is made.
    """
    import torch
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    shared = {"projection_dim": 512}
    text = {
        "vocab_size": _VOCABULARY,
        "bos_token_id": _VOCABULARY - 2,
        "eos_token_id": _VOCABULARY - 1,
        "pad_token_id": _VOCABULARY - 1,
        **shared,
    }
    config = CLIPConfig(text_config=text, vision_config={"patch_size": 32, **shared}, **shared)
    CLIPModel(config).half().save_pretrained(folder)
    write_tokenizer(folder)
    _write_preprocessing(folder)


def write_tokenizer(folder: Path) -> None:
    """Write the small CLIP's tokenizer, filled up to 49,408 entries, with start and end of text last, as in CLIP's.

    What was filled in stands for no text, so that texts have more tokens than with CLIP's own words.

    Args:
        folder: an existing one.
    """
    described: dict[str, Any] = json.loads((CLIP_WEIGHTS / "tokenizer.json").read_text())
    words: dict[str, int] = described["model"]["vocab"]
    taken = {number for word, number in words.items() if word not in _MARKS}
    places = {mark: _VOCABULARY - len(_MARKS) + number for number, mark in enumerate(_MARKS)}
    filled = {f"<|{number}|>": number for number in range(_VOCABULARY - len(_MARKS)) if number not in taken}
    described["model"]["vocab"] = (
        {word: number for word, number in words.items() if word not in _MARKS} | filled | places
    )
    for added in described["added_tokens"]:
        added["id"] = places[added["content"]]
    for mark, special in described["post_processor"]["special_tokens"].items():
        special["ids"] = [places[mark]]
    (folder / "tokenizer.json").write_text(json.dumps(described))
    settings = json.loads((CLIP_WEIGHTS / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": _CONTEXT}))


def _write_preprocessing(folder: Path) -> None:
    shutil.copy(CLIP_WEIGHTS / "preprocessor_config.json", folder)
    described = json.loads((folder / "preprocessor_config.json").read_text())
    described |= {"size": {"shortest_edge": _PIXELS}, "crop_size": {"height": _PIXELS, "width": _PIXELS}}
    (folder / "preprocessor_config.json").write_text(json.dumps(described))
