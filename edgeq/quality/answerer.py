"""What is judged: something that looks at an image and answers a question about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["Answer", "Answerer"]


@dataclass(frozen=True)
class Answer:
    """What was said.

    Attributes:
        text: for people, without special tokens.
        token_ids: as they were chosen, the one that ends the answer included; at least one.
    """

    text: str
    token_ids: tuple[int, ...]


class Answerer(Protocol):
    """A vision-language model with its prompt, tokenizer and image processor; two that are compared share all three."""

    def answer(self, image: Image.Image, question: str, max_new_tokens: int) -> Answer:
        """What the model says to a question, the likeliest token at each step (greedy).

        Args:
            image: mode RGB.
            question: without any prompt around it.
            max_new_tokens: after which an answer is cut that has not ended.
        """
        ...

    def logits(self, image: Image.Image, question: str, answer_ids: Sequence[int]) -> NDArray[np.float32]:
        """Logits before each token of an answer that is forced.

        Args:
            image: mode RGB.
            question: without any prompt around it.
            answer_ids: the answer's tokens.

        Returns:
            float32 [n, vocabulary], row i having seen `answer_ids[:i]`.
        """
        ...

    def features(self, image: Image.Image) -> NDArray[np.float32]:
        """What the language model gets of the image, float32 [tokens, hidden]."""
        ...
