"""From texts to token ids with `tokenizer.json` alone: what transformers does beside it was written into the file.

`edgeq.pipeline.retrieval.tokenizer` writes that file and proves it against transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.bundle.retrieval_settings import RetrievalSettings
from edgeq.errors import EngineError, InputError, ModelError, first_line
from edgeq.extras import install_command
from edgeq.runtime.tokenizer_trial import try_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["MOST_CHARACTERS", "TOKENIZER", "TextTokenizer", "read_tokenizer"]

TOKENIZER: Final = "tokenizer.json"

MOST_CHARACTERS: Final = 100_000
"""Of a text: a longer one is refused before it costs anything."""

_SHOWN = 60


class TextTokenizer:
    """Token ids of texts, as the model was trained to take them.

    Args:
        tokenizer: of the package `tokenizers`; its own truncation and padding are switched off.
        settings: of the model.

    Raises:
        ModelError: the tokenizer leaves no room for a text, or writes no end of text where the model looks for one.
    """

    def __init__(self, tokenizer: Tokenizer, settings: RetrievalSettings) -> None:
        self.settings = settings
        self._tokenizer = tokenizer
        added = tokenizer.num_special_tokens_to_add(is_pair=False)
        if added >= settings.context:
            raise ModelError(
                f"the tokenizer adds {added} tokens to a text, and the model takes {settings.context} in all",
                expected="room for a text",
                causes=(f"{TOKENIZER} is that of another model",),
            )
        # transformers: truncation=True, max_length=context. What the post-processor adds counts, and stays.
        tokenizer.enable_truncation(settings.context, stride=0, strategy="longest_first", direction="right")
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = False
        if not self._ends(self._encode([""])[0]):
            raise ModelError(
                f"the tokenizer writes no end of text ({self._end}), whose place stands for a text",
                expected=f"a post-processor in {TOKENIZER} that adds it",
                causes=(f"{TOKENIZER} is that of another model", "it was saved without its post-processor"),
                next_step="take tokenizer.json as it came with the model, and run edgeq prepare again",
            )

    @classmethod
    def open(cls, directory: Path, settings: RetrievalSettings) -> TextTokenizer:
        """That of a bundle.

        Raises:
            EngineError: the package `tokenizers` is missing.
            ModelError: there is none, it is damaged, or it does not go with the model.
        """
        return cls(read_tokenizer(directory), settings)

    def ids(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Token ids of each text.

        Args:
            texts: any; an empty one is its special tokens alone.

        Returns:
            An array for each, int64 [length]. A text that is too long loses what stands last, but not its end of text.
            The length is at most `context`, and always that with padding `fixed`.

        Raises:
            InputError: a text is very long, is not Unicode, or has a token in it that stands in the way of its end.
        """
        for text in texts:
            _check(text)
        found = self._encode(texts)
        for text, ids in zip(texts, found, strict=True):
            if not self._ends(ids):
                raise InputError(
                    f"the text {_shown(text)} does not end where the model looks for its end ({self._end})",
                    causes=("it has the name of an added token in it, whose number is larger than the end of text's",),
                    next_step="leave that out",
                )
        return [self._padded(ids) for ids in found] if self.settings.padding == "fixed" else found

    def _encode(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Truncated, not padded, int64 [length] each."""
        try:
            return [np.array(each.ids, np.int64) for each in self._tokenizer.encode_batch_fast(list(texts))]
        except Exception as error:  # tokenizers raises Exception itself
            raise ModelError("the tokenizer fails", causes=(first_line(error),)) from error

    def _padded(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """As long as the context, int64 [context]."""
        return np.pad(ids, (0, self.settings.context - len(ids)), constant_values=self.settings.pad_id)

    def _ends(self, ids: NDArray[np.int64]) -> bool:
        """Whether the place that stands for a text is one that the model was trained for."""
        if self.settings.pooling == "last":
            return True
        if self.settings.pooling == "argmax":
            return len(ids) > 0 and bool(ids[-1] == ids.max())
        return bool((ids == self.settings.eos_id).any())

    @property
    def _end(self) -> str:
        return "the largest token id" if self.settings.pooling == "argmax" else f"token {self.settings.eos_id}"


def read_tokenizer(directory: Path) -> Tokenizer:
    """`tokenizer.json` of a directory, as it is.

    Raises:
        EngineError: the package `tokenizers` is missing.
        ModelError: there is none, or it is damaged.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise EngineError(
            f"the package {error.name} is missing, which reads {TOKENIZER}",
            next_step=install_command("device", "retrieval"),
        ) from error
    try_tokenizer(directory / TOKENIZER)
    try:
        return Tokenizer.from_file(str(directory / TOKENIZER))
    except Exception as error:  # tokenizers raises Exception itself
        raise ModelError(
            f"{directory} has no {TOKENIZER} that can be used",
            expected=f"{TOKENIZER} as edgeq prepare puts it into a bundle",
            causes=(first_line(error),),
        ) from error


def _check(text: str) -> None:
    """Raise InputError for a text that is very long or is not Unicode."""
    if len(text) > MOST_CHARACTERS:
        raise InputError(
            f"a text has {len(text):,} characters", expected=f"at most {MOST_CHARACTERS:,}", next_step="shorten it"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"the text {_shown(text)} is not Unicode: character {error.start + 1} is half of a pair",
            causes=("it was decoded from bytes that are not UTF-8",),
        ) from error


def _shown(text: str) -> str:
    return ascii(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
