"""Text as it grows: nothing is shown that is taken back, and all of it in the end."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from edgeq.runtime.vlm.text.detokenize import AnswerText


def wrapped(tokenizer: Tokenizer) -> Any:
    tokenizer.add_special_tokens([AddedToken("<s>", special=True)])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.fixture(scope="module")
def by_bytes() -> Any:
    """A token for each byte: a character can take four."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return wrapped(tokenizer)


@pytest.fixture(scope="module")
def by_words() -> Any:
    """A token for each word with the space before it, as SentencePiece has them: the first word loses its space."""
    words = ["▁a", "▁crack", "s", "▁", ".", "▁on", "▁the", "▁left", "\n"]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="."))
    tokenizer.decoder = decoders.Metaspace()
    return wrapped(tokenizer)


def pieces(tokenizer: Any, ids: Sequence[int], stop: Sequence[str] = ()) -> list[str]:
    """What is shown after each token, and at the end."""
    text, shown = AnswerText(tokenizer, stop), []
    for token in ids:
        shown.append(text.add(token))
        if text.stopped:
            break
    return [*shown, text.end()]


def encoded(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def test_a_character_of_several_tokens_is_shown_when_it_is_whole(by_bytes: Any) -> None:
    assert pieces(by_bytes, encoded(by_bytes, "aé€!")) == ["a", "", "é", "", "", "€", "!", ""]


def test_half_a_character_at_the_end_is_shown_as_such(by_bytes: Any) -> None:
    assert "".join(pieces(by_bytes, encoded(by_bytes, "a€")[:-1])) == "a\N{REPLACEMENT CHARACTER}"


def test_spaces_around_the_text_are_never_shown(by_bytes: Any) -> None:
    assert pieces(by_bytes, encoded(by_bytes, " \na  b \n")) == ["", "", "a", "", "", "  b", "", "", ""]


def test_words_keep_their_spaces(by_words: Any) -> None:
    assert pieces(by_words, [0, 1, 2, 5, 6, 7, 4]) == ["a", " crack", "s", " on", " the", " left", ".", ""]


def test_special_tokens_are_not_text(by_words: Any) -> None:
    begin = by_words.convert_tokens_to_ids("<s>")
    assert "".join(pieces(by_words, [begin, 0, begin, 1, begin])) == "a crack"


def test_a_stop_string_is_held_back_until_it_is_sure(by_bytes: Any) -> None:
    shown = pieces(by_bytes, encoded(by_bytes, "ab##a#"), ["##!"])
    assert shown == ["a", "b", "", "", "##a", "", "#"]


def test_nothing_from_the_stop_string_on_is_shown(by_bytes: Any) -> None:
    shown = pieces(by_bytes, encoded(by_bytes, "a crack. END and more"), ["END", "nd"])
    assert "".join(shown) == "a crack."
    assert len(shown) == len("a crack. END") + 1, "it is over at once"


def test_a_stop_string_of_spaces(by_bytes: Any) -> None:
    assert "".join(pieces(by_bytes, encoded(by_bytes, "one \n two\n\nthree"), ["\n\n"])) == "one \n two"
    assert "".join(pieces(by_bytes, encoded(by_bytes, "\n\nthree"), ["\n\n"])) == ""


def test_the_first_of_several(by_bytes: Any) -> None:
    assert "".join(pieces(by_bytes, encoded(by_bytes, "xaby"), ["ab", "b", "xabz"])) == "x"


@pytest.mark.parametrize("seed", range(20))
def test_all_pieces_are_the_text(by_bytes: Any, by_words: Any, seed: int) -> None:
    """Against decoding all tokens at once and looking for the stop strings in it."""
    draw = random.Random(seed)
    words = [draw.randrange(10) for _ in range(40)]
    text = "".join(draw.choice("ab \n€é") for _ in range(60))
    for tokenizer, ids in ((by_words, words), (by_bytes, encoded(by_bytes, text))):
        whole = tokenizer.decode(ids, skip_special_tokens=True)
        assert "".join(pieces(tokenizer, ids)) == whole.strip()
        stop = draw.choice(("ab", "a€", "the left", "s."))
        assert "".join(pieces(tokenizer, ids, [stop])) == whole.partition(stop)[0].strip()
