"""`tokenizer.json` alone against transformers' tokenizers, on ten thousand texts; and what is refused."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from tokenizers import AddedToken, Tokenizer
from two_towers import CONTEXT, SENTENCES, write_clip_tokenizer, write_siglip_tokenizer

from edgeq.bundle.retrieval_settings import RetrievalSettings
from edgeq.errors import EngineError, InputError, ModelError
from edgeq.extras import install_command
from edgeq.runtime.retrieval import tokenizer as module
from edgeq.runtime.retrieval.tokenizer import MOST_CHARACTERS, TextTokenizer

TEXTS = 10_000
BY_HAND = (
    *("", " ", "\n", "\t \r\n", "a", "A", ".", "...", "a.", "it's", "IT'S", "don't you've we're I'm he'll she'd"),
    *(
        "<|endoftext|>",
        "<|startoftext|> a cat <|endoftext|>",
        "a</s>b",
        "</s>",
        " </s> ",
        "<unk>",
        "a <pad> b",
        "<|END|>",
    ),
    *("cafe\u0301", "caf\u00e9", "\u1e9b\u0323", "ΟΔΟΣ", "İstanbul", "ẞ", "ﬁ", "Å", "e\u0301\u0302\u0303\u0304"),
    *("\x00", "a\x00b", "\x1b[31mred", "\u200b", "\ufeff", "a\u00a0b", "a\u3000b", "\u2028", "\u202eabc", "\ufffd"),
    *("👩‍👩‍👧", "🇩🇪🇫🇷", "👍🏽", "1234567890", "１２３", "²½Ⅷ", "x" * 1000, "x " * 1000, "." * 1000, "é" * 1000, "▁▁a▁"),
    *("\U0010ffff", "\ue000", "𝕬𝖇𝖈", "日本語" * 50, "a photo of a cat " * 100),
)
RANGES = (
    *((0x00, 0x1F), (0x20, 0x7E), (0x20, 0x7E), (0x61, 0x7A), (0x61, 0x7A), (0x80, 0xFF), (0x100, 0x24F)),
    *((0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x4FF), (0x590, 0x5FF), (0x600, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F)),
    *((0x1100, 0x11FF), (0x1E00, 0x1EFF), (0x2000, 0x206F), (0x20A0, 0x20CF), (0x2100, 0x218F), (0x3000, 0x30FF)),
    *((0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xE000, 0xE0FF), (0xFE00, 0xFE0F), (0xFF00, 0xFFEF), (0x1F300, 0x1FAFF)),
    *((0x1D400, 0x1D7FF), (0x20000, 0x2A6DF), (0xE0100, 0xE01EF)),
)
"""Of characters, first and last; none is half of a surrogate pair."""


def drawn_texts(count: int) -> list[str]:
    """Words of the training sentences, characters of every range, spaces, names of special tokens."""
    draw = random.Random(20240131)
    words = " ".join(SENTENCES).split()
    special = ("<|startoftext|>", "<|endoftext|>", "</s>", "<unk>")
    texts = list(BY_HAND)
    while len(texts) < count:
        parts = []
        for _ in range(draw.choice((1, 2, 3, 5, 8, 40))):
            kind = draw.random()
            if kind < 0.45:
                parts.append(draw.choice((str.lower, str.upper, str.title))(draw.choice(words)))
            elif kind < 0.97:
                first, last = draw.choice(RANGES)
                parts.append("".join(chr(draw.randint(first, last)) for _ in range(draw.randint(1, 6))))
            else:
                parts.append(draw.choice(special))
        texts.append(draw.choice(("", " ", "  ", "\n")).join(parts))
    return texts


def settings_of(kind: str, size: int, **changes: Any) -> RetrievalSettings:
    """Of a tokenizer of `two_towers`."""
    clip = {"padding": "trim", "pooling": "first", "eos_id": size - 1, "pad_id": size - 1}
    siglip = {"padding": "fixed", "pooling": "last", "eos_id": None, "pad_id": 1}
    values = {"model_type": kind, "dimension": 4, "vision": "v.onnx", "text": "t.onnx", "context": CONTEXT}
    return RetrievalSettings.model_validate(
        {**values, "logit_scale": 1.0, **(clip if kind == "clip" else siglip), **changes}
    )


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A directory with CLIP's kind of tokenizer, and how many tokens it has."""
    directory = tmp_path_factory.mktemp("clip")
    return directory, write_clip_tokenizer(directory)


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A directory with SigLIP's kind of tokenizer, and how many tokens it has."""
    directory = tmp_path_factory.mktemp("siglip")
    return directory, write_siglip_tokenizer(directory)


