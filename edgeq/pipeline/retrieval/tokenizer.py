"""A two-tower model's tokenizer in one file, and the proof that it does what transformers does.

`tokenizer.json` as it came with a model is not the whole of it. For CLIP and Gemma, transformers takes vocabulary and
merges from it and makes normalizer and pre-tokenizer again; for SigLIP 2 it adds small letters; and tokens of
`tokenizer_config.json` are added. All that is in the tokenizer that transformers then holds, which is what is saved.
SigLIP's own class reads `spiece.model` and takes out punctuation in Python: for it `tokenizer.json` is copied, and has
to give the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.bundle.retrieval_settings import RetrievalSettings
from edgeq.errors import EngineError, ModelError
from edgeq.files import atomic_write, read_json_object
from edgeq.runtime.retrieval.tokenizer import TOKENIZER, TextTokenizer, read_tokenizer
from edgeq.runtime.vlm.prompt import load_tokenizer

__all__ = ["PROBES", "prove_tokenizer", "require_tokenizer", "save_tokenizer", "tokenizer_pad_id"]

PROBES: Final = (
    *("", " ", "\t\n", "a", "a photo of a cat", "A Photo of a CAT.", "  two   spaces ", "it's 3 o'clock, isn't it?"),
    *("snake_case-and+more: (brackets) [too] {all} <of> them!", "#hashtag @name $5 50% a/b \\ ^ ` ~ | * & = ;"),
    *(
        "Straße ĞİIıẞ",
        "cafe\u0301 caf\u00e9 \ufb01 \u212b",
        "ΟΔΟΣ",
        "日本語のテキスト 中文",
        "Привет мир",
        "مرحبا",
        "สวัสดี",
        "नमस्ते",
    ),
    *(
        "👩‍👩‍👧 🇩🇪 👍🏽",
        "zero\u200bwidth\ufeff \u00a0no-break\u3000wide",
        "nul\x00 bell\x07 \x1b[0m",
        "▁under▁line",
        "１２３ ²½Ⅷ",
    ),
    *("word " * 300, "longword" * 60, "." * 500, "é" * 200),
)
"""Texts that are tried beside a model's own: letters of many scripts, spaces of all kinds, empty and too long."""

_CONFIG: Final = "tokenizer_config.json"
_IN_PYTHON: Final = "SiglipTokenizer"
_PIECES: Final = "sentencepiece"
_PIECE_FILE: Final = "spiece.model"
_SPACE: Final = "\N{LOWER ONE EIGHTH BLOCK}"  # what sentencepiece writes for a space
_SHOWN = 60
_FEW = 20


def require_tokenizer(model: Path) -> None:
    """Raise, before weights are read, where the tokenizer of a model cannot be compared with transformers'.

    Raises:
        EngineError: its class is in Python and needs the package `sentencepiece`, which is missing.
        ModelError: a file that it reads is not there.
    """
    config, named = model / _CONFIG, None
    if config.is_file():
        named = read_json_object(config).get("tokenizer_class")
    if named != _IN_PYTHON:
        return
    if find_spec(_PIECES) is None:
        raise EngineError(
            f"the package {_PIECES} is missing, with which transformers' {named} reads {_PIECE_FILE}",
            expected="it, in the workshop: tokens are compared with transformers'; the device needs tokenizers alone",
            next_step=f"pip install {_PIECES}",
        )
    for name in (_PIECE_FILE, TOKENIZER):
        if not (model / name).is_file():
            raise ModelError(
                f"{model} has no {name}",
                expected=f"{_PIECE_FILE}, which transformers' {named} reads, and {TOKENIZER}, which the device reads",
                next_step=f"take {name} from the model's repository",
            )


def save_tokenizer(model: Path, bundle: Path) -> Path:
    """Write `tokenizer.json` of a model directory into a bundle's.

    Args:
        model: with the tokenizer as it came.
        bundle: a directory.

    Returns:
        The file.

    Raises:
        ModelError: the model has no tokenizer that can be used, or none of the package `tokenizers`.
        OutputError: it cannot be written.
    """
    reference = load_tokenizer(model)
    backend = getattr(reference, "backend_tokenizer", None)
    if backend is None:
        backend = _copied(model, type(reference).__name__)
    backend.no_truncation()
    backend.no_padding()
    atomic_write(bundle / TOKENIZER, backend.to_str(pretty=False).encode())
    return bundle / TOKENIZER


