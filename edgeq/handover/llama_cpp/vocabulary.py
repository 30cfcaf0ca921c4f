"""A tokenizer as GGUF has it, made of tokenizer.json: byte-level BPE (`gpt2`) or the BPE of SentencePiece (`llama`).

llama.cpp has the regular expressions of pre-tokenizers in its code, under names. What is not one of those that are
known here is refused, since tokens would be others than the model was trained with. SentencePiece's scores are not in
tokenizer.json; the merges are, in the order of the scores, and llama.cpp needs the order alone. Where a space is put
before the first text of a prompt and no other, llama.cpp puts none, and the chat template writes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from edgeq.errors import InputError
from edgeq.files import read_json_object

__all__ = ["vocabulary"]

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)
"""GGUF's types of tokens."""

_SPACE: Final = "\u2581"
_BYTE_TOKEN: Final = re.compile("<0x[0-9A-F]{2}>")
_WORDS: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST: Final = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS: Final[Mapping[str, str]] = {
    _WORDS + r"\p{N}" + _REST: "qwen2",
    _WORDS + r"\p{N}{1,3}" + _REST: "llama-bpe",
}
"""Regular expression of a byte-level pre-tokenizer -> llama.cpp's name of it."""


def vocabulary(directory: Path, size: int, stop: tuple[int, ...]) -> dict[str, Any]:
    """The keys `tokenizer.ggml.…` of a model, without its chat template.

    Args:
        directory: with tokenizer.json and tokenizer_config.json.
        size: rows of the embedding; those that no token has are filled up.
        stop: tokens that end an answer.

    Raises:
        InputError: llama.cpp has no such tokenizer.
        ModelError: a file is no JSON object.
    """
    file = directory / "tokenizer.json"
    if not file.is_file():
        raise InputError(f"{directory} has no tokenizer.json, which GGUF's tokenizer is made of")
    whole = read_json_object(file)
    model = whole.get("model") or {}
    if model.get("type") != "BPE":
        raise _other(f"a {model.get('type')} model")
    merges = [each if isinstance(each, str) else " ".join(each) for each in model["merges"]]
    kinds = _llama(whole, model, merges) if model.get("byte_fallback") else _byte_level(whole, model, merges)
    tokens, types = _tokens(whole, model, size, pieces=bool(model.get("byte_fallback")))
    found: dict[str, Any] = {**kinds, "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}
    if scores := found.pop("scores", None):
        found["tokenizer.ggml.scores"] = [scores.get(token, 0.0) for token in tokens]
    return {**found, **_special(directory, {token: place for place, token in enumerate(tokens)}, stop)}


def _byte_level(whole: Mapping[str, Any], model: Mapping[str, Any], merges: list[str]) -> dict[str, Any]:
    """GPT-2's, with one of several pre-tokenizers. NFC, which llama.cpp leaves out, changes few texts."""
    if (normalizer := whole.get("normalizer")) and normalizer["type"] != "NFC":
        raise _other(f"the normalizer {normalizer['type']}")
    steps = list(_steps(whole.get("pre_tokenizer")))
    levels = [step for step in steps if step["type"] == "ByteLevel"]
    splits = [step for step in steps if step["type"] == "Split"]
    if len(levels) != 1 or len(levels) + len(splits) != len(steps) or levels[0].get("add_prefix_space"):
        raise _other("another pre-tokenizer than ByteLevel, with a Split before it")
    if levels[0].get("use_regex", True) and not splits:
        name = "gpt-2"
    elif len(splits) == 1 and not levels[0].get("use_regex", True):
        name = _SPLITS.get(splits[0]["pattern"].get("Regex", ""), "")
    else:
        name = ""
    if not name or bool(model.get("ignore_merges")) != (name == "llama-bpe"):
        raise _other(f"a pre-tokenizer that is none of gpt-2, {', '.join(_SPLITS.values())}")
    return {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": name, "tokenizer.ggml.merges": merges}


def _llama(whole: Mapping[str, Any], model: Mapping[str, Any], merges: list[str]) -> dict[str, Any]:
    """SentencePiece's. A token that an earlier merge makes has a better score."""
    missing = 256 - sum(1 for token in model["vocab"] if _BYTE_TOKEN.fullmatch(token))
    if missing:
        raise _other(f"a vocabulary without {missing} of the 256 bytes")
    made: dict[str, float] = {}
    for place, merge in enumerate(merges):
        made.setdefault(merge.replace(" ", ""), -1.0 - place)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.add_space_prefix": _space_before_every_text(whole),
        "scores": made,
    }


def _space_before_every_text(whole: Mapping[str, Any]) -> bool:
    """Whether a space is put before each text between special tokens, or before what a prompt begins with alone."""
    normalizers = [step["type"] for step in _steps(whole.get("normalizer"))]
    pre = list(_steps(whole.get("pre_tokenizer")))
    if set(normalizers) == {"Prepend", "Replace"} and not pre:
        return True
    if not normalizers and [(step["type"], step.get("prepend_scheme")) for step in pre] == [("Metaspace", "first")]:
        return False
    raise _other("other steps than SentencePiece's before its BPE")


def _steps(part: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """Of a normalizer or pre-tokenizer, those in a sequence one by one."""
    if part and part["type"] == "Sequence":
        yield from part.get("normalizers") or part.get("pretokenizers") or ()
    elif part:
        yield part


def _tokens(
    whole: Mapping[str, Any], model: Mapping[str, Any], size: int, *, pieces: bool
) -> tuple[list[str], list[int]]:
    """Texts and types of all tokens."""
    tokens = [f"[PAD{place}]" for place in range(size)]
    types = [_UNUSED] * size
    for token, place in model["vocab"].items():
        if place < size:
            tokens[place] = token
            types[place] = _BYTE if pieces and _BYTE_TOKEN.fullmatch(token) else _NORMAL
    for added in whole.get("added_tokens") or ():
        if (place := added["id"]) < size:
            special = bool(added.get("special"))
            tokens[place] = added["content"] if special else added["content"].replace(_SPACE, " ")
            types[place] = _CONTROL if special else _USER_DEFINED
    if pieces and model.get("unk_token") in model["vocab"]:
        types[model["vocab"][model["unk_token"]]] = _UNKNOWN
    return tokens, types


def _special(directory: Path, places: Mapping[str, int], stop: tuple[int, ...]) -> dict[str, Any]:
    """Numbers of special tokens; whether a text alone begins with one is tried."""
    from tokenizers import Tokenizer

    config = read_json_object(directory / "tokenizer_config.json")
    named: dict[str, int] = {}
    for kind in ("bos", "eos", "unk", "pad"):
        token = config.get(f"{kind}_token")
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str) and text in places:
            named[kind] = places[text]
    if stop:
        named["eos"] = named["eos"] if named.get("eos") in stop else stop[0]
    others = [place for place in stop if place != named.get("eos")]
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    found: dict[str, Any] = {f"tokenizer.ggml.{names[kind]}_token_id": place for kind, place in named.items()}
    if others:
        found["tokenizer.ggml.eot_token_id"] = others[0]
    alone = Tokenizer.from_file(str(directory / "tokenizer.json")).encode("a").ids
    found["tokenizer.ggml.add_bos_token"] = alone[:1] == [named.get("bos")]
    found["tokenizer.ggml.add_eos_token"] = len(alone) > 1 and alone[-1:] == [named.get("eos")]
    return found


def _other(what: str) -> InputError:
    return InputError(
        f"llama.cpp has no such tokenizer as this model's: {what}",
        expected="byte-level BPE as GPT-2, Llama 3 and Qwen2 have it, or the BPE of SentencePiece",
        next_step="run it with edgeq, or hand it over to another runtime",
    )