def changed(directory: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A directory with another tokenizer.json."""
    content = json.loads((directory / "tokenizer.json").read_text())
    change(content)
    (target / "tokenizer.json").write_text(json.dumps(content))
    return target


def test_ten_thousand_texts_get_the_tokens_of_transformers_clip(clip: tuple[Path, int]) -> None:
    texts = drawn_texts(TEXTS)
    reference = transformers.CLIPTokenizer.from_pretrained(clip[0])
    expected = reference(texts, truncation=True, max_length=CONTEXT)["input_ids"]
    found = TextTokenizer.open(clip[0], settings_of("clip", clip[1])).ids(texts)
    assert [ids.tolist() for ids in found] == expected
    assert {len(ids) for ids in found} == set(range(2, CONTEXT + 1))
    assert sum(len(ids) == CONTEXT for ids in found) > 2000
    assert all(ids.dtype == np.int64 and ids[-1] == clip[1] - 1 for ids in found)


def test_ten_thousand_texts_get_the_tokens_of_transformers_siglip(siglip: tuple[Path, int]) -> None:
    texts = drawn_texts(TEXTS)
    reference = transformers.AutoTokenizer.from_pretrained(siglip[0])
    expected = reference(texts, padding="max_length", truncation=True, max_length=CONTEXT)["input_ids"]
    found = TextTokenizer.open(siglip[0], settings_of("siglip", siglip[1])).ids(texts)
    assert [ids.tolist() for ids in found] == expected
    assert all(ids.shape == (CONTEXT,) and ids.dtype == np.int64 for ids in found)
    assert len({ids.tobytes() for ids in found}) > 7000


def test_an_empty_text_is_its_special_tokens(clip: tuple[Path, int], siglip: tuple[Path, int]) -> None:
    start, end = clip[1] - 2, clip[1] - 1
    (ids,) = TextTokenizer.open(clip[0], settings_of("clip", clip[1])).ids([""])
    assert ids.tolist() == [start, end]
    (ids,) = TextTokenizer.open(siglip[0], settings_of("siglip", siglip[1])).ids([""])
    assert ids.tolist() == [1] * CONTEXT


def test_no_texts_have_no_ids(clip: tuple[Path, int]) -> None:
    assert TextTokenizer.open(clip[0], settings_of("clip", clip[1])).ids([]) == []


def test_a_text_that_fills_the_context_is_not_cut(clip: tuple[Path, int]) -> None:
    tokenizer = TextTokenizer.open(clip[0], settings_of("clip", clip[1]))
    full, over = tokenizer.ids(["a " * (CONTEXT - 2), "a " * (CONTEXT - 1)])
    assert full.tolist() == over.tolist()
    (shorter,) = tokenizer.ids(["a " * (CONTEXT - 3)])
    assert len(shorter) == CONTEXT - 1


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_truncation_and_padding_of_the_file_do_not_matter(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    directory, size = request.getfixturevalue(kind)

    def change(content: dict[str, Any]) -> None:
        content["truncation"] = {"direction": "Left", "max_length": 5, "strategy": "LongestFirst", "stride": 1}
        content["padding"] = {
            **{"strategy": {"Fixed": 9}, "direction": "Left", "pad_to_multiple_of": 4},
            **{"pad_id": 7, "pad_type_id": 0, "pad_token": "x"},
        }

    settings, texts = settings_of(kind, size), drawn_texts(500)
    other = TextTokenizer.open(changed(directory, tmp_path, change), settings).ids(texts)
    for ours, theirs in zip(TextTokenizer.open(directory, settings).ids(texts), other, strict=True):
        assert np.array_equal(ours, theirs)


def test_a_very_long_text_is_refused_before_it_is_tokenized(clip: tuple[Path, int]) -> None:
    tokenizer = TextTokenizer.open(clip[0], settings_of("clip", clip[1]))
    assert len(tokenizer.ids(["x" * MOST_CHARACTERS])[0]) == CONTEXT
    with pytest.raises(InputError, match="a text has 100,001 characters"):
        tokenizer.ids(["a", "x" * (MOST_CHARACTERS + 1)])


def test_half_of_a_surrogate_pair_is_refused(clip: tuple[Path, int]) -> None:
    with pytest.raises(InputError, match="is not Unicode: character 3 "):
        TextTokenizer.open(clip[0], settings_of("clip", clip[1])).ids(["a \ud83d"])


@pytest.mark.parametrize("pooling", ["first", "argmax"])
def test_a_tokenizer_without_post_processor_is_refused(pooling: str, clip: tuple[Path, int], tmp_path: Path) -> None:
    directory = changed(clip[0], tmp_path, lambda content: content.update(post_processor=None))
    with pytest.raises(ModelError, match="writes no end of text"):
        TextTokenizer.open(directory, settings_of("clip", clip[1], pooling=pooling))


def test_a_tokenizer_with_another_end_of_text_is_refused(clip: tuple[Path, int]) -> None:
    with pytest.raises(ModelError, match=r"writes no end of text \(token 5\)"):
        TextTokenizer.open(clip[0], settings_of("clip", clip[1], eos_id=5))


def test_a_token_larger_than_the_end_of_text_is_refused_where_the_largest_is_pooled(
    clip: tuple[Path, int], tmp_path: Path
) -> None:
    larger = Tokenizer.from_file(str(clip[0] / "tokenizer.json"))
    larger.add_tokens([AddedToken("<large>", normalized=False)])
    larger.save(str(tmp_path / "tokenizer.json"))
    old = settings_of("clip", clip[1], pooling="argmax", eos_id=2)
    tokenizer = TextTokenizer.open(tmp_path, old)
    assert tokenizer.ids(["a cat"])[0][-1] == clip[1] - 1
    with pytest.raises(InputError, match="'a <large> cat' does not end where the model looks for its end"):
        tokenizer.ids(["a cat", "a <large> cat"])
    (ids,) = TextTokenizer.open(tmp_path, settings_of("clip", clip[1])).ids(["a <large> cat"])
    assert clip[1] in ids.tolist()


def test_the_end_of_text_within_a_text_is_no_reason_to_refuse_it(clip: tuple[Path, int]) -> None:
    """The model stops reading there, as in transformers."""
    end = clip[1] - 1
    for changes in ({}, {"pooling": "argmax", "eos_id": 2}):
        (ids,) = TextTokenizer.open(clip[0], settings_of("clip", clip[1], **changes)).ids(["a <|endoftext|> b"])
        assert ids.tolist().count(end) == 2


def test_a_context_without_room_for_a_text_is_refused(clip: tuple[Path, int]) -> None:
    with pytest.raises(ModelError, match="adds 2 tokens to a text, and the model takes 2 in all"):
        TextTokenizer.open(clip[0], settings_of("clip", clip[1], context=2))
    (ids,) = TextTokenizer.open(clip[0], settings_of("clip", clip[1], context=3)).ids(["a photo of a cat"])
    assert len(ids) == 3


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[1]", b'{"version": "1.0", "model": {"type": "Other"}}'])
def test_a_damaged_file_is_refused(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"has no tokenizer\.json that can be used"):
        TextTokenizer.open(tmp_path, settings_of("clip", 10))


def test_a_tokenizer_that_fails_on_a_text_is_refused(clip: tuple[Path, int], tmp_path: Path) -> None:
    """Without an unknown token, a model of words has nothing for one that it does not know."""

    def change(content: dict[str, Any]) -> None:
        content["model"] = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "missing"}

    directory = changed(clip[0], tmp_path, change)
    with pytest.raises(ModelError, match="the tokenizer fails"):
        TextTokenizer.open(directory, settings_of("clip", clip[1])).ids(["zebra"])


def test_without_the_package_it_says_how_to_get_it(clip: tuple[Path, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(EngineError, match="tokenizers is missing") as caught:
        module.read_tokenizer(clip[0])
    assert install_command("device", "retrieval") in caught.value.next_step