def tokenizer_pad_id(model: Path) -> int:
    """The token that transformers pads texts with, which a config need not say.

    SigLIP 2's text config leaves out `pad_token_id`, so that it has SigLIP's default, and its tokenizer has another.

    Raises:
        ModelError: the model has no tokenizer that can be used, or it has no such token.
    """
    found = load_tokenizer(model).pad_token_id
    if found is None:
        raise ModelError(
            f"the tokenizer of {model} has no token to pad with", expected="pad_token in tokenizer_config.json"
        )
    return int(found)


def prove_tokenizer(
    directory: Path, texts: Sequence[str], settings: RetrievalSettings, *, model: Path | None = None
) -> int:
    """Compare token ids with those of transformers' tokenizer, text by text.

    Args:
        directory: with the `tokenizer.json` that the device will read.
        texts: that matter to the model; `PROBES` are tried with them, and so are special tokens as text where
            transformers uses the package `tokenizers`, too.
        settings: of the model.
        model: the directory with the tokenizer as it came; None where `directory` is it.

    Returns:
        How many texts were compared.

    Raises:
        InputError: a text cannot be tokenized.
        ModelError: a text gets other ids, or there is no tokenizer to compare with; names the first such text.
    """
    ours = TextTokenizer.open(directory, settings)
    reference = load_tokenizer(model or directory)
    tried = [text for text in (*texts, *PROBES) if not _in_its_own_way(reference, text)] + _around(reference)
    for text, ids in zip(tried, ours.ids(tried), strict=True):
        expected = _reference_ids(reference, text, settings)
        if not np.array_equal(ids, expected):
            raise ModelError(
                f"{TOKENIZER} gives the text {_cut(text)} other tokens than transformers' {type(reference).__name__}: "
                f"{_few(ids)} instead of {_few(expected)}",
                expected="the same tokens, with transformers' truncation"
                + (" and padding" if settings.padding == "fixed" else ""),
                causes=_causes(reference, settings),
            )
    return len(tried)


def _copied(model: Path, name: str) -> Any:
    """`tokenizer.json` of a model whose class in transformers is in Python."""
    if not (model / TOKENIZER).exists():
        raise ModelError(
            f"{model} has no {TOKENIZER}, and transformers' {name} is none of the package tokenizers",
            expected=f"{TOKENIZER} beside tokenizer_config.json",
            causes=("the model was published with spiece.model alone",),
            next_step=f"take {TOKENIZER} from a newer revision of the model",
        )
    return read_tokenizer(model)


def _in_its_own_way(reference: Any, text: str) -> bool:
    """Whether a tokenizer in Python treats the spaces of a text in its own way.

    SigLIP's puts a piece of nothing before a text that begins with a space, after it has taken that space away.
    """
    in_python = getattr(reference, "backend_tokenizer", None) is None
    return in_python and (text != text.strip() or _SPACE in text)


def _around(reference: Any) -> list[str]:
    """Special tokens where a text may have them: transformers can be told to take them apart.

    Tokenizers in Python are left out: around such a token they treat spaces in their own way, which no caption needs.
    """
    if getattr(reference, "backend_tokenizer", None) is None:
        return []
    return [text for token in reference.all_special_tokens for text in (token, f"a {token} b", f"a{token}b{token}")]


def _reference_ids(reference: Any, text: str, settings: RetrievalSettings) -> NDArray[np.int64]:
    """As transformers' processors call the tokenizer, int64 [length]."""
    padding = "max_length" if settings.padding == "fixed" else False
    given = reference(text, padding=padding, truncation=True, max_length=settings.context, verbose=False)
    return np.array(given["input_ids"], np.int64)


def _causes(reference: Any, settings: RetrievalSettings) -> tuple[str, ...]:
    """What is known to make a difference, where it does here."""
    found = []
    if reference.truncation_side != "right":
        found.append("tokenizer_config.json has truncation_side left: a long text loses its beginning there")
    if settings.padding == "fixed" and reference.padding_side != "right":
        found.append("tokenizer_config.json has padding_side left: a short text stands last there")
    if settings.padding == "fixed" and reference.pad_token_id != settings.pad_id:
        found.append(f"the tokenizer pads with token {reference.pad_token_id}, the settings say {settings.pad_id}")
    if getattr(reference, "split_special_tokens", False):
        found.append("tokenizer_config.json has split_special_tokens: special tokens in a text are plain text there")
    if getattr(reference, "backend_tokenizer", None) is None:
        found.append("transformers' tokenizer changes texts in Python, and tokenizer.json does it differently")
    return (*found, f"{TOKENIZER} was not written by edgeq from what transformers makes of the model's")


def _cut(text: str) -> str:
    return ascii(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


def _few(ids: NDArray[np.int64]) -> str:
    return str(ids[:_FEW].tolist()) + (" ..." if len(ids) > _FEW else "")
